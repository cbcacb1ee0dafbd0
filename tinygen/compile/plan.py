"""Memory for the arrays of a program: each gets a place in one block, for as long as it is needed."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from tinygen.compile.program import Storage, views

__all__ = ["plan"]

ALIGNMENT = 64  # bytes: a line of the cache


def plan(steps: Sequence[Any], without: Set[Storage]) -> tuple[dict[Storage, int], int]:
    """Offsets of the program's own storages in one block, and the bytes of the block.

    `steps` are the calls, or groups of calls, that run one after the other. Two
    storages share a place if the one is last used before the other is first used. The largest are
    placed first, each at the lowest place that is free for as long as it lives. `without`: needs none.
    """
    lives: dict[Storage, tuple[int, int]] = {}  # the first and the last step
    for i, step in enumerate(steps):
        calls = getattr(step, "calls", [step])
        # In the order of their use, not of a set: a program is to have the same text in every process.
        for s in dict.fromkeys(x.storage for call in calls for x in views(call)):
            if s.kind == "own" and s not in without:
                lives[s] = lives.get(s, (i, i))[0], i
    ends: dict[Storage, tuple[int, int]] = {}  # in the block
    for s, (born, dies) in sorted(lives.items(), key=lambda life: (-life[0].nbytes, life[1])):
        at, size = 0, -(-max(s.nbytes, 1) // ALIGNMENT) * ALIGNMENT
        for start, end in sorted(
            ends[o] for o in ends if lives[o][0] <= dies and born <= lives[o][1]
        ):
            if start - at >= size:
                break
            at = max(at, end)
        ends[s] = at, at + size
    return {s: start for s, (start, _) in ends.items()}, max([0, *(e for _, e in ends.values())])
