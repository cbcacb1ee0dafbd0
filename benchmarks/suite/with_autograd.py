"""autograd (HIPS) as a contender: in the small problems alone."""

from __future__ import annotations

from benchmarks.suite import solving
from benchmarks.suite.contract import Case, Opened
from benchmarks.suite.workloads import Workload

__all__ = ["opened"]


def opened(work: Workload, arrays: Case, compiled: bool) -> Opened:
    """A workload, ready to be compared and run."""
    return solving.opened("autograd", work.model, arrays, compiled)
