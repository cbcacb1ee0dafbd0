"""New constants: zeros and ones, alone or shaped like another array."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.autodiff.tensor import Tensor, as_array
from tinygen.backend import namespace_for, namespace_of


def zeros(shape: int | tuple[int, ...], dtype: Any = np.float32, device: str = "cpu") -> Tensor:
    """A constant of zeros."""
    return Tensor(namespace_for(device).zeros(shape, dtype))


def ones(shape: int | tuple[int, ...], dtype: Any = np.float32, device: str = "cpu") -> Tensor:
    """A constant of ones."""
    return Tensor(namespace_for(device).ones(shape, dtype))


def zeros_like(x: Any) -> Tensor:
    """A constant of zeros with the shape, dtype and device of x."""
    array = as_array(x)
    return Tensor(namespace_of(array).zeros_like(array))


def ones_like(x: Any) -> Tensor:
    """A constant of ones with the shape, dtype and device of x."""
    array = as_array(x)
    return Tensor(namespace_of(array).ones_like(array))


def arange(*limits: int) -> np.ndarray[Any, Any]:
    """A plain array of whole numbers, as NumPy's: an index, not a Tensor."""
    return np.arange(*limits)
