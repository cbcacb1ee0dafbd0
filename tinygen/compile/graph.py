"""A program as one graph on the GPU: its launches are captured once, and replayed with one launch.

The first run makes the launches one by one, which loads and compiles what they need. The second
captures them; from then on a run is one small kernel with what is new, and the graph, both on the
stream that is current then. Nothing waits but every hundredth run, which looks whether one ended early.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import numpy as np

from tinygen.compile.cuda import Kernel, Kernels, fits_in_loop, in_loops
from tinygen.compile.fuse import TOGETHER, bundle, fuse, private
from tinygen.compile.plan import plan
from tinygen.compile.program import Call, Number, Program, View, map_leaves
from tinygen.compile.replay import Replay
from tinygen.errors import CompileError
from tinygen.kernels import cublas, cuda

__all__ = ["LOOKS", "Graph", "Latch"]

LOOKS = 100  # runs between two looks at whether one ended early


def emitted(program: Program) -> Kernels:
    """The text of a program and its launches, with a place for each of its arrays."""
    program.calls = in_loops(program.calls)
    groups = fuse(program.calls, fits_in_loop)
    local = private(groups)
    program.nodes = bundle(groups)
    program.offsets, program.block = plan(program.nodes, local)
    return Kernels(program, program.nodes, local)


class Latch:
    """Where programs note that a run ended early. From then on those that share it change nothing.

    looks: every hundredth run looks whether one did; else who made this is to look.
    """

    def __init__(self, looks: bool = True) -> None:
        self.looks, self.runs = looks, 0
        self.stopped: Any = None  # on the device: which stop, in which run

    def look(self) -> tuple[int, int] | None:
        """The number of the stop and of the run, if one ended early. This waits for the device."""
        if self.stopped is None:
            return None
        code, run = self.stopped.get().tolist()
        if code:
            self.stopped.fill(0)
        return (code, run) if code else None


class Graph(Replay):
    """A program that runs on the GPU."""

    def __init__(self, program: Program, latch: Latch) -> None:
        import cupy

        self.cupy, self.pool, self.latch = cupy, cupy.cuda.MemoryPool(), latch
        if latch.stopped is None:
            latch.stopped = cupy.zeros(2, np.uint64)
        kernels = emitted(program)
        self.stops = kernels.stops
        with self.own_memory():
            super().__init__(program)
            slots = 1 + len(program.numbers) + len(program.results)
            self.table = cupy.zeros(slots, np.uint64)
            tables: dict[Any, Any] = {
                "table": self.table,
                "stopped": latch.stopped,
                "scratch": cupy.empty(max(kernels.scratch, 8), np.uint8),
                "arrived": cupy.zeros(TOGETHER, np.uint32),
            }
            self.inputs = [cupy.empty(max(s.nbytes, 1), np.uint8) for s in program.arguments]
            self.space = cublas.workspace()
        self.memory |= tables | dict(zip(program.arguments, self.inputs, strict=True))
        for k, result in enumerate(program.results, 1 + len(program.numbers)):
            self.memory[result.storage] = self.table[k : k + 1]  # where its address of this run is
        module = cupy.RawModule(code=kernels.text, options=cuda.OPTIONS)
        self.post = module.get_function("post")
        most = cuda.BLOCKS_PER_PROCESSOR * cupy.cuda.Device().attributes["MultiProcessorCount"]
        self.most = max([1, *(-(-s.nbytes // cuda.PER_BLOCK) for s in program.arguments)])
        self.most = min(self.most, most)
        self.work = [
            self._launch(module, s, most) if isinstance(s, Kernel) else self._call(s)
            for s in kernels.segments
        ]
        self.warm = False
        self.graph: Any = None
        self.last: Any = None  # the stream of the last run

    # -- memory ------------------------------------------------------------------------------------
    @contextmanager
    def own_memory(self) -> Iterator[None]:
        """Arrays that are made here come from the program's own pool. The usual one would hand out to
        others what only a graph still uses."""
        with self.cupy.cuda.using_allocator(self.pool.malloc):
            yield

    def allocated(self, nbytes: int) -> Any:
        return self.cupy.empty(max(nbytes, 1), np.uint8)

    def bytes_of(self, array: Any) -> Any:
        return self.cupy.ndarray((array.nbytes,), np.uint8, memptr=array.data)

    def array(self, x: View) -> Any:
        memory = self.memory[x.storage].data + x.offset
        return self.cupy.ndarray(x.shape, x.dtype, memptr=memory, strides=x.strides)

    # -- what is queued ----------------------------------------------------------------------------
    def _launch(self, module: Any, kernel: Kernel, most: int) -> Any:
        """A kernel of the text, with the addresses that it takes."""
        function = module.get_function(kernel.name)
        given = tuple(np.uint64(self.memory[s].data.ptr + at) for s, at in kernel.arguments)
        grid = (min(kernel.blocks, most),)
        return lambda: grid[0] and function(grid, (cuda.THREADS,), given)

    def _call(self, call: Call) -> Any:
        """A product, or what CuPy computes."""
        if any(out.storage.kind == "result" for out in call.outs):
            raise CompileError(
                f"{call.line}: a result of dtype {call.outs[0].dtype} is not known here"
            )
        if call.kind != "product":
            return lambda: self._perform(call)
        out = call.outs[0]
        a, b = ((self.memory[x.storage].data.ptr + x.offset, *x.as_matrix()) for x in call.args)
        sizes = (*out.shape, call.args[0].shape[1])
        if 0 in sizes:
            return lambda: self.array(out).fill(0)
        to = self.memory[out.storage].data.ptr + out.offset
        return lambda: cublas.product(out.dtype.char, sizes, a, b, to, self.space)

    def _perform(self, call: Call) -> None:
        """Let CuPy compute a call that has no kernel of its own."""

        def found(x: Any) -> Any:
            if isinstance(x, Number):
                kind = np.uint64 if x.field == "whole" else np.float64
                memory = self.table.data + 8 * (1 + x.position)
                return self.cupy.ndarray((), kind, memptr=memory)
            return self.array(x) if isinstance(x, View) else x

        args, options, outs = map_leaves(found, (call.args, call.options, call.outs))
        if call.kind == "ufunc":
            pairs = zip(args, call.dtypes, strict=False)
            args = [x.astype(d) if hasattr(x, "astype") else x for x, d in pairs]
        try:
            result = args[0] if call.kind == "copy" else _of_cupy(call)(*args, **options)
        except Exception as error:
            raise CompileError(f"{call.line}: CuPy cannot do {call.name} here: {error}") from error
        if result is not None:
            made = [
                x for x in ([result] if not isinstance(result, (list, tuple)) else result) if x.size
            ]
            for out, x in zip([out for out in outs if out.size], made, strict=True):
                out[...] = x

    def _queue(self) -> None:
        with self.own_memory():
            for work in self.work:
                work()

    def _captured(self) -> Any:
        """The graph of all launches."""
        stream = self.cupy.cuda.Stream(non_blocking=True)
        collecting = gc.isenabled()
        gc.disable()  # what it frees could call CUDA
        try:
            with stream:
                stream.begin_capture()
                try:
                    self._queue()
                except BaseException:
                    with suppress(
                        Exception
                    ):  # what broke the capture is to be seen, not that it broke
                        stream.end_capture()
                    raise
                return stream.end_capture()
        finally:
            if collecting:
                gc.enable()

    # -- a run -------------------------------------------------------------------------------------
    def run(self, arguments: list[Any], results: list[Any], numbers: list[Any]) -> str | None:
        """Queue one run; every hundredth looks whether one ended early, and says at which stop."""
        stream = self.cupy.cuda.get_current_stream()
        if self.last is not None and self.last != stream:
            stream.wait_event(self.last.record())
        self.last = stream
        kinds = {"whole": np.uint64, "number": np.float64}
        given = [np.uint64(self.table.data.ptr), np.uint64(self.latch.runs)]
        for number, value in zip(self.program.numbers, numbers, strict=True):
            given.append(kinds[number.field](value).view(np.uint64))
        given += [np.uint64(r.data.ptr) for r in results]
        for place, array in zip(self.inputs, arguments, strict=True):
            given += [np.uint64(place.data.ptr), np.uint64(array.data.ptr)]
        self.post((self.most,), (cuda.THREADS,), tuple(given))
        if not self.warm:
            self._queue()
        else:
            self.graph = self.graph or self._captured()
            self.graph.launch()
        self.warm = True
        self.latch.runs += 1
        due = self.stops and self.latch.looks and self.latch.runs % LOOKS == 0
        if not due or (found := self.latch.look()) is None:
            return None
        code, run = found
        ago = self.latch.runs - 1 - run
        late = f", {ago} runs ago; nothing was changed since" if ago else ""
        return f"{self.stops[code - 1]}{late}"


def _of_cupy(call: Call) -> Any:
    """CuPy's function of the name of NumPy's or SciPy's that was recorded."""
    function, cupy = call.function, import_module("cupy")
    name, owner = function.__name__, getattr(function, "__self__", None)
    if isinstance(owner, np.ufunc):  # as np.add.at
        return getattr(getattr(cupy, owner.__name__), name)
    if isinstance(function, np.ufunc):
        return getattr(cupy, name, None) or getattr(import_module("cupyx.scipy.special"), name)
    if call.kind == "reduce":
        return getattr(cupy, call.name)
    if (module := function.__module__ or "numpy") == "_operator":
        return function
    return getattr(import_module(module.replace("numpy", "cupy", 1)), name)
