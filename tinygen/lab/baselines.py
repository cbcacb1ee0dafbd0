"""Two plain estimates of a density, beside which the networks stand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygen.autodiff.modes import no_grad
from tinygen.distributions import Mixture, MultivariateNormal
from tinygen.errors import whole
from tinygen.metrics import parzen, parzen_log_density
from tinygen.random import Generator, Rng, as_generator

__all__ = ["Kernels", "MixtureFit", "gaussian_mixture", "kernel_density"]

Array = np.ndarray[Any, Any]

WIDTHS = np.geomspace(0.02, 1.0, 18)  # of kernels, in standard deviations of the data


class MixtureFit(NamedTuple):
    """law: the fitted `Mixture`. objective: what EM raises, before each of its steps."""

    law: Mixture
    objective: list[float]

    def log_density(self, x: Array) -> Array:
        """log p (n,) of rows x (n, d), in nats."""
        with no_grad():
            return self.law.log_prob(x.astype(np.float64)).data

    def sample(self, n: int, rng: Rng) -> Array:
        """n draws (n, d)."""
        return self.law.sample(as_generator(rng), (n,)).data


@no_grad()
def gaussian_mixture(
    x: Any, k: int = 8, steps: int = 60, ridge: float = 0.01, seed: int = 0
) -> MixtureFit:
    """Σ_j w_j N(m_j, S_j), fitted to rows x (n, d) by expectation-maximisation (Dempster et al. 1977).

    EM raises log p(x) - ½ r Σ_j tr S_j⁻¹, summed over the rows, in every step. r is `ridge` times the
    mean variance of the data: as a prior, it keeps a Gaussian from shrinking to a point, where the
    likelihood is infinite. With ridge = 0 it is the likelihood itself. ValueError: fewer rows than k.
    """
    x = np.asarray(x, np.float64)
    n, d = x.shape
    if n < whole("k", k):
        raise ValueError(f"{k} Gaussians need at least as many rows, got {n}")
    r = ridge * (float(x.var(axis=0).mean()) or 1.0)
    weights = np.full(k, 1 / k)
    means = _spread_out(x, k, Generator(seed).child("mixture"))
    covariances = np.tile(np.cov(x.T, bias=True) / k + (r + 1e-9) * np.eye(d), (k, 1, 1))
    objective = []
    for _ in range(steps):
        log_p = np.log(weights) + MultivariateNormal(means, covariances).log_prob(x[:, None]).data
        total = np.logaddexp.reduce(log_p, axis=1)
        prior = 0.5 * r * np.trace(np.linalg.inv(covariances), axis1=1, axis2=2).sum()
        objective.append(float(total.sum() - prior))
        share = np.exp(log_p - total[:, None])  # of each Gaussian in each row
        count = share.sum(axis=0) + 1e-9  # so that one without rows keeps a mean
        weights = count / count.sum()
        means = share.T @ x / count[:, None]
        off = x - means[:, None]  # (k, n, d)
        squares = np.einsum("nk,kni,knj->kij", share, off, off) + r * np.eye(d)
        covariances = squares / count[:, None, None]
    return MixtureFit(Mixture(weights, MultivariateNormal(means, covariances)), objective)


def _spread_out(x: Array, k: int, rng: Generator) -> Array:
    """k rows far from one another: each is drawn by its squared distance to those before
    (Arthur & Vassilvitskii 2007)."""
    rows = [int(rng.integers(0, len(x), (1,))[0])]
    while len(rows) < k:
        nearest = ((x[:, None] - x[rows]) ** 2).sum(axis=2).min(axis=1).cumsum()
        at = float(rng.uniform((1,))[0]) * nearest[-1]
        rows.append(min(int(np.searchsorted(nearest, at)), len(x) - 1))
    return x[rows]


class Kernels(NamedTuple):
    """The density (1/n) Σ_i N(x; x_i, width² I) of rows (n, d)."""

    rows: Array
    width: float

    def log_density(self, x: Array) -> Array:
        """log p (n,) of rows x (n, d), in nats."""
        return parzen_log_density(x, self.rows, self.width)

    def sample(self, n: int, rng: Rng) -> Array:
        """n draws (n, d): a row, and normal noise of the width."""
        rng = as_generator(rng)
        chosen = self.rows[rng.integers(0, len(self.rows), (n,))]
        return chosen + rng.normal(chosen.shape, std=self.width)


def kernel_density(x: Array, seed: int = 0) -> Kernels:
    """Kernels on rows x (n, d), n ≥ 6. Their width is the one that gives a sixth of the rows, kept
    apart for this choice, the largest likelihood."""
    order = Generator(seed).child("kernels").permutation(len(x))
    apart, rest = np.split(x[order], [max(len(x) // 6, 2)])
    widths = WIDTHS * (float(x.std(axis=0).mean()) or 1.0)
    return Kernels(x, parzen(rest, apart, apart, widths.tolist()).sigma)
