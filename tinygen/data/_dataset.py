"""The class of all data sets, and the split of a set that has none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)  # no ==, because == of arrays is an array
class Dataset:
    """Training rows and held-out rows. Each row is one example.

    name: the name or path that was passed to `load`. `load(data.name)` finds the same set again.
    x: float32 array (n, d), C-contiguous, the training rows.
    test: float32 array (m, d), C-contiguous, the held-out rows.
    y, y_test: int64 labels, of shapes (n,) and (m,), or None.
    image_shape: (height, width) with height * width = d when a row is an image, else None.

    The values of images lie in [0, 1]. All other values are in their original units.
    """

    name: str
    x: NDArray[np.float32]
    test: NDArray[np.float32]
    y: NDArray[np.int64] | None = None
    y_test: NDArray[np.int64] | None = None
    image_shape: tuple[int, int] | None = None


def hold_out(
    name: str,
    rows: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    image_shape: tuple[int, int] | None,
) -> Dataset:
    """The data set that holds out every sixth row (i % 6 == 5), or the last one of fewer than six.

    rows: float32 array (n, d), n >= 2. labels: int64 array (n,) or None.
    """
    n = len(rows)
    held = np.arange(n) % 6 == 5 if n >= 6 else np.arange(n) == n - 1
    y, y_test = (None, None) if labels is None else (labels[~held], labels[held])
    return Dataset(name, rows[~held], rows[held], y, y_test, image_shape)
