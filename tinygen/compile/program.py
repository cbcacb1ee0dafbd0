"""A program: the list of calls that one step makes, on views of memory.

Storage   a piece of memory: of an argument, of an array outside the step, or of the program's own
View      an array in a storage: dtype, shape, strides and offset, as NumPy has them
Call      a function, what it reads, what it writes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tinygen.kernels.pool import as_matrix

__all__ = [
    "Call",
    "Number",
    "Program",
    "Storage",
    "View",
    "address",
    "leaves",
    "map_leaves",
    "views",
]


def address(array: Any) -> int:
    """Where the memory of an array begins."""
    of_gpu = getattr(array, "__cuda_array_interface__", None)
    return int((of_gpu or array.__array_interface__)["data"][0])


LETTERS = {"argument": "a", "outside": "x", "result": "r", "own": "t"}


@dataclass(eq=False)
class Storage:
    """kind: 'argument', 'outside' (an array met on the way, read where it is at every run), 'result'
    (made anew at every run, handed out), or 'own' (of the program: planned in one block of memory)."""

    kind: str
    nbytes: int
    source: Any = None  # the array outside
    start: int = 0  # its address while it is recorded
    name: str = ""


class View(NamedTuple):
    """An array in a storage; strides and offset in bytes."""

    storage: Storage
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def contiguous(self) -> bool:
        """True if the elements lie one after the other in C order."""
        steps = [prod(self.shape[i:]) * self.dtype.itemsize for i in range(1, len(self.shape) + 1)]
        three = zip(self.shape, self.strides, steps, strict=True)
        return all(n == 1 or stride == step for n, stride, step in three)

    def as_matrix(self) -> tuple[int, bool] | None:
        """How BLAS reads it (see pool.as_matrix); None if it cannot read it where it lies."""
        size = self.dtype.itemsize
        return None if self.offset % size else as_matrix(self.shape, self.strides, size)

    def __str__(self) -> str:
        name = self.storage.name + (f"+{self.offset}" if self.offset else "")
        return f"{name}:{self.dtype}{list(self.shape)}"


class Number(NamedTuple):
    """A number that is asked for before every run: its place in the table of those."""

    position: int
    field: str  # 'number' of any size, or 'whole', an unsigned one of 64 bits

    def __str__(self) -> str:
        return f"n{self.position}"


@dataclass(eq=False)
class Call:
    """One call. args hold Views, Numbers, constants; `outs` are the Views that it writes.

    kind: 'ufunc' and 'copy' (elementwise), 'reduce', 'product', 'kernel', 'take' (rows by number),
    'stop' (ends the run unless its argument is true), or 'numpy', any other function of NumPy.
    """

    kind: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    outs: list[View]
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    line: str = ""
    dtypes: tuple[Any, ...] = ()  # in which a ufunc computes: of each input, of the output

    def __post_init__(self) -> None:
        self.name = self.name or self.kind

    @property
    def reads(self) -> set[Storage]:
        return {x.storage for x in leaves((self.args, self.options)) if isinstance(x, View)}

    @property
    def writes(self) -> set[Storage]:
        return {x.storage for x in self.outs}

    def __str__(self) -> str:
        shown = [*map(_short, self.args), *(f"{k}={_short(v)}" for k, v in self.options.items())]
        outs = ", ".join(map(str, self.outs))
        return f"{outs}{' = ' if outs else ''}{self.name}({', '.join(shown)})"


def _short(x: Any) -> str:
    nest = isinstance(x, (tuple, list)) and not isinstance(x, (View, Number))
    return f"[{', '.join(map(_short, x))}]" if nest else str(x)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same nest of tuples, lists and dicts with the function of every leaf."""
    if isinstance(tree, dict):
        return {key: map_leaves(function, x) for key, x in tree.items()}
    if not isinstance(tree, (tuple, list)) or isinstance(tree, (View, Number)):
        return function(tree)
    parts = [map_leaves(function, x) for x in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def leaves(tree: Any) -> Iterator[Any]:
    """Every leaf of such a nest."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)) and not isinstance(tree, (View, Number)):
        for x in tree:
            yield from leaves(x)
    else:
        yield tree


def views(call: Call) -> list[View]:
    """Every view that a call reads or writes."""
    return [x for x in leaves((call.args, call.options, call.outs)) if isinstance(x, View)]


@dataclass
class Program:
    """The calls of a step in order, and what they need.

    makers: functions that give its numbers, each with how many in a tuple, or 0 for one alone.
    boxes: Tensors outside, with the arrays that they held.
    nodes: the calls, those that share loops as a Group.
    offsets: places of its own storages in a block of so many bytes of memory.
    """

    device: str = "cpu"
    calls: list[Call] = field(default_factory=list)
    arguments: list[Storage] = field(default_factory=list)
    results: list[View] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    makers: list[tuple[Callable[[], Any], int]] = field(default_factory=list)
    boxes: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    nodes: list[Any] = field(default_factory=list)
    offsets: dict[Storage, int] = field(default_factory=dict)
    block: int = 0

    def outside(self) -> list[Storage]:
        """The storages outside the program, each once, in the order of their use."""
        used = [x.storage for call in self.calls for x in views(call)]
        return list(dict.fromkeys(s for s in used if s.kind == "outside"))

    def __str__(self) -> str:
        """A line for each call, those that share loops under one number.

        a0 is an argument, x0 an array outside, r0 a result, n0 a number, t0 an array of the program's
        own, with its place in the block of memory, or `-` if it is only ever in registers.
        """
        counts = dict.fromkeys(LETTERS, 0)
        used = [x.storage for call in self.calls for x in views(call)]
        for s in dict.fromkeys([*self.arguments, *used]):
            at = f"@{self.offsets.get(s, '-')}" if s.kind == "own" else ""
            s.name = f"{LETTERS[s.kind]}{counts[s.kind]}{at}"
            counts[s.kind] += 1
        lines = [f"{len(self.calls)} calls, {len(self.nodes)} nodes, {self.block} bytes"]
        for i, node in enumerate(self.nodes):
            first, *more = getattr(node, "calls", [node])
            lines += [f"{i:>4}  {first}", *(f"    | {call}" for call in more)]
        return "\n".join(lines)
