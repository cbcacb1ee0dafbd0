"""log p(x) of a model with latent variables z ~ N(0, I), estimated from weighted samples.

p(x) is the mean of a weight. The weight is p(x|z) for z from the prior (plain Monte Carlo),
p(x, z)/q(z|x) for z from q (importance sampling), or a product of many ratios along a path from the
prior to the posterior (annealing). Each estimate of p(x) is unbiased. So the expectation of its
logarithm is a lower bound of log p(x).

The handout approximates log p(x) by log Σ p(x|z_i) p(z_i) with z_i from p(z). That counts the
prior twice, in the draws and as a factor, and it lacks the 1/n. The right formula is
log (1/n) Σ p(x|z_i). `anneal` computes it with one temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf, log, nan, sqrt
from typing import Any, NamedTuple

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor, tensor
from tinygen.autodiff.modes import enable_grad, no_grad
from tinygen.autodiff.transforms import gradients
from tinygen.backend import namespace_of
from tinygen.errors import whole
from tinygen.models.rows import blocks
from tinygen.random import Rng, as_generator

__all__ = ["Estimate", "LogMean", "anneal", "inverse_temperatures", "pareto_shape"]

Array = np.ndarray[Any, Any]

LogLikelihood = Callable[[Tensor, slice], Tensor]
"""A function of z (n, latent) and a slice of n rows of x. It returns log p(x|z), shape (n,)."""


@dataclass(frozen=True)
class Estimate:
    """log p(x) of each row in nats, and how far to trust it. All are float64 arrays (n,).

        log_p, error = estimate  # unpacks the first two

    error: the standard error of log_p, from the weights that were drawn. The expected value of log_p
        is below log p(x) by about half of the squared error. The mean over the rows has the standard
        error sqrt((error**2).sum()) / n, without the error from the choice of the rows.
    ess: the effective sample size (Σ w)² / Σ w². So many equal weights would be as good.
    k_hat: the shape parameter of the tail of the weights (Vehtari et al. 2024). Moments of order
        1/k_hat and above do not exist. Above 0.7, rare weights that were not drawn make up much of
        the mean: log_p is too low and `error` far too small. For k weights, k_hat has an error of
        about (1 + k_hat)/k^¼. If it is above 0.7 for many rows, trust none of the rows.
        0 if the largest weights differ by less than 0.1 %, NaN for fewer than 25 weights.
    """

    log_p: Array
    error: Array
    ess: Array
    k_hat: Array

    def __iter__(self) -> Iterator[Array]:
        return iter((self.log_p, self.error))


class LogMean:
    """The logarithm of a mean of k weights, added one after the other, and the error of it.

    The weights and their squares are summed in float64 as logarithms, so that no weight overflows.
    Only the largest weights stay in memory: the shape of the tail is estimated from them.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.total: Any = -inf  # log Σ w
        self.squares: Any = -inf  # log Σ w²
        # The size of the tail, and one more weight, the threshold.
        self.kept = 1 + ceil(min(k / 5, 3 * sqrt(k)))
        self.largest: list[Array] = []

    def add(self, log_weight: Array) -> None:
        """Add the next weight of every row, as logarithms (n,)."""
        log_w = log_weight.astype(np.float64)
        m = namespace_of(log_w)
        self.total = m.logaddexp(self.total, log_w)
        self.squares = m.logaddexp(self.squares, 2 * log_w)
        self.largest.append(log_w)
        if len(self.largest) >= 2 * self.kept:
            self.largest = [*self._tail()]

    def _tail(self) -> Array:
        """The logarithms of the largest weights in rising order, shape (kept, n)."""
        m = namespace_of(self.total)
        return m.sort(m.stack(self.largest), axis=0)[-self.kept :]

    def estimate(self) -> Estimate:
        """The estimate so far. The error is std(w) / (mean(w) √k), to first order; NaN for k = 1."""
        m, k = namespace_of(self.total), self.k
        log_share = self.squares - 2 * self.total  # log (Σ w² / (Σ w)²)
        error = m.full_like(self.total, nan)
        if k > 1:
            error = m.sqrt(m.maximum(m.exp(log_share + log(k)) - 1, 0.0) / (k - 1))
        return Estimate(self.total - log(k), error, m.exp(-log_share), pareto_shape(self._tail()))


@np.errstate(all="ignore")  # rows whose weights are all 0 give NaN
def pareto_shape(log_weights: Array) -> Array:
    """k̂ (n,) from the logarithms of the largest weights (kept, n), in rising order.

    The first weight is the threshold. k̂ is the shape of a generalised Pareto distribution of the
    other weights minus the threshold. It is estimated as in Zhang & Stephens (2009): the mean of
    θ = -k/σ over a grid, weighted by the profile likelihood. A prior with the weight of ten
    observations pulls k̂ towards 0.5 (Vehtari et al. 2024, appendix C).
    """
    m, n = namespace_of(log_weights), len(log_weights) - 1
    if n < 5:
        return m.full_like(log_weights[0], nan)
    weights = m.exp(log_weights - log_weights[-1])
    x = weights[1:] - weights[0]
    top, quartile = x[-1], x[int(n / 4 + 0.5) - 1]
    grid = 30 + int(sqrt(n))

    def shape(theta: Array) -> Array:
        return m.log1p(-theta * x).mean(axis=0)

    thetas = [1 / top + (1 - sqrt(grid / (j + 0.5))) / (3 * quartile) for j in range(grid)]
    shapes = [shape(theta) for theta in thetas]
    theta, k = m.stack(thetas), m.stack(shapes)
    log_likelihood = n * (m.log(-theta / k) - k - 1)
    likelihood = m.exp(log_likelihood - log_likelihood.max(axis=0))
    k = shape((likelihood * theta).sum(axis=0) / likelihood.sum(axis=0))
    k = (n * k + 10 * 0.5) / (n + 10)
    # The tail of nearly equal weights is only rounding. A single huge weight has an infinite shape.
    return m.where(top < 1e-3, 0.0, m.where(quartile < 1e-290, inf, k))


