"""Every operation: forward and derivative side by side, one file for each family.

This module is also the namespace in which derivatives compute under `create_graph=True`, so its
functions carry NumPy's names and meanings.
"""

from __future__ import annotations

import sys
from typing import Any

from tinygen.autodiff import backward as _backward
from tinygen.autodiff.tensor import Tensor, operators_of_numpy
from tinygen.ops.create import arange, ones, ones_like, zeros, zeros_like
from tinygen.ops.elementwise import (
    abs,
    add,
    astype,
    clip,
    cos,
    divide,
    elu,
    erf,
    exp,
    expm1,
    gelu,
    leaky_relu,
    log,
    log1p,
    maximum,
    minimum,
    multiply,
    ndtr,
    negative,
    power,
    relu,
    sigmoid,
    sign,
    silu,
    sin,
    softplus,
    sqrt,
    square,
    subtract,
    tanh,
    to,
    where,
)  # fmt: skip
from tinygen.ops.fused import (
    ACTIVATIONS,
    bce_with_logits,
    gaussian_kl,
    linear,
    mse,
    noise_error,
    reparameterise,
    softmax_cross_entropy,
    standardise,
)  # fmt: skip
from tinygen.ops.linalg import cholesky, diagonal, einsum, matmul, solve
from tinygen.ops.reduce import (
    cumsum,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    softmax,
    sum,
    var,
)  # fmt: skip
from tinygen.ops.shape import (
    broadcast_to,
    concatenate,
    expand_dims,
    flip,
    index,
    index_add,
    moveaxis,
    pad,
    reshape,
    split,
    squeeze,
    stack,
    swapaxes,
    transpose,
)  # fmt: skip

__all__ = [
    "ACTIVATIONS", "abs", "add", "arange", "astype", "bce_with_logits", "broadcast_to", "cholesky",
    "clip", "concatenate", "cos", "cumsum", "diagonal", "divide", "einsum", "elu", "erf", "exp",
    "expand_dims", "expm1", "flip", "gaussian_kl", "gelu", "index", "index_add", "leaky_relu",
    "linear", "log", "log1p", "log_softmax", "logsumexp", "matmul", "max", "maximum", "mean", "min",
    "minimum", "moveaxis", "mse", "multiply", "ndtr", "negative", "noise_error", "norm", "ones",
    "ones_like", "pad", "power", "prod", "relu", "reparameterise", "reshape", "sigmoid", "sign",
    "silu", "sin", "softmax", "softmax_cross_entropy", "softplus", "solve", "split", "sqrt",
    "square", "squeeze", "stack", "standardise", "subtract", "sum", "swapaxes", "tanh", "to",
    "transpose", "var", "where", "zeros", "zeros_like",
]  # fmt: skip

_backward.tensor_namespace = sys.modules[__name__]


def _numbers(args: tuple[Any, ...]) -> Any:
    """x.reshape(2, 3) and x.reshape((2, 3)) mean the same."""
    return args[0] if len(args) == 1 and not isinstance(args[0], int) else args


# Operators and methods of Tensor, which stands below the operations.
for _name, _method in {
    "__add__": add,
    "__radd__": lambda a, b: add(b, a),
    "__sub__": subtract,
    "__rsub__": lambda a, b: subtract(b, a),
    "__mul__": multiply,
    "__rmul__": lambda a, b: multiply(b, a),
    "__truediv__": divide,
    "__rtruediv__": lambda a, b: divide(b, a),
    "__pow__": power,
    "__rpow__": lambda a, b: power(b, a),
    "__matmul__": matmul,
    "__rmatmul__": lambda a, b: matmul(b, a),
    "__neg__": negative,
    "__abs__": abs,
    "__getitem__": index,
    "T": property(transpose),
    "astype": astype,
    "clip": clip,
    "cumsum": cumsum,
    "diagonal": diagonal,
    "max": max,
    "mean": mean,
    "min": min,
    "prod": prod,
    "reshape": lambda x, *shape: reshape(x, _numbers(shape)),
    "squeeze": squeeze,
    "sum": sum,
    "swapaxes": swapaxes,
    "to": to,
    "transpose": lambda x, *axes: transpose(x, _numbers(axes) if axes else None),
    "var": var,
}.items():
    setattr(Tensor, _name, _method)


def _no_method(name: str) -> property:
    """In the place of a method, as in `x.exp()`: it names the function. `__getattr__` would do so
    as well, but Python then looks up every attribute more slowly."""

    def refuse(x: Tensor) -> None:
        raise AttributeError(f"'Tensor' object has no attribute {name!r}: write tg.{name}(x, ...)")

    return property(refuse)


for _name in __all__:
    if not hasattr(Tensor, _name):
        setattr(Tensor, _name, _no_method(_name))

operators_of_numpy.update(
    add=add, subtract=subtract, multiply=multiply, divide=divide, power=power, matmul=matmul,
    equal=lambda a, b: b == a, not_equal=lambda a, b: b != a,
    less=lambda a, b: b > a, less_equal=lambda a, b: b >= a,
    greater=lambda a, b: b < a, greater_equal=lambda a, b: b <= a,
)  # fmt: skip
