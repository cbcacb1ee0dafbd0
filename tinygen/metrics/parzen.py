"""Parzen windows: the log-likelihood of data under Gaussian kernels on samples (as for GANs in 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi, sqrt
from typing import Any, NamedTuple

import numpy as np

from tinygen.metrics._points import Array, at_least, point_sets, squared_distances

__all__ = ["Parzen", "parzen", "parzen_log_density"]


class Parzen(NamedTuple):
    """The result of `parzen`.

    log_likelihood: the mean log-density of the test rows, in nats.
    error: its standard error.
    sigma: the width of the kernels, chosen on the validation rows.
    """

    log_likelihood: float
    error: float
    sigma: float


def parzen(samples: Any, validation: Any, test: Any, sigmas: Sequence[float]) -> Parzen:
    """The mean log-density of test rows (m, d) under kernels on samples (n, d), and its error.

    σ is the first of `sigmas` with the largest mean log-density of validation rows (k, d). Goodfellow
    et al. (2014, §5) take ten values, np.logspace(-1, 0, 10). The standard error is over the test
    rows. It does not count the choice of σ and of the samples.

    This measure ranks models badly, and it is here only for comparison with figures of that time. In
    many dimensions it stays far below the log-likelihood, for any number of samples. A model that
    memorised cluster centres beats the true distribution (Theis et al. 2016, §3.2). It is computed on
    the CPU in float64. 10,000 samples and test rows of 784 numbers need half a gigabyte.
    ValueError: fewer than 2 test rows, no σ or one not above 0, an empty set, different d, NaN or
    infinity.
    """
    samples, validation, test = point_sets(samples=samples, validation=validation, test=test)
    at_least(2, "a standard error", test)
    on_validation = _log_densities(validation, samples, sigmas).mean(axis=1)
    sigma = float(np.asarray(sigmas, float)[on_validation.argmax()])
    scores = _log_densities(test, samples, [sigma])[0]
    return Parzen(float(scores.mean()), float(scores.std(ddof=1)) / sqrt(len(scores)), sigma)


def parzen_log_density(x: Any, samples: Any, sigma: float) -> Array:
    """log (1/n) Σ_i N(x; s_i, σ² I) for each row of x (m, d) and samples s (n, d): (m,), in nats.

    ValueError: σ not above 0, an empty set, different d, NaN or infinity.
    """
    x, samples = point_sets(x=x, samples=samples)
    scores: Array = _log_densities(x, samples, [sigma])[0]
    return scores


def _log_densities(x: Array, samples: Array, sigmas: Sequence[float]) -> Array:
    """The log-densities for each σ, shape (number of σ, m). All σ use the same distances."""
    n, d = samples.shape
    widths = np.asarray(sigmas, float)
    good = (widths > 0) & np.isfinite(widths)
    if widths.ndim != 1 or not widths.size or not good.all():
        raise ValueError(f"the widths of the kernels are numbers above 0, not {sigmas!r}")
    found = np.empty((len(widths), len(x)))
    for rows, squared in squared_distances(x, samples):
        nearest = squared.min(axis=1, keepdims=True)
        squared -= nearest  # the largest exponent below is then 0
        for i, sigma in enumerate(widths):
            terms = squared * (-0.5 / sigma**2)
            np.exp(terms, out=terms)
            found[i, rows] = np.log(terms.sum(axis=1)) - 0.5 * nearest[:, 0] / sigma**2
    return found - log(n) - 0.5 * d * np.log(2 * pi * widths**2)[:, None]
