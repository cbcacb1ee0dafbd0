"""The Kullback-Leibler divergence estimated from two sets of points, by nearest neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.autodiff.promotion import as_array
from tinygen.backend import to_device
from tinygen.errors import whole

__all__ = ["knn_kl", "rows_of"]


def knn_kl(x: Any, y: Any, k: int = 1) -> float:
    """An estimate of KL(p ‖ q) in nats from samples x (n, d) of the density p and y (m, d) of q.

    (d/n) Σ log(ν_i/ρ_i) + log(m/(n - 1)), where ρ_i and ν_i are the distances from x_i to its k-th
    nearest neighbour among the other x and among y (Wang et al. 2009; Pérez-Cruz 2008). It converges
    to KL as n and m grow. A larger k gives less variance and more bias. For few samples, or for
    nearly equal distributions, it may be negative. It is computed in float64 on the CPU.
    ValueError: x and y are not rows of finite numbers of one length; k < 1, k > n - 1 or k > m; a
    point is equal to k others, which does not happen with samples of a density.
    """
    x, y = rows_of("x", x), rows_of("y", y)
    (n, d), m = x.shape, len(y)
    if y.shape[1] != d:
        raise ValueError(f"x has rows of {d} numbers, y of {y.shape[1]}")
    if whole("k", k) > min(n - 1, m):
        raise ValueError(f"a point of x has {n - 1} others in x and {m} in y, fewer than k = {k}")
    from scipy.spatial import cKDTree  # SciPy imports slowly, and only this needs it

    # A common shift and scale leave the estimate unchanged and avoid overflow and underflow.
    x, y = 0.5 * x - 0.5 * y[0], 0.5 * y - 0.5 * y[0]
    size = max(abs(x).max(), abs(y).max()) or 1.0
    x, y = x / size, y / size
    among_x = cKDTree(x).query(x, [k + 1])[0]  # the nearest is the point itself
    among_y = cKDTree(y).query(x, [k])[0]
    for name, distance in (("x", among_x), ("y", among_y)):
        if not distance.all():
            row = int(np.argmin(distance))
            raise ValueError(
                f"x[{row}] coincides with {k} {'other ' if name == 'x' else ''}points of {name}; "
                "the estimate is for densities, where no two samples are equal"
            )
    return float(d * np.mean(np.log(among_y) - np.log(among_x)) + np.log(m / (n - 1)))


def rows_of(name: str, points: Any) -> np.ndarray[Any, Any]:
    """Points on any device as float64 rows (n, d) on the CPU. They are copied only if needed.

    ValueError: they are not rows, there are none, or they hold NaN or infinity.
    """
    array: np.ndarray[Any, Any] = to_device(as_array(points), "cpu").astype(np.float64, copy=False)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be rows of numbers, not empty, got shape {array.shape}")
    finite = np.isfinite(array)
    if not finite.all():
        raise ValueError(f"{name} must be finite, got {array[~finite][0]}")
    return array