# -- annealing -----------------------------------------------------------------------------------
def inverse_temperatures(n: int, ends: float = 4.0) -> Array:
    """0 = β_0 < ... < β_n = 1, shape (n + 1,): a scaled sigmoid from -ends to ends (Wu et al. 2017).

    They are closest at 0 and at 1, where the distributions along the path change most.
    """
    s = 1 / (1 + np.exp(-np.linspace(-ends, ends, whole("temperatures", n) + 1)))
    return (s - s[0]) / (s[-1] - s[0])


@no_grad()
def anneal(
    log_likelihood: LogLikelihood,
    z: Array,
    betas: Array,
    rng: Rng,
    *,
    step_sizes: list[Array] | None = None,
    leapfrog: int = 10,
) -> tuple[Array, list[Array]]:
    """Annealed importance sampling (Neal 2001) along p_β(z) ∝ p(z) p(x|z)^β.

    z (n, latent): for each row of x one draw from p_β at β = betas[0], such as N(0, I) for β = 0.
    betas: the inverse temperatures. At each of them but the first and the last, Hamiltonian
        dynamics moves z and leaves p_β invariant (Wu et al. 2017).
    step_sizes: one array for each transition, of shape (n,). A shorter array gives each size to
        several rows in sequence. None adapts the sizes on the way, towards an acceptance of 0.65.
        The weights are unbiased only for sizes that are fixed before the run, such as those that
        another run returned.

    Returns the log weights (n,), float64, and a list of the step sizes (n,) that it adapted.
    With betas from 0 to 1, E[weight] = p(x). With betas from 1 to 0 and z from the posterior,
    E[weight] = 1/p(x).
    """
    rng = as_generator(rng)
    m = namespace_of(z)
    n = len(z)
    size = m.full(n, 0.3, z.dtype)
    used: list[Array] = []
    states = [_State.at(log_likelihood, z[rows], rows) for rows in blocks(n)]
    log_weight = m.zeros(n, np.float64)
    for i, (before, after) in enumerate(pairwise(betas.tolist())):
        at = m.concatenate([s.log_likelihood for s in states])
        log_weight += (after - before) * at.astype(np.float64)
        if i == len(betas) - 2:
            break
        of_x = (
            n if step_sizes is None else len(step_sizes[i])
        )  # rows, perhaps of several chains each
        if step_sizes is not None:
            size = m.repeat(step_sizes[i], n // of_x)
        else:
            used.append(size)
        # Drawn for all rows at once, so that the noise of a row does not depend on the blocks.
        momentum = rng.normal((of_x, z.size // of_x), device=m.device).reshape(z.shape)
        u = rng.uniform((of_x, n // of_x), device=m.device).reshape(n)
        moved = [
            _transition(
                log_likelihood, s, rows, momentum[rows], u[rows], size[rows], after, leapfrog
            )
            for s, rows in zip(states, blocks(n), strict=True)
        ]
        states = [state for state, _ in moved]
        if step_sizes is None:
            acceptance = m.concatenate([a for _, a in moved])
            size = (size * m.exp(0.1 * (acceptance - 0.65))).astype(z.dtype)
    return log_weight, used


class _State(NamedTuple):
    """The state of the chains of some rows: z, log p(x|z), and the gradient of log p(x|z) in z."""

    z: Array
    log_likelihood: Array
    gradient: Array

    @classmethod
    def at(cls, log_likelihood: LogLikelihood, z: Array, rows: slice) -> _State:
        with enable_grad():
            at = tensor(z, requires_grad=True)
            value = log_likelihood(at, rows)
            total = ops.sum(value)
        return cls(z, value.data, gradients(total, at).data)

    def energy(self, beta: float, momentum: Array) -> Array:
        """-log (p(z) p(x|z)^β) plus the kinetic energy, up to a constant, shape (n,)."""
        return 0.5 * (self.z**2 + momentum**2).sum(axis=-1) - beta * self.log_likelihood

    def force(self, beta: float) -> Array:
        return beta * self.gradient - self.z


def _transition(
    log_likelihood: LogLikelihood,
    state: _State,
    rows: slice,
    momentum: Array,
    u: Array,
    size: Array,
    beta: float,
    leapfrog: int,
) -> tuple[_State, Array]:
    """One step of Hamiltonian Monte Carlo (Neal 2011, fig. 2).

    Returns the new state and the probability of acceptance.
    """
    m = namespace_of(u)
    new, p, h = state, momentum, size[:, None]
    for _ in range(leapfrog):
        p = p + 0.5 * h * new.force(beta)
        new = _State.at(log_likelihood, new.z + h * p, rows)
        p = p + 0.5 * h * new.force(beta)
    change = new.energy(beta, p) - state.energy(beta, momentum)
    change = m.where(m.isfinite(change), change, np.inf)  # a trajectory that diverged is rejected
    acceptance = m.exp(-m.maximum(change, 0.0))
    accepted = u < acceptance
    chosen = (
        m.where(accepted[:, None] if a.ndim == 2 else accepted, a, b)
        for a, b in zip(new, state, strict=True)
    )
    return _State(*chosen), acceptance
