"""Denoising diffusion (Ho, Jain & Abbeel 2020), with the handout's misprints put right.

Time runs t = 1..T. Arrays of a schedule have length T + 1 and index t itself; index 0 is the
data: beta[0] = 0, abar[0] = 1. So q(x_t | x_{t-1}) = N(sqrt(1 - β_t) x_{t-1}, β_t I) (eq. 2) and
q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I) (eq. 4).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, pi
from typing import Any, ClassVar

import numpy as np

from tinygen import kernels, ops
from tinygen.autodiff.modes import no_grad
from tinygen.autodiff.tensor import Tensor
from tinygen.backend import namespace_of, to_device
from tinygen.errors import unknown, whole
from tinygen.models.model import Model, choose, count_of
from tinygen.nn import Linear, Module, TimeEmbedding
from tinygen.random import Generator, default_generator
from tinygen.training import Settings

__all__ = ["DDPM", "NoiseSchedule", "add_noise", "cosine_schedule", "linear_schedule"]

Array = np.ndarray[Any, Any]
TIME_WIDTH = 64


# -- the noise schedule --------------------------------------------------------------------------
class NoiseSchedule:
    """β_1..β_T and what follows from them, float64, indexed by t with the data at index 0.

    alpha_t = 1 - β_t; abar_t = Π_{s≤t} alpha_s. ValueError: a β outside (0, 1), or none.
    """

    def __init__(self, beta: Any) -> None:
        beta = np.asarray(beta, np.float64)
        if beta.ndim != 1 or not beta.size:
            raise ValueError(f"a schedule is a row of β_1..β_T, T ≥ 1, not of shape {beta.shape}")
        bad = ~((beta > 0) & (beta < 1))
        if bad.any():
            t = int(np.argmax(bad))
            raise ValueError(
                f"β_{t + 1} = {beta[t]:g} is outside (0, 1); choose a larger T or smaller β"
            )
        self.steps = len(beta)
        self.beta = np.concatenate([[0.0], beta])
        self.alpha = 1.0 - self.beta
        self.abar = np.cumprod(self.alpha)

        self._levels: dict[str, Any] = {}

    def levels(self, t: Any) -> tuple[Any, Any]:
        """sqrt(abar_t) and sqrt(1 - abar_t), float32, for an array of times t, on its device."""
        device = namespace_of(t).device
        if device not in self._levels:
            both = np.sqrt(np.stack([self.abar, 1 - self.abar])).astype(np.float32)
            self._levels[device] = to_device(both, device)
        signal, noise = self._levels[device]
        return signal[t], noise[t]

    def posterior_mean(self, t: int) -> tuple[float, float]:
        """(a, b) of the mean a · x_0 + b · x_t of q(x_{t-1} | x_t, x_0) (eq. 7)."""
        abar, before = self.abar[t], self.abar[t - 1]
        a = np.sqrt(before) * self.beta[t] / (1 - abar)
        b = np.sqrt(self.alpha[t]) * (1 - before) / (1 - abar)
        return float(a), float(b)

    def variance(self, kind: str, t: int) -> float:
        """σ_t² of the reverse step (§3.2): 'large' is β_t, right for data N(0, I); 'small' is that
        of q(x_{t-1} | x_t, x_0), right for a single point."""
        if kind == "large":
            return float(self.beta[t])
        return float((1 - self.abar[t - 1]) / (1 - self.abar[t]) * self.beta[t])


def linear_schedule(steps: int) -> NoiseSchedule:
    """β from 0.1 / T to 20 / T in equal steps: 1e-4 to 0.02 for T = 1000, as Ho et al. have it.

    Scaled with T, so that x_T is close to pure noise for any T; T ≤ 20 gives β ≥ 1, an error.
    """
    whole("the number of diffusion steps T", steps)
    falling = np.linspace(20.0 / steps, 0.1 / steps, steps)  # so that T = 1 has the larger end
    return NoiseSchedule(falling[::-1])


def cosine_schedule(steps: int) -> NoiseSchedule:
    """abar_t ∝ cos²((t/T + s) / (1 + s) · π/2), s = 0.008, β ≤ 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
    whole("the number of diffusion steps T", steps)
    t = np.arange(steps + 1) / steps
    abar = np.cos((t + 0.008) / 1.008 * pi / 2) ** 2
    return NoiseSchedule(np.minimum(1 - abar[1:] / abar[:-1], 0.999))


