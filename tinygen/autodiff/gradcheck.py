"""Numerical checks of derivatives, for tests and for your own operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Tensor, tensor
from tinygen.autodiff.modes import enable_grad
from tinygen.autodiff.transforms import gradients
from tinygen.backend import is_gpu_array, to_device, vocabulary

__all__ = ["gradcheck", "gradgradcheck"]


def gradcheck(
    f: Callable[..., Tensor],
    inputs: Sequence[Any],
    *,
    step: float = 1e-6,
    rtol: float = 1e-6,
    atol: float = 1e-6,
) -> bool:
    """Compare the gradients of f at `inputs` with central differences. Returns True if they agree.

    Floating-point inputs are converted to float64 and differentiated. Other inputs are passed on
    unchanged. The output may have any shape: a fixed weighted sum of its elements is checked.
    AssertionError: they differ; it names the input, the element and both values.
    ValueError: no floating-point input.
    """
    args = [_as_variable(x) for x in _listed(inputs)]
    weights = _weights(f(*args))
    variables = [a for a in args if isinstance(a, Tensor)]
    if not variables:
        raise ValueError("gradcheck needs an input of floating-point numbers")
    with enable_grad():
        y = (f(*args) * weights).sum()
        found = gradients(y, variables) if y.requires_grad else [x * 0 for x in variables]
    for n, (x, g) in enumerate(zip(variables, found, strict=True)):
        for position in np.ndindex(x.shape):
            numeric = _central_difference(f, args, weights, x, position, step)
            value = float(g.data[position])
            if not abs(value - numeric) <= atol + rtol * max(abs(numeric), abs(value)):
                raise AssertionError(
                    f"gradient of {getattr(f, '__name__', f)} with respect to input {n} at "
                    f"{position}: {value!r} by backward, {numeric!r} by central difference "
                    "(of the outputs' sum, weighted if there are several)"
                )
    return True


def gradgradcheck(f: Callable[..., Tensor], inputs: Sequence[Any], **tolerances: float) -> bool:
    """`gradcheck` of f and of its gradient. It checks first and second derivatives."""
    gradcheck(f, inputs, **tolerances)  # the second check cannot find a wrong first derivative
    inputs = _listed(inputs)
    variables = [_as_variable(x) for x in inputs]
    positions = [i for i, x in enumerate(variables) if isinstance(x, Tensor)]
    weights = _weights(f(*variables))

    def first(*args: Any) -> Tensor:
        wanted = [args[i] for i in positions]
        found = gradients((f(*args) * weights).sum(), wanted, create_graph=True)
        return vocabulary.concatenate([vocabulary.reshape(g, -1) for g in found])

    first.__name__ = f"the gradient of {getattr(f, '__name__', f)}"
    return gradcheck(first, inputs, **tolerances)


def _listed(inputs: Any) -> Sequence[Any]:
    one = isinstance(inputs, (np.ndarray, Tensor)) or is_gpu_array(inputs)
    return [inputs] if one else inputs


def _as_variable(x: Any) -> Any:
    array = x.data if isinstance(x, Tensor) else x if is_gpu_array(x) else np.asarray(x)
    return tensor(array, dtype=np.float64, requires_grad=True) if array.dtype.kind == "f" else x


def _weights(y: Tensor) -> Any:
    """Fixed weights for y. They are all different, so that errors in its elements cannot cancel."""
    fixed = np.cos(1.0 + 1.7 * np.arange(y.size)) + 1.5 if y.size != 1 else np.ones(1)
    return to_device(fixed.reshape(y.shape), y.device)


def _central_difference(
    f: Callable[..., Tensor], args: list[Any], weights: Any, x: Tensor, position: Any, step: float
) -> float:
    before = x.data[position].copy()
    values = []
    for moved in (before + step, before - step):
        x.data[position] = moved
        values.append(float((f(*args).data * weights).sum()))
    x.data[position] = before
    return (values[0] - values[1]) / (2 * step)
