"""A program run through NumPy, call by call, on the planned memory: the form without a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen.compile.plan import ALIGNMENT
from tinygen.compile.program import Call, Number, Program, View, leaves, map_leaves

__all__ = ["Replay"]

EMPTY = np.empty(0, np.uint8)


class Replay:
    """A program whose `run(arguments, results, numbers)` calls NumPy."""

    def __init__(self, program: Program) -> None:
        self.program = program
        block = np.empty(program.block + ALIGNMENT, np.uint8)
        start = -block.__array_interface__["data"][0] % ALIGNMENT
        self.block = block[start : start + program.block]
        self.memory: dict[Any, Any] = {s: _bytes(s.source) for s in program.outside()}
        for s, at in program.offsets.items():
            self.memory[s] = self.block[at : at + s.nbytes]

    def run(self, arguments: list[Any], results: list[Any], numbers: list[Any]) -> str | None:
        """Run once; the name of the stop at which it ended, if it did."""
        for call in self.program.calls:
            if stopped := self.perform(call, arguments, results, numbers):
                return stopped
        return None

    def perform(self, call: Call, arguments: Any, results: Any, numbers: Any) -> str | None:
        """Make one call; its name if it ends the run."""

        def found(x: Any) -> Any:
            if not isinstance(x, View):
                return numbers[x.position] if isinstance(x, Number) else x
            s = x.storage
            if s.kind == "argument":
                memory = _bytes(arguments[self.program.arguments.index(s)])
            elif s.kind == "result":
                memory = _bytes(
                    next(
                        a
                        for a, r in zip(results, self.program.results, strict=True)
                        if r.storage is s
                    )
                )
            else:
                memory = self.memory.get(s, EMPTY)
            return np.ndarray(x.shape, x.dtype, memory, x.offset if memory.size else 0, x.strides)

        args, options, outs = map_leaves(found, (call.args, call.options, call.outs))
        if call.kind == "stop":
            return None if args[0] else call.name
        RUN.get(call.kind, _numpy)(call, args, options, outs)
        return None


def _bytes(array: Any) -> Any:
    """The memory of an array that owns it, as bytes."""
    return array.ravel(order="K").view(np.uint8) if array.size else EMPTY


def _numpy(call: Call, args: Any, options: Any, outs: list[Any]) -> None:
    result = call.function(*args, **options)
    made = [
        x for x in leaves(result) if x is not None and np.size(x)
    ]  # nothing if it wrote already
    for out, x in zip(outs if result is not None else [], made, strict=True):
        out[...] = x


def _into(call: Call, args: Any, options: Any, outs: list[Any]) -> None:
    if isinstance(call.function, np.ufunc):
        call.function(*args, out=outs[0])
    else:
        _numpy(call, args, options, outs)


RUN: dict[str, Callable[..., None]] = {
    "ufunc": _into,
    "product": _into,
    "copy": lambda call, args, options, outs: np.copyto(outs[0], args[0], casting="unsafe"),
}
