"""NumPy's files of arrays, read without trust: what a header promises is held against what is there.

Nothing in such a file is executed, and nothing is read that memory does not hold. Whatever NumPy,
zipfile and their like stumble over in a damaged file comes out as an Exception of any kind.
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
    """Whether the file holds one array, not an archive of several."""
    start = file.read(len(npy.MAGIC_PREFIX))
    file.seek(0)
    return start == npy.MAGIC_PREFIX


def read_npy(file: IO[bytes], size: int | None = None, beside: int = 0) -> Array:
    """The array in a file of `size` bytes (None: a file on the disk, which knows its own).

    beside: bytes that the caller will need for each element, beside the array's.
    ValueError: the header promises more than there is, or Python's objects. MemoryError: more than
    memory holds.
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
    """The arrays of an .npz archive by name, none of them read. ValueError: it has other members,
    or two of one name."""
    found = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
    if len(found) < len(archive.infolist()) or not all(
        i.filename.endswith(".npy") for i in found.values()
    ):
        raise ValueError("it has members that are no arrays, or two of one name")
    return found


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, beside: int = 0) -> Array:
    """One array of an archive; see `read_npy`."""
    with archive.open(member) as file:
        return read_npy(file, member.file_size, beside)


def free_memory() -> float:
    """Bytes that can be had without swapping; infinity where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return inf
    return next((1024.0 * int(l.split()[1]) for l in lines if l.startswith("MemAvailable")), inf)
