"""The fused kernels: one mathematics in three forms.

    reference.py   NumPy: the definition of the random stream
    kernels.cpp    C++ for the CPU, compiled on first use (native.py)
    kernels.cu     CUDA for the GPU (cuda.py)

The mathematics that the last two share stands once, in philox.h, functions.h and formulas.h; every
kernel's name and arguments stand in kernels.h. `fused.py` has the functions that the rest of tinygen
calls, each beside its definition, and `dispatch.py` chooses the form.

On the CPU, products of matrices go to a pool of threads: pool.h and products.h, called by pool.py.
"""

from tinygen.kernels.dispatch import description
from tinygen.kernels.fused import *  # noqa: F403
from tinygen.kernels.fused import __all__ as _functions
from tinygen.kernels.pool import get_threads, set_threads

__all__ = ["description", "get_threads", "set_threads", *_functions]
