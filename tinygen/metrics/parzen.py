"""The log-likelihood of data under Gaussian kernels on samples, as in the GAN paper of 2014."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi, sqrt
from typing import Any, NamedTuple

import numpy as np

from tinygen.metrics._points import Array, at_least, point_sets, squared_distances

__all__ = ["Parzen", "parzen", "parzen_log_density"]


class Parzen(NamedTuple):
    """log_likelihood: the mean of the test rows' log-densities in nats. error: its standard error.
    sigma: the width of the kernels, chosen on the validation rows."""

    log_likelihood: float
    error: float
    sigma: float


def parzen(samples: Any, validation: Any, test: Any, sigmas: Sequence[float]) -> Parzen:
    """The mean log-density of test rows (m, d) under kernels on samples (n, d), and its error.

    σ is the one of `sigmas` under which validation rows (k, d) are likeliest (Goodfellow et al.
    2014, §5, there of ten values, np.logspace(-1, 0, 10), of which the first is the best on a tie).
    The standard error is over test rows; it knows nothing of how σ and the samples were drawn.

    It ranks models badly: in many dimensions it stays far below the log-likelihood however many
    samples there are, and a model that has memorised cluster centres beats the true law (Theis et
    al. 2016, §3.2). It is here for comparison with figures of that time. Computed on the CPU in
    float64: 10,000 samples and test rows of 784 numbers take half a gigabyte.
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
    """log (1/n) Σ_i N(x; s_i, σ² I) of each row of x (m, d) for samples s (n, d): (m,), in nats.

    ValueError: σ not above 0, an empty set, different d, NaN or infinity.
    """
    x, samples = point_sets(x=x, samples=samples)
    scores: Array = _log_densities(x, samples, [sigma])[0]
    return scores


def _log_densities(x: Array, samples: Array, sigmas: Sequence[float]) -> Array:
    """The log-densities for each σ: (σ's, rows of x). Distances are computed once for all."""
    n, d = samples.shape
    widths = np.asarray(sigmas, float)
    good = (widths > 0) & np.isfinite(widths)
    if widths.ndim != 1 or not widths.size or not good.all():
        raise ValueError(f"the widths of the kernels are numbers above 0, not {sigmas!r}")
    found = np.empty((len(widths), len(x)))
    for rows, squared in squared_distances(x, samples):
        nearest = squared.min(axis=1, keepdims=True)
        squared -= nearest  # of the exponents below, the largest is then 0
        for i, sigma in enumerate(widths):
            terms = squared * (-0.5 / sigma**2)
            np.exp(terms, out=terms)
            found[i, rows] = np.log(terms.sum(axis=1)) - 0.5 * nearest[:, 0] / sigma**2
    return found - log(n) - 0.5 * d * np.log(2 * pi * widths**2)[:, None]
