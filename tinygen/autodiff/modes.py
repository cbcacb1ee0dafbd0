"""The modes of the engine: recording of the graph, and anomaly mode.

Each thread and each asyncio task has its own modes.
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
"""The flags of the enclosing blocks, the innermost last: `modes.get()[-1]` are the current flags."""


class _Block:
    """A `with` block, or a decorator, that sets or clears one flag.

    The flags from before are kept in the context variable, not in this object. So one object may be
    used again, nested, and by several tasks at the same time.
    """

    def __init__(self, flag: int, on: bool) -> None:
        self._flag, self._on = flag, on

    def __enter__(self) -> None:
        blocks = modes.get()
        modes.set((*blocks, blocks[-1] | self._flag if self._on else blocks[-1] & ~self._flag))

    def __exit__(self, *error: object) -> None:
        modes.set(modes.get()[:-1] or (RECORD,))  # empty where a generator ends in another context

    def __call__(self, f: F) -> F:
        # A generator or a coroutine runs after the call, so the block must be around that run.
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
    """Compute without recording the graph: `with tg.no_grad():` or the decorator `@tg.no_grad()`.

    A `with` block around a `yield` also affects the caller. The decorator affects the generator
    alone.
    """
    return _Block(RECORD, on=False)


def enable_grad() -> _Block:
    """Record the graph, even inside `no_grad`. It is used like `no_grad`."""
    return _Block(RECORD, on=True)


def is_grad_enabled() -> bool:
    """True where operations are recorded in the graph: outside `no_grad`."""
    return bool(modes.get()[-1] & RECORD)


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise `NonFiniteError` at the first operation or derivative that makes NaN or infinity.

    The message names the operation, the shapes and the line of your code. A backward pass also
    raises a ValueError, with operation and line, if an array was changed after an operation used it.
    Every operation inside this block is checked, which costs time. Nothing is checked outside it.
    """
    with _Block(WATCH, on=True), np.errstate(all="ignore"):  # the error says more than a warning
        yield
