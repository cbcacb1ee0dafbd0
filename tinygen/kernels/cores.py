"""How many threads a process takes, unless `tg.set_threads` says otherwise.

As many as TINYGEN_THREADS says; else as many as there are cores that the process may use, by its
affinity and by the quota of its control group, and not more than OPENBLAS_NUM_THREADS or
OMP_NUM_THREADS, with which users limit the threads of NumPy. Processes that mpiexec started share the
cores of their machine.
"""

from __future__ import annotations

import os
from math import ceil, inf
from pathlib import Path

from tinygen import cgroup

__all__ = ["MOST", "default_threads", "quota"]

MOST = 1024
"""Threads at most: more is a mistake."""


def default_threads(root: Path = Path("/")) -> int:
    """The number of threads. ValueError: TINYGEN_THREADS is not a whole number from 1."""
    asked = os.environ.get("TINYGEN_THREADS", "").strip()
    if asked:
        if not (asked.isascii() and asked.isdecimal() and 1 <= int(asked) <= MOST):
            raise ValueError(f"TINYGEN_THREADS is a whole number from 1 to {MOST}, not {asked!r}")
        return int(asked)
    return min(_affinity(), max(1, ceil(min(quota(root), MOST))), _limit_of_numpy())


def _affinity() -> int:
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, cores // _processes_here()) if allowed == cores else allowed  # bound to its own


def _processes_here() -> int:
    """How many mpiexec (of MPICH, of Open MPI) started on this machine."""
    for name in ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        if (size := os.environ.get(name, "")).isdecimal() and int(size):
            return int(size)
    return 1


def _limit_of_numpy() -> int:
    """The first of OpenBLAS's variables that is a number, as OpenBLAS reads them."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        first = os.environ.get(name, "").split(",")[0].strip()  # OpenMP: one for each level
        if first.isascii() and first.isdecimal() and int(first):
            return int(first)
    return MOST


def quota(root: Path = Path("/")) -> float:
    """Cores that the control groups of this process may use at a time, often a fraction; inf: all.

    `root` is where /proc and /sys are.
    """
    return cgroup.least("cpu", _limit_v2, _limit_v1, root)


def _limit_v2(group: Path) -> float:
    """cpu.max holds "quota period" in microseconds, or "max period"."""
    return _ratio(" ".join(cgroup.lines(group / "cpu.max")).split())


def _limit_v1(group: Path) -> float:
    """Two files, whose quota is -1 where there is none."""
    files = (group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")
    return _ratio([line for file in files for line in cgroup.lines(file)])


def _ratio(numbers: list[str]) -> float:
    try:
        most, period = (int(number) for number in numbers)
    except ValueError:  # "max"; no such file
        return inf
    return most / period if most > 0 and period > 0 else inf
