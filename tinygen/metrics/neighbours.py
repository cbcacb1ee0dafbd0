"""Measures by nearest neighbours: fidelity, diversity, and whether training rows were copied."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygen.errors import whole
from tinygen.metrics._points import Array, at_least, point_sets, squared_distances

__all__ = ["PRDC", "Memorisation", "memorisation", "nearest_distances", "prdc"]

_CLOSE = 0.05  # the share of held-out rows that count as close to the training data


class PRDC(NamedTuple):
    """precision, density: are samples where the data are? recall, coverage: are they everywhere
    where the data are? All are shares in [0, 1] but for density, which may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(samples: Any, real: Any, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage of samples (n, d) beside real rows (m, d).

    The ball of a point reaches to its k-th nearest neighbour in its own set, the edge included.
    precision: the share of samples in the ball of a real row; recall: the share of real rows in
    the ball of a sample (Kynkäänniemi et al. 2019, eqs. 1-2). density: in how many balls of real
    rows a sample lies on average, over k; coverage: the share of real rows with a sample in their
    ball (Naeem et al. 2020, eqs. 3-4). For two sets of one law the expected density is 1 and the
    expected coverage 1 - (m-1)...(m-k) / ((n+m-1)...(n+m-k)): with n = m large, 1 - 2^-k.

    k = 5 as in Naeem et al.; in Kynkäänniemi et al. it is 3. Distances are Euclidean in the rows as
    they are, not in a network's features. Samples that are blurred towards the middle of the data
    exceed real rows in precision and density: never judge by those alone. Computed on the CPU.
    ValueError: fewer than k + 1 rows in a set, k < 1, different d, NaN or infinity.
    """
    samples, real = point_sets(samples=samples, real=real)
    k = whole("k", k)
    at_least(k + 1, f"k = {k}", samples, real)
    of_samples, of_real = _squared_radii(samples, k), _squared_radii(real, k)
    balls_of_real = np.empty(len(samples), int)  # that a sample lies in
    covered, recalled = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows, squared in squared_distances(samples, real):
        inside = squared <= of_real
        balls_of_real[rows] = inside.sum(axis=1)
        covered |= inside.any(axis=0)
        recalled |= (squared <= of_samples[rows, None]).any(axis=0)
    precision, density = (balls_of_real > 0).mean(), balls_of_real.mean() / k
    return PRDC(*map(float, (precision, recalled.mean(), density, covered.mean())))


def _squared_radii(points: Array, k: int) -> Array:
    """The squared distance from each point to its k-th nearest other one."""
    radii = np.empty(len(points))
    for rows, squared in squared_distances(points, points):
        squared.partition(k, axis=1)  # the point itself is among the nearest, at distance 0
        radii[rows] = squared[:, k]
    return radii * (1 + 1e-9)  # the edge is in the ball, however its distance is rounded


def nearest_distances(x: Any, y: Any) -> Array:
    """The Euclidean distance from each row of x (n, d) to the nearest row of y (m, d): (n,).

    It is exactly 0 for copies. Computed on the CPU.
    ValueError: an empty set, different d, NaN or infinity.
    """
    x, y = point_sets(x=x, y=y)
    return _nearest(x, y)


def _nearest(x: Array, y: Array) -> Array:
    nearest = np.concatenate([d.argmin(axis=1) for _, d in squared_distances(x, y)])
    # Anew from the difference: precise also where it is small.
    distances: Array = np.linalg.norm(x - y[nearest], axis=1)
    return distances


class Memorisation(NamedTuple):
    """ratio: the mean distance of samples to the nearest training row, over that of held-out rows;
    1 for fresh rows, smaller for memorised ones. closer: the share of samples nearer to a training
    row than 95 % of held-out rows are; .05 for fresh rows. copies: the share of samples that equal
    a training row."""

    ratio: float
    closer: float
    copies: float


def memorisation(samples: Any, train: Any, held_out: Any) -> Memorisation:
    """Whether samples (n, d) lie nearer to training rows than held-out rows of the same law do.

    A sample may lie near the training data because it is a copy, or because it is a blurred mean:
    look at both with `prdc`. If all held-out rows equal training rows there is nothing to compare
    with: the ratio is 1 if all samples do so too, else infinite.
    Computed on the CPU. ValueError: an empty set, different d, NaN or infinity.
    """
    samples, train, held_out = point_sets(samples=samples, train=train, held_out=held_out)
    found, usual = (_nearest(rows, train) for rows in (samples, held_out))
    # This rule makes the expected share exactly _CLOSE for fresh rows of a continuous law.
    close = np.quantile(usual, _CLOSE, method="weibull")
    if usual.any():
        ratio = found.mean() / usual.mean()
    elif found.any():
        ratio = np.inf
    else:
        ratio = 1.0
    return Memorisation(*map(float, (ratio, (found < close).mean(), (found == 0).mean())))
