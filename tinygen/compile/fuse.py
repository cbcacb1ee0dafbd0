"""Which calls share a loop: chains of elementwise calls, with the sums along rows and columns of them.

A Group is a nest of loops over one shape (..., columns); the innermost is a row. Its calls have a role:

    full     a result for every element
    row      one for every row: the sum of a row, and what is computed from such sums
    column   a sum over the rows, for every column; ready when the loops have ended
    total    the sum of all; likewise

A full call that needs the sum of its row runs in a later phase: another loop over the same row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygen.compile.program import Call, Storage, View, leaves

__all__ = ["Access", "Group", "fuse"]

MOST = 48  # calls in a group: more would not fit the registers, nor the compiler's patience


class Access(NamedTuple):
    """How the loops of a group walk an array: bytes from one step of each loop to the next."""

    storage: Storage
    dtype: np.dtype[Any]
    offset: int
    strides: tuple[int, ...]


class Group:
    """Calls that run in one nest of loops over `shape`."""

    def __init__(self, shape: tuple[int, ...], expressible: Any) -> None:
        self.shape, self.expressible = shape, expressible
        self.calls: list[Call] = []
        self.roles: list[str] = []
        self.accesses: list[
            tuple[list[Access | None], Access]
        ] = []  # of each argument, of the output
        self.phases: list[int] = []
        self.reads: set[Storage] = set()
        self.writes: set[Storage] = set()

    def add(self, call: Call) -> bool:
        """Take the call in, if it fits; it may not depend on anything between the group and itself."""
        role = self.role(call)
        if role is None or len(self.calls) >= MOST:
            return False
        args, out = self.walks(call, role)
        phase = 0 if role != "row" or call.kind == "reduce" else -1
        for late, before, (read, written) in zip(
            self.phases, self.roles, self.accesses, strict=True
        ):
            mine, theirs = [a for a in args if a], [a for a in read if a]
            touched = {written.storage} & {a.storage for a in (*mine, out)}
            touched |= {out.storage} & {a.storage for a in (*theirs, written)}
            ways = {a for a in (*mine, out, *theirs, written) if a.storage in touched}
            ended = before in ("column", "total") or (role in ("column", "total") and out in ways)
            if len(ways) > len(touched) or (touched and ended):
                return False
            if touched:
                in_row = role == "row" and call.kind != "reduce"  # after the loop of its phase
                phase = max(phase, late if in_row or before != "row" else late + 1)
        self.calls.append(call)
        self.roles.append(role)
        self.accesses.append((args, out))
        self.phases.append(phase)
        self.reads |= call.reads
        self.writes |= call.writes
        return True

    def role(self, call: Call) -> str | None:
        """What the call would be in these loops; None if it is not for them."""
        shape = self.shape
        if call.kind != "reduce":
            given = call.outs[0].shape
            if given == shape:
                return "full"
            return (
                "row"
                if shape and shape[-1] > 1 and given in (shape[:-1], (*shape[:-1], 1))
                else None
            )
        given, axes = call.args[0].shape, call.options["axis"]
        every = tuple(range(len(given)))
        if given == shape:
            if axes == every[-1:]:
                return "row"
            if call.name == "sum" and axes == every:
                return "total"
            return "column" if call.name == "sum" and axes and axes == every[: len(axes)] else None
        if (
            call.name == "sum"
            and axes == every
            and shape
            and given in (shape[:-1], (*shape[:-1], 1))
        ):
            return "total"
        return None

    def walks(self, call: Call, role: str) -> tuple[list[Access | None], Access]:
        """How the call's arguments and its output are walked by the loops."""
        shape = self.shape

        def walk(x: Any, over: tuple[int, ...]) -> Access | None:
            if not isinstance(x, View):
                return None
            strides = [0] * (len(over) - len(x.shape))
            strides += [0 if n == 1 else s for n, s in zip(x.shape, x.strides, strict=True)]
            strides += [0] * (len(shape) - len(over))  # of one number for each row
            return Access(x.storage, x.dtype, x.offset, tuple(strides))

        (out,) = call.outs
        if call.kind != "reduce":
            over = out.shape
            args = [walk(x, over) for x in call.args]
        else:
            over = call.args[0].shape
            args = [walk(call.args[0], over)]
            axes = call.options["axis"]
            kept = [1 if a in axes else n for a, n in enumerate(over)]
            steps = iter(out.strides if not call.options["keepdims"] else [s for a, s in enumerate(out.strides) if a not in axes])  # fmt: skip
            strides = tuple(0 if a in axes else next(steps) for a in range(len(kept)))
            out = out._replace(shape=tuple(kept), strides=strides)
        found = walk(out, over)
        assert found is not None
        return args, found


def fuse(calls: Sequence[Call], expressible: Any) -> list[Call | Group]:
    """The calls in an order that computes the same, with groups in the place of those that share loops.

    expressible: whether a call can stand in a loop.
    """
    nodes: list[Call | Group] = []
    for call in calls:
        if not expressible(call):
            nodes.append(call)
            continue
        for node in reversed(nodes):
            if isinstance(node, Group) and node.add(call):
                break
            if (
                (node.writes & (call.reads | call.writes))
                or (node.reads & call.writes)
                or _ends(node)
            ):
                nodes.append(_alone(call, expressible))
                break
        else:
            nodes.append(_alone(call, expressible))
    return nodes


def _ends(node: Call | Group) -> bool:
    return isinstance(node, Call) and node.kind == "stop"


def _alone(call: Call, expressible: Any) -> Group:
    shape = call.args[0].shape if call.kind == "reduce" else call.outs[0].shape
    group = Group(shape, expressible)
    if not group.add(call):
        raise AssertionError(f"{call} fits no loop of its own")
    return group


def private(nodes: Sequence[Call | Group]) -> set[Storage]:
    """Storages of which only one group knows, and walks them in one way: they need no memory."""
    ways: dict[Storage, set[Any]] = {}
    for i, node in enumerate(nodes):
        if isinstance(node, Group):
            for role, (args, out) in zip(node.roles, node.accesses, strict=True):
                for a in (*args, out):
                    if a is not None:
                        ways.setdefault(a.storage, set()).add((i, a.dtype, a.offset, a.strides))
                if role in ("column", "total"):
                    ways[out.storage].add(None)
        else:
            for x in [*leaves(node.args), *node.outs]:
                if isinstance(x, View):
                    ways.setdefault(x.storage, set()).add(None)
    return {s for s, way in ways.items() if s.kind == "own" and len(way) == 1 and None not in way}
