"""`load`, the one function for all data sets."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tinygen.data._dataset import Dataset
from tinygen.data.files import CSV, load_file, suffix_of
from tinygen.data.images import SOURCES, load_digits, load_idx
from tinygen.data.toys import TOYS, load_toy
from tinygen.errors import unknown


def names() -> tuple[str, ...]:
    """The names that `load` knows. It also takes the path of a .npy, .npz, .csv or .csv.gz file."""
    return ("digits", *SOURCES, *TOYS)


def load(
    name: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    n: int = 10_000,
    seed: int = 0,
    *,
    columns: Sequence[str | int] | None = None,
    label_column: str | int | None = None,
    delimiter: str | None = None,
) -> Dataset:
    """Load a data set by its name (see `names`) or from a .npy, .npz, .csv or .csv.gz file.

    data_dir: the folder of the files of MNIST and Fashion-MNIST. By default it is $TINYGEN_DATA, then
        the user's cache.
    download: whether to download those files to the cache if they are not found. Nothing else uses
        the network.
    n, seed: the number of training rows of a synthetic set, and its seed. n // 5 more rows (at least
        one) are held out. The other sets have a fixed size.
    columns, label_column, delimiter: options for a .csv file; see `tables.read_csv`.

    ValueError: an unknown name, or a file with wrong content. FileNotFoundError: no such file.
    """
    name = os.fspath(name)
    suffix = None if name in names() else suffix_of(name)
    options = {"columns": columns, "label_column": label_column, "delimiter": delimiter}
    given = {option: value for option, value in options.items() if value is not None}
    if given and suffix not in CSV:
        raise ValueError(f"{'=, '.join(given)}= is for a .csv file only, which {name!r} is not")
    if suffix:
        return load_file(name, **given)
    if name == "digits":
        return load_digits()
    if name in SOURCES:
        return load_idx(name, data_dir, download)
    if name in TOYS:
        return load_toy(name, n, seed)
    raise ValueError(
        f"{unknown('data set', name, names())}, or the path of a .npy, .npz, .csv or .csv.gz file"
    )
