"""Streams, events, graphs and memory as CuPy has them, for its stand-in, with their dangers.

Work on a stream that is not the default one is done when somebody waits for it. Work that is queued
while a stream captures is not done at all: the graph does it at every launch, with the addresses of
then. A pool hands a freed block to the next that asks for as many bytes, whoever still uses it; a new
block is full of NaN. `Launches` counts.
"""

from __future__ import annotations

import itertools
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

Work = Callable[[], Any]


class Launches:
    """How often work was queued from the host since `start`: single launches, and graphs."""

    single = graphs = 0

    @classmethod
    def start(cls) -> None:
        cls.single = cls.graphs = 0


class CaptureError(RuntimeError):
    """What the runtime answers to a wait, or a copy from or to the host, during capture."""


# -- memory ---------------------------------------------------------------------------------------
class MemoryPointer:
    """An address in a block."""

    def __init__(self, mem: Any, ptr: int) -> None:
        self.mem, self.ptr = mem, ptr

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr + offset)


class Block(bytearray):
    """Memory on the device."""


class MemoryPool:
    """Blocks of memory; those that were freed are handed out again, the last one first."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[Any]] = defaultdict(list)
        self._used: dict[int, Any] = {}
        self._all: list[Any] = []  # a graph's launches may use any of them

    def malloc(self, size: int) -> Any:
        """A block of so many bytes, with its pool."""
        rounded = -(-max(size, 1) // 512) * 512
        if self._free[rounded]:
            return self, self._free[rounded].pop()
        block = Block(b"\xff" * (rounded + 512))
        self._all.append(block)
        return self, block

    def placed(self, block: Any, shape: Any, dtype: Any, strides: Any = None) -> Any:
        """An array in a block, which comes back when nobody has the array any more."""
        array = np.ndarray(shape, dtype, block, -address(block) % 512, strides)
        key = id(array)

        def free(_: Any) -> None:
            del self._used[key]
            self._free[len(block) - 512].append(block)

        self._used[key] = weakref.ref(array, free)
        return array

    def free_all_blocks(self) -> None:
        self._free.clear()


default_pool = MemoryPool()
_allocators = [default_pool.malloc]


@contextmanager
def using_allocator(allocator: Any) -> Iterator[None]:
    _allocators.append(allocator)
    try:
        yield
    finally:
        _allocators.pop()


def new(shape: Any, dtype: Any, strides: Any = None) -> Any:
    """A new array from the current pool, with whatever was there before."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    if not size:
        return np.empty(shape, dtype)
    pool, block = _allocators[-1](size)
    return pool.placed(block, shape, dtype, strides)


def memory_of(array: Any) -> Any:
    """The block that an array lies in."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array if array.base is None else array.base


def on_device(x: Any) -> bool:
    """Whether x is an array in such a block."""
    return isinstance(x, np.ndarray) and isinstance(memory_of(x), Block)


def address(memory: Any) -> int:
    """Where a block begins."""
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def unowned(tree: Any) -> Any:
    """Arrays, also in tuples, lists and dicts, by their addresses alone: as a launch has them."""
    if isinstance(tree, dict):
        return {k: unowned(v) for k, v in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(map(unowned, tree))
    if not isinstance(tree, np.ndarray) or not isinstance(block := memory_of(tree), Block):
        return tree
    at = tree.ctypes.data - address(block)
    return np.ndarray(tree.shape, tree.dtype, block, at, tree.strides)


def own(array: Any) -> Any:
    """A result of NumPy's in memory of the current pool; a view of such memory stays one."""
    if on_device(array) or not array.size or array.dtype.hasobject:
        return array
    turned = array.flags.f_contiguous and not array.flags.c_contiguous
    made = new(array.shape, array.dtype, array.strides if turned else None)
    made[...] = array
    return made


# -- streams --------------------------------------------------------------------------------------
class Stream:
    _count = itertools.count(1)

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr = 0 if null else 16 * next(Stream._count)
        self._waiting: list[Work] = []
        self._captured: list[Work] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __enter__(self) -> Stream:
        _current.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        _current.pop()

    def use(self) -> Stream:
        _current[-1] = self
        return self

    def is_capturing(self) -> bool:
        return self._captured is not None

    def queue(self, work: Work) -> None:
        if self._captured is not None:
            self._captured.append(work)
            return
        Launches.single += 1
        self._later(work)

    def _later(self, work: Work) -> None:
        self._waiting.append(work)
        if not self.ptr:
            self.do()

    def do(self) -> None:
        """All that waits, in order."""
        while self._waiting:
            self._waiting.pop(0)()

    def synchronize(self) -> None:
        not_captured("synchronize")
        self.do()

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self._captured = []

    def end_capture(self) -> Graph:
        captured, self._captured = self._captured, None
        if captured is None:
            raise RuntimeError("the stream does not capture")
        return Graph(captured)

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self._later(event.do)


class Event:
    """All that was queued on a stream until it was recorded."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self._stream: Stream | None = None

    def record(self, stream: Stream | None = None) -> None:
        self._stream = stream or current()

    def synchronize(self) -> None:
        not_captured("synchronize")
        self.do()

    def do(self) -> None:
        if self._stream is not None:
            self._stream.do()


class Graph:
    """What a stream captured. Its launches do the work in order."""

    def __init__(self, work: list[Work]) -> None:
        self._work = work

    def __len__(self) -> int:
        return len(self._work)

    def launch(self, stream: Stream | None = None) -> None:
        stream = stream or current()
        if stream.is_capturing():
            raise CaptureError("a graph in a graph: the stand-in has none")
        Launches.graphs += 1
        stream._later(lambda: [work() for work in self._work])


null = Stream(null=True)
_current = [null]


def current() -> Stream:
    return _current[-1]


def not_captured(what: str) -> None:
    """CaptureError: the current stream captures, and this waits for the device."""
    if current().is_capturing():
        raise CaptureError(f"cudaErrorStreamCaptureUnsupported: {what} while a stream captures")
