"""Synthetic sets in the plane, roughly centred and of unit scale.

Each function takes n and a generator. It returns n independent points, an array (n, 2), and their
labels, an integer array (n,). A set without natural labels returns None instead of labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygen.data._dataset import Dataset
from tinygen.random import Generator

Points = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


def two_moons(n: int, generator: Generator) -> tuple[Points, Labels]:
    """Two interleaved half circles of radius 1; the label is the moon.

    With t ~ U(0, pi) and the centre c = (.5, .25), a point is (cos t, sin t) - c on moon 0 and
    c - (cos t, sin t) on moon 1, plus normal noise of standard deviation .1.
    """
    moon = generator.integers(0, 2, (n,))
    t = generator.uniform((n,), 0.0, np.pi)
    arc = np.stack([np.cos(t) - 0.5, np.sin(t) - 0.25], axis=1)
    # A rotation of one moon by 180 degrees about the centre gives the other.
    return arc * (1 - 2 * moon[:, None]) + generator.normal((n, 2), std=0.1), moon


def swiss_roll(n: int, generator: Generator) -> tuple[Points, None]:
    """A spiral whose radius grows by 1 with each turn.

    With t ~ U(3/2 pi, 9/2 pi), a point is t / (2 pi) * (cos t, sin t), plus normal noise of standard
    deviation .05.
    """
    t = generator.uniform((n,), 1.5 * np.pi, 4.5 * np.pi)
    spiral = (t / (2 * np.pi))[:, None] * np.stack([np.cos(t), np.sin(t)], axis=1)
    return spiral + generator.normal((n, 2), std=0.05), None


def eight_gaussians(n: int, generator: Generator) -> tuple[Points, Labels]:
    """Eight equal Gaussians on a circle of radius 2; the label k is the Gaussian.

    With k uniform on 0..7, a point is 2 (cos(k pi/4), sin(k pi/4)), plus normal noise of standard
    deviation .1.
    """
    k = generator.integers(0, 8, (n,))
    centres = 2 * np.stack([np.cos(k * np.pi / 4), np.sin(k * np.pi / 4)], axis=1)
    return centres + generator.normal((n, 2), std=0.1), k


def checkerboard(n: int, generator: Generator) -> tuple[Points, Labels]:
    """Uniform on the eight dark cells of a 4x4 board over [-2, 2]^2; the label is the cell.

    A cell is dark if column + row is even. Both are counted 0..3 from the corner (-2, -2). Label k in
    0..7 is in column k // 2. It is the lower dark cell there if k is even, the upper one if k is odd.
    """
    k = generator.integers(0, 8, (n,))
    column = k // 2
    row = 2 * (k % 2) + column % 2
    return np.stack([column, row], axis=1) - 2 + generator.uniform((n, 2), 0.0, 1.0), k


TOYS: dict[str, Callable[[int, Generator], tuple[Points, Labels | None]]] = {
    "two-moons": two_moons,
    "swiss-roll": swiss_roll,
    "eight-gaussians": eight_gaussians,
    "checkerboard": checkerboard,
}


def load_toy(name: str, n: int, seed: int) -> Dataset:
    """n training rows and n // 5 (at least one) held-out rows of a synthetic set.

    ValueError: n < 2.
    """
    if n < 2:
        raise ValueError(f"data set {name!r} needs n >= 2 training rows, got n = {n}")
    points, labels = TOYS[name](n + max(1, n // 5), Generator(seed).child("data"))
    x = points.astype(np.float32)
    if labels is None:
        return Dataset(name, x[:n], x[n:])
    y = labels.astype(np.int64)
    return Dataset(name, x[:n], x[n:], y[:n], y[n:])
