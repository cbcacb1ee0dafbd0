"""The variance σ² of a reverse step p(x_s | x_t): given, or learned between two limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, log, sqrt
from typing import Any

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor
from tinygen.backend import namespace_of
from tinygen.errors import unknown
from tinygen.models.diffusion.schedule import NoiseSchedule, TimeTable

__all__ = ["GivenVariance", "LearnedVariance", "Variance", "variance_of"]

Array = np.ndarray[Any, Any]


class GivenVariance:
    """σ² is 'small' or 'large' (see `NoiseSchedule.variance`), or one of the numbers σ_0²..σ_T²."""

    learned = False

    def __init__(self, choice: str | Sequence[float], schedule: NoiseSchedule) -> None:
        self.choice, self.schedule = choice, schedule
        if isinstance(choice, str):
            small, large = log_limits(schedule)
            self._log = small if choice == "small" else large
            return
        numbers = np.asarray(choice, np.float64)
        if numbers.shape != (schedule.T + 1,) or not ((numbers >= 0) & (numbers < inf)).all():
            raise ValueError(
                f"the variances σ_0²..σ_T² are {schedule.T + 1} finite numbers from 0, not {numbers}"
            )
        self.choice = numbers.tolist()

    def sigma(self, t: int, s: int) -> float:
        """σ of the step from t to s; 0 for the last one, to s = 0.

        ValueError: numbers σ_0²..σ_T² are those of steps to t - 1, and s is another time.
        """
        if s == 0:
            return 0.0
        if isinstance(self.choice, str):
            return sqrt(self.schedule.variance(self.choice, t, s))
        if s != t - 1:
            raise ValueError(
                f"variances given for each t do not say that of a step from {t} to {s}"
            )
        return sqrt(self.choice[t])

    def log(self, t: int, fraction: Array) -> float:
        """log σ² of the step from t to t - 1, for the bound; ValueError where σ² is 0."""
        if isinstance(self.choice, str):
            return float(self._log[t])
        if not self.choice[t] > 0:
            raise ValueError(f"σ_{t}² = 0: the bound is finite for variances above 0 alone")
        return log(self.choice[t])


class LearnedVariance:
    """log σ² lies between those of 'small' and 'large' (Nichol & Dhariwal 2021, eq. 15).

    The network puts out where, for each feature: `fraction` -1 is 'small', 1 is 'large'.
    """

    learned = True

    def __init__(self, schedule: NoiseSchedule) -> None:
        if schedule.T < 2:
            raise ValueError("a learned variance lies between two that are equal at T = 1")
        self.schedule = schedule
        t = np.arange(1, schedule.T + 1)
        small = np.append(0.0, schedule.variance("small", t))
        self._limits = log_limits(schedule)
        self._log_small, self._log_large = map(TimeTable, self._limits)
        self._of_posterior = TimeTable(small)
        self._on_x0 = TimeTable(np.append(0.0, schedule.posterior_mean(t)[0]))
        # Of q(x_{t-1} | x_t, x_0), without a constant that cancels. At t = 1 there is a density instead.
        entropy = [0.0, -0.5 * log(2 * np.pi), *(0.5 * (1 + np.log(small[2:])))]
        self._entropy = TimeTable(entropy)

    def sigma(self, t: int, s: int) -> float | Callable[[Array], Array]:
        """σ of the step from t to s as a function of `fraction`; 0 for the last one, to s = 0."""
        if s == 0:
            return 0.0
        small, large = (log(self.schedule.variance(kind, t, s)) for kind in ("small", "large"))
        return lambda fraction: namespace_of(fraction).exp(
            0.5 * _interpolated(small, large, fraction)
        )

    def log(self, t: int, fraction: Array) -> Array:
        """log σ² of the step from t to t - 1, (n, features)."""
        small, large = self._limits
        return _interpolated(small[t], large[t], fraction)

    def bound(self, fraction: Tensor, error: Array, t: Any) -> Tensor:
        """T · KL(q(x_{t-1} | x_t, x_0) ‖ p) in nats a feature, for an `error` of the estimate of x_0.

        The mean over rows (n, features) at random times t (n,). At t = 1 it is -log p(x_0 | x_1), a density.
        """
        small, large, of_posterior, on_x0, entropy = (
            table[t][:, None]
            for table in (
                self._log_small, self._log_large, self._of_posterior, self._on_x0, self._entropy
            )
        )  # fmt: skip
        log_var = _interpolated(small, large, fraction)
        # Under q, (x_{t-1} - mean of p)² is in the mean q's variance and the squared distance of the means.
        spread = of_posterior + (on_x0 * error) ** 2
        kl = 0.5 * (log_var + spread * ops.exp(-log_var)) - entropy
        return self.schedule.T * ops.mean(kl)


Variance = GivenVariance | LearnedVariance


def variance_of(choice: str | Sequence[float], schedule: NoiseSchedule) -> Variance:
    """The variance of this name, or of these numbers; ValueError: there is none, or they do not fit."""
    if not isinstance(choice, str):
        return GivenVariance(choice, schedule)
    if choice not in ("large", "small", "learned"):
        raise unknown("variance", choice, ("large", "small", "learned"))
    return LearnedVariance(schedule) if choice == "learned" else GivenVariance(choice, schedule)


def log_limits(schedule: NoiseSchedule) -> tuple[Array, Array]:
    """The logarithms of the small and the large variance by time.

    The small one of t = 1 is 0. That of t = 2 takes its place, or for T = 1 the large one.
    """
    t = np.arange(1, schedule.T + 1)
    small, large = (np.append(0.0, schedule.variance(kind, t)) for kind in ("small", "large"))
    small[:2] = small[min(2, schedule.T)] or large[1]
    large[0] = large[1]
    return np.log(small), np.log(large)


def _interpolated(small: Any, large: Any, fraction: Any) -> Any:
    return small + (large - small) * 0.5 * (fraction + 1.0)
