"""What a contender is: the little that the worker, tinygen and its peers agree upon."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

__all__ = ["Case", "Opened", "Tick", "part", "threads"]

Array = np.ndarray[Any, Any]
Case = dict[str, Array]
"""Arrays by path: what all contenders compute with, or what one of them found."""


class Tick(Protocol):
    """Called before each step of a run. At the end of a round it calls `wait`, which returns when
    all that was begun is done, reads the clock, and comes back when the next round begins; at the
    end of the run it raises."""

    def __call__(self, wait: Callable[[], object] | None = None) -> None: ...


class Opened(NamedTuple):
    """A workload in a contender's hands.

    results: losses and gradients, or steps of the sampler, from the case's weights and draws.
    run: steps, one after the other, each after a tick, without end.
    """

    results: Callable[[], Case]
    run: Callable[[Tick], None]


def part(case: Case, name: str) -> Case:
    """The arrays of a case below a name, by the rest of their paths."""
    start = f"{name}/"
    return {path.removeprefix(start): a for path, a in case.items() if path.startswith(start)}


def threads() -> int:
    """How many threads a contender takes: as many as there are cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1
