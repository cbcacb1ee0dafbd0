"""Pictures of samples and losses, as PNG files. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.checkpoint import replacing
from tinygen.errors import pip_install

__all__ = ["available", "image_grid", "image_pairs", "loss_curve", "require", "scatter"]

Array = np.ndarray[Any, Any]


def available() -> bool:
    """Whether matplotlib can be imported."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def require() -> None:
    """ModuleNotFoundError: matplotlib cannot be imported. The message says how to install it."""
    if not available():
        raise ModuleNotFoundError(f"pictures need matplotlib: {pip_install('matplotlib', 'tqdm')}")


def image_grid(
    path: str | Path, images: Array, shape: tuple[int, int], columns: int | None = None
) -> None:
    """A grid of images (n, h · w) with values in [0, 1], `columns` in a row; 1 is black.

    Small images are enlarged. shape: (h, w). ValueError: rows that do not have h · w numbers.
    """
    images = np.asarray(images)
    h, w = shape
    if images.ndim != 2 or images.shape[1] != h * w:
        raise ValueError(f"images of shape {images.shape} are not rows of {h} · {w} pixels")
    columns = columns or ceil(sqrt(len(images)))
    rows = ceil(len(images) / columns)
    sheet: Array = np.zeros((rows * columns, h + 1, w + 1))  # a line of background between images
    sheet[: len(images), :h, :w] = images.reshape(-1, h, w)
    sheet = sheet.reshape(rows, columns, h + 1, w + 1).swapaxes(1, 2)
    sheet = sheet.reshape(rows * (h + 1), columns * (w + 1))
    zoom = max(1, round(800 / max(sheet.shape)))
    figure = _figure((sheet.shape[1] * zoom / 100, sheet.shape[0] * zoom / 100))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.axis("off")
    _save(figure, path)


def image_pairs(
    path: str | Path, above: Array, below: Array, shape: tuple[int, int], columns: int = 10
) -> None:
    """A grid of two sets of images. Each row of `above` stands over the same row of `below`.

    Both are (n, h · w) with n ≥ 1. A row has `columns` images; the last is filled with blanks.
    """
    columns = min(columns, len(above))
    n = -(-len(above) // columns) * columns
    filled = np.zeros((2, n, above.shape[1]), np.float32)
    filled[0, : len(above)], filled[1, : len(below)] = above, below
    rows = filled.reshape(2, -1, columns, above.shape[1]).swapaxes(0, 1)
    image_grid(path, rows.reshape(2 * n, -1), shape, columns)


def scatter(path: str | Path, data: Array, samples: Array) -> None:
    """Two scatter plots side by side: data (n, d) and samples (m, d), as many points of each.

    Three columns are drawn in space, else the first two in the plane. The frame fits all the data.
    The title says how many samples lie outside of it.
    """
    figure = _figure((10, 5))
    columns = 3 if data.shape[1] == 3 else 2
    # A single column gets a second one of zeros.
    flat = [np.pad(x, ((0, 0), (0, 1)))[:, :columns] for x in (data, samples)]
    low, high = flat[0].min(0), flat[0].max(0)
    margin = 0.15 * (high - low).max() + 1e-9
    low, high = low - margin, high + margin
    outside = int(((flat[1] < low) | (flat[1] > high)).any(1).sum())
    shown = f", columns 1 and 2 of {data.shape[1]}" if data.shape[1] > 3 else ""
    titles = (f"data{shown}", f"samples{shown}, {outside} of {len(samples)} outside")
    limits = dict(zip(("xlim", "ylim", "zlim"), zip(low, high, strict=True), strict=False))
    for i, (title, points) in enumerate(zip(titles, flat, strict=True)):
        points = points[: min(map(len, flat))]
        projection = "3d" if columns == 3 else None
        axes = figure.add_subplot(1, 2, i + 1, title=title, projection=projection)
        axes.scatter(*points.T, s=6, alpha=0.6, linewidths=0)
        axes.set(**limits)
        axes.set_aspect("equal", "box")
    _save(figure, path)


def loss_curve(path: str | Path, history: Mapping[str, Sequence[float]]) -> None:
    """A plot of every loss term against the step: its values in pale, its running mean in full."""
    figure = _figure((8, 4.5))
    axes = figure.add_subplot(xlabel="step")
    for name, values in history.items():
        y = np.asarray(values)
        # Several discriminator steps are in one step. Each update of an objective is one point.
        window = max(1, len(y) // 100)
        smooth = np.convolve(y, np.full(window, 1 / window), "valid")
        (line,) = axes.plot(np.arange(window, len(y) + 1), smooth, label=name)
        axes.plot(np.arange(1, len(y) + 1), y, alpha=0.15, color=line.get_color())
        smooth = smooth[np.isfinite(smooth)]
        if not len(smooth):  # no finite value to fit the range to
            continue
        low, high = axes.get_ylim() if name != next(iter(history)) else (smooth.min(), smooth.max())
        pad = 0.1 * max(smooth.max() - smooth.min(), 1e-9)
        axes.set_ylim(min(low, smooth.min() - pad), max(high, smooth.max() + pad))
    if history:
        axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def _figure(size: tuple[float, float]) -> Any:
    require()
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    return Figure(size, dpi=100)


def _save(figure: Any, path: str | Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
