"""Exercises that grade themselves: texts in tasks.txt, their laws in laws.py, `check` in check.py."""
