"""Initial weights of shape (n_in, n_out), drawn from an explicit generator."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np

from tinygen.errors import unknown
from tinygen.random import Rng, as_generator

__all__ = ["INITIALISERS", "glorot", "he", "initial", "orthogonal"]

Array = np.ndarray[Any, Any]


def glorot(rng: Rng | None, shape: tuple[int, int], dtype: Any = np.float32) -> Array:
    """Uniform with variance 2 / (n_in + n_out) (Glorot & Bengio 2010, eq. 16)."""
    rng = as_generator(rng)
    limit = sqrt(6.0 / sum(shape))
    return rng.uniform(shape, -limit, limit, dtype=dtype)


def he(rng: Rng | None, shape: tuple[int, int], dtype: Any = np.float32) -> Array:
    """Normal with variance 2 / n_in, for ReLU-like activations (He et al. 2015, eq. 10)."""
    rng = as_generator(rng)
    return rng.normal(shape, 0.0, sqrt(2.0 / shape[0]), dtype=dtype)


def orthogonal(rng: Rng | None, shape: tuple[int, int], dtype: Any = np.float32) -> Array:
    """A uniformly random matrix with orthonormal rows or columns (Saxe et al. 2014)."""
    rng = as_generator(rng)
    rows, columns = shape
    q, r = np.linalg.qr(rng.normal((max(shape), min(shape)), dtype=np.float64))
    q *= np.sign(np.diag(r))  # undoes the signs that QR chose, so that the matrix is uniform
    return np.ascontiguousarray(q if rows >= columns else q.T, dtype)


INITIALISERS: dict[str, Callable[..., Array]] = {
    "glorot": glorot,
    "he": he,
    "orthogonal": orthogonal,
}


def initial(name: str, rng: Rng | None, shape: tuple[int, int], dtype: Any = np.float32) -> Array:
    """Weights from the initialiser `name`. ValueError: an unknown name."""
    if name not in INITIALISERS:
        raise unknown("initialisation", name, INITIALISERS)
    return INITIALISERS[name](rng, shape, dtype)
