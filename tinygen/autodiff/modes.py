"""Switches of the engine: recording of the graph, and anomaly mode.

Each thread and each asyncio task has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, TypeVar

import numpy as np

__all__ = ["detect_anomaly", "enable_grad", "is_grad_enabled", "modes", "no_grad"]

F = TypeVar("F", bound=Callable[..., Any])

RECORD, WATCH = 1, 2

modes: ContextVar[tuple[int, ...]] = ContextVar("modes", default=(RECORD,))
"""Flags of the blocks around the running code, the innermost last: `modes.get()[-1]` is in force."""


class _Block:
    """A `with` block, or the decorator of a function, that switches one flag.

    What was before is kept in the context, not here: so one object may be used again, nested, and
    by several tasks at once.
    """

    def __init__(self, flag: int, on: bool) -> None:
        self._flag, self._on = flag, on

    def __enter__(self) -> None:
        blocks = modes.get()
        modes.set((*blocks, blocks[-1] | self._flag if self._on else blocks[-1] & ~self._flag))

    def __exit__(self, *error: object) -> None:
        modes.set(modes.get()[:-1] or (RECORD,))  # empty where a generator ends in another context

    def __call__(self, f: F) -> F:
        # A generator or coroutine computes after it was called: the block is around that.
        function: Any = f
        wrapped: Any
        if isasyncgenfunction(f):
            raise TypeError(f"{f!r} is an asynchronous generator: write the block inside it")
        if iscoroutinefunction(f):

            @wraps(f)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

        elif isgeneratorfunction(f):

            @wraps(f)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                return (yield from self._steps(function(*args, **kwargs)))

        else:

            @wraps(f)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return function(*args, **kwargs)

        return wrapped

    def _steps(self, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The same generator, with each of its steps in a block of its own."""
        resume: Callable[[Any], Any] = generator.send
        value: Any = None
        while True:
            try:
                with self:
                    made = resume(value)
            except StopIteration as end:
                return end.value
            try:
                resume, value = generator.send, (yield made)
            except BaseException as error:
                resume, value = generator.throw, error


def no_grad() -> _Block:
    """Compute without recording the graph: `with tg.no_grad():`, or a decorator `@tg.no_grad()`.

    Around a `yield` a block holds for the caller as well; as decorator it holds for the generator
    alone.
    """
    return _Block(RECORD, on=False)


def enable_grad() -> _Block:
    """Record operations in the graph, also within `no_grad`; a block or a decorator as that is."""
    return _Block(RECORD, on=True)


def is_grad_enabled() -> bool:
    """True where operations are recorded in the graph: outside `no_grad`."""
    return bool(modes.get()[-1] & RECORD)


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise `NonFiniteError` at the first operation, or derivative, that makes a NaN or an infinity.

    The message names the operation, the shapes and the line of the caller's code. So does the
    ValueError of a backward pass for an array that was changed after the operation that keeps it.
    Inside this block every operation is checked, which costs time; outside it nothing is.
    """
    with _Block(WATCH, on=True), np.errstate(all="ignore"):  # it says more than a warning
        yield
