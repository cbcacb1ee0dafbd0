"""Sets of points, and the distances between them, computed in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinygen.distributions.neighbours import rows_of

__all__ = ["Array", "at_least", "point_sets", "squared_distances"]

Array: TypeAlias = npt.NDArray[Any]

_ENTRIES = 1 << 23  # the number of distances in memory at once: 64 MB
_ROUNDING = 1e-12  # rounding errors of squared distances, relative to the squares of the points


def point_sets(**sets: Any) -> list[Array]:
    """The sets as float64 arrays (rows, d) on the CPU. Do not write to them: they may not be copies.

    ValueError: an empty set, different d, NaN or infinity; the message names the set.
    """
    arrays = [rows_of(name, points) for name, points in sets.items()]
    first, width = next(iter(sets)), arrays[0].shape[1]
    for name, array in zip(sets, arrays, strict=True):
        if array.shape[1] != width:
            raise ValueError(f"{first} has rows of {width} numbers, {name} of {array.shape[1]}")
    return arrays


def at_least(rows: int, why: str, *sets: Array) -> None:
    """ValueError: one of the sets has fewer rows than this."""
    fewest = min(map(len, sets))
    if fewest < rows:
        raise ValueError(f"{why} needs at least {rows} rows in each set, got {fewest}")


def squared_distances(x: Array, y: Array) -> Iterator[tuple[slice, Array]]:
    """Slices of rows of x, each with the squared distances (rows, m) of these rows to all of y.

    |x - y|² = |x|² + |y|² - 2 x·y, where the last term is a matrix product. Points that are equal up
    to rounding get the distance 0, so that copies are found.
    """
    # Points near the origin have small squares and small rounding errors. So the median is subtracted:
    # outliers do not move it, and it keeps numbers such as k/16 exact, and ties between them.
    centre = np.median(y[:: -(-len(y) // 1000)], axis=0)
    y = y - centre
    of_y = (y * y).sum(axis=1)
    size = max(1, _ENTRIES // len(y))
    for start in range(0, len(x), size):
        rows = x[start : start + size] - centre
        of_x = (rows * rows).sum(axis=1)[:, None]
        squared = (-2.0 * rows) @ y.T
        squared += of_x
        squared += of_y
        squared[squared <= _ROUNDING * of_x] = 0.0
        yield slice(start, start + len(rows)), squared
