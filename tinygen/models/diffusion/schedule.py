"""The noise schedule: β_1..β_T and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from math import log, pi
from typing import Any

import numpy as np
from scipy.special import expit, ndtri

from tinygen.autodiff.promotion import as_array
from tinygen.backend import namespace_of, to_device
from tinygen.errors import whole

__all__ = [
    "SCHEDULES", "NoiseSchedule", "add_noise", "cosine_schedule", "linear_schedule",
    "log_normal_schedule", "sigmoid_schedule",
]  # fmt: skip

Array = np.ndarray[Any, Any]


class Tables:
    """Values by time, float32, made once for each device.

    They live in what they are a function of: models that share a schedule share nothing else.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], Any] = {}

    def at(self, t: Any, name: str, make: Callable[[], Array]) -> Any:
        """The table called `name`, which `make` gives the first time, at an array of times t."""
        m = namespace_of(t)
        key = name, m.device
        if key not in self._made:
            self._made[key] = to_device(np.asarray(make(), np.float32), key[1])
        return m.take(self._made[key], t, axis=0)


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
        self.tables = Tables()

    @property
    def snr(self) -> Array:
        """abar_t / (1 - abar_t), the ratio of signal to noise: infinite at t = 0."""
        with np.errstate(divide="ignore"):
            return self.abar / (1 - self.abar)

    def levels(self, t: Any) -> tuple[Any, Any]:
        """sqrt(abar_t) and sqrt(1 - abar_t), float32, for an array of times t, on its device."""
        return (
            self.tables.at(t, "signal", lambda: np.sqrt(self.abar)),
            self.tables.at(t, "noise", lambda: np.sqrt(1 - self.abar)),
        )

    def posterior_mean(self, t: Any, s: Any = None) -> tuple[Any, Any]:
        """(a, b) of the mean a · x_0 + b · x_t of q(x_s | x_t, x_0), s < t; s = t - 1 is eq. 7.

        Times are numbers or arrays, here and in `variance`.
        """
        s = t - 1 if s is None else s
        abar, before = self.abar[t], self.abar[s]
        a = np.sqrt(before) * self.variance("large", t, s) / (1 - abar)
        b = np.sqrt(abar / before) * (1 - before) / (1 - abar)
        return a, b

    def variance(self, kind: str, t: Any, s: Any = None) -> Any:
        """σ² of the reverse step from t to s (§3.2): 'large' is β_t, right for data N(0, I); 'small'
        is that of q(x_s | x_t, x_0), right for a single point."""
        s = t - 1 if s is None else s
        # Over one step β itself, which 1 - abar_t / abar_s would round.
        large = np.where(s == t - 1, self.beta[t], 1 - self.abar[t] / self.abar[s])[()]
        return large if kind == "large" else (1 - self.abar[s]) / (1 - self.abar[t]) * large

    def times(self, n: int | None = None) -> list[int]:
        """n times from T down to 1 at most, evenly spaced; all of them for None."""
        n = self.steps if n is None else whole("the number of sampling steps", n)
        if n > self.steps:
            raise ValueError(f"{n} sampling steps from a schedule of {self.steps}")
        return [int(t) for t in np.linspace(self.steps, 1, n).round()] if n > 1 else [self.steps]

    def pairs(self, times: int | Iterable[int] | None = None) -> list[tuple[int, int]]:
        """(t, s) for each step of a reverse chain: through the times given, or a number of them,
        and at last to 0. ValueError: times that do not fall, or are not in 1..T."""
        if not isinstance(times, Iterable):
            times = self.times(times)
        falling = [*(whole("a sampling time", t) for t in times), 0]
        ordered = all(t > s for t, s in pairwise(falling))
        if len(falling) < 2 or not ordered or falling[0] > self.steps:
            raise ValueError(
                f"sampling times fall from at most {self.steps} to 1, not {falling[:-1]}"
            )
        return [*pairwise(falling)]


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
    return _from_abar(np.cos((t + 0.008) / 1.008 * pi / 2) ** 2)


def sigmoid_schedule(steps: int) -> NoiseSchedule:
    """abar_t ∝ sigmoid(3 - 6 t/T) - sigmoid(-3), β ≤ 0.999 (Jabri, Fleet & Chen 2022, algorithm 1)."""
    whole("the number of diffusion steps T", steps)
    t = np.arange(steps + 1) / steps
    return _from_abar(1 / (1 + np.exp(6 * t - 3)) - 1 / (1 + np.exp(3)))


def log_normal_schedule(steps: int, mean: float = 0.8, std: float = 1.2) -> NoiseSchedule:
    """σ_t = sqrt((1 - abar_t) / abar_t), the noise beside x_0, at the quantiles (t - 1/2)/T of a law:
    ln σ ~ N(mean, std²), as Karras et al. (2022, table 1) train; mean -1.2 in theirs. The last is at
    least 32 (β ≤ 0.999: 31.6 for T = 1), so that x_T is close to pure noise for any T."""
    whole("the number of diffusion steps T", steps)
    log_noise = mean + std * ndtri((np.arange(1, steps + 1) - 0.5) / steps)
    log_noise[-1] = max(log_noise[-1], log(32))
    return _from_abar(np.append(1.0, expit(-2 * log_noise)))


def _from_abar(abar: Array) -> NoiseSchedule:
    return NoiseSchedule(np.minimum(1 - abar[1:] / abar[:-1], 0.999))


SCHEDULES: dict[str, Callable[[int], NoiseSchedule]] = {
    "linear": linear_schedule,
    "cosine": cosine_schedule,
    "sigmoid": sigmoid_schedule,
    "log-normal": log_normal_schedule,
}


def add_noise(x0: Array, noise: Array, abar: Any) -> Array:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) ε (eq. 4), with abar_t a number or one for each row."""
    m = namespace_of(x0)
    abar = to_device(as_array(abar), m.device).astype(np.float64)[..., None]
    return m.sqrt(abar).astype(x0.dtype) * x0 + m.sqrt(1 - abar).astype(x0.dtype) * noise
