"""Products of matrices by tinygen's own pool of threads (pool.h), beside whatever else the machine does.

OpenBLAS cuts a product in as many parts as it has threads, and each waits for the others: where one
has to wait for a core, because another process is busy, all do, 10 to 20 times as long as the product
takes. Here a product is cut into more parts, which whoever is free takes.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import itertools
import os
import sys
from typing import Any

import numpy as np

from tinygen.backend import numpy_namespace
from tinygen.errors import whole
from tinygen.kernels.cores import MOST, default_threads
from tinygen.kernels.dispatch import launcher

__all__ = ["as_matrix", "get_threads", "matmul", "set_threads", "table"]

# Multiplications from which on a product goes to the pool. Below, OpenBLAS takes one thread, and so waits
# for nobody; above, its threads would stay awake beside the pool's.
LARGE = 2**18


# -- the number of threads -----------------------------------------------------------------------
@functools.cache
def _default() -> int:
    return default_threads()


_chosen: int | None = None


def get_threads() -> int:
    """How many threads tinygen computes with on the CPU, the caller's among them.

    Unless `set_threads` was called, it is what the environment variable TINYGEN_THREADS says, else
    the number of cores that the process may use: by its affinity, and by the quota of its control
    group. OPENBLAS_NUM_THREADS and OMP_NUM_THREADS lower it.

    ValueError: TINYGEN_THREADS is not a whole number from 1.
    """
    return _default() if _chosen is None else _chosen


def set_threads(n: int) -> None:
    """Compute with n threads on the CPU, the caller's among them; 1 means with the caller's alone.

    Results are the same to the last bit for every n. NumPy's own number of threads stays as it is.
    ValueError: n is not a whole number from 1.
    """
    global _chosen
    _chosen = whole("the number of threads", n, high=MOST)
    if _library.cache_info().currsize and (library := _library()):
        library.tg_set_threads(_chosen)


# -- the pool ------------------------------------------------------------------------------------
@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled pool with its BLAS; None without a compiler, or where NumPy's BLAS is no OpenBLAS."""
    if launcher(numpy_namespace) is None:
        return None
    from tinygen.kernels import native  # only when something is computed

    library, blas = native.library, _blas_on_one_thread()
    if library is None or blas is None:
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    for function in library.tg_matmul_f32, library.tg_matmul_f64:
        function.argtypes = [pointer] * 3 + [size] * 3 + [ctypes.c_int]
        function.restype = None
    library.tg_threads.restype = pointer
    library.tg_set_blas(*blas)
    library.tg_set_threads(get_threads())
    atexit.register(library.tg_set_threads, 1)  # ends the others
    return library


def table() -> int | None:
    """The address of the pool's functions (`TgThreads` in threads.h), for code compiled apart."""
    library = _library()
    return None if library is None else library.tg_threads()


WITH_OPENMP = 2  # says openblas_get_parallel: then threads are counted otherwise


class _Symbol(ctypes.Structure):
    """What dladdr says of an address: Dl_info."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


class OpenBLAS:
    """A loaded OpenBLAS. Its functions have prefixes and suffixes, with which wheels keep theirs apart."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """AttributeError: `library` has no OpenBLAS."""
        self.library = library
        for affixes in itertools.product(("scipy_", ""), ("64_", "")):
            self.affixes = affixes
            if hasattr(library, self.name("openblas_get_config")):
                return
        raise AttributeError("no OpenBLAS")

    @classmethod
    def of_numpy(cls) -> OpenBLAS:
        """NumPy's. AttributeError, LookupError or OSError: it has another BLAS."""
        old, new = "numpy.core._multiarray_umath", "numpy._core._multiarray_umath"  # since NumPy 2
        module = sys.modules.get(new) or sys.modules[old]
        return cls(ctypes.CDLL(module.__file__))

    def name(self, function: str) -> str:
        before, after = self.affixes
        return f"{before}{function}{after}"

    def __getattr__(self, function: str) -> Any:
        return getattr(self.library, self.name(function))


