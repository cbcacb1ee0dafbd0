"""Products of matrices on the GPU by cuBLAS itself: CuPy lets none of its own into a captured graph.

Eager products go the same way, so that a captured step computes the same bits.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from importlib import import_module
from typing import Any

import numpy as np

from tinygen.backend import gpu_forms
from tinygen.errors import DeviceError
from tinygen.kernels.pool import as_matrix

__all__ = ["matmul", "product", "workspace"]

WORKSPACE = 32 << 20
"""Bytes that cuBLAS may use on the way: what it wants on Hopper and later; the others take less."""

TYPES = {"f": 0, "d": 1}  # cudaDataType
COMPUTE = {"f": 68, "d": 70}  # cublasComputeType_t: of full precision
TF32 = 77  # float32 by tensor cores, which round the factors to 11 bits


def workspace() -> Any:
    """Memory for the products that run one after the other on one stream."""
    import cupy

    return cupy.empty(WORKSPACE, np.uint8)


@functools.cache
def _library() -> Any:
    """cuBLAS, which comes with CuPy."""
    finder: Any = import_module("cuda.pathfinder")
    library = ctypes.CDLL(finder.load_nvidia_dynamic_lib("cublas").abs_path)
    pointer: Any = ctypes.c_void_p
    whole: Any = ctypes.c_int
    library.cublasCreate_v2.argtypes = [ctypes.POINTER(pointer)]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    library.cublasGemmEx.argtypes = [
        pointer, *[whole] * 5, pointer, *[pointer, whole, whole] * 2, pointer, pointer, *[whole] * 4,
    ]  # fmt: skip
    return library


_local = threading.local()  # what each thread has of its own


def _own(key: Any, make: Any) -> Any:
    """What this thread has under the key, made at the first time."""
    if key not in (own := vars(_local)):
        own[key] = make()
    return own[key]


def _handle() -> Any:
    handle = ctypes.c_void_p()
    _check("cublasCreate", _library().cublasCreate_v2(ctypes.byref(handle)))
    return handle


def _check(what: str, status: int) -> None:
    if status:
        raise DeviceError(f"{what} of cuBLAS failed with status {status}")


def product(
    kind: str,
    sizes: tuple[int, ...],
    a: tuple[Any, ...],
    b: tuple[Any, ...],
    c: int,
    space: Any = None,
) -> None:
    """c = a b of row-major matrices, queued on the current stream.

    kind: 'f' or 'd'. sizes: rows of a, columns of b, columns of a. a, b: the address of the first
    element, and `pool.as_matrix` of it. space: a workspace of this stream's or graph's own.

    TINYGEN_TF32=1 lets tensor cores round float32 factors to 11 bits, which is several times faster.
    """
    import cupy

    (m, n, k), (at_a, row_a, a_turned), (at_b, row_b, b_turned) = sizes, a, b
    stream, device = cupy.cuda.get_current_stream().ptr, cupy.cuda.Device().id
    handle = _own(("handle", device), _handle)
    space = _own(("space", device, stream), workspace) if space is None else space
    library, type_of = _library(), TYPES[kind]
    fast = kind == "f" and os.environ.get("TINYGEN_TF32") == "1"
    number = ctypes.c_float if kind == "f" else ctypes.c_double
    one, zero = ctypes.byref(number(1)), ctypes.byref(number(0))
    _check("cublasSetStream", library.cublasSetStream_v2(handle, stream))
    # The stream takes the library's own workspace back into use: so always after it.
    _check(
        "cublasSetWorkspace",
        library.cublasSetWorkspace_v2(handle, space.data.ptr, space.nbytes),
    )
    # cuBLAS counts along columns: cT = bT aT.
    status = library.cublasGemmEx(
        handle, int(b_turned), int(a_turned), n, m, k, one, at_b, type_of, row_b, at_a, type_of, row_a,
        zero, c, type_of, n, TF32 if fast else COMPUTE[kind], -1,
    )  # fmt: skip
    _check("cublasGemmEx", status)


def matmul(a: Any, b: Any) -> Any:
    """cupy.matmul; products of two matrices of float32 or float64 by `product`."""
    import cupy

    fits = a.ndim == b.ndim == 2 and a.dtype == b.dtype and a.shape[1] == b.shape[0]
    if not fits or a.dtype.char not in TYPES or 0 in (*a.shape, *b.shape):
        return cupy.matmul(a, b)
    sides = []
    for x in (a, b):
        if (read := as_matrix(x.shape, x.strides, x.itemsize)) is None:
            x = cupy.ascontiguousarray(x)
            read = max(x.shape[1], 1), False
        sides.append((x, x.data.ptr, *read))
    c = cupy.empty((a.shape[0], b.shape[1]), a.dtype)
    product(a.dtype.char, (*c.shape, a.shape[1]), sides[0][1:], sides[1][1:], c.data.ptr)
    return c


gpu_forms["matmul"] = matmul  # of the engine: `m.matmul` of CuPy arrays
