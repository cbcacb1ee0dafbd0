"""The maximum mean discrepancy: how far apart the means of two sets are in a kernel's space."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np

from tinygen.errors import whole
from tinygen.metrics._points import Array, at_least, point_sets, squared_distances
from tinygen.random import Rng, as_generator

__all__ = ["MMD", "mmd"]

_MEDIAN_OF = 2000  # rows at most whose distances the median is taken of


class MMD(NamedTuple):
    """squared: the unbiased estimate of MMD², which is below 0 about half the time for equal laws.
    p_value: of the hypothesis that both sets are of one law. bandwidth: of the kernel used."""

    squared: float
    p_value: float
    bandwidth: float


def mmd(x: Any, y: Any, rng: Rng, bandwidth: float | None = None, permutations: int = 199) -> MMD:
    """MMD² of x (n, d) and y (m, d) with the kernel k(a, b) = exp(-|a - b|² / (2 bandwidth²)).

    The unbiased estimate (Gretton et al. 2012, eq. 3): the mean of k over pairs in x and over pairs
    in y, less twice that over pairs across; a point makes no pair with itself. The p-value is the
    share of random relabellings of the points, the real one counted, with an estimate as large: no
    smaller than 1 / (permutations + 1). The bandwidth is by default the median heuristic (there,
    §8): the median distance between different points of both sets together, of 2000 evenly chosen
    if there are more. It is 1 if all points are equal. Computed on the CPU.
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
    in_x = np.zeros((n + m, 1 + count))  # a column for each labelling, the real one first
    in_x[:n, 0] = 1.0
    for column in range(1, 1 + count):
        in_x[rng.permutation(n + m)[:n], column] = 1.0

    # Sums of the kernel over ordered pairs: for each labelling those in x and those from x to
    # anywhere; those anywhere are the same for all. The others follow.
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
    as_large = estimates >= estimates[0] - 1e-12  # k is at most 1: equal but for rounding
    return MMD(float(estimates[0]), float(as_large.mean()), float(bandwidth))


def _median_distance(points: Array) -> float:
    some = points[:: -(-len(points) // _MEDIAN_OF)]
    distances = np.concatenate(
        [np.sqrt(block).ravel() for _, block in squared_distances(some, some)]
    )
    apart = distances[distances > 0]
    return float(np.median(apart)) if apart.size else 1.0
