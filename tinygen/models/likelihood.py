"""log p(x) of a model with latent variables z ~ N(0, I), estimated from weighted samples.

p(x) is the mean of weights: of p(x given z) for z drawn from the prior, of p(x, z)/q(z given x) for
z from a posterior q (importance sampling), of products of small steps between the two (annealing).
Each estimate of p(x) is unbiased, so that its logarithm is in expectation a lower bound.

The handout approximates log p(x) by log Σ p(x given z_i) p(z_i) with z_i from p(z). That counts the
prior twice, once in the draws and once as a factor, and leaves 1/n out: right is
log (1/n) Σ p(x given z_i). `anneal` computes it when it has one temperature alone.
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

__all__ = ["Estimate", "LogMean", "anneal", "pareto_shape", "temperatures"]

Array = np.ndarray[Any, Any]

LogLikelihood = Callable[[Tensor, slice], Tensor]
"""log p(x given z), shape (n,), of z (n, latent), where row i belongs to row i of a slice of x."""


@dataclass(frozen=True)
class Estimate:
    """log p(x) of each row in nats and how sure it is, all (n,), float64.

        log_p, error = estimate  # the first two, for short

    error: the standard error of log_p, whose expected value lies below log p(x) by about half of the
        squared error. The mean over rows has the standard error sqrt((error**2).sum()) / n, apart
        from that of having drawn the rows. It is measured on the weights that were drawn.
    ess: the effective sample size (Σ w)² / Σ w²: so many equal weights are worth as much.
    k_hat: the shape of the tail of the weights, by which one sees what was not drawn (Vehtari et al.
        2024): moments of order 1/k_hat and above do not exist. Above 0.7 rare weights, larger than
        any seen, make up much of the mean: log_p is too low and `error` far too small. It is itself
        uncertain by some (1 + k_hat)/k^¼ for k weights: where many rows are above 0.7, trust none.
        0 where the largest weights are equal to a part in a thousand, NaN for fewer than 25 weights.
    """

    log_p: Array
    error: Array
    ess: Array
    k_hat: Array

    def __iter__(self) -> Iterator[Array]:
        return iter((self.log_p, self.error))


class LogMean:
    """The logarithm of a mean of k weights, and what is known of its error, as they come.

    The weights, and their squares, are summed one after the other in float64 as logarithms: no
    weight overflows, and the sum has one order. In memory are the largest, for their tail.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.total: Any = -inf  # log Σ w
        self.squares: Any = -inf  # log Σ w²
        self.kept = 1 + ceil(min(k / 5, 3 * sqrt(k)))  # the tail, and the weight where it begins
        self.largest: list[Array] = []

    def add(self, log_weight: Array) -> None:
        """The next weight of every row, shape (n,)."""
        log_w = log_weight.astype(np.float64)
        m = namespace_of(log_w)
        self.total = m.logaddexp(self.total, log_w)
        self.squares = m.logaddexp(self.squares, 2 * log_w)
        self.largest.append(log_w)
        if len(self.largest) >= 2 * self.kept:
            self.largest = [*self._tail()]

    def _tail(self) -> Array:
        """The logarithms of the largest weights (kept, n), rising."""
        m = namespace_of(self.total)
        return m.sort(m.stack(self.largest), axis=0)[-self.kept :]

    def estimate(self) -> Estimate:
        """The error is that of log mean(w) to first order, std(w) / (mean(w) √k); NaN for k = 1."""
        m, k = namespace_of(self.total), self.k
        log_share = self.squares - 2 * self.total  # of the sum of squares in the square of the sum
        error = m.full_like(self.total, nan)
        if k > 1:
            error = m.sqrt(m.maximum(m.exp(log_share + log(k)) - 1, 0.0) / (k - 1))
        return Estimate(self.total - log(k), error, m.exp(-log_share), pareto_shape(self._tail()))


@np.errstate(all="ignore")  # of rows without any weight come NaNs
def pareto_shape(log_weights: Array) -> Array:
    """k̂ (n,) from the logarithms of the largest weights (kept, n), rising; the first is the threshold.

    The shape of a generalised Pareto distribution of what exceeds it, by Zhang & Stephens (2009):
    the mean of θ = -k/σ over a grid, weighted by the profile likelihood. It counts as much as ten
    exceedances that say 0.5 (Vehtari et al. 2024, appendix C).
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
    # Nearly equal weights have a tail of rounding errors; one that is alone has the longest.
    return m.where(top < 1e-3, 0.0, m.where(quartile < 1e-290, inf, k))


# -- annealing -----------------------------------------------------------------------------------
def temperatures(steps: int, ends: float = 4.0) -> Array:
    """0 = β_0 < ... < β_steps = 1, (steps + 1,): a sigmoid from -ends to ends (Wu et al. 2017).

    Close together at both ends, where the distributions between prior and posterior change most.
    """
    s = 1 / (1 + np.exp(-np.linspace(-ends, ends, whole("temperatures", steps) + 1)))
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
    """Annealed importance sampling (Neal 2001) along p_β(z) ∝ p(z) p(x given z)^β.

    z (n, latent): one draw from p_β at β = betas[0] for each row of x, such as N(0, I) at 0. At
    each further β but the last, Hamiltonian dynamics moves it, leaving p_β as it is (Wu et al.
    2017). Returns the log weights (n,), float64, and the step sizes (n,) where it adapted them.
    With betas from 0 to 1, E[weight] = p(x). From 1 to 0 and z from the posterior, it is 1/p(x).
    step_sizes: for the transitions in order, (n,), or shorter, each for several rows in sequence.
        None adapts them on the way, to two acceptances in three; the weights are exact only for
        sizes that were fixed before, such as those that another run returned.
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
        if step_sizes is not None:
            size = m.repeat(step_sizes[i], n // len(step_sizes[i]))
        else:
            used.append(size)
        # Drawn for all rows at once: what a row gets does not depend on the blocks.
        momentum = rng.normal(z.shape, device=m.device)
        u = rng.uniform((n,), device=m.device)
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
    """Where the chains of some rows are: z, log p(x given z), and its gradient in z."""

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
        """-log (p(z) p(x given z)^β) and the kinetic energy, up to a constant; (n,)."""
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
    """Hamiltonian Monte Carlo (Neal 2011, fig. 2): the new state, the probability of acceptance."""
    m = namespace_of(u)
    new, p, h = state, momentum, size[:, None]
    for _ in range(leapfrog):
        p = p + 0.5 * h * new.force(beta)
        new = _State.at(log_likelihood, new.z + h * p, rows)
        p = p + 0.5 * h * new.force(beta)
    change = new.energy(beta, p) - state.energy(beta, momentum)
    change = m.where(m.isfinite(change), change, np.inf)  # a trajectory that flew away
    acceptance = m.exp(-m.maximum(change, 0.0))
    accepted = u < acceptance
    kept = (
        m.where(accepted[:, None] if a.ndim == 2 else accepted, a, b)
        for a, b in zip(new, state, strict=True)
    )
    return _State(*kept), acceptance
