"""Rows a block at a time: what is in memory beside them does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygen.backend import namespace_of

__all__ = ["blocks", "by_blocks", "moments"]

Array = np.ndarray[Any, Any]

BLOCK = 4096  # rows that a network computes at once
BYTES = 1 << 20  # of a block in float64


def blocks(n: int) -> Iterator[slice]:
    """The rows 0..n-1 in slices of at most BLOCK."""
    return (slice(i, min(i + BLOCK, n)) for i in range(0, n, BLOCK))


def by_blocks(f: Callable[..., Array], *arrays: Array) -> Array:
    """f(*arrays), for an f that treats each row by itself."""
    n = len(arrays[0])
    if n <= BLOCK:
        return f(*arrays)
    parts = [f(*(a[rows] for a in arrays)) for rows in blocks(n)]
    return namespace_of(arrays[0]).concatenate(parts)


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each column of x (n, d), float64, in one pass.

    Blocks are joined by the rule of Chan, Golub & LeVeque (1983), which does not cancel. The
    deviation of a float32 column that is constant is exactly 0.
    """
    m = namespace_of(x)
    mean = squares = m.zeros(x.shape[1])
    size = max(1, min(BYTES // (8 * x.shape[1]), BLOCK))
    for before in range(0, len(x), size):
        after = min(before + size, len(x))
        block = x[before:after].astype(np.float64)
        own = block.mean(axis=0)
        apart = own - mean
        squares = squares + m.square(block - own).sum(axis=0)
        squares = squares + m.square(apart) * (before * (after - before) / after)
        mean = mean + apart * ((after - before) / after)
    return mean, m.sqrt(squares / len(x))