SCHEDULES: dict[str, Callable[[int], NoiseSchedule]] = {
    "linear": linear_schedule,
    "cosine": cosine_schedule,
}


def add_noise(x0: Array, noise: Array, abar: Any) -> Array:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) ε (eq. 4), with abar_t a number or one for each row."""
    abar = np.asarray(abar, np.float64)[..., None]
    return np.sqrt(abar).astype(x0.dtype) * x0 + np.sqrt(1 - abar).astype(x0.dtype) * noise


# -- what the network predicts -------------------------------------------------------------------
Target = Callable[[Any, Any], tuple[Any, Any]]
"""From the levels a = sqrt(abar_t), s = sqrt(1 - abar_t) of x_t = a x_0 + s ε to the pair (u, v) of a
target u x_0 + v ε. The estimate of x_0 follows: (v x_t - s output) / (a v - s u)."""

TARGETS: dict[str, Target] = {
    "noise": lambda a, s: (0.0, 1.0),
    "data": lambda a, s: (1.0, 0.0),
    "velocity": lambda a, s: (-s, a),
}


class Denoiser(Module):
    """A residual MLP of (x_t, t): every block sees the embedded time.

    h ← h + W_2 silu(W_1 norm(h) + W_t time). The norms need no gain and bias of their own: the
    layers after them have those.
    """

    def __init__(self, features: int, width: int, blocks: int, *, rng: Generator) -> None:
        self.embedding = TimeEmbedding(TIME_WIDTH)
        self.time = Linear(TIME_WIDTH, TIME_WIDTH, "silu", rng=rng)
        self.first = Linear(features, width, rng=rng)
        self.blocks = [Block(width, rng=rng) for _ in range(blocks)]
        self.last = Linear(width, features, rng=rng)
        self.last.weight.data[...] = 0  # starts by predicting 0, the mean of every target

    def __call__(self, x: Any, t: Any) -> Tensor:
        time = self.time(self.embedding(t))
        h = self.first(x)
        for block in self.blocks:
            h = block(h, time)
        return self.last(ops.standardise(h))


class Block(Module):
    """One residual block of the denoiser."""

    def __init__(self, width: int, *, rng: Generator) -> None:
        self.time = Linear(TIME_WIDTH, width, rng=rng)
        self.enter = Linear(width, width, rng=rng)
        self.leave = Linear(width, width, rng=rng)

    def __call__(self, h: Tensor, time: Tensor) -> Tensor:
        inside = ops.linear(
            ops.standardise(h), self.enter.weight, self.enter.bias + self.time(time), "silu"
        )
        return h + self.leave(inside)


class DDPM(Model):
    """A chain x_T ~ N(0, I), ..., x_0 whose steps undo the addition of noise.

    steps: T. schedule: 'linear', 'cosine', or a NoiseSchedule, which has a T of its own.
    predict: what the network puts out: 'noise' (ε, as printed), 'data' (x_0), 'velocity' (Salimans
        & Ho 2022), or a function like those of TARGETS. With 'noise' take the linear
        schedule: at the cosine's last steps abar is so small that errors in ε grow 30-fold.
    variance: of the reverse step, 'large' or 'small' (see NoiseSchedule.variance).
    Bounded data are mapped to [-1, 1], and the estimate of x_0 is clipped to that in sampling.
    """

    defaults: ClassVar[Settings] = Settings(steps=6000, ema=0.999)

    def __init__(
        self,
        features: int,
        *,
        steps: int = 1000,
        schedule: str | NoiseSchedule = "cosine",
        predict: str | Target = "velocity",
        variance: str = "small",
        width: int = 256,
        blocks: int = 3,
        bounded: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(features, bounded)
        if variance not in ("large", "small"):
            raise unknown("variance", variance, ("large", "small"))
        make = choose("schedule", schedule, SCHEDULES)
        self.schedule = make if isinstance(make, NoiseSchedule) else make(steps)
        choose("prediction", predict, TARGETS)  # ValueError if there is none
        self.predict, self.variance = predict, variance
        width, blocks = whole("width", width), whole("blocks", blocks)
        self.network = Denoiser(features, width, blocks, rng=Generator(seed).child("weights"))

    def normalise(self, x: Any) -> Any:
        """Bounded data to [-1, 1], others to mean 0 and standard deviation 1."""
        return 2.0 * x - 1.0 if self.bounded else super().normalise(x)

    def denormalise(self, x: Any) -> Any:
        """The inverse of `normalise`."""
        return 0.5 * (x + 1.0) if self.bounded else super().denormalise(x)

    def loss(self, x: Array, rng: Generator) -> dict[str, Tensor]:
        """Algorithm 1 of the paper (2 of the handout): the mean squared error of the prediction.

        With predict='noise' it is L_simple (eq. 14), per element. L_simple drops the weights
        β²/(2σ²α(1 - abar)) of eq. 12: it is not the variational bound.
        """
        x = self.normalise(x)
        m = namespace_of(x)
        t = rng.integers(1, self.schedule.steps + 1, len(x), device=m.device)
        a, s = self.schedule.levels(t)
        draw = rng.next_draw()
        xt, _ = kernels.noise_step(m, x, a, s, draw)
        on_data, on_noise = (_by_row(m, c, a) for c in self._target(a, s))
        return {"loss": ops.noise_error(self.network(xt, t), x, on_data, on_noise, draw)}

    def _target(self, a: Any, s: Any) -> tuple[Any, Any]:
        return choose("prediction", self.predict, TARGETS)(a, s)

    def reverse_step(self, t: int) -> kernels.Denoising:
        """The numbers of the step from x_t to x_{t-1}: the posterior mean at the estimate of x_0
        (clipped if the data are bounded), and σ_t; 0 at t = 1."""
        on_x0, on_xt = self.schedule.posterior_mean(t)
        sigma = self.schedule.variance(self.variance, t) ** 0.5 if t > 1 else 0.0
        return kernels.Denoising(*self._estimate(t), on_x0, on_xt, sigma)

    def _estimate(self, t: int) -> tuple[float, float, float, float]:
        """What x_t and the output contribute to the estimate of x_0, and its limits."""
        a, s = float(np.sqrt(self.schedule.abar[t])), float(np.sqrt(1 - self.schedule.abar[t]))
        u, v = self._target(a, s)
        limit = 1.0 if self.bounded else inf
        return v / (a * v - s * u), -s / (a * v - s * u), -limit, limit

    def predict_x0(self, xt: Array, t: int) -> Array:
        """The network's estimate of x_0 from x_t (n, features), in normalised units, clipped if bounded."""
        return self._step(xt, t, kernels.Denoising(*self._estimate(t), 1.0, 0.0, 0.0), None)

    def denoise_step(
        self, xt: Array, t: int, rng: Generator | None, out: Array | None = None
    ) -> Array:
        """x_{t-1} from x_t: a draw from N(posterior mean at the estimated x_0, σ_t²).

        With ε in the place of x_0 the mean is (x_t - (1 - α_t)/sqrt(1 - abar_t) ε) / sqrt(α_t)
        (algorithm 2 of the paper; the handout's algorithm 3 prints abar for α). No noise at t = 1.
        `out`, which may be xt itself, receives the result.
        """
        return self._step(xt, t, self.reverse_step(t), rng, out)

    def _step(
        self,
        xt: Array,
        t: int,
        step: kernels.Denoising,
        rng: Generator | None,
        out: Array | None = None,
    ) -> Array:
        m = namespace_of(xt)
        output = self.network(xt, m.full(1, t)).data  # one time for all rows
        draw = rng.next_draw() if step.sigma and rng else kernels.NO_DRAW
        return kernels.denoise_step(m, xt, output, step, draw, out)

    @no_grad()
    def sample(self, n: int, *, rng: Generator | None = None) -> Array:
        """n rows (n, features): t = T..1, from x_T ~ N(0, I) down to x_0."""
        rng = rng or default_generator()
        x = rng.normal((count_of(n), self.features), device=self.device)
        for t in range(self.schedule.steps, 0, -1):
            x = self.denoise_step(x, t, rng, out=x)
        return self.denormalise(x)


def _by_row(m: Any, coefficient: Any, levels: Any) -> Any:
    """A coefficient of a target as an array (rows,) of float32, and None for 0."""
    if isinstance(coefficient, float):
        return m.full_like(levels, coefficient) if coefficient else None
    return coefficient
