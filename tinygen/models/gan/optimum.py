"""The best discriminator and the value of the game (Goodfellow et al. 2014, §4.1).

The data have the density p, the samples the density q.

    V(D, G) = E log D(x) + E log(1 - D(G(z)))   is largest at   D* = p/(p + q),   where
    V(D*, G) = -log 4 + 2 JS(p, q).

If both densities are known, in one or two dimensions, V is an integral that `value` computes. If
only samples are known, the V of any D is a lower bound of V(D*, G), and it gives a lower bound of JS.
The better D is, the tighter is the bound. All values are in nats: JS is 0 for equal distributions
and log 2 for distributions that do not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log, sqrt
from typing import Any, NamedTuple

import numpy as np

from tinygen.autodiff.promotion import as_array
from tinygen.backend import to_device

__all__ = ["JSBound", "best_value", "js_bound", "value"]

Array = np.ndarray[Any, Any]
LogDensity = Callable[[Array], Array]


class JSBound(NamedTuple):
    """js: an estimate of a lower bound on JS(p, q), in nats. error: its standard error."""

    js: float
    error: float


def js_bound(real: Any, fake: Any) -> JSBound:
    """(V + log 4)/2 from D's logits on data rows (n,) and on samples (m,), in nats.

    Its expectation is at most JS(p, q): JS minus the mean divergence of D from D*. A single estimate
    may be above JS, and a bad D gives a negative one. D must not have been trained on these rows,
    else this is not a bound. ValueError: fewer than 2 rows, NaN or infinity.
    """
    of_real, of_fake = _log_sigmoid("real", real), _log_sigmoid("fake", fake, -1.0)
    error = sqrt(sum(float(terms.var(ddof=1)) / len(terms) for terms in (of_real, of_fake)))
    js = 0.5 * (float(of_real.mean()) + float(of_fake.mean()) + log(4))
    return JSBound(js, 0.5 * error)


def _log_sigmoid(name: str, logits: Any, sign: float = 1.0) -> Array:
    array = to_device(as_array(logits), "cpu").astype(np.float64).reshape(-1)
    if len(array) < 2 or not np.isfinite(array).all():
        raise ValueError(f"{name}: at least 2 finite logits, got {array}")
    return -np.logaddexp(0.0, -sign * array)


def best_value(log_p: LogDensity, log_q: LogDensity, axes: Sequence[Any]) -> float:
    """V(D*, G) = -log 4 + 2 JS(p, q) in nats: `value` with D* = p/(p + q)."""
    return value(lambda x: log_p(x) - log_q(x), log_p, log_q, axes)


def value(logits: LogDensity, log_p: LogDensity, log_q: LogDensity, axes: Sequence[Any]) -> float:
    """V(D, G) = ∫ p log D + q log(1 - D) dx in nats, by the trapezoidal rule on a grid.

    logits, log_p, log_q: functions from points (n, d) to (n,).
    axes: the increasing coordinates of the grid along each of the d = 1 or 2 dimensions. The grid
        must be wide enough and fine enough for both densities.
    ValueError: another d, or a grid on which the integral of p or q differs from 1 by more than
    0.1 %.
    """
    grid = [np.asarray(axis, np.float64) for axis in axes]
    if not 1 <= len(grid) <= 2 or any(a.ndim != 1 or (np.diff(a) <= 0).any() for a in grid):
        raise ValueError("the grid has one or two axes, each of increasing coordinates")
    points = np.stack([c.reshape(-1) for c in np.meshgrid(*grid, indexing="ij")], axis=1)

    def integral(f: Array) -> float:
        f = f.reshape([len(a) for a in grid])
        for axis in reversed(grid):
            f = 0.5 * ((f[..., 1:] + f[..., :-1]) * np.diff(axis)).sum(axis=-1)
        return float(f)

    p, q = np.exp(log_p(points)), np.exp(log_q(points))
    for name, density in (("p", p), ("q", q)):
        if not abs(integral(density) - 1) <= 1e-3:
            raise ValueError(
                f"the density {name} has the integral {integral(density):g} on this grid: "
                "widen it or make it finer"
            )
    with np.errstate(invalid="ignore"):  # 0 · log 0 is taken as 0
        l = logits(points)
        of_data = np.where(p > 0, p * np.logaddexp(0.0, -l), 0.0)
        of_samples = np.where(q > 0, q * np.logaddexp(0.0, l), 0.0)
    return -integral(of_data + of_samples)
