"""tg.compile: a function of arrays, recorded at its first call, is run as a program from then on."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from tinygen import backend
from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.modes import WATCH, modes
from tinygen.compile.emit import Emitted, expressible
from tinygen.compile.fuse import fuse, private
from tinygen.compile.plan import plan
from tinygen.compile.program import Call, Program, View, leaves, map_leaves
from tinygen.compile.recording import Recorded, Recorder
from tinygen.compile.replay import Replay
from tinygen.compile.simplify import simplify
from tinygen.errors import CompileError, NonFiniteError
from tinygen.kernels import dispatch

__all__ = ["Step"]


class Step:
    """What `compile` returns; `program` is the last one that ran, for print.

    latch: on the GPU, that of steps of which none is to go on after one ended early (graph.Latch).
    """

    def __init__(self, function: Callable[..., Any], latch: Any = None) -> None:
        functools.update_wrapper(self, function)
        self.function, self.latch = function, latch
        self.program: Program | None = None
        self._made: dict[Any, _Compiled] = {}
        self._lock = threading.Lock()  # a program has one memory

    def __reduce__(self) -> Any:
        """A copy, or what pickle reads, records anew."""
        return type(self), (self.function,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = _Arguments(args, kwargs)
        if backend.recorder.get() or modes.get()[-1] & WATCH:
            return self.function(*args, **kwargs)
        with self._lock:
            made = self._made.get(given.key)
            if made is None or made.is_stale():
                trace = _Trace(self.function, given)
                made = self._made[given.key] = _Compiled(trace, self.latch)
                numbers = trace.drawn
            elif made.trace is not None:  # recorded once: again, for what differs
                trace = _Trace(self.function, given)
                made.trace.check(trace)
                made.trace, numbers = None, trace.drawn
            else:
                numbers = made.draw(given)
            self.program = made.program
            return made.run(given.arrays, numbers)


class _Arguments:
    """The arguments of a call: its arrays and floats, and what tells one program from another."""

    def __init__(self, args: Any, kwargs: Any) -> None:
        self.tree = (args, kwargs)
        self.arrays: list[Any] = []
        self.floats: list[float] = []
        self.objects: list[Any] = []  # kept, so that their identities stay their own
        self.device = "cpu"  # of the arrays, if one is on the GPU "gpu"
        kinds = [self._kind(x) for x in leaves(self.tree)]
        self.key = (*kinds, len(args), *kwargs, modes.get()[-1])

    def _kind(self, x: Any) -> Any:
        x = x._data if _is_constant(x) else x
        if isinstance(x, np.ndarray):
            self.arrays.append(x if x.flags.c_contiguous else np.ascontiguousarray(x))
            return np.ndarray, x.shape, x.dtype
        if isinstance(x, (float, np.floating)):
            self.floats.append(float(x))
            return float
        if x is None or isinstance(x, (bool, int, str, np.generic)):
            return type(x), x
        if backend.is_gpu_array(x) and not backend.is_recorded(x):
            self.device = "gpu"
            m = backend.namespace_of(x)
            self.arrays.append(x if x.flags.c_contiguous else m.ascontiguousarray(x))
            return "gpu", x.shape, x.dtype
        self.objects.append(x)
        return type(x), id(x)

    def recorded(self, record: Recorder) -> Any:
        """The same arguments as recorded arrays and numbers."""
        arrays = map(record.argument, self.arrays)

        def of(x: Any) -> Any:
            if isinstance(x, (float, np.floating)):
                return record.number(float(x))
            if _is_constant(x):
                return Tensor(next(arrays))
            is_array = isinstance(x, np.ndarray) or backend.is_gpu_array(x)
            return next(arrays) if is_array else x

        return map_leaves(of, self.tree)


def _is_constant(x: Any) -> bool:
    return isinstance(x, Tensor) and x.node is None


@dataclass
class _Result:
    """Stands for an array in what a step returns."""

    position: int
    tensor: bool


class _Trace:
    """One call of the function on recorded arrays: what it computed, and the numbers that it drew."""

    def __init__(self, function: Callable[..., Any], given: _Arguments) -> None:
        record = Recorder(given.device)
        self.objects, self.program = given.objects, record.program
        results = self.program.results

        def hand_out(x: Any) -> Any:
            array = x._data if isinstance(x, Tensor) else x
            if not isinstance(array, Recorded):
                return x
            made = record.new(np.empty(array.shape, array.dtype), "result")
            results.append(record.view(record.write(made, array)))
            return _Result(len(results) - 1, isinstance(x, Tensor))

        with record.recording():
            args, kwargs = given.recorded(record)
            self.tree = map_leaves(hand_out, function(*args, **kwargs))
        self.drawn, self.calls = record.drawn, [replace(call) for call in self.program.calls]

    def check(self, again: _Trace) -> None:
        """CompileError if a second recording differs: something changes from call to call that the
        program takes for a constant."""
        for a, b in zip_longest(self.calls, again.calls):
            if differing := "another computation is made" if not a or not b else _difference(a, b):
                raise CompileError(
                    f"{(b or a).line}: {differing} from one call to the next; make it an argument of "
                    "the step, or give it by tinygen.backend.varying"
                )


def _difference(a: Call, b: Call) -> str | None:
    if a.name != b.name:
        return f"{a.name} becomes {b.name}"
    xs, ys = (list(leaves((c.args, c.options, c.outs))) for c in (a, b))
    for x, y in zip_longest(xs, ys):
        if isinstance(x, View) and isinstance(y, View) and x[1:] == y[1:]:
            s, t = x.storage.source, y.storage.source
            if s is not t and (s is None or t is None or _bytes(s) != _bytes(t)):
                return f"an array that {a.name} takes, made by NumPy alone, changes"
        elif repr(x) != repr(y):
            return f"what {a.name} takes changes, {x} to {y},"
    return None


def _bytes(array: Any) -> bytes:
    values: bytes = backend.to_device(array, "cpu").tobytes()
    return values


class _Compiled:
    """A program, what runs it, and what its runs need."""

    def __init__(self, trace: _Trace, latch: Any) -> None:
        self.trace: _Trace | None = trace  # until it was checked
        self.objects, self.tree, self.program = trace.objects, trace.tree, trace.program
        self.empty = backend.namespace_for(self.program.device).empty
        simplify(self.program)
        self.form = _form(self.program, latch)

    def is_stale(self) -> bool:
        """True if a Tensor outside the step has been given another array."""
        return any([box._data is not array for box, array in self.program.boxes.values()])

    def draw(self, given: _Arguments) -> list[Any]:
        """The numbers of the next run."""
        numbers: list[Any] = list(given.floats)
        for make, count in self.program.makers:
            made = make()
            numbers += made[:count] if count else (made,)
        return numbers

    def run(self, arrays: list[Any], numbers: list[Any]) -> Any:
        results = [self.empty(r.shape, r.dtype) for r in self.program.results]
        if stopped := self.form.run(arrays, results, numbers):
            kind = IndexError if stopped.startswith("an index") else NonFiniteError
            raise kind(f"the step was not finished: {stopped}")

        def result(x: Any) -> Any:
            if not isinstance(x, _Result):
                return x
            return Tensor(results[x.position]) if x.tensor else results[x.position]

        return map_leaves(result, self.tree)


def _form(program: Program, latch: Any) -> Replay:
    """What runs the program: on the GPU a graph; a native function where there is a compiler, else NumPy."""
    if program.device == "gpu":
        from tinygen.compile.graph import Graph, Latch

        return Graph(program, latch or Latch())
    if dispatch.native() is not None:
        from tinygen.compile.native import (
            Native,
            Unavailable,
        )  # with ctypes: only where it is needed

        program.nodes = fuse(program.calls, expressible)
        local = private(program.nodes)
        program.offsets, program.block = plan(program.nodes, local)
        others = [*program.outside(), *program.arguments, *(r.storage for r in program.results)]
        bases = {s: (i, 0) for i, s in enumerate(others, 1)}
        bases |= {s: (0, at) for s, at in program.offsets.items()}
        try:
            return Native(program, Emitted(local, bases))
        except Unavailable as reason:
            logging.getLogger("tinygen").warning("tinygen: %s; NumPy computes instead", reason)
    program.nodes = list(program.calls)
    program.offsets, program.block = plan(program.nodes, set())
    return Replay(program)
