"""Which calls share a loop: chains of elementwise calls, with the sums along rows and columns of them.

A Group is a nest of loops over one shape (..., columns); the innermost is a row. Its calls have a role:

    full     a result for every element
    row      one for every row: the sum of a row, and what is computed from such sums
    column   a sum over the rows, for every column; ready when the loops have ended
    total    the sum of all; likewise

A full call that needs the sum of its row runs in a later phase: another loop over the same row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tinygen.compile.program import Call, Storage, View, views

__all__ = ["TOGETHER", "Access", "Group", "Launch", "bundle", "fuse", "private"]

MOST = 48  # calls in a group: more would not fit the registers, nor the compiler's patience


class Access(NamedTuple):
    """How the loops of a group walk an array: elements from one step of each loop to the next."""

    storage: Storage
    dtype: np.dtype[Any]
    offset: int
    steps: tuple[int, ...]


class Member(NamedTuple):
    """A call in a group: computed in the loop over a row, or `in_row`, once after the loop of its phase
    (-1 is before the first)."""

    call: Call
    role: str
    in_row: bool
    args: list[Access | None]  # None for numbers
    out: Access
    phase: int

    @property
    def walked(self) -> list[Access]:
        return [a for a in (*self.args, self.out) if a]


class Group:
    """Calls that run in one nest of loops over `shape`."""

    def __init__(self, first: Call) -> None:
        self.shape = _space(first)
        self.members: list[Member] = []
        self.reads: set[Storage] = set()
        self.writes: set[Storage] = set()
        member = self.member(first)
        assert member is not None, first
        self.add(member)

    @property
    def calls(self) -> list[Call]:
        return [m.call for m in self.members]

    def add(self, member: Member) -> None:
        self.members.append(member)
        self.reads |= member.call.reads
        self.writes |= member.call.writes

    def member(self, call: Call) -> Member | None:
        """The call as it would run in these loops; None if it does not fit. It may not depend on
        anything between the group and itself."""
        place = self._place(call) if len(self.members) < MOST else None
        if place is None:
            return None
        args = [self._walk(x, _space(call)) if isinstance(x, View) else None for x in call.args]
        new = Member(call, *place, args, self._walk(call.outs[0], _space(call)), -place[1])
        for old in self.members:  # what one writes and the other walks, both walk alike
            shared = {old.out.storage} & {a.storage for a in new.walked}
            shared |= {new.out.storage} & {a.storage for a in old.walked}
            ways = {a for a in new.walked + old.walked if a.storage in shared}
            ended = old.role in ENDED or (new.role in ENDED and new.out in ways)
            if len(ways) > len(shared) or (shared and ended):
                return None
            if shared:
                after = old.role == "row" and not new.in_row  # a sum is known after its loop
                new = new._replace(phase=max(new.phase, old.phase + after))
        return new

    def _place(self, call: Call) -> tuple[str, bool] | None:
        """The role of the call in these loops, and whether it is in_row; None if it is not for them."""
        shape, given = self.shape, _space(call)
        of_rows = bool(shape) and shape[-1] > 1 and given in (shape[:-1], (*shape[:-1], 1))
        if call.kind != "reduce":
            return ("full", False) if given == shape else ("row", True) if of_rows else None
        axes, every = call.options["axis"], tuple(range(len(given)))
        if given != shape:
            return ("total", True) if of_rows and axes == every else None
        if axes == every[-1:]:
            return "row", False
        return ("total" if axes == every else "column"), False

    def _walk(self, x: View, over: tuple[int, ...]) -> Access:
        """How the loops walk a view that is broadcast to the space of its call."""
        pairs = zip(x.shape, x.strides, strict=True)
        steps = [0 if n == 1 else s // x.dtype.itemsize for n, s in pairs]
        after = len(self.shape) - len(over)  # 1 for an array of one number a row
        steps = [0] * (len(over) - len(steps)) + steps + [0] * after
        return Access(x.storage, x.dtype, x.offset, tuple(steps))


ENDED = ("column", "total")


def _space(call: Call) -> tuple[int, ...]:
    return call.args[0].shape if call.kind == "reduce" else call.outs[0].shape


def fuse(calls: Sequence[Call], expressible: Callable[[Call], bool]) -> list[Call | Group]:
    """The calls in an order that computes the same, with groups in the place of those that share loops.

    A call moves up, past calls that it has nothing to do with, to the group whose results it takes; or
    to the nearest that walks one of its arrays.
    expressible: whether a call can stand in a loop.
    """
    nodes: list[Call | Group] = []
    for call in calls:
        if not expressible(call):
            nodes.append(call)
            continue
        near, arrays = None, {x.storage for x in views(call) if x.shape and max(x.shape) > 1}
        for node in reversed(nodes):
            before = bool(node.writes & (call.reads | call.writes) or node.reads & call.writes)
            before |= getattr(node, "kind", "") == "stop"
            if isinstance(node, Group) and (
                before or (not near and arrays & (node.reads | node.writes))
            ):
                member = node.member(call)
                near = (node, member) if member else near
            if before:
                break
        if near:
            near[0].add(near[1])
        else:
            nodes.append(Group(call))
    return nodes


def private(nodes: Sequence[Call | Group]) -> set[Storage]:
    """Storages of which only one group knows, and walks them in one way: they need no memory."""
    ways: dict[Storage, set[Any]] = {}
    for i, node in enumerate(nodes):
        for m in node.members if isinstance(node, Group) else ():
            for a in m.walked:
                ways.setdefault(a.storage, set()).add((i, a))
            if m.role in ENDED:
                ways[m.out.storage].add(None)
        for x in views(node) if isinstance(node, Call) else ():
            ways.setdefault(x.storage, set()).add(None)
    return {s for s, way in ways.items() if s.kind == "own" and len(way) == 1 and None not in way}


class Launch:
    """Nodes that one launch on a GPU does one after the other; no thread waits for another between them."""

    def __init__(self, node: Call | Group) -> None:
        self.nodes, self.calls = [node], list(getattr(node, "calls", [node]))

    @property
    def outs(self) -> list[View]:
        return [x for call in self.calls for x in call.outs]

    def add(self, other: Launch) -> None:
        self.nodes, self.calls = self.nodes + other.nodes, self.calls + other.calls

    def meets(self, other: Launch) -> bool:
        """Whether one of the two writes what the other reads or writes."""
        pairs = ((self.outs, other.calls), (other.outs, self.calls))
        return any(
            out.storage is x.storage and _overlap(out, x)
            for outs, calls in pairs
            for x in (x for call in calls for x in views(call))
            for out in outs
        )


def _overlap(a: View, b: View) -> bool:
    """Whether views of one storage have bytes in common, as far as their first and last ones say."""
    (a_from, a_to), (b_from, b_to) = map(_extent, (a, b))
    return a_from < b_to and b_from < a_to


def _extent(x: View) -> tuple[int, int]:
    if 0 in x.shape:
        return x.offset, x.offset
    reach = [(n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True)]
    end = sum(r for r in reach if r > 0) + x.dtype.itemsize
    return x.offset + sum(r for r in reach if r < 0), x.offset + end


def bundle(nodes: Sequence[Call | Group]) -> list[Launch]:
    """The nodes in launches. Those that are alike, and do not depend on one another or on what is
    between them, go together: an optimiser's work on all parameters is a single launch. The work on
    single numbers goes together although it depends, since one thread does it all.

    Nodes go up to the launch that they join; then sums over columns, such as all the gradients of
    biases, go down, for what they add is computed one after the other.
    """
    up = _joined([Launch(node) for node in nodes], ("loops", "kernel", "single", "take"))
    return _joined(up[::-1], ("sums",))[::-1]


TOGETHER = 40  # nodes in a launch: their pointers are to fit its arguments


def _joined(launches: Sequence[Launch], kinds: tuple[str, ...]) -> list[Launch]:
    done: list[Launch] = []
    for new in launches:
        found, alike = None, _alike(new.nodes[0])
        for launch in reversed(done if alike[0] in kinds else []):
            apart = not launch.meets(new)
            fits = _alike(launch.nodes[0]) == alike and len(launch.nodes) < TOGETHER
            if fits and (apart or alike[0] == "single"):
                found = launch
            stops = any(call.kind == "stop" for call in launch.calls)
            if found or not apart or (stops and alike[1]):
                break
        if found:
            found.add(new)
        else:
            done.append(new)
    return done


def _alike(node: Call | Group) -> tuple[str, bool, str]:
    """What nodes of one launch have in common; the second tells whether they write outside."""
    outside = any(s.kind != "own" for s in node.writes)
    if isinstance(node, Group):
        roles = {m.role for m in node.members}
        kinds = {"column": "sums", "row": "rows", "total": "rows"}
        kind = max((kinds.get(r, "loops") for r in roles), key=["loops", "sums", "rows"].index)
        return "single" if kind == "loops" and prod(node.shape) == 1 else kind, outside, ""
    if node.kind == "stop":
        return "single", outside, ""
    return node.kind, outside, node.name
