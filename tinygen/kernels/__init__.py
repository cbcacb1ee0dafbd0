"""The kernels: one mathematics in three forms.

    the stream     the formulas     where they compute
    philox.py      reference.py     NumPy arrays, whatever they are, and Tensors: the definition
    kernels.cpp    kernels.cpp      float32 on the CPU, compiled on first use (native.py)
    kernels.cu     kernels.cu       float32 on the GPU (cuda.py)

What the last two have in common stands once: the stream in philox.h, the formulas in formulas.h and
functions.h, every kernel's name and arguments in kernels.h (signatures.py). `fused.py` has the
functions that the rest of tinygen calls, and `dispatch.py` says which form computes.

On the CPU, products of matrices go to a pool of threads: pool.h and products.h, called by pool.py; on
the GPU to cuBLAS, called by cublas.py.
"""

from tinygen.kernels import cublas as cublas
from tinygen.kernels.dispatch import description
from tinygen.kernels.fused import *  # noqa: F403
from tinygen.kernels.fused import __all__ as _functions
from tinygen.kernels.pool import get_threads, set_threads

__all__ = ["description", "get_threads", "set_threads", *_functions]
