"""The hyperparameters of a Gaussian process, by the gradient of its marginal likelihood."""

from typing import NamedTuple

import numpy as np
from scipy.stats import multivariate_normal

import tinygen as tg


class Kernel(NamedTuple):
    """The logarithms of length, amplitude and standard deviation of the noise."""

    length: float
    amplitude: float
    noise: float


rng = np.random.default_rng(0)
x = np.sort(rng.uniform(0, 10, 60))
truth = np.sin(x)
y = truth + 0.2 * rng.normal(size=60)
squares = (x[:, None] - x) ** 2
identity = np.eye(60)


def covariance(k):
    """Of the observations: a Gaussian kernel, and noise on the diagonal."""
    smooth = tg.exp(2 * k.amplitude - 0.5 * squares * tg.exp(-2 * k.length))
    return smooth + tg.exp(2 * k.noise) * identity


def negative_log_likelihood(k):
    """-log N(y; 0, K) = ½ ‖L⁻¹ y‖² + log det L + n/2 log 2π with K = L Lᵀ (Rasmussen & Williams 2006,
    eq. 2.30)."""
    factor = tg.cholesky(covariance(k))
    white = tg.solve(factor, y[:, None])
    log_det = tg.log(factor.diagonal()).sum()
    return 0.5 * (white**2).sum() + log_det + 30 * np.log(2 * np.pi)


start = Kernel(0.0, 0.0, -1.0)
fit = tg.scipy.minimize(negative_log_likelihood, start, method="BFGS")
length, amplitude, noise = np.exp(fit.x)
print(f"length {length:.2f}, amplitude {amplitude:.2f}, noise {noise:.3f} (drawn with 0.2)")

k = covariance(fit.x).numpy()
mean = (k - noise**2 * identity) @ np.linalg.solve(k, y)
print(f"error of the mean, root mean square: {np.sqrt(np.mean((mean - truth) ** 2)):.3f}")

# Known: the likelihood itself, by SciPy; and its derivative in log noise, by the trace formula (eq. 5.9).
assert np.isclose(-fit.fun, multivariate_normal(cov=k).logpdf(y))
inverse = np.linalg.inv(k)
alpha = inverse @ y
slope = noise**2 * (np.trace(inverse) - alpha @ alpha)
assert np.isclose(tg.grad(negative_log_likelihood)(fit.x).noise, slope, atol=1e-6)
assert abs(slope) < 1e-3 and 0.15 < noise < 0.25
