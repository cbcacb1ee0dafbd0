"""tinygen's own errors, and helpers for messages that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

import numpy as np

__all__ = [
    "RENAMED", "CheckpointError", "CompileError", "DeviceError", "NonFiniteError", "pip_install",
    "renamed", "unknown", "whole",
]  # fmt: skip

RENAMED = {  # since version 0.2: names of arguments, by the class that takes them
    "Settings": {"ema": "ema_decay"},
    "DDPM": {"steps": "T"},
}


class CompileError(RuntimeError):
    """A step cannot be recorded; the message names the line and says why."""


class NonFiniteError(ArithmeticError):
    """NaN or infinity appeared. The message says where, such as the operation and the line."""


class CheckpointError(ValueError):
    """A checkpoint is damaged, is not one of tinygen, or does not fit its model."""


class DeviceError(RuntimeError):
    """The GPU or a form of the kernels cannot be used. The message says why."""


def whole(name: str, value: Any, low: int = 1, high: float = inf) -> int:
    """`value` as an int. ValueError: it is not a whole number in [low, high]; `name` names it."""
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
    """A ValueError for an unknown `name`. It suggests the nearest of `options` and lists all."""
    import difflib  # imported here, because only errors need it

    known = sorted(options)
    lower = {option.lower(): option for option in known}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    hint = f"; did you mean {lower[near[0]]!r}?" if near else ";"
    return ValueError(f"unknown {what} {name!r}{hint} known: {', '.join(known)}")


def pip_install(*packages: str) -> str:
    """The command that installs those of `packages` that are missing.

    It works in any folder. `pip install '.[plot]'` would work in a clone of tinygen only.
    """
    import re  # imported here, because only errors need it
    import shlex
    from importlib.util import find_spec

    modules = {re.split(r"[-\[]", package)[0]: package for package in packages}
    return shlex.join(["pip", "install", *(p for m, p in modules.items() if find_spec(m) is None)])
