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

from tinygen import cgroup

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


def free_memory(root: Path = Path("/")) -> float:
    """Bytes that can be had without swapping, within the limits of control groups; inf: not known.

    `root` is where /proc and /sys are.
    """
    found = (line.split() for line in cgroup.lines(root / "proc/meminfo"))
    available = (1024.0 * int(words[1]) for words in found if words[0] == "MemAvailable:")
    return min(next(available, inf), cgroup.least("memory", _free_v2, _free_v1, root))


def _free_v2(group: Path) -> float:
    return _free(group, "memory.max", "memory.current", "inactive_file")


def _free_v1(group: Path) -> float:
    return _free(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _free(group: Path, limit: str, usage: str, cache: str) -> float:
    """What is left of a group's limit, where files that are only cached do not count as used."""
    stat = dict(line.split() for line in cgroup.lines(group / "memory.stat"))
    try:
        (most,), (used,) = (cgroup.lines(group / name) for name in (limit, usage))
        return max(0.0, float(int(most) - int(used) + int(stat.get(cache, 0))))
    except ValueError:  # "max"; no such file
        return inf
