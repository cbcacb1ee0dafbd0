"""Memory for the arrays of a program: each gets a place in one block, for as long as it is needed."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from tinygen.compile.program import Storage

__all__ = ["plan"]

ALIGNMENT = 64  # bytes: a line of the cache


def plan(
    steps: Sequence[Any], without: Set[Storage] = frozenset()
) -> tuple[dict[Storage, int], int]:
    """Offsets of the program's own storages in one block, and the bytes of the block.

    `steps` are what runs one after the other, with the storages that each reads and writes. Two
    storages share a place if the one is last used before the other is first used. The largest are
    placed first, each at the lowest place that is free for as long as it lives. `without`: needs none.
    """
    born: dict[Storage, int] = {}
    dies: dict[Storage, int] = {}
    for i, step in enumerate(steps):
        for s in step.reads | step.writes:
            if s.kind == "own" and s not in without:
                born.setdefault(s, i)
                dies[s] = i
    offsets: dict[Storage, int] = {}
    placed: list[Storage] = []
    total = 0
    for s in sorted(born, key=lambda s: (-s.nbytes, born[s])):
        taken = sorted(
            (offsets[o], offsets[o] + _rounded(o.nbytes))
            for o in placed
            if born[o] <= dies[s] and born[s] <= dies[o]
        )
        at = 0
        for start, end in taken:
            if start - at >= _rounded(s.nbytes):
                break
            at = max(at, end)
        offsets[s] = at
        placed.append(s)
        total = max(total, at + _rounded(s.nbytes))
    return offsets, total


def _rounded(n: int) -> int:
    return -(-max(n, 1) // ALIGNMENT) * ALIGNMENT
