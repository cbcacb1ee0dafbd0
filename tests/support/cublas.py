"""cuBLAS for the stand-in of CuPy: a library of C with its functions, whose products NumPy computes.

So the calls go through the same ctypes declarations as on a GPU. As there, a stream takes the
library's own workspace back into use, which a stream that captures may not have.
"""

from __future__ import annotations

import ctypes
import functools
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.support import streams
from tests.support.cuda_on_cpu import _gpp, cached

SOURCE = r"""
#include <stddef.h>
typedef int (*Gemm)(void* stream, void* workspace, int ta, int tb, int m, int n, int k, double alpha,
                    const void* a, int lda, const void* b, int ldb, double beta, void* c, int ldc,
                    int wide, int compute);
struct Handle { void *stream, *workspace; };
static Gemm gemm;
static double number(const void* x, int wide) { return wide ? *(const double*)x : *(const float*)x; }
extern "C" {
#define VISIBLE __attribute__((visibility("default")))
VISIBLE void use(Gemm function) { gemm = function; }
VISIBLE int cublasCreate_v2(Handle** handle) { *handle = new Handle{}; return 0; }
VISIBLE int cublasSetStream_v2(Handle* h, void* stream) { *h = Handle{stream, nullptr}; return 0; }
VISIBLE int cublasSetWorkspace_v2(Handle* h, void* workspace, size_t size) {
    h->workspace = workspace;
    return size && !((size_t)workspace % 256) ? 0 : 7;
}
VISIBLE int cublasGemmEx(Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a,
                         int a_type, int lda, const void* b, int b_type, int ldb, const void* beta,
                         void* c, int c_type, int ldc, int compute, int algorithm) {
    const int wide = c_type == 1;
    if (a_type != b_type || a_type != c_type || (compute == 70) != wide || algorithm != -1) return 7;
    return gemm(h->stream, h->workspace, ta, tb, m, n, k, number(alpha, wide), a, lda, b, ldb,
                number(beta, wide), c, ldc, wide, compute);
}
}
"""
INVALID = 7

_pointer, _int, _double = ctypes.c_void_p, ctypes.c_int, ctypes.c_double
GEMM = ctypes.CFUNCTYPE(
    _int, _pointer, _pointer, *[_int] * 5, _double, _pointer, _int, _pointer, _int, _double, _pointer,
    *[_int] * 3,
)  # fmt: skip


def _matrix(address: int, rows: int, columns: int, lead: int, dtype: Any) -> Any:
    """A matrix that is stored by columns, at an address."""
    size = np.dtype(dtype).itemsize
    memory = (ctypes.c_char * ((columns - 1) * lead + rows) * size).from_address(address)
    return np.ndarray((rows, columns), dtype, memory, 0, (size, size * lead))


@GEMM
def _gemm(stream, workspace, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, wide, compute):  # type: ignore[no-untyped-def]
    current, dtype = streams.current(), np.float64 if wide else np.float32
    if (stream or 0) != current.ptr or not workspace:
        return INVALID
    if lda < (k if ta else m) or ldb < (n if tb else k) or ldc < m:
        return INVALID
    products.append((m, n, k, compute))

    def work() -> None:
        left = _matrix(a, k, m, lda, dtype).T if ta else _matrix(a, m, k, lda, dtype)
        right = _matrix(b, n, k, ldb, dtype).T if tb else _matrix(b, k, n, ldb, dtype)
        to = _matrix(c, m, n, ldc, dtype)
        with np.errstate(all="ignore"):
            to[...] = alpha * (left @ right) + (beta * to if beta else 0)

    current.queue(work)
    return 0


products: list[Any] = []  # the sizes of those that were queued


@functools.cache
def found(name: str) -> Any:
    """What cuda.pathfinder.load_nvidia_dynamic_lib gives."""
    assert name == "cublas"
    flags = ["-O1", "-fPIC", "-shared", "-fvisibility=hidden"]
    path = str(cached([SOURCE, *flags], lambda path: _gpp([*flags, "-o", str(path)], SOURCE)))
    ctypes.CDLL(path).use(_gemm)
    return SimpleNamespace(abs_path=path)
