"""The fused kernels: one mathematics in three forms.

    reference.py   NumPy: the definition of the random stream
    kernels.cpp    C++ for the CPU, compiled on first use (native.py)
    kernels.cu     CUDA for the GPU (cuda.py)

The mathematics that the last two share stands once, in philox.h, functions.h and formulas.h; every
kernel's name and arguments stand in kernels.h. `fused.py` has the functions that the rest of tinygen
calls, each beside its definition, and `dispatch.py` chooses the form.
"""

from tinygen.kernels.dispatch import description
from tinygen.kernels.fused import *  # noqa: F403
from tinygen.kernels.fused import __all__ as _functions

__all__ = ["description", *_functions]
