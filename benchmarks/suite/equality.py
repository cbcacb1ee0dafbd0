"""Whether a contender computes what tinygen does, within float32's rounding."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np

from benchmarks.suite.contract import Case, part
from benchmarks.suite.workloads import Workload

__all__ = ["allowed", "difference", "differs"]

U = 2.0**-24
"""The largest relative error of one rounding in float32."""
CHAINED = 100  # operations of a chain
SOLVED = 1e-9  # of problems in float64, with matrices of a condition below 1e5


def allowed(work: Workload, case: Case, results: Case) -> float:
    """How far two right computations may be apart, relative to a gradient's norm.

    A sum of n products of random sign has a relative error of about sqrt(n) u, whatever its order
    (Higham & Mary 2019, theorem 2.4). It goes through all products of a network one after the other,
    forward and backward, and for a penalty on a slope both again; both computations have such an
    error. In an importance-weighted bound it also goes through the exponential of a number as large as
    the loss, whose absolute error of about |loss| u becomes a relative one.
    """
    if work.kind == "solve":
        return SOLVED
    if work.kind == "chain":
        return 4 * CHAINED * U
    weights = [a for a in part(case, "weights").values() if a.ndim == 2]
    longest = max(work.batch, *(n for a in weights for n in a.shape))
    rounding = 4 * len(weights) * sqrt(longest) * U
    if work.options.get("k", 1) > 1:
        rounding += 4 * abs(float(results["loss/loss"])) * U
    return rounding


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[float, str]:
    """The largest ‖theirs - ours‖ / ‖ours‖ of the arrays, and the name of where that is.

    Infinite where one of the two lacks an array, or its shape differs; NaN counts as infinite.
    """
    found = [(_relative(ours.get(name), theirs.get(name)), name) for name in {*ours, *theirs}]
    return max(found)


def _relative(ours: Any, theirs: Any) -> float:
    if ours is None or theirs is None or np.shape(ours) != np.shape(theirs):
        return float("inf")
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    error, size = float(np.linalg.norm(b - a)), float(np.linalg.norm(a))
    if not error:
        return 0.0
    relative = error / size if size else float("inf")
    return relative if relative == relative else float("inf")


def differs(work: Workload, case: Case, ours: Case, theirs: Case) -> str | None:
    """What differs, in a line; None: nothing beyond rounding."""
    found, where = difference(ours, theirs)
    limit = allowed(work, case, ours)
    if found <= limit:
        return None
    return (
        f"{where} differs from tinygen's by {found:.1e} of its norm; rounding explains {limit:.1e}"
    )
