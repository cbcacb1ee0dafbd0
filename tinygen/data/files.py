"""Your own data: .npy, .npz and .csv files."""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygen import npz
from tinygen.data._dataset import Dataset, hold_out
from tinygen.data.images import scaled_rows
from tinygen.data.tables import read_csv

BESIDE = (
    9  # bytes for each number: 1 for whether it is finite, 8 for float32 before and after a split
)


def load_file(path: str, **csv_options: Any) -> Dataset:
    """The rows of a file in float32. Every sixth row is held out, or the last one of fewer than six.

    .npy: numbers of shape (n, d), (n,) for one column, or (n, h, w) for images. Images are bytes
        0..255, or numbers in [0, 1].
    .npz: the same, as the array `x` or as the only array. Integer labels of shape (n,) may be the
        array `y`.
    .csv, .csv.gz: one row in each line. `csv_options` are those of `tables.read_csv`. The logger
        "tinygen" reports what was guessed without them.

    FileNotFoundError: no such file. ValueError: no numbers, NaN or infinity, values beyond float32,
    fewer than two rows, wrong shapes. The message names the file and says what to change.
    """
    values, labels, guesses = READERS[str(suffix_of(path))](path, **csv_options)
    image_shape = values.shape[1:] if values.ndim == 3 else None
    rows = _checked_rows(path, values)
    if labels is not None:
        if labels.shape != (len(rows),) or not np.can_cast(labels.dtype, np.int64):
            raise ValueError(
                f"{path}: the labels 'y' must be {len(rows)} integers, one for each row of x, "
                f"but are {labels.dtype} of shape {labels.shape}"
            )
        labels = labels.astype(np.int64)
    dataset = hold_out(path, rows, labels, image_shape)
    if guesses:
        logging.getLogger("tinygen").warning(
            "tinygen: guessed of %s: %s; delimiter=, columns=, label_column= say otherwise",
            path,
            guesses,
        )
    return dataset


def _read_numpy(path: str) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
    """The rows, the labels if the file has any, and "" because nothing is guessed."""
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a damaged header: an error says more
        try:
            if npz.is_npy(file):
                return npz.read_npy(file, beside=BESIDE), None, ""
            with zipfile.ZipFile(file) as archive:
                members = npz.members(archive)
                names = members.keys() - {"y"}
                key = "x" if "x" in names else "".join(names) if len(names) == 1 else None
                rows = None if key is None else npz.read_member(archive, members[key], BESIDE)
                labels = npz.read_member(archive, members["y"]) if "y" in members else None
        except MemoryError as error:
            raise ValueError(f"{path}: {error}; take fewer rows") from error
        except Exception as error:  # NumPy and zipfile may raise anything on a damaged file
            raise ValueError(
                f"{path}: not a file of plain numbers ({error}); write it with np.save or np.savez"
            ) from error
    if rows is None:
        raise ValueError(
            f"{path}: no array 'x' among its arrays {sorted(names)}; "
            "write it with np.savez(path, x=rows), or with y=labels as well"
        )
    return rows, labels, ""


def _checked_rows(path: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """The values as float32 rows (n, d). ValueError: they are not fit for training."""
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
    with np.errstate(over="ignore"):  # an overflow is reported below
        rows = values.reshape(len(values), -1).astype(np.float32, order="C")
    if not np.isfinite(rows).all():
        raise ValueError(f"{path}: values beyond the range of float32 (3.4e38); rescale them")
    if values.ndim == 3 and not (rows.min() >= 0 and rows.max() <= 1):
        raise ValueError(
            f"{path}: images must be uint8, or lie in [0, 1], but are {values.dtype} in "
            f"[{rows.min():g}, {rows.max():g}]"
        )
    return rows


CSV = (".csv", ".csv.gz")
READERS: dict[str, Callable[..., tuple[NDArray[Any], NDArray[Any] | None, str]]] = {
    ".npy": _read_numpy,
    ".npz": _read_numpy,
    **dict.fromkeys(CSV, read_csv),
}


def suffix_of(path: str) -> str | None:
    """The key of `READERS` that the path ends with, or None."""
    return next((suffix for suffix in READERS if path.lower().endswith(suffix)), None)
