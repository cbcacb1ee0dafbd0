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


class TimeTable:
    """Numbers by time t = 0..T, in float32; each device gets its copy at the first use."""

    def __init__(self, values: Any) -> None:
        self._on_device: dict[str, Any] = {"cpu": np.asarray(values, np.float32)}

    def __getitem__(self, t: Any) -> Any:
        """The numbers (n,) at an array of times (n,), on its device."""
        m = namespace_of(t)
        if m.device not in self._on_device:
            self._on_device[m.device] = to_device(self._on_device["cpu"], m.device)
        return m.take(self._on_device[m.device], t, axis=0)


class NoiseSchedule:
    """β_1..β_T and what follows from them: float64 arrays by t = 0..T, where t = 0 is the data.

    alpha_t = 1 - β_t and abar_t = Π_{s≤t} alpha_s. In x_t = signal_t · x_0 + noise_t · ε the factors are
    signal_t = sqrt(abar_t) and noise_t = sqrt(1 - abar_t). ValueError: a β outside (0, 1), or none.
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
        self.T = len(beta)
        self.beta = np.concatenate([[0.0], beta])
        self.alpha = 1.0 - self.beta
        self.abar = np.cumprod(self.alpha)
        self.signal, self.noise = np.sqrt(self.abar), np.sqrt(1 - self.abar)

    @property
    def snr(self) -> Array:
        """abar_t / (1 - abar_t), the ratio of signal to noise: infinite at t = 0."""
        with np.errstate(divide="ignore"):
            return self.abar / (1 - self.abar)

    def at(self, t: float) -> tuple[float, float]:
        """signal_t and noise_t at one time from 0 to T.

        Between two whole times from 1 on, the logarithm of the ratio of signal to noise is interpolated.
        """
        if t == int(t):
            return float(self.signal[int(t)]), float(self.noise[int(t)])
        log_snr = float(np.interp(t, np.arange(1, self.T + 1), np.log(self.snr[1:])))
        return float(expit(log_snr)) ** 0.5, float(expit(-log_snr)) ** 0.5

    def posterior_mean(self, t: Any, s: Any = None) -> tuple[Any, Any]:
        """(a, b) of the mean a · x_0 + b · x_t of q(x_s | x_t, x_0), s < t (eq. 7).

        s is t - 1 if it is left out. Times are numbers or arrays, here and in `variance`.
        """
        s = t - 1 if s is None else s
        abar, before = self.abar[t], self.abar[s]
        a = np.sqrt(before) * self.variance("large", t, s) / (1 - abar)
        b = np.sqrt(abar / before) * (1 - before) / (1 - abar)
        return a, b

    def variance(self, kind: str, t: Any, s: Any = None) -> Any:
        """σ² of the reverse step from t to s (§3.2).

        'large' is β_t, which is right for data N(0, I). 'small' is the variance of q(x_s | x_t, x_0), which
        is right for a single point.
        """
        s = t - 1 if s is None else s
        # Over one step β itself, which 1 - abar_t / abar_s would round.
        large = np.where(s == t - 1, self.beta[t], 1 - self.abar[t] / self.abar[s])[()]
        return large if kind == "large" else (1 - self.abar[s]) / (1 - self.abar[t]) * large

    def times(self, n: int | None = None) -> list[int]:
        """n sampling times, evenly spaced from T down to 1; all T of them for None."""
        n = self.T if n is None else whole("the number of sampling steps", n)
        if n > self.T:
            raise ValueError(f"{n} sampling steps from a schedule of {self.T}")
        return [int(t) for t in np.linspace(self.T, 1, n).round()] if n > 1 else [self.T]

    def pairs(self, times: int | Iterable[int] | None = None) -> list[tuple[int, int]]:
        """The steps (t, s) of a reverse chain through these times, the last one to s = 0.

        `times` are falling numbers in 1..T, or how many there are; see `times`. ValueError: others.
        """
        if not isinstance(times, Iterable):
            times = self.times(times)
        falling = [*(whole("a sampling time", t) for t in times), 0]
        ordered = all(t > s for t, s in pairwise(falling))
        if len(falling) < 2 or not ordered or falling[0] > self.T:
            raise ValueError(f"sampling times fall from at most {self.T} to 1, not {falling[:-1]}")
        return [*pairwise(falling)]


def linear_schedule(T: int) -> NoiseSchedule:
    """β rises linearly from 0.1 / T to 20 / T: for T = 1000 from 1e-4 to 0.02, as in Ho et al. (2020).

    β falls as T grows, so that x_T is close to pure noise for any T. ValueError: T ≤ 20, where β ≥ 1.
    """
    whole("the number of diffusion steps T", T)
    falling = np.linspace(20.0 / T, 0.1 / T, T)  # so that T = 1 has the larger end
    return NoiseSchedule(falling[::-1])


def cosine_schedule(T: int) -> NoiseSchedule:
    """abar_t ∝ cos²((t/T + s) / (1 + s) · π/2), s = 0.008, β ≤ 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
    whole("the number of diffusion steps T", T)
    t = np.arange(T + 1) / T
    return _from_abar(np.cos((t + 0.008) / 1.008 * pi / 2) ** 2)


def sigmoid_schedule(T: int) -> NoiseSchedule:
    """abar_t ∝ sigmoid(3 - 6 t/T) - sigmoid(-3), β ≤ 0.999 (Jabri, Fleet & Chen 2022, algorithm 1)."""
    whole("the number of diffusion steps T", T)
    t = np.arange(T + 1) / T
    return _from_abar(1 / (1 + np.exp(6 * t - 3)) - 1 / (1 + np.exp(3)))


def log_normal_schedule(T: int, mean: float = 0.8, std: float = 1.2) -> NoiseSchedule:
    """σ_t = noise_t / signal_t is the quantile (t - 1/2)/T of the law ln σ ~ N(mean, std²).

    Karras et al. (2022, table 1) train with this law, and mean -1.2. The last σ is at least 32, or 31.6
    for T = 1 since β ≤ 0.999: so x_T is close to pure noise for any T.
    """
    whole("the number of diffusion steps T", T)
    log_noise = mean + std * ndtri((np.arange(1, T + 1) - 0.5) / T)
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
