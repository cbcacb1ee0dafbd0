"""Switches of the engine, one set for each thread: recording of the graph, and anomaly mode."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

__all__ = ["detect_anomaly", "mode", "no_grad", "recording"]


RECORD, WATCH = 1, 2


class _Mode(threading.local):
    flags = RECORD  # a bit set: one look-up on the hot path


mode = _Mode()


@contextmanager
def _flags(flags: int) -> Iterator[None]:
    before, mode.flags = mode.flags, flags
    try:
        yield
    finally:
        mode.flags = before


@contextmanager
def recording() -> Iterator[None]:
    """Record operations in the graph inside the `with` block, also within `no_grad`."""
    with _flags(mode.flags | RECORD):
        yield


@contextmanager
def no_grad() -> Iterator[None]:
    """Compute without recording the graph: `with tg.no_grad():`, or a decorator `@tg.no_grad()`."""
    with _flags(mode.flags & ~RECORD):
        yield


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise `NonFiniteError` at the first operation, or derivative, that makes a NaN or an infinity.

    The message names the operation, the shapes and the line of the caller's code. Inside this
    block every operation is checked, which costs time; outside it nothing is.
    """
    with _flags(mode.flags | WATCH), np.errstate(all="ignore"):  # it says more than a warning
        yield
