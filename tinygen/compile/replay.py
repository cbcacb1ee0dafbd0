"""A program run through NumPy, call by call, on the planned memory: the form without a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen.compile.plan import ALIGNMENT
from tinygen.compile.program import Call, Number, Program, View, leaves, map_leaves

__all__ = ["Replay", "array_at"]


def array_at(view: View, memory: Any) -> Any:
    """The array of a view in the memory (bytes) of its storage."""
    return np.ndarray(view.shape, view.dtype, memory, view.offset if view.size else 0, view.strides)


class Replay:
    """A program whose `run(arguments, results, numbers)` calls NumPy."""

    def __init__(self, program: Program) -> None:
        self.program = program
        block = np.empty(program.block + ALIGNMENT, np.uint8)
        start = -block.__array_interface__["data"][0] % ALIGNMENT
        self.block = block[start : start + program.block]
        self.memory: dict[Any, Any] = {
            s: self.block[at : at + s.nbytes] for s, at in program.offsets.items()
        }
        for s in program.outside():
            self.memory[s] = _bytes(s.source)

    def run(self, arguments: list[Any], results: list[Any], numbers: list[Any]) -> str | None:
        """Run once; the name of the stop at which it ended, if it did."""
        memory = self.memory_of(arguments, results)
        for call in self.program.calls:
            if stopped := self.perform(call, memory, numbers):
                return stopped
        return None

    def memory_of(self, arguments: list[Any], results: list[Any]) -> dict[Any, Any]:
        """The bytes of every storage in this run."""
        memory = dict(self.memory)
        for storage, array in zip(self.program.arguments, arguments, strict=True):
            memory[storage] = _bytes(array)
        for view, array in zip(self.program.results, results, strict=True):
            memory[view.storage] = _bytes(array)
        return memory

    def perform(self, call: Call, memory: dict[Any, Any], numbers: list[Any]) -> str | None:
        """Make one call; its name if it ends the run."""

        def found(x: Any) -> Any:
            if isinstance(x, View):
                return array_at(x, memory[x.storage])
            return numbers[x.position] if isinstance(x, Number) else x

        args = map_leaves(found, call.args)
        if call.kind == "stop":
            return None if args[0] else call.name
        RUN[call.kind](call, args, map_leaves(found, call.options), list(map(found, call.outs)))
        return None


def _bytes(array: Any) -> Any:
    """The memory of an array that owns it, as bytes."""
    return array.ravel(order="K").view(np.uint8) if array.size else np.empty(0, np.uint8)


def _numpy(call: Call, args: Any, options: Any, outs: list[Any]) -> None:
    result = call.function(*args, **options)
    if result is None:  # it wrote where it was told
        return
    made = [x for x in leaves(result) if np.size(x)]
    for out, x in zip(outs, made, strict=True):
        out[...] = x


def _ufunc(call: Call, args: Any, options: Any, outs: list[Any]) -> None:
    if isinstance(call.function, np.ufunc):
        call.function(*args, out=outs[0])
    else:
        outs[0][...] = call.function(*args)


def _reduce(call: Call, args: Any, options: Any, outs: list[Any]) -> None:
    outs[0][...] = call.function(*args, **options)


RUN: dict[str, Callable[..., None]] = {
    "ufunc": _ufunc,
    "copy": lambda call, args, options, outs: np.copyto(outs[0], args[0], casting="unsafe"),
    "reduce": _reduce,
    "product": lambda call, args, options, outs: np.matmul(*args, out=outs[0]),
    "take": _reduce,
    "kernel": lambda call, args, options, outs: call.function(*args),
    "numpy": _numpy,
}
