"""The tests: folders as in the package, and in `support` what several of them use."""
