"""The maximum mean discrepancy: the distance of the means of two sets in the space of a kernel."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np

from tinygen.errors import whole
from tinygen.metrics._points import Array, at_least, point_sets, squared_distances
from tinygen.random import Rng, as_generator

__all__ = ["MMD", "mmd"]

_MEDIAN_OF = 2000  # the largest number of points for the median distance


class MMD(NamedTuple):
    """The result of `mmd`.

    squared: the unbiased estimate of MMD². It is negative about half the time for equal
        distributions.
    p_value: for the hypothesis that both sets have the same distribution.
    bandwidth: the bandwidth of the kernel.
    """

    squared: float
    p_value: float
    bandwidth: float


def mmd(x: Any, y: Any, rng: Rng, bandwidth: float | None = None, permutations: int = 199) -> MMD:
    """MMD² of x (n, d) and y (m, d) with the kernel k(a, b) = exp(-|a - b|² / (2 bandwidth²)).

    It is the unbiased estimate (Gretton et al. 2012, eq. 3): the mean of k over pairs in x, plus the
    mean over pairs in y, minus twice the mean over pairs of one point of x and one of y. A point is
    not paired with itself.
    The p-value is the share of labellings of the points (random ones and the real one) whose estimate
    is at least as large as the real one. So it is at least 1 / (permutations + 1).
    bandwidth: by default the median distance between different points of both sets (Gretton et al.
        2012, §8), from at most 2000 points. It is 1 if all points are equal.
    It is computed on the CPU.
    ValueError: fewer than 2 rows in a set, different d, NaN or infinity, a bandwidth that is not
    above 0, permutations < 1.
    """
    rng = as_generator(rng)
    x, y = point_sets(x=x, y=y)
    at_least(2, "mmd", x, y)
    points = np.concatenate([x, y])
    if bandwidth is None:
        bandwidth = _median_distance(points)
    if not 0 < bandwidth < inf:
        raise ValueError(f"bandwidth is a number above 0, not {bandwidth!r}")
    n, m, count = len(x), len(y), whole("permutations", permutations)
    in_x = np.zeros((n + m, 1 + count))  # one column for each labelling, the real one first
    in_x[:n, 0] = 1.0
    for column in range(1, 1 + count):
        in_x[rng.permutation(n + m)[:n], column] = 1.0

    # Sums of the kernel over ordered pairs. For each labelling: pairs in x, and pairs from x to any
    # point. The sum over all pairs is the same for all labellings. The other sums follow from these.
    within_x, from_x, everywhere = np.zeros(1 + count), np.zeros(1 + count), 0.0
    for rows, squared in squared_distances(points, points):
        kernel = np.exp(squared / (-2 * bandwidth**2))
        kernel[np.arange(len(kernel)), np.arange(rows.start, rows.stop)] = 0.0
        within_x += (in_x[rows] * (kernel @ in_x)).sum(axis=0)
        degrees = kernel.sum(axis=1)
        from_x += degrees @ in_x[rows]
        everywhere += degrees.sum()
    across = from_x - within_x
    within_y = everywhere - from_x - across
    estimates = within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)
    as_large = estimates >= estimates[0] - 1e-12  # the tolerance is for rounding: k is at most 1
    return MMD(float(estimates[0]), float(as_large.mean()), float(bandwidth))


def _median_distance(points: Array) -> float:
    some = points[:: -(-len(points) // _MEDIAN_OF)]
    distances = np.concatenate(
        [np.sqrt(block).ravel() for _, block in squared_distances(some, some)]
    )
    positive = distances[distances > 0]
    return float(np.median(positive)) if positive.size else 1.0
