"""Errors of tinygen's own, and the helper that suggests the nearest right name."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["CheckpointError", "NonFiniteError", "unknown"]


class NonFiniteError(ArithmeticError):
    """A NaN or an infinity appeared; the message names the operation and the line that called it."""


class CheckpointError(ValueError):
    """A checkpoint is truncated, foreign, or does not fit the model it is loaded into."""


def unknown(what: str, name: object, options: Iterable[str]) -> ValueError:
    """A ValueError for an unknown `name`, which suggests the nearest of `options` and lists them."""
    import difflib  # only on the way to an error

    known = sorted(options)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return ValueError(f"unknown {what} {name!r}{hint} known: {', '.join(known)}")
