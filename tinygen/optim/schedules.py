"""Learning rates as functions of the step: 0, 1, 2, ... to a number."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi

__all__ = ["constant", "cosine", "step_decay", "warmup"]

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """lr at every step."""
    return lambda step: lr


def cosine(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """From lr down to `final` along half a cosine over `steps`, then `final` (Loshchilov 2017)."""
    _positive("steps", steps)
    return lambda step: final + (lr - final) * 0.5 * (1 + cos(pi * min(step / steps, 1.0)))


def step_decay(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """lr · factor^(step // every)."""
    _positive("every", every)
    return lambda step: lr * factor ** (step // every)


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """`schedule`, its first `steps` values scaled up linearly from 1/steps to 1."""
    if steps < 0:
        raise ValueError(f"steps is at least 0, not {steps}")
    if not callable(schedule):
        raise TypeError(f"warmup takes a schedule, such as constant({schedule!r}), not a number")
    return lambda step: schedule(step) * min((step + 1) / steps, 1.0) if steps else schedule(step)


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is at least 1, not {value}")
