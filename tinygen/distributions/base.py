"""The interface of distributions, and helpers for their parameters."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Protocol

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.promotion import array_on, as_array, is_number
from tinygen.backend import is_recorded, namespace_of
from tinygen.random import Generator

__all__ = ["Described", "Distribution", "check", "is_given", "log_of", "parameters"]


class Distribution(Protocol):
    """What the estimators need of a distribution. Any class with these three members will do."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    def log_prob(self, x: Any) -> Tensor:
        """The log-probability or log-density at x, in nats."""

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """Independent samples of shape (*shape, *self.shape), as a constant."""


class Described:
    """A base class with a short `repr`: the family, the dtype and the shape of a sample."""

    dtype: Any
    shape: tuple[int, ...]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.dtype}{list(self.shape)}>"


def parameters(*values: Any) -> list[Tensor]:
    """The values as Tensors of one floating-point dtype. Tensors keep their place in the graph.

    The dtype is chosen as in an operation: the widest float among the arrays with axes. Numbers,
    lists and 0-d arrays take that dtype. Without any float array it is float64. Numbers and lists
    move to the device of the others. TypeError: the others are on two devices.
    """
    nowhere = [is_number(v) or isinstance(v, (list, tuple)) for v in values]
    placed = [v for v, n in zip(values, nowhere, strict=True) if not n]
    device = namespace_of(as_array(placed[0])).device if placed else "cpu"
    arrays = [array_on(device, v, "a parameter", "another") for v in values]
    tensors = [
        v if isinstance(v, Tensor) else Tensor(a) for v, a in zip(values, arrays, strict=True)
    ]
    strong = [t for t, n in zip(tensors, nowhere, strict=True) if t.ndim and not n]
    strong = strong or [v for v in values if isinstance(v, Tensor)]
    floats = [t.dtype for t in strong if t.dtype.kind == "f"]
    dtype = np.result_type(*floats) if floats else np.dtype(np.float64)
    return [t if t.dtype == dtype else t.astype(dtype) for t in tensors]


def check(name: str, value: Tensor, requirement: str, holds: Callable[[Any], Any]) -> None:
    """ValueError: `holds` is false for an element of a given array. The message has the element."""
    if is_given(value) and not (valid := holds(value.data)).all():
        raise ValueError(f"{name} must be {requirement}, got {value.data[~valid][0]}")


def is_given(value: Tensor) -> bool:
    """False for what a training step computes: a result that requires a gradient, or is recorded.

    Such results are not checked: they are part of a training step, which must not wait for values.
    """
    return (value.is_leaf or not value.requires_grad) and not is_recorded(value.data)


def log_of(p: Tensor) -> Tensor:
    """The logarithm of probabilities. It is -inf at 0, where the gradient is 0."""
    positive = p > 0
    return ops.where(positive, ops.log(ops.where(positive, p, 1.0)), -inf)
