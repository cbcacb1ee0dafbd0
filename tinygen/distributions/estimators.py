"""Divergences estimated from samples: for pairs without a closed form, and to check closed forms.

The log-probabilities of all elements of a sample are added: the result is one number.
"""

from __future__ import annotations

from math import inf, log, sqrt
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinygen.autodiff.modes import no_grad
from tinygen.distributions.base import Distribution
from tinygen.random import Generator, Rng, as_generator

__all__ = ["monte_carlo_js", "monte_carlo_kl"]

Array: TypeAlias = npt.NDArray[Any]


def monte_carlo_kl(p: Distribution, q: Distribution, rng: Rng, n: int) -> tuple[float, float]:
    """KL(p ‖ q) ≈ (1/n) Σ log p(x_i)/q(x_i) with x_i ~ p: the estimate and its standard error.

    It is unbiased, in nats, and may be negative. It is (inf, inf) if a sample is impossible under q.
    ValueError: n < 2, or p and q have different shapes.
    """
    rng = as_generator(rng)
    _check(p, q, n)
    return _mean_and_error(_log_ratio(p, q, rng, n))


def monte_carlo_js(p: Distribution, q: Distribution, rng: Rng, n: int) -> tuple[float, float]:
    """JS(p, q) from n samples of p and n of q: the estimate and its standard error.

    The mean of ½ log p(x_i)/m(x_i) + ½ log q(y_i)/m(y_i) with x_i ~ p, y_i ~ q, m = (p + q)/2.
    It is unbiased, in nats, and may be negative. ValueError: n < 2, or p and q have different shapes.
    """
    rng = as_generator(rng)
    _check(p, q, n)
    # With t = log p/q: log p/m = log 2 - log(1 + e^-t). With t = log q/p the same gives log q/m.
    from_p = log(2) - np.logaddexp(0.0, -_log_ratio(p, q, rng, n))
    from_q = log(2) - np.logaddexp(0.0, -_log_ratio(q, p, rng, n))
    return _mean_and_error((from_p + from_q) / 2)


def _check(p: Distribution, q: Distribution, n: int) -> None:
    if n < 2:
        raise ValueError(f"a standard error takes at least 2 samples, got n = {n}")
    if p.shape != q.shape:
        raise ValueError(f"p and q must have one shape, got {p.shape} and {q.shape}")


def _log_ratio(p: Distribution, q: Distribution, rng: Generator, n: int) -> Array:
    """log p(x_i)/q(x_i) of n samples x_i of p, in float64 on the CPU."""
    x = p.sample(rng, (n,))
    with no_grad():
        log_p, log_q = (d.log_prob(x).numpy().astype(np.float64) for d in (p, q))
    return np.asarray((log_p - log_q).reshape(n, -1).sum(-1))


def _mean_and_error(values: Array) -> tuple[float, float]:
    if np.isinf(values).any():
        return inf, inf
    return float(values.mean()), float(values.std(ddof=1)) / sqrt(values.size)
