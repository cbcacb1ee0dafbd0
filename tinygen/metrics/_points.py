"""Sets of points, and the distances between them a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinygen.distributions.neighbours import rows_of

__all__ = ["Array", "at_least", "point_sets", "squared_distances"]

Array: TypeAlias = npt.NDArray[Any]

_ENTRIES = 1 << 23  # distances in memory together: 64 MB
_ROUNDING = 1e-12  # of the squared distance of nearly equal points, relative to their squares


def point_sets(**sets: Any) -> list[Array]:
    """The sets as float64 arrays (rows, d) on the CPU, wherever they were; errors go by name.

    They are not to be written to: what is of that kind already is not copied.

    ValueError: an empty set, different d, NaN or infinity.
    """
    arrays = [rows_of(name, points) for name, points in sets.items()]
    first, width = next(iter(sets)), arrays[0].shape[1]
    for name, array in zip(sets, arrays, strict=True):
        if array.shape[1] != width:
            raise ValueError(f"{first} has rows of {width} numbers, {name} of {array.shape[1]}")
    return arrays


def at_least(rows: int, why: str, *sets: Array) -> None:
    """ValueError unless each of the sets has so many rows."""
    fewest = min(map(len, sets))
    if fewest < rows:
        raise ValueError(f"{why} needs at least {rows} rows in each set, got {fewest}")


def squared_distances(x: Array, y: Array) -> Iterator[tuple[slice, Array]]:
    """Blocks of rows of x, each with its squared distances to all of y: (rows, m).

    |x - y|² = |x|² + |y|² - 2 x·y, whose last term is a matrix product. Points that agree to
    rounding have the distance 0, so that copies are found as such.
    """
    # Near the origin the squares are small, and so is what their difference loses. The median is
    # not moved by outliers, and it leaves numbers such as k/16 exact, and with them ties.
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