def _blas_on_one_thread() -> tuple[Any, Any, bool] | None:
    """cblas_sgemm and cblas_dgemm that take one thread, and whether their integers have 64 bits.

    They are from a copy of NumPy's OpenBLAS, loaded apart. OpenBLAS has one number of threads for
    all its callers (also `openblas_set_num_threads_local` sets that one, unless it was built with
    OpenMP): a copy has its own, and NumPy's is not touched. None: NumPy has another BLAS.
    """
    try:
        of_numpy, symbol = OpenBLAS.of_numpy(), _Symbol()
        ctypes.CDLL(None).dladdr(of_numpy.openblas_get_config, ctypes.byref(symbol))
        copy = OpenBLAS(_loaded_for_one_thread(os.fsdecode(symbol.file)))
        if copy.openblas_get_parallel() == WITH_OPENMP or copy.openblas_get_num_threads() != 1:
            return None
        copy.openblas_get_config.restype = ctypes.c_char_p
        wide = b"USE64BITINT" in copy.openblas_get_config()
        return copy.cblas_sgemm, copy.cblas_dgemm, wide
    except (
        OSError,
        LookupError,
        AttributeError,
        TypeError,
    ):  # it is elsewhere, or a part of it is missing
        return None


def _loaded_for_one_thread(path: str) -> ctypes.CDLL:
    """A second copy of an OpenBLAS. As it is loaded it reads how many threads it is to begin."""
    from tinygen.kernels import native

    before = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        # Its functions are to find its own variables, also where NumPy's are visible to all.
        mode = os.RTLD_NOW | getattr(os, "RTLD_DEEPBIND", 0)
        with open(path, "rb") as file:
            return native.loaded(file, lambda path: ctypes.CDLL(path, mode))
    finally:
        if before is None:
            del os.environ["OPENBLAS_NUM_THREADS"]
        else:
            os.environ["OPENBLAS_NUM_THREADS"] = before


# -- products ------------------------------------------------------------------------------------
_memory = (ctypes.c_char * 0).from_buffer


@functools.cache
def _products() -> dict[Any, Any]:
    """The pool's product for each dtype; none without a pool."""
    library = _library()
    if library is None:
        return {}
    of = {np.float32: library.tg_matmul_f32, np.float64: library.tg_matmul_f64}
    return {np.dtype(dtype): product for dtype, product in of.items()}


def matmul(a: Any, b: Any) -> Any:
    """np.matmul; large products of two matrices of float32 or float64 go to the pool.

    A matrix that BLAS cannot read where it lies is copied first, as a compiled step does: np.matmul
    would multiply it by a loop of its own, which adds in another order.
    """
    if a.ndim != 2 or b.ndim != 2:
        return np.matmul(a, b)
    if not (a.flags.forc and b.flags.forc):
        a, b = (x if as_matrix(x.shape, x.strides, x.itemsize) else x.copy() for x in (a, b))
    if a.size * b.shape[1] < LARGE:
        return np.matmul(a, b)
    (m, k), (rows, n), dtype = a.shape, b.shape, a.dtype
    product = _products().get(dtype)
    if product and k == rows and m > 1 and n > 1 and dtype == b.dtype:
        c: Any = np.empty((m, n), dtype)
        try:
            left, a_transposed = _memory_of(a)
            right, b_transposed = _memory_of(b)
        except BufferError:
            return np.matmul(a, b)
        product(left, right, _memory(c), m, k, n, a_transposed + 2 * b_transposed)
        return c
    return np.matmul(a, b)  # it says what does not fit


def as_matrix(
    shape: tuple[int, ...], strides: tuple[int, ...], size: int
) -> tuple[int, bool] | None:
    """How BLAS reads a matrix of elements of `size` bytes: from row to row so many elements, and
    whether its rows are columns; None if it cannot read it where it lies."""
    (m, n), (down, right) = shape, strides
    for turned, rows, columns, far, near in ((False, m, n, down, right), (True, n, m, right, down)):
        lead = far // size if rows > 1 else columns
        if (near == size or columns <= 1) and lead >= columns and not far % size:
            return max(lead, 1), turned
    return None


def _memory_of(x: Any) -> tuple[Any, bool]:
    """A pointer to the elements, and whether their order is that of x transposed.

    BufferError: they do not lie side by side, or not where a number of that size may.
    """
    flags = x.flags
    if flags.carray:  # side by side, aligned, writeable: the common case
        return _memory(x), False
    if not (flags.forc and flags.aligned):
        raise BufferError
    transposed = not flags.c_contiguous
    return (_memory(x.T) if transposed and flags.writeable else x.ctypes.data), transposed


vars(numpy_namespace).update(matmul=matmul)  # of the engine: `m.matmul` of NumPy arrays
