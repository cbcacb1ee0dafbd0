"""Samplers: from rows of noise x_T to rows x_0, by a denoiser D(x_t, t).

A sampler is a function of (denoiser, x, pairs, rng). It takes x through the steps (t, s) of `pairs`, each
from time t to the earlier time s (`NoiseSchedule.pairs`), and returns where it ends. It may write over x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import expm1, log, sqrt
from typing import Any

from tinygen.backend import namespace_of
from tinygen.models.diffusion.denoiser import Denoiser
from tinygen.models.diffusion.schedule import NoiseSchedule
from tinygen.random import Generator

__all__ = ["SAMPLERS", "Sampler", "ddim", "ddpm", "dpm_solver", "inpaint"]

Array = Any
Pairs = Iterable[tuple[int, int]]
Sampler = Callable[[Denoiser, Array, Pairs, Generator], Array]


def ddpm(denoiser: Denoiser, x: Array, pairs: Pairs, rng: Generator) -> Array:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), with the model's variance σ².

        for t = T, ..., 1:
            x_{t-1} ~ N(a D(x_t, t) + b x_t, σ²)      without noise for t = 1

    a and b are those of the posterior mean (eq. 7). With the estimate of ε in the place of D, the mean is
    (x_t - (1 - α_t)/sqrt(1 - abar_t) ε) / sqrt(α_t), as the paper prints it. (The handout's algorithm 3
    prints abar for α.) A step over several times takes the posterior of that step (Nichol & Dhariwal
    2021, eq. 19).
    """
    for t, s in pairs:
        on_x0, on_xt = map(float, denoiser.schedule.posterior_mean(t, s))
        x = denoiser.step(x, t, on_x0, on_xt, denoiser.variance.sigma(t, s), rng, out=x)
    return x


def ddim(eta: float = 0.0) -> Sampler:
    """DDIM (Song, Meng & Ermon 2021, eq. 12), as a sampler.

        x_s = a_s D(x_t, t) + sqrt(1 - abar_s - σ²) ε + σ z      with ε = (x_t - a_t D(x_t, t)) / s_t

    σ is η times that of the small variance. η = 0 draws nothing, η = 1 is `ddpm` with the small variance.
    ValueError: η outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is in [0, 1], not {eta}")

    def sampler(denoiser: Denoiser, x: Array, pairs: Pairs, rng: Generator) -> Array:
        schedule = denoiser.schedule
        for t, s in pairs:
            (signal, noise), (signal_s, noise_s) = schedule.at(t), schedule.at(s)
            sigma = eta * sqrt(schedule.variance("small", t, s))
            on_xt = sqrt(max(noise_s**2 - sigma**2, 0.0)) / noise
            x = denoiser.step(x, t, signal_s - on_xt * signal, on_xt, sigma, rng, out=x)
        return x

    return sampler


def dpm_solver(denoiser: Denoiser, x: Array, pairs: Pairs, rng: Generator) -> Array:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order, without noise.

        x_s = σ_s/σ_t x_t - a_s (e^-h - 1) D      with h = λ_s - λ_t, λ = log(a/σ)

    a and σ are the factors of signal and noise. D is extrapolated from the estimates of this step and the
    one before. The first step is of first order, since there is none before, and so is the last one to
    s = 0, where h is infinite.
    """
    before, log_snr_before = None, 0.0
    for t, s in pairs:
        (signal, noise), (signal_s, noise_s) = denoiser.schedule.at(t), denoiser.schedule.at(s)
        estimate = denoiser(x, t)
        if s == 0:
            return estimate
        log_snr = log(signal / noise)
        h = log(signal_s / noise_s) - log_snr
        direction = estimate
        if before is not None:
            share = 0.5 * h / (log_snr - log_snr_before)  # 1 / 2r
            direction = (1 + share) * estimate - share * before
        x = noise_s / noise * x - signal_s * expm1(-h) * direction
        before, log_snr_before = estimate, log_snr
    return x


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim(), "dpm-solver": dpm_solver}


def inpaint(
    sampler: Sampler,
    denoiser: Denoiser,
    x: Array,
    pairs: Pairs,
    rng: Generator,
    known: Array,
    mask: Array,
    resample: int,
) -> Array:
    """Rows of which a part is known (RePaint, Lugmayr et al. 2022, algorithm 1).

        for each step from t to s, `resample` times:
            x_t ~ q(x_t | x_s)                         from the second time on
            x_t is a draw of q(x_t | known) where `mask` is true (eq. 8)
            x_s follows from x_t by the sampler

    The draw of what is known does not depend on the rest of x_t. So what is unknown has its law given
    what is known only in the limit of many small steps, each taken many times.
    """
    m, schedule = namespace_of(x), denoiser.schedule
    for t, s in pairs:
        for again in range(resample):
            if again:
                x = _noised(schedule, x, s, t, rng)
            x = m.where(mask, _noised(schedule, known, 0, t, rng), x)
            x = sampler(denoiser, x, [(t, s)], rng)
    return x


def _noised(schedule: NoiseSchedule, x: Array, s: int, t: int, rng: Generator) -> Array:
    """A draw of q(x_t | x_s), s < t."""
    share = float(schedule.abar[t] / schedule.abar[s])
    noise = rng.normal(x.shape, device=namespace_of(x).device)
    return sqrt(share) * x + sqrt(1 - share) * noise
