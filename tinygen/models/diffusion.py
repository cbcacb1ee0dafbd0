"""Denoising diffusion (Ho, Jain & Abbeel 2020), with the handout's misprints put right.

Time runs t = 1..T. Arrays of a schedule have length T + 1 and index t itself; index 0 is the
data: beta[0] = 0, abar[0] = 1. So q(x_t | x_{t-1}) = N(sqrt(1 - β_t) x_{t-1}, β_t I) (eq. 2) and
q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I) (eq. 4).
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import Any, ClassVar

import numpy as np

from tinygen import ops
from tinygen.autodiff.modes import no_grad
from tinygen.autodiff.tensor import Tensor
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
    a, s = _levels(abar, x0.dtype)
    return a * x0 + s * noise


def _levels(abar: Any, dtype: Any) -> tuple[Array, Array]:
    """sqrt(abar) and sqrt(1 - abar) as columns (n, 1): the levels of signal and noise."""
    abar = np.asarray(abar, np.float64)[..., None]
    return np.sqrt(abar).astype(dtype), np.sqrt(1 - abar).astype(dtype)


# -- what the network predicts -------------------------------------------------------------------
# By name: the target of training given (x_0, ε, a, s) with a = sqrt(abar_t), s = sqrt(1 - abar_t),
# and the estimate of x_0 given (x_t, output, a, s).
Target = tuple[Callable[..., Any], Callable[..., Any]]

TARGETS: dict[str, Target] = {
    "noise": (lambda x0, noise, a, s: noise, lambda xt, out, a, s: (xt - s * out) / a),
    "data": (lambda x0, noise, a, s: x0, lambda xt, out, a, s: out),
    "velocity": (
        lambda x0, noise, a, s: a * noise - s * x0,
        lambda xt, out, a, s: a * xt - s * out,
    ),
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
        & Ho 2022), or a pair of functions like those of TARGETS. With 'noise' take the linear
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
        t = rng.integers(1, self.schedule.steps + 1, len(x))
        noise = rng.normal(x.shape)
        abar = self.schedule.abar[t]
        target = choose("prediction", self.predict, TARGETS)[0](x, noise, *_levels(abar, x.dtype))
        return {"loss": ops.mse(self.network(add_noise(x, noise, abar), t), target)}

    def predict_x0(self, xt: Array, t: int) -> Array:
        """The network's estimate of x_0 from x_t (n, features), in normalised units, clipped if bounded."""
        abar = self.schedule.abar[t]
        out = self.network(xt, np.array([t])).data  # one time for all rows
        x0 = choose("prediction", self.predict, TARGETS)[1](
            xt, out, float(np.sqrt(abar)), float(np.sqrt(1 - abar))
        )
        return np.clip(x0, -1.0, 1.0) if self.bounded else x0

    def denoise_step(self, xt: Array, t: int, rng: Generator) -> Array:
        """x_{t-1} from x_t: a draw from N(posterior mean at the estimated x_0, σ_t²).

        With ε in the place of x_0 the mean is (x_t - (1 - α_t)/sqrt(1 - abar_t) ε) / sqrt(α_t)
        (algorithm 2 of the paper; the handout's algorithm 3 prints abar for α). No noise at t = 1.
        """
        a, b = self.schedule.posterior_mean(t)
        mean = a * self.predict_x0(xt, t) + b * xt
        if t == 1:
            return mean
        return mean + self.schedule.variance(self.variance, t) ** 0.5 * rng.normal(xt.shape)

    @no_grad()
    def sample(self, n: int, *, rng: Generator | None = None) -> Array:
        """n rows (n, features): t = T..1, from x_T ~ N(0, I) down to x_0."""
        rng = rng or default_generator()
        x = rng.normal((count_of(n), self.features))
        for t in range(self.schedule.steps, 0, -1):
            x = self.denoise_step(x, t, rng)
        return self.denormalise(x)
