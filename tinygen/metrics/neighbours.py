"""Measures by nearest neighbours: fidelity, diversity and memorisation."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygen.errors import whole
from tinygen.metrics._points import Array, at_least, point_sets, squared_distances

__all__ = ["PRDC", "Memorisation", "memorisation", "nearest_distances", "prdc"]

_CLOSE = 0.05  # this share of the held-out rows counts as close to the training data


class PRDC(NamedTuple):
    """The result of `prdc`.

    precision and density measure whether the samples are where the data are. recall and coverage
    measure whether they are everywhere where the data are. All are in [0, 1], except density, which
    may be above 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(samples: Any, real: Any, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage of samples (n, d) against real rows (m, d).

    The ball of a point reaches to its k-th nearest neighbour in its own set, edge included.
    precision: the share of samples that lie in the ball of a real row. recall: the share of real rows
        that lie in the ball of a sample (Kynkäänniemi et al. 2019, eqs. 1-2, with k = 3).
    density: the mean number of balls of real rows that a sample lies in, divided by k. coverage: the
        share of real rows with a sample in their ball (Naeem et al. 2020, eqs. 3-4, with k = 5).
    For two sets of one distribution the expected density is 1 and the expected coverage is
    1 - (m-1)...(m-k) / ((n+m-1)...(n+m-k)), about 1 - 2^-k for large n = m.

    Distances are Euclidean distances of the rows, not of features of a network. Samples that are
    blurred towards the middle of the data have a higher precision and density than real rows. So never
    judge by those two alone. It is computed on the CPU.
    ValueError: fewer than k + 1 rows in a set, k < 1, different d, NaN or infinity.
    """
    samples, real = point_sets(samples=samples, real=real)
    k = whole("k", k)
    at_least(k + 1, f"k = {k}", samples, real)
    of_samples, of_real = _squared_radii(samples, k), _squared_radii(real, k)
    balls_of_real = np.empty(len(samples), int)  # the number of them that each sample lies in
    covered, recalled = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows, squared in squared_distances(samples, real):
        inside = squared <= of_real
        balls_of_real[rows] = inside.sum(axis=1)
        covered |= inside.any(axis=0)
        recalled |= (squared <= of_samples[rows, None]).any(axis=0)
    precision, density = (balls_of_real > 0).mean(), balls_of_real.mean() / k
    return PRDC(*map(float, (precision, recalled.mean(), density, covered.mean())))


def _squared_radii(points: Array, k: int) -> Array:
    """The squared distance from each point to its k-th nearest other point."""
    radii = np.empty(len(points))
    for rows, squared in squared_distances(points, points):
        squared.partition(k, axis=1)  # the point itself is one of the nearest, at distance 0
        radii[rows] = squared[:, k]
    return radii * (1 + 1e-9)  # so that rounding cannot put the edge outside of the ball


def nearest_distances(x: Any, y: Any) -> Array:
    """The Euclidean distance from each row of x (n, d) to the nearest row of y (m, d), shape (n,).

    It is exactly 0 for copies. It is computed on the CPU.
    ValueError: an empty set, different d, NaN or infinity.
    """
    x, y = point_sets(x=x, y=y)
    return _nearest(x, y)


def _nearest(x: Array, y: Array) -> Array:
    nearest = np.concatenate([d.argmin(axis=1) for _, d in squared_distances(x, y)])
    # Computed again from the difference, which is precise for small distances.
    distances: Array = np.linalg.norm(x - y[nearest], axis=1)
    return distances


class Memorisation(NamedTuple):
    """The result of `memorisation`.

    ratio: the mean distance of samples to the nearest training row, divided by that of held-out rows.
        It is 1 for new rows and smaller for memorised ones.
    closer: the share of samples that are nearer to a training row than 95 % of held-out rows are. It
        is 0.05 for new rows.
    copies: the share of samples that are equal to a training row.
    """

    ratio: float
    closer: float
    copies: float


def memorisation(samples: Any, train: Any, held_out: Any) -> Memorisation:
    """Whether samples (n, d) lie nearer to training rows than held-out rows of the same distribution.

    A sample near the training data may be a copy or a blurred mean. `prdc` helps to tell which. If all
    held-out rows are equal to training rows, there is nothing to compare with. Then the ratio is 1 if
    all samples are equal to training rows too, else infinite.
    It is computed on the CPU. ValueError: an empty set, different d, NaN or infinity.
    """
    samples, train, held_out = point_sets(samples=samples, train=train, held_out=held_out)
    found, usual = (_nearest(rows, train) for rows in (samples, held_out))
    # With this rule the expected share is exactly _CLOSE for new rows of a continuous distribution.
    close = np.quantile(usual, _CLOSE, method="weibull")
    if usual.any():
        ratio = found.mean() / usual.mean()
    elif found.any():
        ratio = np.inf
    else:
        ratio = 1.0
    return Memorisation(*map(float, (ratio, (found < close).mean(), (found == 0).mean())))
