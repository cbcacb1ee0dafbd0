"""Optimal transport between two sets of points: exact for small sets, sliced for large ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.errors import whole
from tinygen.metrics._points import Array, point_sets, squared_distances
from tinygen.random import Rng, as_generator

__all__ = ["sliced_wasserstein", "wasserstein"]


def wasserstein(x: Any, y: Any) -> float:
    """The exact Wasserstein-2 distance of two sets of points, x (n, d) and y (m, d).

    It is the square root of the smallest mean squared distance of a transport of x to y (Peyré &
    Cuturi 2019, eqs. 2.10 and 2.15). For d = 1 the points are sorted. For n = m it is an assignment
    problem, which takes some seconds for 2000 points. For n ≠ m it is a linear programme with n·m
    variables, for sets of a few hundred points. It is computed on the CPU.
    ValueError: an empty set, different d, NaN or infinity.
    """
    x, y = point_sets(x=x, y=y)
    if x.shape[1] == 1:
        return float(_squared_on_lines(x, y)[0]) ** 0.5
    cost = np.concatenate([squared for _, squared in squared_distances(x, y)])
    from_, to, mass = _assignment(cost) if len(x) == len(y) else _plan(cost)
    moved = ((x[from_] - y[to]) ** 2).sum(axis=1)
    return float(mass @ moved / mass.sum()) ** 0.5


def sliced_wasserstein(x: Any, y: Any, rng: Rng, projections: int = 256) -> float:
    """The sliced Wasserstein-2 distance of two sets of points, x (n, d) and y (m, d).

    The sets are projected on random unit directions (Bonneel et al. 2015). The result is the square
    root of the mean of the squared W2 distances of the projections. It is 0 for equal sets, and for
    d = 1 it is W2 itself. It is computed on the CPU.
    ValueError: an empty set, different d, NaN or infinity, projections < 1.
    """
    rng = as_generator(rng)
    x, y = point_sets(x=x, y=y)
    directions = rng.normal((x.shape[1], whole("projections", projections)), dtype=np.float64)
    directions /= np.linalg.norm(directions, axis=0)
    return float(_squared_on_lines(x @ directions, y @ directions).mean()) ** 0.5


def _squared_on_lines(x: Array, y: Array) -> Array:
    """W2² between each column of x (n, lines) and the same column of y (m, lines)."""
    x, y = np.sort(x, axis=0), np.sort(y, axis=0)
    # On a line, the best plan moves each quantile to the same quantile. Both quantile functions are
    # step functions with steps of 1/n and 1/m. Between two ends of steps both are constant.
    ends_x, ends_y = (np.arange(1, len(a) + 1) / len(a) for a in (x, y))
    ends = np.union1d(ends_x, ends_y)
    at_x, at_y = np.searchsorted(ends_x, ends), np.searchsorted(ends_y, ends)
    squared: Array = np.diff(ends, prepend=0.0) @ (x[at_x] - y[at_y]) ** 2
    return squared


def _assignment(cost: Array) -> tuple[Array, Array, Array]:
    """The rows, the columns they move to, and the masses. Each row moves to one column, with mass 1."""
    from scipy.optimize import linear_sum_assignment  # here, because the import is slow

    rows, columns = linear_sum_assignment(cost)
    return rows, columns, np.ones(len(rows))


def _plan(cost: Array) -> tuple[Array, Array, Array]:
    """As `_assignment`, for n rows of mass m and m columns of mass n. All masses are whole numbers."""
    from scipy.optimize import linprog
    from scipy.sparse import eye, kron, vstack

    n, m = cost.shape
    leaving = kron(eye(n), np.ones((1, m)))
    arriving = kron(np.ones((1, n)), eye(m))
    found = linprog(
        cost.ravel() / (cost.max() or 1.0),  # scaled, because the solver's tolerances are absolute
        A_eq=vstack([leaving, arriving]),
        b_eq=np.repeat([float(m), float(n)], [n, m]),
        method="highs-ds",  # the simplex method ends in a vertex, where the masses are whole
    )
    if not found.success:
        raise ArithmeticError(f"the transport plan was not found: {found.message}")
    plan = np.rint(found.x).reshape(n, m)
    rows, columns = plan.nonzero()
    return rows, columns, plan[rows, columns]
