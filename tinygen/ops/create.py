"""New constants: zeros and ones, indices, and arrays of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.autodiff.engine import Tensor, public
from tinygen.autodiff.promotion import as_array
from tinygen.backend import namespace_for, namespace_of


@public
def zeros(shape: int | tuple[int, ...], dtype: Any = np.float32, device: str = "cpu") -> Tensor:
    """A constant of zeros of this shape."""
    return Tensor(namespace_for(device).zeros(shape, dtype))


@public
def ones(shape: int | tuple[int, ...], dtype: Any = np.float32, device: str = "cpu") -> Tensor:
    """A constant of ones of this shape."""
    return Tensor(namespace_for(device).ones(shape, dtype))


@public
def zeros_like(x: Any) -> Tensor:
    """A constant of zeros with the shape, dtype and device of x."""
    array = as_array(x)
    return Tensor(namespace_of(array).zeros_like(array))


@public
def ones_like(x: Any) -> Tensor:
    """A constant of ones with the shape, dtype and device of x."""
    array = as_array(x)
    return Tensor(namespace_of(array).ones_like(array))


@public
def arange(*limits: int) -> np.ndarray[Any, Any]:
    """NumPy's arange of whole numbers. It is a plain array to index with, not a Tensor."""
    return np.arange(*limits)


@public
def from_dlpack(array: Any) -> Tensor:
    """A constant that shares memory with an array of another library (PyTorch, JAX, CuPy, ...).

    It is on the device of that array. TypeError: an object without the DLPack protocol, an array that
    is neither on the CPU nor on a CUDA GPU, or one not of real numbers or truth values.
    """
    if not hasattr(array, "__dlpack_device__"):
        raise TypeError(
            f"from_dlpack takes an array of another library, not {type(array).__name__}; "
            "tg.tensor(...) copies lists and numbers"
        )
    cpu, cuda, managed = 1, 2, 13  # DLPack's numbers for kinds of memory
    kind = array.__dlpack_device__()[0]
    if kind not in (cpu, cuda, managed):
        raise TypeError(f"from_dlpack takes arrays in CPU or CUDA memory, not in DLPack's {kind}")
    return Tensor(as_array(namespace_for("cpu" if kind == cpu else "gpu").from_dlpack(array)))
