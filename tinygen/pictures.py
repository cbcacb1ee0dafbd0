"""Pictures of samples and losses, as PNG files. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from tinygen import checkpoint
from tinygen.checkpoint import replacing
from tinygen.errors import CheckpointError, pip_install

__all__ = [
    "Snapshots", "available", "image_grid", "image_pairs", "loss_curve", "moments", "require",
    "scatter",
]  # fmt: skip

Array = np.ndarray[Any, Any]

MOMENTS = 12  # of a run, at which its samples are kept
FEW = 25, 300  # samples of a moment: images, points
SIDE = 220  # of the picture of a moment, in pixels
CAPTION = 22  # its height


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
    sheet = _sheet(images, shape, columns or ceil(sqrt(len(images))))
    zoom = max(1, round(800 / max(sheet.shape)))
    figure = _figure((sheet.shape[1] * zoom / 100, sheet.shape[0] * zoom / 100))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.axis("off")
    _save(figure, path)


def _sheet(images: Array, shape: tuple[int, int], columns: int) -> Array:
    """The pixels of a grid of images, with a line of background between them."""
    h, w = shape
    rows = ceil(len(images) / columns)
    sheet: Array = np.zeros((rows * columns, h + 1, w + 1))
    sheet[: len(images), :h, :w] = images.reshape(-1, h, w)
    sheet = sheet.reshape(rows, columns, h + 1, w + 1).swapaxes(1, 2)
    return sheet.reshape(rows * (h + 1), columns * (w + 1))


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
    flat = [_first(x, columns) for x in (data, samples)]
    low, high = _limits(flat[0])
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


def _first(rows: Array, columns: int) -> Array:
    """The first columns; a single one gets a second one of zeros."""
    return np.pad(rows, ((0, 0), (0, 1)))[:, :columns]


def _limits(points: Array) -> tuple[Array, Array]:
    """The corners of a frame around points."""
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    # Points that are all alike get a frame too.
    margin = max(0.15 * (high - low).max(), 1e-6 * abs(low).max(), 1e-9)
    return low - margin, high + margin


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


# -- while a model is trained --------------------------------------------------------------------
def moments(steps: int, n: int = MOMENTS) -> list[int]:
    """At most n steps of a run, from 0 to the last. They are closer together where it begins."""
    return sorted({round(steps * (i / (n - 1)) ** 2) for i in range(n)})


class Snapshots:
    """Samples at some steps of a run, for `fit(look=..., look_at=moments(steps))`.

    Each call keeps what `sample(n)` returns, in `progress.npz` in the folder, and draws all that is
    kept in `progress.png`. The eye compares best if every call of `sample` begins with the same noise.
    data, shape: rows (n, d) that points are drawn among; (h, w) of images, None for points.
    resumed: the step at which the run goes on: what was kept up to there is kept, None for a new run.
    ModuleNotFoundError: there is no matplotlib.
    """

    def __init__(
        self,
        folder: str | Path,
        sample: Callable[[int], Array],
        data: Array,
        shape: tuple[int, int] | None,
        resumed: int | None = None,
    ) -> None:
        require()
        self.folder, self.sample, self.data, self.shape = Path(folder), sample, data, shape
        self.kept = {} if resumed is None else self._read(resumed)
        self._panels = {step: self._panel(step, samples) for step, samples in self.kept.items()}

    def _read(self, last: int) -> dict[int, Array]:
        try:
            _, arrays = checkpoint.read(self.folder / "progress.npz")
        except (FileNotFoundError, CheckpointError):
            return {}  # the pictures then begin here
        return {int(step): x for step, x in arrays.items() if int(step) <= last}

    def __call__(self, step: int) -> None:
        self.kept[step] = self.sample(FEW[self.shape is None])
        self._panels[step] = self._panel(step, self.kept[step])
        arrays = {str(step): samples for step, samples in self.kept.items()}
        checkpoint.write(self.folder / "progress.npz", {}, arrays)
        panels = [*self._panels.values()]
        columns = min(len(panels), MOMENTS // 2)
        width, height = panels[0].width + 12, panels[0].height + 12
        paper = _paper(columns * width, ceil(len(panels) / columns) * height)
        for i, panel in enumerate(panels):
            paper.paste(panel, (i % columns * width + 6, i // columns * height + 6))
        with replacing(self.folder / "progress.png") as temporary:
            paper.save(temporary, format="png", compress_level=1)

    def animate(self) -> None:
        """Write `training.gif`: a picture for each moment, half a second of each."""
        first, *others = (panel.quantize(32) for panel in self._panels.values())
        duration = [500] * len(others) + [2500]
        with replacing(self.folder / "training.gif") as temporary:
            first.save(
                temporary, format="gif", save_all=True, append_images=others, loop=0,
                duration=duration,
            )  # fmt: skip

    def _panel(self, step: int, samples: Array) -> Any:
        """The samples of one moment, under a caption."""
        import matplotlib
        from PIL import ImageDraw, ImageFont  # which matplotlib brings

        picture = self._points(samples) if self.shape is None else self._images(samples)
        panel = _paper(max(picture.width, SIDE // 2), picture.height + CAPTION)
        panel.paste(picture, (0, CAPTION))
        font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 14)
        ImageDraw.Draw(panel).text((2, 2), f"step {step}", fill="black", font=font)
        return panel

    def _images(self, samples: Array) -> Any:
        from PIL import Image

        assert self.shape is not None
        sheet = _sheet(np.nan_to_num(samples), self.shape, ceil(sqrt(len(samples))))
        zoom = max(1, round(SIDE / max(sheet.shape)))
        grey = np.uint8(255 * (1 - sheet.clip(0, 1))).repeat(zoom, 0).repeat(zoom, 1)
        image = Image.fromarray(grey)
        image.thumbnail((1.5 * SIDE, 1.5 * SIDE))  # large images become smaller
        return image

    def _points(self, samples: Array) -> Any:
        from PIL import Image, ImageDraw

        low, high = _limits(_first(self.data, 2))
        fine = 3 * SIDE  # drawn large and made smaller, which smooths the edges
        image = _paper(fine, fine)
        draw = ImageDraw.Draw(image)
        middle, scale = (low + high) / 2, fine / (high - low).max()
        for rows, colour in ((self.data[: len(samples)], "#cccccc"), (samples, "#1f77b4")):
            places = (_first(rows, 2) - middle) * (scale, -scale) + fine / 2
            for x, y in places[np.isfinite(places).all(1) & (abs(places) < 2 * fine).all(1)]:
                draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour)
        return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def _paper(width: int, height: int) -> Any:
    from PIL import Image

    return Image.new("RGB", (width, height), "white")
