"""Handwritten digits (bundled), MNIST and Fashion-MNIST (read from IDX files)."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import os
import struct
import tempfile
import urllib.request
import zlib
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinygen.data._dataset import Dataset, hold_out

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# The addresses of the files. One host has no https, so each download is checked against a digest.
SOURCES = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion-mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}

# SHA-256 of the decompressed files, in the order of IDX_FILES.
SHA256 = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion-mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


def load_digits() -> Dataset:
    """The bundled 8x8 digits: 1498 training and 299 held-out images with values k/16 in [0, 1].

    E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, CC BY 4.0; see DIGITS.md beside this file.
    """
    with (
        resources.files("tinygen.data").joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        by_digit, labels = arrays["x_by_digit"], arrays["y"]
    rows = np.empty(by_digit.shape, np.float32)
    rows[np.argsort(labels, kind="stable")] = by_digit  # the order of the published file
    rows /= 16
    return hold_out("digits", rows, labels.astype(np.int64), (8, 8))


def load_idx(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Dataset:
    """MNIST or Fashion-MNIST, or your own set in four files with the same names and format.

    The files are searched in data_dir if given, else in $TINYGEN_DATA and then in the user's cache:
    first in the sub-folder `name`, then in the folder itself. With download=True, files that are
    found nowhere are downloaded to the cache. Only downloads are checked against the digests, so
    that your own set may replace the original.

    FileNotFoundError: the files are found nowhere. ValueError: they have a wrong format, or their
    digest is that of the other set.
    """
    roots = [data_dir] if data_dir is not None else [os.environ.get("TINYGEN_DATA"), _cache()]
    folders = [folder for root in roots if root for folder in (Path(root, name), Path(root))]
    for folder in folders:
        paths = [_plain_or_gzip(folder / file) for file in IDX_FILES]
        if all(path.exists() for path in paths):
            break
    else:
        if not download:
            raise FileNotFoundError(
                f"no {name} files ({', '.join(IDX_FILES)}, each plain or .gz) in "
                f"{', '.join(map(str, folders))}. Name their folder with data_dir= "
                "or in the environment variable TINYGEN_DATA, or fetch them with download=True."
            )
        paths = _download(name)
    _check_name(name, paths[3])
    x, y = _read_pair(paths[0], paths[1])
    test, y_test = _read_pair(paths[2], paths[3])
    height, width = x.shape[1:]
    if test.shape[1:] != (height, width):
        raise ValueError(
            f"{paths[2]}: its images are {test.shape[1]}x{test.shape[2]}, "
            f"but those of {paths[0]} are {height}x{width}"
        )
    return Dataset(name, scaled_rows(x), scaled_rows(test), y, y_test, (height, width))


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, plain or gzip: uint8, 1 to 3 axes, read-only.

    The file has two zero bytes, the type (8: unsigned byte), the number of axes, the length of each
    axis as a big-endian uint32, and the values in C order.

    ValueError: another layout, type or length. The message names the file.
    """
    data = _gunzip(Path(path).read_bytes(), path)
    if len(data) < 4 or data[:2] != b"\0\0" or not 1 <= data[3] <= 3:
        raise ValueError(
            f"{path}: not an IDX file: it starts with the bytes '{data[:4].hex(' ')}' instead of "
            "'00 00', a type, and the number of axes (01 to 03)"
        )
    if data[2] != 0x08:
        raise ValueError(
            f"{path}: IDX type 0x{data[2]:02x} is not supported, only 0x08 (unsigned byte)"
        )
    start = 4 + 4 * data[3]
    # Missing bytes of a header are read as zeros. The check of the length finds them.
    shape = struct.unpack(f">{data[3]}I", data[4:start].ljust(start - 4, b"\0"))
    size = start + math.prod(shape)
    if len(data) < size:
        raise ValueError(f"{path}: truncated: {len(data)} of {size} bytes")
    if len(data) > size:
        raise ValueError(f"{path}: {len(data) - size} bytes too many: {len(data)}, not {size}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def scaled_rows(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images of bytes, (n, height, width), as float32 rows (n, height * width) in [0, 1]."""
    flat: NDArray[np.float32] = np.divide(images.reshape(len(images), -1), 255, dtype=np.float32)
    return flat


def _gunzip(data: bytes, source: object) -> bytes:
    """The data, decompressed if the first two bytes are those of gzip. Errors name the source."""
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{source}: truncated or corrupt gzip data: {error}") from error


def _plain_or_gzip(path: Path) -> Path:
    return path if path.exists() else path.with_name(path.name + ".gz")


def _read_pair(image_path: Path, label_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, height, width) and their labels (n,)."""
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.ndim != 3 or images.size == 0:
        raise ValueError(f"{image_path}: expected images (n, h, w), got shape {images.shape}")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{label_path}: labels of shape {labels.shape} do not match the {len(images)} images "
            f"in {image_path}"
        )
    return images, labels.astype(np.int64)


def _check_name(name: str, labels: Path) -> None:
    """ValueError: the held-out labels (the smallest file) are those of another set."""
    digest = hashlib.sha256(_gunzip(labels.read_bytes(), labels)).hexdigest()
    for other, digests in SHA256.items():
        if other != name and digest == digests[3]:
            raise ValueError(f"{labels.parent} holds {other}, by its SHA-256: load it by that name")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tinygen")


def _download(name: str) -> list[Path]:
    """Download the files that the cache lacks. Returns the paths of all four."""
    folder = _cache() / name
    for file, digest in zip(IDX_FILES, SHA256[name], strict=True):
        if not _plain_or_gzip(folder / file).exists():
            _fetch(SOURCES[name] + file + ".gz", folder / (file + ".gz"), digest)
    return [_plain_or_gzip(folder / file) for file in IDX_FILES]


def _fetch(url: str, path: Path, digest: str) -> None:
    """Save the gzip file at url as path. Its decompressed content must have the SHA-256 digest."""
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            packed = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"cannot download {url}: {error}. Fetch the file some other way, and name its folder "
            "with data_dir= or in the environment variable TINYGEN_DATA."
        ) from error
    got = hashlib.sha256(_gunzip(packed, url)).hexdigest()
    if got != digest:
        raise ValueError(f"{url}: the SHA-256 of its content should be {digest}, but is {got}")
    # Written under another name and then renamed, so that nobody reads half a file.
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        part = Path(aside, path.name)
        part.write_bytes(packed)
        os.replace(part, path)
