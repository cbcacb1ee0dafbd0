"""From rounds to figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, log
from statistics import median, quantiles
from typing import NamedTuple

__all__ = ["Middle", "geometric_mean", "middle", "number", "ratio"]


class Middle(NamedTuple):
    """The quartiles of some rounds."""

    q1: float
    median: float
    q3: float

    @property
    def spread(self) -> float:
        """Between the quartiles, relative to the median."""
        return (self.q3 - self.q1) / self.median


def middle(rounds: Sequence[float]) -> Middle:
    """The quartiles; of a single round, itself."""
    return Middle(*(quantiles(rounds, method="inclusive") if len(rounds) > 1 else 3 * [*rounds]))


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """The median over the rounds of a / b: both were timed one after the other, so that a machine
    that slows down slows both."""
    return median(x / y for x, y in zip(a, b, strict=True))


def geometric_mean(ratios: Iterable[float]) -> float:
    """exp of the mean logarithm."""
    logs = [log(r) for r in ratios]
    return exp(sum(logs) / len(logs))


def number(x: float) -> str:
    """Three figures that count, and no more than two behind the point."""
    digits = 2 if x < 10 else 1 if x < 100 else 0
    return f"{x:.{digits}f}"
