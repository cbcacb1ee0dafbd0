"""New constants: zeros and ones, ranges, and arrays of other libraries.

One rule gives the dtype of everything that is made of numbers, here and in `tg.tensor`: it is the
dtype that NumPy gives to the same arguments. Floats become float64, whole numbers int64 and truth
values bool; zeros, ones and linspace are float64, arange of whole numbers is int64; an array keeps
its dtype. `dtype` asks for another, such as np.float32 for a network.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.autodiff.engine import Tensor, operation, public
from tinygen.autodiff.promotion import as_array
from tinygen.backend import namespace_for, namespace_of
from tinygen.ops.elementwise import astype

Shape = int | tuple[int, ...]


@public
def zeros(shape: Shape, dtype: Any = float, device: str = "cpu") -> Tensor:
    """A constant of zeros of this shape."""
    return Tensor(as_array(namespace_for(device).zeros(shape, dtype)))


@public
def ones(shape: Shape, dtype: Any = float, device: str = "cpu") -> Tensor:
    """A constant of ones of this shape."""
    return Tensor(as_array(namespace_for(device).ones(shape, dtype)))


@public
def eye(
    N: int, M: int | None = None, k: int = 0, dtype: Any = float, device: str = "cpu"
) -> Tensor:
    """A constant matrix of N rows and M columns (default N): ones on the k-th diagonal, else zeros."""
    return Tensor(as_array(namespace_for(device).eye(N, M, k, dtype)))


@public
def arange(
    start: float, stop: float | None = None, step: float = 1, dtype: Any = None, device: str = "cpu"
) -> Tensor:
    """A constant of the numbers start, start + step, ... below `stop`; of 0, 1, ... below one number."""
    return Tensor(as_array(namespace_for(device).arange(start, stop, step, dtype=dtype)))


def _part(g: Any, num: int, endpoint: bool, axis: int) -> Any:
    """How far each number of a linspace is from start to stop, from 0 to 1, along the axis of g."""
    part = namespace_of(as_array(g)).linspace(0.0, 1.0, num, endpoint).astype(g.dtype)
    n = len(g.shape)
    return part.reshape([-1 if a == axis % n else 1 for a in range(n)])


@operation(
    start=lambda m, g, num, endpoint, axis: m.sum(
        g * (1.0 - _part(g, num, endpoint, axis)), axis=axis
    ),
    stop=lambda m, g, num, endpoint, axis: m.sum(g * _part(g, num, endpoint, axis), axis=axis),
)
def _linspace(m: Any, start: Any, stop: Any, num: int, endpoint: bool, axis: int) -> Any:
    return m.linspace(start, stop, num, endpoint, axis=axis)


@public
def linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, *, dtype: Any = None, axis: int = 0
) -> Tensor:
    """`num` numbers at equal distances from `start` to `stop`, along a new axis.

    endpoint: whether `stop` is the last of them. Both ends have derivatives.
    """
    y = _linspace(start, stop, num, endpoint, axis)
    if dtype is not None and np.dtype(dtype).kind in "iu":  # rounded down, as NumPy's
        y = Tensor(namespace_of(y.data).floor(y.data))
    return y if dtype is None else astype(y, dtype)


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
