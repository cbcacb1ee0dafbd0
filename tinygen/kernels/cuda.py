"""The kernels on the GPU: compiled by CuPy for the device they meet, launched with typed arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygen.kernels.signatures import inlined, signatures

__all__ = ["OPTIONS", "load", "source"]

# Fused multiply-adds only where the source writes them: the same bits as on the CPU.
OPTIONS = ("-std=c++17", "--fmad=false")
THREADS = 256
PER_BLOCK = 4 * THREADS  # elements
BLOCKS_PER_PROCESSOR = 32
A_WARP_A_ROW = ("standardise", "standardise_backward")
"""Kernels whose rows are so few that small blocks reach more multiprocessors."""
LIMIT = 2**31  # elements: the kernels count in 32 bits

TABLE = np.dtype([("rows", np.int64), ("row", [("at", np.uint64, 5), ("n", np.int64)], 64)])
"""`Table` of functions.h."""


def _table(rows: Sequence[tuple[Any, ...]]) -> Any:
    """Rows of arrays as a table: an array of one element, which CuPy passes by value."""
    table = np.zeros((), TABLE)
    table["rows"] = len(rows)
    for entry, row in zip(table["row"], rows, strict=False):
        entry["at"][: len(row)] = [0 if x is None else x.data.ptr for x in row]
        entry["n"] = row[0].size
    return table


_NUMBERS: dict[str, Callable[[Any], Any]] = {
    "float": np.float32,
    "double": np.float64,
    "i64": np.int64,
    "u64": np.uint64,
    "Table": _table,
}


@functools.cache
def source() -> str:
    """The CUDA source as one text, headers included."""
    return inlined("kernels.cu")


def load() -> tuple[Callable[..., None], str]:
    """`launch(name, *arguments)` on the current device and stream, and a line that describes it.

    Arguments are those of kernels.h: CuPy arrays for pointers (or None), and numbers.
    """
    import cupy

    module = cupy.RawModule(code=source(), options=OPTIONS)
    functions = {name: module.get_function(name) for name in signatures()}
    types = {name: _converters(name) for name in signatures()}
    sizes = {name: _size_of(name) for name in signatures()}
    rows = {
        name: [argument for _, argument in signatures()[name]].index("rows")
        for name in A_WARP_A_ROW
    }
    processors = cupy.cuda.Device().attributes["MultiProcessorCount"]

    def launch(name: str, *arguments: Any) -> None:
        size = sizes[name](arguments)
        if size >= LIMIT:
            raise ValueError(f"{name}: {size} elements; a kernel takes fewer than 2**31 at a time")
        if size:  # an empty array has nothing to launch for
            threads, each = THREADS, PER_BLOCK
            if name in A_WARP_A_ROW:
                threads = min(THREADS, 64)
                each = size // arguments[rows[name]] * (threads // 32)
            grid = min(-(-size // each), BLOCKS_PER_PROCESSOR * processors)
            typed = [convert(a) for convert, a in zip(types[name], arguments, strict=True)]
            functions[name]((grid,), (threads,), tuple(typed))

    return launch, "CUDA, compiled for this device by CuPy"


def _converters(name: str) -> list[Callable[[Any], Any]]:
    """An argument's own type for each: CuPy would pass a Python float as a double."""
    return [_pointer if kind.endswith("*") else _NUMBERS[kind] for kind, _ in signatures()[name]]


def _pointer(array: Any) -> Any:
    return np.uintp(0) if array is None else array


def _size_of(name: str) -> Callable[[tuple[Any, ...]], int]:
    """How many elements a kernel works on, from its arguments."""
    names = [argument for _, argument in signatures()[name]]
    if "arrays" in names:  # each begins a block of its own
        table = names.index("arrays")
        return lambda arguments: sum(-(-row[0].size // 4096) * 4096 for row in arguments[table])
    if "n" in names:
        n = names.index("n")
        least = 1 if name == "sum_chunks" else 0  # the sum of none is 0, and is to be written
        return lambda arguments: max(arguments[n], least)
    rows, columns = names.index("rows"), names.index("columns")
    return lambda arguments: arguments[rows] * arguments[columns]
