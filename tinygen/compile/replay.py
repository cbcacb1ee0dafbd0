"""A program run through NumPy, call by call, on the planned memory: the form without a compiler."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.compile.plan import ALIGNMENT
from tinygen.compile.program import Call, Number, Program, View, address, leaves, map_leaves

__all__ = ["Replay"]


class Replay:
    """A program whose `run(arguments, results, numbers)` calls NumPy."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.block = self.allocated(program.block)
        self.memory = {s: self.block[at : at + s.nbytes] for s, at in program.offsets.items()}
        self.memory |= {s: self.bytes_of(s.source) for s in program.outside()}
        # The arrays of calls whose memory is the same at every run.
        self.ready: dict[Call, Any] = {}

    def allocated(self, nbytes: int) -> Any:
        """The program's own memory."""
        block = np.empty(nbytes + ALIGNMENT, np.uint8)
        start = -address(block) % ALIGNMENT
        return block[start : start + nbytes]

    def bytes_of(self, array: Any) -> Any:
        """The memory of an array that owns it, as bytes."""
        return array.ravel(order="K").view(np.uint8) if array.size else EMPTY

    def array(self, x: View) -> Any:
        """A view as an array."""
        memory = self.memory.get(x.storage, EMPTY)
        return np.ndarray(x.shape, x.dtype, memory, x.offset if memory.size else 0, x.strides)

    def run(self, arguments: list[Any], results: list[Any], numbers: list[Any]) -> str | None:
        """Run once; the name of the stop at which it ended, if it did."""
        self.bind(arguments, results)
        for call in self.program.calls:
            if stopped := self.perform(call, numbers):
                return stopped
        return None

    def bind(self, arguments: list[Any], results: list[Any]) -> None:
        """Take the memory of the arrays of this run."""
        storages = [*self.program.arguments, *(r.storage for r in self.program.results)]
        self.memory |= zip(storages, map(self.bytes_of, arguments + results), strict=True)

    def _arrays(self, call: Call, numbers: list[Any]) -> Any:
        """The arguments, options and outputs of a call as arrays and numbers."""

        def found(x: Any) -> Any:
            if not isinstance(x, View):
                return numbers[x.position] if isinstance(x, Number) else x
            return self.array(x)

        given = call.args, call.options, call.outs
        made = map_leaves(found, given)
        kinds = {x.storage.kind if isinstance(x, View) else type(x) for x in leaves(given)}
        if not kinds & {"argument", "result", Number}:
            self.ready[call] = made
        return made

    def perform(self, call: Call, numbers: list[Any]) -> str | None:
        """Make one call; its name if it ends the run."""
        args, options, outs = self.ready.get(call) or self._arrays(call, numbers)
        if call.kind == "stop":
            return None if args[0] else call.name
        if call.kind == "copy":
            np.copyto(outs[0], args[0], casting="unsafe")
        elif isinstance(call.function, np.ufunc):
            call.function(*args, out=outs[0])
        elif (result := call.function(*args, **options)) is not None:  # else it wrote already
            made = [x for x in leaves(result) if np.size(x)]
            for out, x in zip([out for out in outs if out.size], made, strict=True):
                out[...] = x
        return None


EMPTY = np.empty(0, np.uint8)
