"""The user's own data: .npy, .npz and .csv files."""

from __future__ import annotations

import array
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygen import npz
from tinygen.data._dataset import Dataset, hold_out
from tinygen.data.images import scaled_rows

BESIDE = 9  # bytes for each number read: whether it is finite, and as float32 before it is split


def load_file(path: str) -> Dataset:
    """The rows of a file, float32, with every sixth held out (or the last of fewer than six).

    .npy: numbers of shape (n, d), (n,) for one column, or (n, h, w) for images, which are bytes
        0..255 or lie in [0, 1] already.
    .npz: the same, as the array `x` or the only one; integer labels `y` of shape (n,) if any.
    .csv: numbers between commas, one row a line; the first line may be a header.

    Raises FileNotFoundError, and ValueError that names the file and what to mend: no numbers,
    NaN or infinity, a range beyond float32, fewer than two rows, wrong shapes.
    """
    values, labels = READERS[Path(path).suffix.lower()](path)
    image_shape = values.shape[1:] if values.ndim == 3 else None
    rows = _checked_rows(path, values)
    if labels is not None:
        if labels.shape != (len(rows),) or not np.can_cast(labels.dtype, np.int64):
            raise ValueError(
                f"{path}: the labels 'y' must be {len(rows)} integers, one for each row of x, "
                f"but are {labels.dtype} of shape {labels.shape}"
            )
        labels = labels.astype(np.int64)
    return hold_out(path, rows, labels, image_shape)


def _read_numpy(path: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The rows, and the labels if the file has any."""
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a damaged header: what follows from it is told
        try:
            if npz.is_npy(file):
                return npz.read_npy(file, beside=BESIDE), None
            with zipfile.ZipFile(file) as archive:
                members = npz.members(archive)
                names = members.keys() - {"y"}
                key = "x" if "x" in names else "".join(names) if len(names) == 1 else None
                rows = None if key is None else npz.read_member(archive, members[key], BESIDE)
                labels = npz.read_member(archive, members["y"]) if "y" in members else None
        except MemoryError as error:
            raise ValueError(f"{path}: {error}; take fewer rows") from error
        except Exception as error:  # NumPy and zipfile raise what they happen to stumble over
            raise ValueError(
                f"{path}: not a file of plain numbers ({error}); write it with np.save or np.savez"
            ) from error
    if rows is None:
        raise ValueError(
            f"{path}: no array 'x' among its arrays {sorted(names)}; "
            "write it with np.savez(path, x=rows), or with y=labels as well"
        )
    return rows, labels


def _read_csv(path: str) -> tuple[NDArray[Any], None]:
    """The cells, float64 of shape (n, d)."""
    cells = array.array("d")
    width = 0  # of every row, once the first is read
    # Bytes that are not UTF-8 become cells that are not numbers, and are reported as such.
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        for line_number, line in enumerate(file, start=1):
            row = line.strip().split(",")
            if row == [""]:
                continue
            if width not in (0, len(row)):
                raise ValueError(
                    f"{path}, line {line_number}: {len(row)} cells, but {width} in the lines before"
                )
            try:
                cells.extend([float(cell) for cell in row])
            except ValueError:
                bad = [not _is_number(cell) for cell in row]
                is_header = width == 0 and all(bad)
                if not is_header:
                    column = bad.index(True)
                    raise ValueError(
                        f"{path}, line {line_number}, column {column + 1}: "
                        f"{row[column]!r} is not a number"
                    ) from None
            width = len(row)
    return np.array(cells).reshape(-1, max(width, 1)), None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _checked_rows(path: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """The values as float32 rows (n, d), when they are fit to train on."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{path}: needs integers or floats, but holds {values.dtype}")
    if values.ndim not in (1, 2, 3):
        raise ValueError(
            f"{path}: needs shape (n, d), (n,) or (n, height, width), not {values.shape}"
        )
    if values.size == 0:
        raise ValueError(f"{path}: holds no numbers (shape {values.shape}); add rows")
    if len(values) == 1:
        raise ValueError(f"{path}: a single row cannot be split; at least two are needed")
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"{path}: {len(bad)} values are NaN or infinite, the first at index "
            f"{bad[0].tolist()} (from 0); remove or replace them"
        )
    if values.ndim == 3 and values.dtype == np.uint8:
        return scaled_rows(values)
    with np.errstate(over="ignore"):  # reported below
        rows = values.reshape(len(values), -1).astype(np.float32, order="C")
    if not np.isfinite(rows).all():
        raise ValueError(f"{path}: values beyond the range of float32 (3.4e38); rescale them")
    if values.ndim == 3 and not (rows.min() >= 0 and rows.max() <= 1):
        raise ValueError(
            f"{path}: images must be uint8, or lie in [0, 1], but are {values.dtype} in "
            f"[{rows.min():g}, {rows.max():g}]"
        )
    return rows


READERS: dict[str, Callable[[str], tuple[NDArray[Any], NDArray[Any] | None]]] = {
    ".npy": _read_numpy,
    ".npz": _read_numpy,
    ".csv": _read_csv,
}
