"""Switches of the engine, one set for each thread: recording of the graph, and anomaly mode."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["detect_anomaly", "mode", "no_grad", "recording"]


class _Mode(threading.local):
    grad = True
    anomaly = False


mode = _Mode()


@contextmanager
def recording(on: bool) -> Iterator[None]:
    """Record operations in the graph (or not) inside the `with` block."""
    before, mode.grad = mode.grad, on
    try:
        yield
    finally:
        mode.grad = before


@contextmanager
def no_grad() -> Iterator[None]:
    """Compute without recording the graph: `with tg.no_grad():`, or a decorator `@tg.no_grad()`."""
    with recording(False):
        yield


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise `NonFiniteError` at the first operation, or derivative, that makes a NaN or an infinity.

    The message names the operation, the shapes and the line of the caller's code. Inside this
    block every operation is checked, which costs time; outside it nothing is.
    """
    before, mode.anomaly = mode.anomaly, True
    try:
        yield
    finally:
        mode.anomaly = before
