"""A program: the list of calls that one step makes, on views of memory.

Storage   a piece of memory: of an argument, of an array outside the step, or of the program's own
View      an array in a storage: dtype, shape, strides and offset, as NumPy has them
Call      a function, what it reads, what it writes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Call", "Number", "Program", "Storage", "View", "map_leaves"]


@dataclass(eq=False)
class Storage:
    """kind: 'argument', 'outside' (an array met on the way, read where it is at every run), 'result'
    (made anew at every run, handed out), or 'own' (of the program: planned in one block of memory)."""

    kind: str
    nbytes: int
    source: Any = None  # the array outside, or the position of the argument
    name: str = ""


class View(NamedTuple):
    """An array in a storage; strides and offset in bytes."""

    storage: Storage
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def contiguous(self) -> bool:
        """True if the elements lie one after the other in C order."""
        expected = self.dtype.itemsize
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and stride != expected:
                return False
            expected *= n
        return True

    def __str__(self) -> str:
        return f"{self.storage.name}:{self.dtype}{list(self.shape)}"


class Number(NamedTuple):
    """A number that is asked for before every run: its place in the table of those."""

    position: int
    whole: bool

    def __str__(self) -> str:
        return f"n{self.position}"


@dataclass(eq=False)
class Call:
    """One call. args hold Views, Numbers, constants; `outs` are the Views that it writes.

    kind: 'ufunc' and 'copy' (elementwise), 'reduce', 'product', 'kernel', 'stop' (ends the run unless
    its argument is true), or 'numpy', any other function of NumPy.
    """

    kind: str
    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]
    outs: list[View]
    line: str = ""
    dtypes: tuple[
        np.dtype[Any], ...
    ] = ()  # in which a ufunc computes: of each input, of the output
    reads: set[Storage] = field(init=False)
    writes: set[Storage] = field(init=False)

    def __post_init__(self) -> None:
        self.settle()

    def settle(self) -> None:
        """Read off the arguments which memory the call reads and writes."""
        self.reads = {x.storage for x in leaves(self.args) if isinstance(x, View)}
        self.writes = {x.storage for x in self.outs}

    @property
    def lasting(self) -> bool:
        """True if it is seen outside the program."""
        return self.kind == "stop" or any(s.kind != "own" for s in self.writes)

    def __str__(self) -> str:
        shown = [_short(x) for x in self.args] + [
            f"{k}={_short(v)}" for k, v in self.options.items()
        ]
        outs = ", ".join(map(str, self.outs))
        return f"{outs + ' = ' if outs else ''}{self.name}({', '.join(shown)})"


def _short(x: Any) -> str:
    if isinstance(x, (tuple, list)) and not isinstance(x, (View, Number)):
        return f"[{', '.join(map(_short, x))}]"
    return str(x)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same nest of tuples, lists, dicts and slices with the function of every leaf."""
    if isinstance(tree, (View, Number)):
        return function(tree)
    if isinstance(tree, tuple):
        parts = [map_leaves(function, x) for x in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if isinstance(tree, list):
        return [map_leaves(function, x) for x in tree]
    if isinstance(tree, dict):
        return {key: map_leaves(function, x) for key, x in tree.items()}
    return function(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """Every leaf of such a nest."""
    if isinstance(tree, (tuple, list)) and not isinstance(tree, (View, Number)):
        for x in tree:
            yield from leaves(x)
    elif isinstance(tree, dict):
        yield from leaves(list(tree.values()))
    else:
        yield tree


def views(call: Call) -> list[View]:
    """Every view that a call reads or writes."""
    return [x for x in (*leaves((call.args, call.options)), *call.outs) if isinstance(x, View)]


@dataclass
class Program:
    """The calls of a step in order; the functions that give its numbers; what it returns."""

    calls: list[Call]
    makers: list[Callable[[], Any]]
    numbers: list[Number]
    arguments: list[Storage]
    results: list[View]
    boxes: list[tuple[Any, Any]]  # Tensors outside, with the arrays that they held
    nodes: list[Any] = field(default_factory=list)  # the calls, those that share loops as one
    block: int = 0  # bytes of the program's own memory
    offsets: dict[Storage, int] = field(default_factory=dict)

    def outside(self) -> list[Storage]:
        """The storages outside the program, each once, in the order of their use."""
        used = [x.storage for call in self.calls for x in views(call)]
        return list(dict.fromkeys(s for s in used if s.kind == "outside"))

    def name_storages(self) -> None:
        """Short names by kind and number: a0 for an argument, x0 outside, r0 a result, t0 its own."""
        counts: dict[str, int] = {}
        letters = {"argument": "a", "outside": "x", "result": "r", "own": "t"}
        used = [x.storage for call in self.calls for x in views(call)]
        for s in dict.fromkeys([*self.arguments, *used, *(r.storage for r in self.results)]):
            letter = letters[s.kind]
            s.name = f"{letter}{counts.get(letter, 0)}"
            counts[letter] = counts.get(letter, 0) + 1
