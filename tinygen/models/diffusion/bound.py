"""The variational bound of a diffusion model, term by term (Ho et al. 2020, eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen import kernels, ops
from tinygen.autodiff.modes import no_grad
from tinygen.backend import namespace_of, to_device
from tinygen.distributions import DiscretisedNormal, Normal
from tinygen.models.diffusion.denoiser import Denoiser
from tinygen.random import Generator, Rng, as_generator

if TYPE_CHECKING:
    from tinygen.models.diffusion.ddpm import DDPM

__all__ = ["Bound", "variational_bound"]

Array = Any
ROWS = 1000  # at a time, so that T of them fit


@dataclass(frozen=True)
class Bound:
    """-log p(x) is in expectation at most prior + Σ steps + decoder, in nats; one row an example.

    prior: L_T = KL(q(x_T | x_0) ‖ N(0, I)), (n,). steps: L_{t-1} = KL(q(x_{t-1} | x_t, x_0) ‖ p) for
    t = 2..T, (n, T - 1). decoder: L_0 = -log p(x_0 | x_1), (n,).
    """

    prior: Array
    steps: Array
    decoder: Array

    @property
    def total(self) -> Array:
        """The bound on -log p(x) in nats, (n,)."""
        return self.prior + self.steps.sum(axis=1) + self.decoder

    def bits_per_dimension(self, features: int) -> float:
        """The mean bound in bits for each of the features."""
        return float(self.total.mean()) / (features * log(2))


@no_grad()
def variational_bound(
    model: DDPM,
    x: Any,
    *,
    levels: int | None = None,
    labels: Any = None,
    rng: Rng | None = None,
) -> Bound:
    """The bound of each row of x (n, features), with one draw of x_t for each row and time.

    Bounded data are taken as grey levels k/(levels - 1), and the decoder gives the exact probability of
    each level. levels None is the number that the training data had, or 256 if they had none. For other
    data the decoder is a density in the data's units. With labels (n,) it is the bound on -log p(x|label).
    Returns NumPy arrays, float64. The network sees T · n rows in all.
    """
    x = model.check(x)
    rng = as_generator(rng)
    if levels is None:
        levels = (int(model.grey_levels.data) if model.bounded else 0) or 256
    labels = None if labels is None else model.check_labels(labels, len(x))
    parts = []
    for start in range(0, len(x), ROWS):
        some = slice(start, start + ROWS)
        denoiser = model.denoiser(None if labels is None else labels[some])
        parts.append(_rows(model, denoiser, x[some], levels, rng))
    return Bound(*(np.concatenate(terms) for terms in zip(*parts, strict=True)))


def _rows(
    model: DDPM, denoiser: Denoiser, rows: Array, levels: int, rng: Generator
) -> tuple[Array, Array, Array]:
    schedule, x = model.schedule, model.normalise(rows)
    m = namespace_of(x)

    def at(t: int) -> tuple[Array, Array]:
        """The estimate of x_0 at a draw of x_t, and log σ² of the step."""
        a, s = (m.full(len(x), level, x.dtype) for level in schedule.at(t))
        xt, _ = kernels.noise_step(m, x, a, s, rng.next_draw())
        x0, log_var = denoiser.with_log_variance(xt, t)
        return x0, m.asarray(log_var)

    abar = schedule.abar[-1]
    prior = 0.5 * (abar * m.square(x).astype(np.float64) - abar - log(1 - abar)).sum(axis=1)
    steps = np.empty((len(x), schedule.T - 1))
    for t in range(schedule.T, 1, -1):
        x0, log_p = at(t)
        distance = schedule.posterior_mean(t)[0] * (x - x0).astype(np.float64)
        excess = log_p - log(schedule.variance("small", t))  # of log σ² over that of q
        kl = 0.5 * (excess + m.expm1(-excess) + m.square(distance) * m.exp(-log_p))
        steps[:, t - 2] = to_device(kl.sum(axis=1), "cpu")
    mean, log_p = at(1)
    std = m.exp(0.5 * log_p).astype(x.dtype)
    if model.bounded:
        log_prob = DiscretisedNormal(mean, std, levels=levels).log_prob(x)
    else:
        log_prob = Normal(mean, std).log_prob(x) - ops.log(model.scale)
    decoder = -log_prob.data.sum(axis=1, dtype=np.float64)
    return to_device(prior, "cpu"), steps, to_device(decoder, "cpu")
