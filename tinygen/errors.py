"""Errors of tinygen's own, and helpers that say the way out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

import numpy as np

__all__ = [
    "RENAMED", "CheckpointError", "DeviceError", "NonFiniteError", "pip_install", "renamed", "unknown",
    "whole",
]  # fmt: skip

RENAMED = {  # since version 0.2: names of arguments, by the class that takes them
    "Settings": {"ema": "ema_decay"},
    "DDPM": {"steps": "T"},
}


class NonFiniteError(ArithmeticError):
    """A NaN or an infinity appeared; the message names the operation and the line that called it."""


class CheckpointError(ValueError):
    """A checkpoint is truncated, foreign, or does not fit the model it is loaded into."""


class DeviceError(RuntimeError):
    """The GPU, or a form of the kernels, was asked for and cannot be used; the message says why."""


def whole(name: str, value: Any, low: int = 1, high: float = inf) -> int:
    """`value` as an int; ValueError, naming it, unless it is a whole number in [low, high]."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} is a whole number from {low}, not {value!r}")
    if value > high:
        raise ValueError(f"{name} is at most {high}, not {value}")
    return int(value)


def renamed(cls: str, names: Iterable[str], spelling: Callable[[str], str] = repr) -> str | None:
    """What to say of the first of `names` that is the old one of an argument of `cls`."""
    for old in names:
        if new := RENAMED.get(cls, {}).get(old):
            return f"{spelling(old)} is called {spelling(new)} since version 0.2"
    return None


def unknown(what: str, name: object, options: Iterable[str]) -> ValueError:
    """A ValueError for an unknown `name`, which suggests the nearest of `options` and lists them."""
    import difflib  # only on the way to an error

    known = sorted(options)
    lower = {option.lower(): option for option in known}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    hint = f"; did you mean {lower[near[0]]!r}?" if near else ";"
    return ValueError(f"unknown {what} {name!r}{hint} known: {', '.join(known)}")


def pip_install(*packages: str) -> str:
    """The command that brings those of `packages` that are missing, wherever the user stands.

    By the names that they have in an index: an extra of tinygen can be named in a clone alone.
    """
    import re  # only on the way to an error
    import shlex
    from importlib.util import find_spec

    modules = {re.split(r"[-\[]", package)[0]: package for package in packages}
    return shlex.join(["pip", "install", *(p for m, p in modules.items() if find_spec(m) is None)])
