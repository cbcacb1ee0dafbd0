"""A diffusion model as a score: Langevin dynamics, and log-likelihood by the probability-flow ODE.

All in the model's normalised units, except for data in and log-densities out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from math import log, pi, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor, tensor
from tinygen.autodiff.modes import no_grad
from tinygen.autodiff.transforms import gradients
from tinygen.backend import namespace_of, to_device
from tinygen.errors import whole
from tinygen.models.diffusion.samplers import ddim
from tinygen.models.model import count_of
from tinygen.random import Rng, as_generator

if TYPE_CHECKING:
    from tinygen.models.diffusion.ddpm import DDPM

__all__ = ["annealed_langevin", "langevin", "ode_log_likelihood", "score"]

Array = Any
TIMES = 100  # of annealed Langevin dynamics
EXACT = 16  # features up to which the divergence is computed exactly


@no_grad()
def score(model: DDPM, xt: Array, t: int, labels: Any = None) -> Array:
    """∇ log q(x_t) = -ε / sqrt(1 - abar_t) at rows x_t (n, features), with the model's estimate of ε.

    (The handout takes the drawn ε in its place.) The estimate of x_0 that goes with it is not clipped,
    unless the output is x_0 of bounded data. With labels (n,) it is the score of q(x_t|label).
    """
    labels = None if labels is None else model.check_labels(labels, len(xt))
    return -model.denoiser(labels).noise(tensor(xt), t).data / model.schedule.at(t)[1]


def langevin(gradient: Callable[[Array], Array], x: Array, step: float, n: int, rng: Rng) -> Array:
    """n steps x ← x + step · ∇ log p(x) + sqrt(2 · step) z from rows x: unadjusted Langevin dynamics.

    Its law tends to p as the step tends to 0. ValueError: a step that is not above 0.
    """
    rng = as_generator(rng)
    if not step > 0:
        raise ValueError(f"a Langevin step is above 0, not {step}")
    m, step = namespace_of(x), float(step)  # NumPy's float64 would widen x
    for _ in range(whole("the number of Langevin steps", n, 0)):
        noise = rng.normal(x.shape, dtype=x.dtype, device=m.device)
        x = x + step * gradient(x) + sqrt(2 * step) * noise
    return x


@no_grad()
def annealed_langevin(
    model: DDPM,
    n: int,
    *,
    sampling_steps: int | Sequence[int] | None = None,
    corrector_steps: int = 4,
    size: float = 0.1,
    rng: Rng | None = None,
) -> Array:
    """n samples (n, features) by Langevin dynamics at falling times (Song & Ermon 2019, algorithm 1).

    sampling_steps: how many times t, or the times; None is 100, or all T if there are fewer. At each
    there are `corrector_steps` of Langevin dynamics with the step size · (1 - abar_t). Then a step of DDIM
    leads to the next time, as in the predictor and corrector of Song et al. (2021, algorithm 1): it
    takes away the noise of t, which small Langevin steps do too slowly where the data are wide. The last
    one is the estimate of x_0. Warns where data N(0, 1) would get a variance more than a tenth off.
    ValueError: a size from 2, with which the dynamics diverges.
    """
    if not 0 < size < 2:
        raise ValueError(f"the size of Langevin steps is between 0 and 2, not {size}")
    rng = as_generator(rng)
    x = rng.normal((count_of(n), model.features), device=model.device)
    schedule, denoiser, predictor = model.schedule, model.denoiser(), ddim()
    if sampling_steps is None:
        sampling_steps = min(TIMES, schedule.T)
    pairs = schedule.pairs(sampling_steps)
    variance = _variance_of_a_normal(schedule.abar, pairs, corrector_steps, size)
    if not abs(variance - 1) <= 0.1:
        warnings.warn(
            f"Langevin dynamics cannot follow: from {len(pairs)} times with {corrector_steps} steps of "
            f"size {size:g}, data N(0, 1) would come out with variance {variance:.3g}; take more times",
            stacklevel=3,
        )
    for t, s in pairs:
        step = size * (1 - schedule.abar[t])
        x = langevin(lambda x, t=t: score(model, x, t), x, step, corrector_steps, rng)  # type: ignore[misc]
        x = predictor(denoiser, x, [(t, s)], rng)
    return model.denormalise(x)


def _variance_of_a_normal(
    abar: Array, pairs: list[tuple[int, int]], steps: int, size: float
) -> float:
    """Of the result for data N(0, 1), whose x_t are N(0, 1) too: every step is linear in x."""
    variance = 1.0
    for t, s in pairs:
        step = size * (1 - abar[t])
        for _ in range(steps):
            variance = (1 - step) ** 2 * variance + 2 * step
        variance *= (sqrt(abar[t] * abar[s]) + sqrt((1 - abar[t]) * (1 - abar[s]))) ** 2
    return variance


def ode_log_likelihood(
    model: DDPM,
    x: Any,
    *,
    labels: Any = None,
    rtol: float = 1e-4,
    rng: Rng | None = None,
) -> Array:
    """log p(x) of each row (n,), in nats, by the probability-flow ODE (Song et al. 2021, eq. 39).

    For y = x_t / a and σ = s / a (signal a, noise s) the flow is dy/dσ = ε. scipy's RK45 solves it from the
    noise of t = 1 to that of T, with relative tolerance `rtol`. So p is the law of data with the little
    noise of t = 1. Up to 16 features the divergence is exact. Above, one random probe estimates it
    (Hutchinson 1990), without bias for log p. Bounded data have the density of [0, 1] values. With labels
    (n,) it is log p(x|label). Returns NumPy float64.
    """
    from scipy.integrate import solve_ivp

    x = model.check(x)
    rng = as_generator(rng)
    labels = None if labels is None else model.check_labels(labels, len(x))
    m, n, d = namespace_of(x), len(x), model.features
    signal, denoiser = model.schedule.signal[1:], model.denoiser(labels)
    log_sigma = np.log(model.schedule.noise[1:] / signal)
    probe = None if d <= EXACT else np.sign(rng.uniform((n, d), -1.0, 1.0) + 1e-30)

    def flow(at: float, state: Array) -> Array:
        """d/d log σ of y and of the divergence's integral."""
        sigma, t = np.exp(at), float(np.interp(at, log_sigma, np.arange(1, len(log_sigma) + 1)))
        y = state[: n * d].reshape(n, d)
        xt = tensor(
            (y / sqrt(1 + sigma**2)).astype(np.float32), requires_grad=True, device=m.device
        )
        noise = denoiser.noise(xt, t)
        trace = _divergence(noise, xt, probe) * sigma / sqrt(1 + sigma**2)
        velocity = sigma * to_device(noise.data, "cpu").astype(np.float64)
        return np.concatenate([velocity.ravel(), trace])

    start = to_device(model.normalise(x), "cpu").astype(np.float64)
    begin = np.concatenate([start.ravel(), np.zeros(n)])
    solved = solve_ivp(flow, (log_sigma[0], log_sigma[-1]), begin, rtol=rtol, atol=rtol * 1e-1).y[
        :, -1
    ]
    y = solved[: n * d].reshape(n, d)
    # x_T ~ N(0, I), and y = x_T / a_T.
    at_end = -0.5 * ((y * signal[-1]) ** 2 + log(2 * pi)) + log(signal[-1])
    scale = 0.5 if model.bounded else to_device(model.scale.data, "cpu")  # data a normalised unit
    return at_end.sum(axis=1) + solved[n * d :] - np.sum(np.broadcast_to(np.log(scale), d))


def _divergence(noise: Tensor, xt: Tensor, probe: Array | None) -> Array:
    """Σ_i ∂ε_i/∂x_i of each row, exactly, or with a probe of ±1: v · (∂ε/∂x) v."""
    m = namespace_of(xt.data)
    if probe is not None:
        v = to_device(probe.astype(np.float32), m.device)
        g = gradients(ops.sum(noise * v), xt).data
        return to_device((g * v).sum(axis=1), "cpu").astype(np.float64)
    total = np.zeros(len(xt))
    for i in range(noise.shape[1]):
        g = gradients(ops.sum(noise[:, i]), xt, retain_graph=True).data
        total += to_device(g[:, i], "cpu")
    return total
