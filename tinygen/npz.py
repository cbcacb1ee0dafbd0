"""Safe reading of NumPy's files of arrays, .npy and .npz.

Nothing in such a file is executed. The size in a header is checked against the size of the file and
against the free memory before an array is read. A damaged file may raise any Exception of NumPy or
zipfile.
"""

from __future__ import annotations

import os
import zipfile
from math import inf, prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

__all__ = ["free_memory", "is_npy", "members", "read_member", "read_npy"]

Array = np.ndarray[Any, Any]
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def is_npy(file: IO[bytes]) -> bool:
    """Whether the file is a .npy file, which holds one array, and not an archive."""
    start = file.read(len(npy.MAGIC_PREFIX))
    file.seek(0)
    return start == npy.MAGIC_PREFIX


def read_npy(file: IO[bytes], size: int | None = None, beside: int = 0) -> Array:
    """The array in a .npy file of `size` bytes (None: the size of the file on the disk).

    beside: how many more bytes the caller will need for each element.
    ValueError: the header promises more than the file holds, or the array has Python objects.
    MemoryError: there is not enough free memory.
    """
    if size is None:
        size = os.fstat(file.fileno()).st_size
    shape, _, dtype = HEADERS[npy.read_magic(file)](file)
    numbers = prod(shape)
    if numbers * dtype.itemsize > size - file.tell():
        raise ValueError(f"its header promises {dtype}{list(shape)}, it holds {size} bytes")
    needed, free = numbers * (dtype.itemsize + beside), free_memory()
    if needed > free:
        raise MemoryError(f"{needed / 1e9:.2g} GB are needed, {free / 1e9:.2g} GB are free")
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


def members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members of an .npz archive by the names of their arrays. No array is read.

    ValueError: a member is not an array, or two have the same name.
    """
    found = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
    if len(found) < len(archive.infolist()) or not all(
        i.filename.endswith(".npy") for i in found.values()
    ):
        raise ValueError("it has members that are not arrays, or two of the same name")
    return found


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, beside: int = 0) -> Array:
    """Read one array of an archive; see `read_npy`."""
    with archive.open(member) as file:
        return read_npy(file, member.file_size, beside)


def free_memory() -> float:
    """The number of free bytes of memory. Infinity if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return inf
    return next((1024.0 * int(l.split()[1]) for l in lines if l.startswith("MemAvailable")), inf)
