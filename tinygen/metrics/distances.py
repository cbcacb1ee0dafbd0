"""Distances between two sets of points: in law (sliced Wasserstein), and to the nearest point."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinygen.autodiff.tensor import as_array
from tinygen.backend import check_device, namespace_of, to_device
from tinygen.random import Generator

__all__ = ["nearest_distance", "sliced_wasserstein"]

Array: TypeAlias = npt.NDArray[Any]

_BLOCK = 1024  # rows whose distances to all points are in memory together


def sliced_wasserstein(x: Any, y: Any, rng: Generator, projections: int = 256) -> float:
    """The sliced Wasserstein-2 distance of two sets of points, x (n, d) and y (m, d).

    The root of the mean, over random unit directions θ, of the squared W2 distance between the
    sets projected on θ (Bonneel et al. 2015). It is 0 for equal sets, and on a line W2 itself.
    ValueError: an empty set, different d, NaN or infinity, projections < 1.
    """
    x, y = _point_sets(x, y)
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}")
    m = namespace_of(x)
    directions = rng.normal((x.shape[1], projections), dtype=np.float64, device=m.device)
    directions /= m.linalg.norm(directions, axis=0)
    along_x, along_y = m.sort(x @ directions, axis=0), m.sort(y @ directions, axis=0)

    # On a line, the best plan moves quantile to quantile. Both quantile functions are steps, of
    # width 1/n and 1/m; between two neighbouring ends of steps both are constant.
    ends_x, ends_y = (np.arange(1, len(a) + 1) / len(a) for a in (x, y))
    ends = np.union1d(ends_x, ends_y)
    # That depends on n and m alone: it is found on the CPU.
    steps = np.searchsorted(ends_x, ends), np.searchsorted(ends_y, ends), np.diff(ends, prepend=0.0)
    at_x, at_y, width = (to_device(s, m.device) for s in steps)
    squared = width @ (along_x[at_x] - along_y[at_y]) ** 2  # W2² along each direction
    return float(squared.mean()) ** 0.5


def nearest_distance(x: Any, y: Any) -> float:
    """The mean Euclidean distance from each row of x (n, d) to the nearest row of y (m, d).

    With samples x and training data y, a check for memorisation: 0 means that every sample is a
    copy. Compare it with the distance from held-out data to the training data.
    ValueError: an empty set, different d, NaN or infinity.
    """
    x, y = _point_sets(x, y)
    m, total = namespace_of(x), 0.0
    # |x - y|²/2 = |y|²/2 - x·y + (a term without y). One matrix product finds the neighbour; but
    # its distance is taken anew, since the difference of large terms would miss that copies are 0.
    centre = y.mean(axis=0)
    to = (y - centre).T
    half_squares = 0.5 * (to**2).sum(axis=0)
    for start in range(0, len(x), _BLOCK):
        rows = x[start : start + _BLOCK]
        nearest = (half_squares - (rows - centre) @ to).argmin(axis=1)
        total += float(m.linalg.norm(rows - y[nearest], axis=1).sum())
    return total / len(x)


def _point_sets(x: Any, y: Any) -> tuple[Array, Array]:
    x, y = _points("x", x), _points("y", y)
    check_device("x", x, "y", namespace_of(y).device)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has rows of {x.shape[1]} numbers, y of {y.shape[1]}")
    return x, y


def _points(name: str, points: Any) -> Array:
    array = as_array(points).astype(np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be rows of numbers, not empty, got shape {array.shape}")
    finite = namespace_of(array).isfinite(array)
    if not finite.all():
        raise ValueError(f"{name} must be finite, got {array[~finite][0]}")
    return array
