"""What the network predicts, how x_0 follows from it, and what an error weighs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen import kernels, ops
from tinygen.autodiff.engine import Tensor
from tinygen.models.diffusion.schedule import NoiseSchedule, TimeTable

__all__ = ["TARGETS", "WEIGHTS", "Target", "Weight", "WeightedError", "solve"]

Array = np.ndarray[Any, Any]

Target = Callable[[Any, Any], tuple[Any, Any]]
"""The output is to be u x_0 + v ε: a function from the factors (a, s) in x_t = a x_0 + s ε to (u, v)."""


def _noise(a: Any, s: Any) -> tuple[Any, Any]:
    """ε (Ho et al. 2020)."""
    return 0.0, 1.0


def _data(a: Any, s: Any) -> tuple[Any, Any]:
    """x_0."""
    return 1.0, 0.0


def _velocity(a: Any, s: Any) -> tuple[Any, Any]:
    """dx_t/dφ for (a, s) = (cos φ, sin φ) (Salimans & Ho 2022)."""
    return -s, a


TARGETS: dict[str, Target] = {"noise": _noise, "data": _data, "velocity": _velocity}

Weight = Callable[[Any], Any]
"""The weight of the squared error of x_0: a function of the ratio of signal to noise."""

WEIGHTS: dict[str, Weight | None] = {
    "simple": None,  # no such weight: the error of the target itself counts 1
    "snr": lambda snr: snr,  # the error of ε counts 1: L_simple (Ho et al. 2020, eq. 14)
    "min-snr": lambda snr: np.minimum(snr, 5.0),  # Hang et al. 2023
}


def solve(target: Target, a: Any, s: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The estimates of x_0 and of ε that follow from x_t and the output.

    x_t = a x_0 + s ε and output = u x_0 + v ε are two equations. Their solution is
    x_0 = (v x_t - s output) / (a v - s u) and ε = (a output - u x_t) / (a v - s u).
    Returns the factors of (x_t, output) in x_0, and those in ε.
    """
    u, v = target(a, s)
    determinant = a * v - s * u
    return (v / determinant, -s / determinant), (-u / determinant, a / determinant)


def check_target(target: Target, schedule: NoiseSchedule) -> None:
    """ValueError if the equations of `solve` have no solution at some time."""
    a, s = schedule.signal[1:], schedule.noise[1:]
    u, v = target(a, s)
    if not (abs(a * v - s * u) > 0).all():
        raise ValueError("nothing follows for x_0 from a target that is a multiple of x_t")


class WeightedError:
    """The loss of an output: the weighted mean squared error of the target u x_0 + v ε.

    A weight w of the error of x_0 is the weight w (∂x_0/∂output)² of the error of the target. Its root
    scales both sides.
    """

    def __init__(self, target: Target, weight: Weight | None, schedule: NoiseSchedule) -> None:
        a, s = schedule.signal, schedule.noise
        root: Any = np.ones_like(a)
        if weight is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                (_, of_output), _ = solve(target, a, s)
                root = np.sqrt(weight(schedule.snr)) * np.abs(of_output)
            root[0] = 0.0  # no time of training is 0
        self._root = None if weight is None else TimeTable(root)
        self._on_data, self._on_noise = (
            TimeTable(factor * root) if np.any(factor) else None for factor in target(a, s)
        )

    def __call__(self, output: Tensor, x: Array, t: Any, draw: kernels.Draw) -> Tensor:
        """The loss, one number, for rows x (n, features) at times t (n,) with the noise of `draw`."""
        if self._root is not None:
            output = output * self._root[t][:, None]
        tables = (self._on_data, self._on_noise)
        on_data, on_noise = (None if table is None else table[t] for table in tables)
        return ops.noise_error(output, x, on_data, on_noise, draw)
