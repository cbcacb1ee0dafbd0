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

    The root of the least mean squared distance over which x can be moved onto y (Peyré & Cuturi
    2019, eqs. 2.10 and 2.15). On a line that is a matter of sorting. Else it is an assignment
    problem for n = m (some seconds for 2000 points), and for n ≠ m a linear programme of n·m
    variables, for sets of a few hundred points. Computed on the CPU.
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

    The root of the mean, over random unit directions θ, of the squared W2 distance between the
    sets projected on θ (Bonneel et al. 2015). It is 0 for equal sets, and on a line W2 itself.
    Computed on the CPU.
    ValueError: an empty set, different d, NaN or infinity, projections < 1.
    """
    rng = as_generator(rng)
    x, y = point_sets(x=x, y=y)
    directions = rng.normal((x.shape[1], whole("projections", projections)), dtype=np.float64)
    directions /= np.linalg.norm(directions, axis=0)
    return float(_squared_on_lines(x @ directions, y @ directions).mean()) ** 0.5


def _squared_on_lines(x: Array, y: Array) -> Array:
    """W2² of each column of x (n, lines) to that of y (m, lines)."""
    x, y = np.sort(x, axis=0), np.sort(y, axis=0)
    # On a line, the best plan moves quantile to quantile. Both quantile functions are steps, of
    # width 1/n and 1/m; between two neighbouring ends of steps both are constant.
    ends_x, ends_y = (np.arange(1, len(a) + 1) / len(a) for a in (x, y))
    ends = np.union1d(ends_x, ends_y)
    at_x, at_y = np.searchsorted(ends_x, ends), np.searchsorted(ends_y, ends)
    squared: Array = np.diff(ends, prepend=0.0) @ (x[at_x] - y[at_y]) ** 2
    return squared


def _assignment(cost: Array) -> tuple[Array, Array, Array]:
    """Which row goes to which column, and what mass: each row to one, all masses equal."""
    from scipy.optimize import linear_sum_assignment  # only when used: it imports slowly

    rows, columns = linear_sum_assignment(cost)
    return rows, columns, np.ones(len(rows))


def _plan(cost: Array) -> tuple[Array, Array, Array]:
    """The same between n rows of mass m and m columns of mass n: whole numbers, so is the plan."""
    from scipy.optimize import linprog
    from scipy.sparse import eye, kron, vstack

    n, m = cost.shape
    leaving = kron(eye(n), np.ones((1, m)))
    arriving = kron(np.ones((1, n)), eye(m))
    found = linprog(
        # The solver's tolerances are absolute.
        cost.ravel() / (cost.max() or 1.0),
        A_eq=vstack([leaving, arriving]),
        b_eq=np.repeat([float(m), float(n)], [n, m]),
        method="highs-ds",  # the simplex ends in a corner, and those are whole
    )
    if not found.success:
        raise ArithmeticError(f"the transport plan was not found: {found.message}")
    plan = np.rint(found.x).reshape(n, m)
    rows, columns = plan.nonzero()
    return rows, columns, plan[rows, columns]
