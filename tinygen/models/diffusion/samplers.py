"""Samplers: how a state moves from time t to an earlier time s.

A sampler is a function of (model, network, rng) that returns `step(x, t, s)`; the loop over the pairs
(t, s) stands once, in `DDPM.sample`, so that any sampler takes any subset of times.
"""

from __future__ import annotations

from collections.abc import Callable
from math import expm1, log, sqrt
from typing import Any, Protocol

from tinygen import kernels
from tinygen.backend import namespace_of
from tinygen.models.diffusion.schedule import NoiseSchedule
from tinygen.random import Generator

__all__ = ["SAMPLERS", "Network", "Sampler", "Step", "ddim", "ddpm", "dpm_solver"]

Array = Any
Network = Callable[[Array, int], Array]
"""The output for rows x_t (n, features) at one time t."""
Step = Callable[[Array, int, int], Array]
"""From x_t, t and s to x_s, which may take the place of x_t in memory."""


class Diffusion(Protocol):
    """What a sampler asks of a model; see DDPM."""

    schedule: NoiseSchedule

    def estimate(self, t: int) -> tuple[float, float, float, float]: ...
    def estimated(self, x: Array, output: Array, t: int) -> Array: ...
    def prediction(self, output: Array) -> Array: ...
    def denoise_step(
        self, x: Array, output: Array, t: int, s: int, rng: Generator, out: Array | None = None
    ) -> Array: ...


Sampler = Callable[[Diffusion, Network, Generator], Step]


def ddpm(model: Diffusion, network: Network, rng: Generator) -> Step:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), with the model's variance.

    A draw from N(posterior mean at the estimate of x_0, σ²); without noise at the last step. Over
    several steps at once it uses the posterior of that jump (Nichol & Dhariwal 2021, eq. 19).
    """

    def step(x: Array, t: int, s: int) -> Array:
        return model.denoise_step(x, network(x, t), t, s, rng, out=x)

    return step


def ddim(eta: float = 0.0) -> Sampler:
    """DDIM (Song, Meng & Ermon 2021, eq. 12): η = 0 without noise, η = 1 as DDPM with the small variance.

    ValueError: η outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is in [0, 1], not {eta}")

    def sampler(model: Diffusion, network: Network, rng: Generator) -> Step:
        def step(x: Array, t: int, s: int) -> Array:
            abar, before = model.schedule.abar[t], model.schedule.abar[s]
            sigma = eta * sqrt(model.schedule.variance("small", t, s))
            along = sqrt(max(1 - before - sigma**2, 0.0) / (1 - abar))  # what remains of ε
            numbers = kernels.Denoising(
                *model.estimate(t), sqrt(before) - along * sqrt(abar), along, sigma
            )
            draw = rng.next_draw() if sigma else kernels.NO_DRAW
            prediction = model.prediction(network(x, t))
            return kernels.denoise_step(namespace_of(x), x, prediction, numbers, draw)

        return step

    return sampler


def dpm_solver(model: Diffusion, network: Network, rng: Generator) -> Step:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order, without noise.

    x_s = σ_s/σ_t x_t - a_s (e^-h - 1) D, with h the step in λ = log(a/σ) and D the estimate of x_0,
    extrapolated from this step's and the last one's. The first step, and the last to s = 0, where
    h is infinite, are of first order.
    """
    last: list[tuple[Array, float]] = []  # the last estimate of x_0, and its λ

    def step(x: Array, t: int, s: int) -> Array:
        abar, before = model.schedule.abar[t], model.schedule.abar[s]
        x0 = model.estimated(x, network(x, t), t)
        at = 0.5 * log(abar / (1 - abar))
        direction = x0
        if s == 0:
            return x0
        h = 0.5 * log(before / (1 - before)) - at
        earlier, where = last.pop() if last else (x0, at)
        if where < at:  # not where a step is taken again
            share = 0.5 * h / (at - where)  # 1 / 2r
            direction = (1 + share) * x0 - share * earlier
        last.append((x0, at))
        return sqrt((1 - before) / (1 - abar)) * x - sqrt(before) * expm1(-h) * direction

    return step


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim(), "dpm-solver": dpm_solver}
