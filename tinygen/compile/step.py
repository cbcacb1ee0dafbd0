"""tg.compile: a function of arrays, recorded at its first call, is run as a program from then on."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinygen import backend
from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.modes import WATCH, modes
from tinygen.compile.emit import emit, expressible
from tinygen.compile.fuse import fuse, private
from tinygen.compile.native import Native
from tinygen.compile.plan import plan
from tinygen.compile.program import Call, Program, View, leaves, map_leaves
from tinygen.compile.recording import CompileError, Recorded, Recorder
from tinygen.compile.replay import Replay
from tinygen.compile.simplify import simplify
from tinygen.errors import NonFiniteError
from tinygen.kernels import dispatch

__all__ = ["Step", "compile"]


def compile(function: Callable[..., Any]) -> Step:
    """A step that is recorded once and run as one program: `step = tg.compile(step)`.

    The function computes with arrays, Tensors, modules, an optimiser, a Generator; it takes arrays and
    returns arrays, numbers, or tuples, lists and dicts of them. Arrays that it meets on its way, such
    as parameters, are read where they are at every run, and may be updated in place by it. Floats
    among its arguments may change; whole numbers, words and objects are part of the program, and
    another one is another program, as is another shape or dtype of an array. Gradients that it leaves
    in leaves are forgotten.

    CompileError, with the line: something that cannot be recorded, as the value of an array, or a
    number that changes from call to call and is not an argument (see `tinygen.backend.varying`).
    """
    return Step(function)


class Step:
    """What `compile` returns; `program` is the last one that ran, for print."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.program: Program | None = None
        self._made: dict[Any, _Compiled] = {}
        self._lock = threading.Lock()  # a program has one memory

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if backend.recorder.get() is not None or modes.get()[-1] & WATCH:
            return self.function(*args, **kwargs)
        given = _Arguments(args, kwargs)
        if given.elsewhere:
            return self.function(*args, **kwargs)
        with self._lock:
            made = self._made.get(given.key)
            if made is None or made.is_stale():
                trace = _Trace(self.function, given)
                made = self._made[given.key] = _Compiled(trace)
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
        self.objects: list[Any] = []
        self.elsewhere = False  # not on the CPU
        kinds = [self._kind(x) for x in leaves((args, kwargs))]
        self.key = (*kinds, len(args), *kwargs, modes.get()[-1])

    def _kind(self, x: Any) -> Any:
        array = x._data if isinstance(x, Tensor) and x.node is None else x
        if isinstance(array, np.ndarray):
            self.arrays.append(array if array.flags.c_contiguous else np.ascontiguousarray(array))
            return type(x), array.shape, array.dtype
        if isinstance(array, (float, np.floating)):
            self.floats.append(float(array))
            return float
        if array is None or isinstance(array, (bool, int, str, np.generic)):
            return type(array), array
        self.elsewhere |= backend.is_gpu_array(array)
        self.objects.append(array)  # kept, so that its identity stays its own
        return type(array), id(array)

    def recorded(self, record: Recorder) -> Any:
        """The same arguments as recorded arrays and numbers."""
        arrays = iter([record.argument(a, i) for i, a in enumerate(self.arrays)])

        def of(x: Any) -> Any:
            if isinstance(x, np.ndarray):
                return next(arrays)
            if isinstance(x, Tensor) and x.node is None:
                return Tensor(next(arrays))
            return record.number(float(x)) if isinstance(x, (float, np.floating)) else x

        return map_leaves(of, self.tree)


