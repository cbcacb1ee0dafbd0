"""Rows are computed in blocks, so that the memory needed does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygen.backend import keep_freed_memory, namespace_of

__all__ = ["blocks", "by_blocks", "moments"]

Array = np.ndarray[Any, Any]

BLOCK = 4096  # rows that a network computes at once
BYTES = 1 << 20  # of a block in float64


def blocks(n: int) -> Iterator[slice]:
    """The rows 0..n-1 as slices of at most BLOCK rows."""
    return (slice(i, min(i + BLOCK, n)) for i in range(0, n, BLOCK))


def by_blocks(f: Callable[..., Array], *arrays: Array) -> Array:
    """f(*arrays), computed in blocks. f must treat each row independently of the others."""
    keep_freed_memory()
    n = len(arrays[0])
    if n <= BLOCK:
        return f(*arrays)
    parts = [f(*(a[rows] for a in arrays)) for rows in blocks(n)]
    return namespace_of(arrays[0]).concatenate(parts)


def moments(x: Array) -> tuple[Array, Array]:
    """The mean and the standard deviation of each column of x (n, d), float64, in one pass.

    Blocks are joined by the rule of Chan, Golub & LeVeque (1983), which has no cancellation. The
    standard deviation of a constant float32 column is exactly 0.
    """
    m = namespace_of(x)
    mean = squares = m.zeros(x.shape[1])
    size = max(1, min(BYTES // (8 * x.shape[1]), BLOCK))
    for before in range(0, len(x), size):
        after = min(before + size, len(x))
        block = x[before:after].astype(np.float64)
        own = block.mean(axis=0)
        difference = own - mean
        squares = squares + m.square(block - own).sum(axis=0)
        squares = squares + m.square(difference) * (before * (after - before) / after)
        mean = mean + difference * ((after - before) / after)
    return mean, m.sqrt(squares / len(x))