class _Trace:
    """One call of the function on recorded arrays: what it computed, and the numbers that it drew."""

    def __init__(self, function: Callable[..., Any], given: _Arguments) -> None:
        self.objects = given.objects
        record = Recorder()
        results: list[View] = []

        def hand_out(x: Any) -> Any:
            array = x._data if isinstance(x, Tensor) else x
            if not isinstance(array, Recorded):
                return x
            results.append(record.result(array))
            return _Result(len(results) - 1, isinstance(x, Tensor))

        with record.recording():
            args, kwargs = given.recorded(record)
            self.tree = map_leaves(hand_out, function(*args, **kwargs))
        self.drawn, self.calls = record.drawn, [replace(call) for call in record.calls]
        self.program = record.program(results)

    def check(self, again: _Trace) -> None:
        """CompileError if a second recording differs: something changes from call to call that the
        program takes for a constant."""
        for a, b in zip(self.calls, again.calls, strict=False):
            if differing := _difference(a, b):
                raise CompileError(
                    f"{b.line}: {differing} from one call to the next; make it an argument of the step, "
                    "or give it by tinygen.backend.varying"
                )
        if len(self.calls) != len(again.calls):
            longer = max(self.calls, again.calls, key=len)
            line = longer[min(len(self.calls), len(again.calls))].line
            raise CompileError(f"{line}: the step computes something else at its second call")


class _Compiled:
    """A program, what runs it, and what its runs need."""

    def __init__(self, trace: _Trace) -> None:
        self.trace: _Trace | None = trace  # until it was checked
        self.objects, self.tree, self.program = trace.objects, trace.tree, trace.program
        simplify(self.program)
        self.program.name_storages()
        self.form = _form(self.program)

    def is_stale(self) -> bool:
        """True if a Tensor outside the step has been given another array."""
        return any(box._data is not array for box, array in self.program.boxes)

    def draw(self, given: _Arguments) -> list[Any]:
        """The numbers of the next run."""
        numbers: list[Any] = list(given.floats)
        for make in self.program.makers:
            numbers += [x for x in leaves(make()) if isinstance(x, (int, float, np.generic))]
        return numbers

    def run(self, arrays: list[Any], numbers: list[Any]) -> Any:
        results = [np.empty(r.shape, r.dtype) for r in self.program.results]
        if stopped := self.form.run(arrays, results, numbers):
            raise NonFiniteError(f"the step was not finished: {stopped}")

        def result(x: Any) -> Any:
            if not isinstance(x, _Result):
                return x
            return Tensor(results[x.position]) if x.tensor else results[x.position]

        return map_leaves(result, self.tree)


def _form(program: Program) -> Replay:
    """What runs the program: a native function where there is a compiler, else NumPy."""
    if dispatch._found("cpu")[0] is None:
        program.offsets, program.block = plan(program.calls)
        return Replay(program)
    program.nodes = fuse(program.calls, expressible)
    local = private(program.nodes)
    program.offsets, program.block = plan(program.nodes, local)
    others = [*program.outside(), *program.arguments, *(r.storage for r in program.results)]
    bases = {s: (i, 0) for i, s in enumerate(others, 1)}
    bases |= {s: (0, at) for s, at in program.offsets.items()}
    return Native(program, emit(program.nodes, local, bases))


class _Result:
    """Stands for an array in what a step returns."""

    def __init__(self, position: int, tensor: bool) -> None:
        self.position, self.tensor = position, tensor


def _difference(a: Call, b: Call) -> str | None:
    if a.name != b.name:
        return f"{a.name} becomes {b.name}"
    xs, ys = ([*leaves(c.args), *leaves(c.options), *c.outs] for c in (a, b))
    for x, y in zip(xs, ys, strict=True):
        if isinstance(x, View) and isinstance(y, View):
            if x[1:] != y[1:] or x.storage.kind != y.storage.kind:
                return f"an array of {a.name} changes its layout"
            s, t = x.storage.source, y.storage.source
            if x.storage.kind == "outside" and s is not t and not _alike(s, t):
                return f"an array that {a.name} takes, made by NumPy alone, changes"
        elif type(x) is not type(y) or repr(x) != repr(y):
            return f"a number that {a.name} takes changes, {x} to {y},"
    return None


def _alike(a: Any, b: Any) -> bool:
    return bool(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes())
