"""Elementwise operations: arithmetic, powers, exponentials, trigonometry, activations.

Read down the table: forward on one line, then the derivative with respect to each input. All of
them broadcast, and take Tensors, arrays and numbers.
"""

from __future__ import annotations

from math import log as _log
from math import pi
from math import sqrt as _sqrt
from typing import Any

import numpy as np

from tinygen.autodiff.operation import operation
from tinygen.autodiff.tensor import Tensor, as_array
from tinygen.backend import namespace_for, special, to_device

# -- arithmetic ----------------------------------------------------------------------------------
add = operation(
    "add", "add",
    lambda m, g, _y, _a, _b: g,
    lambda m, g, _y, _a, _b: g,
    whole=True,
    doc="a + b.")  # fmt: skip

subtract = operation(
    "subtract", "subtract",
    lambda m, g, _y, _a, _b: g,
    lambda m, g, _y, _a, _b: -g,
    whole=True,
    doc="a - b.")  # fmt: skip

multiply = operation(
    "multiply", "multiply",
    lambda m, g, _y, _a, b: g * b,
    lambda m, g, _y, a, _b: g * a,
    whole=True,
    doc="a · b.")  # fmt: skip

divide = operation(
    "divide", "divide",
    lambda m, g, _y, _a, b: g / b,
    lambda m, g, y, _a, b: -(g * y) / b,
    doc="a / b.")  # fmt: skip

negative = operation(
    "negative", "negative",
    lambda m, g, _y, _x: -g,
    whole=True,
    doc="-x.")  # fmt: skip


def _less_one(m: Any, p: Any) -> Any:
    # At p = 0 the factor p makes the derivative 0, whatever the power; x**(-1) would make 0·∞.
    if isinstance(p, (int, float)):
        return p - 1 if p else 1
    return m.where(p == 0, 1.0, p - 1.0)


def _log_where_positive(m: Any, a: Any, y: Any) -> Any:
    # At a = 0 the derivative y log(a) is 0; but where y = 0^p is ∞ it is -∞, ∞ times any log < 0.
    if isinstance(a, (int, float)) and a > 0:
        return _log(a)
    elsewhere = m.where(y == float("inf"), 0.5, 1.0)
    return m.log(elsewhere if isinstance(a, (int, float)) else m.where(a > 0, a, elsewhere))


_power = operation(
    "power", "power",
    lambda m, g, _y, a, p: g * p * m.power(a, _less_one(m, p)),
    lambda m, g, y, a, _p: g * y * _log_where_positive(m, a, y),
    whole=True,
    doc="a to the power p.")  # fmt: skip

# -- powers, exponentials and logarithms ---------------------------------------------------------
exp = operation(
    "exp", "exp",
    lambda m, g, y, _x: g * y,
    doc="e to the power x.")  # fmt: skip

expm1 = operation(
    "expm1", "expm1",
    lambda m, g, y, _x: g * (y + 1.0),
    doc="exp(x) - 1, accurate near 0.")  # fmt: skip

log = operation(
    "log", "log",
    lambda m, g, _y, x: g / x,
    doc="The natural logarithm.")  # fmt: skip

log1p = operation(
    "log1p", "log1p",
    lambda m, g, _y, x: g / (1.0 + x),
    doc="log(1 + x), accurate near 0.")  # fmt: skip

sqrt = operation(
    "sqrt", "sqrt",
    lambda m, g, y, _x: 0.5 * g / y,
    doc="The square root; its derivative at 0 is infinite.")  # fmt: skip

square = operation(
    "square", "square",
    lambda m, g, _y, x: 2.0 * g * x,
    whole=True,
    doc="x².")  # fmt: skip

# -- pieces --------------------------------------------------------------------------------------
abs = operation(
    "abs", "abs",
    lambda m, g, _y, x: g * m.sign(x),
    whole=True,
    doc="|x|; its derivative at 0 is taken as 0.")  # fmt: skip

sign = operation(
    "sign", "sign",
    lambda m, g, _y, _x: m.zeros_like(g),
    whole=True,
    doc="-1, 0 or 1; its derivative is 0.")  # fmt: skip


def nan_where(m: Any, y: Any, d: Any) -> Any:
    """d, but NaN where y is: the derivative of a choice that a NaN has left open."""
    return m.where(y == y, d, y)


maximum = operation(
    "maximum", "maximum",
    lambda m, g, y, a, b: nan_where(m, y, m.where(a == b, 0.5 * g, m.where(a > b, g, 0.0))),
    lambda m, g, y, a, b: nan_where(m, y, m.where(a == b, 0.5 * g, m.where(b > a, g, 0.0))),
    whole=True,
    doc="The larger of a and b; a tie gives half of the gradient to each.")  # fmt: skip

minimum = operation(
    "minimum", "minimum",
    lambda m, g, y, a, b: nan_where(m, y, m.where(a == b, 0.5 * g, m.where(a < b, g, 0.0))),
    lambda m, g, y, a, b: nan_where(m, y, m.where(a == b, 0.5 * g, m.where(b < a, g, 0.0))),
    whole=True,
    doc="The smaller of a and b; a tie gives half of the gradient to each.")  # fmt: skip

where = operation(
    "where", "where",
    None,
    lambda m, g, _y, condition, _a, _b: m.where(condition, g, 0.0),
    lambda m, g, _y, condition, _a, _b: m.where(condition, 0.0, g),
    whole=True,
    doc="a where condition, b elsewhere. No gradient comes from the side that was not taken, but "
        "a NaN made there before does: make the inputs safe, not the result.")  # fmt: skip

_clip_below, _clip_above = (
    operation(
        name, function,
        lambda m, g, y, x, _limit: nan_where(m, y, m.where(y == x, g, 0.0)),
        lambda m, g, y, x, _limit: nan_where(m, y, m.where(y == x, 0.0, g)),
        whole=True)
    for name, function in (("clip_below", "maximum"), ("clip_above", "minimum"))
)  # fmt: skip


# -- trigonometry and special functions ----------------------------------------------------------
sin = operation(
    "sin", "sin",
    lambda m, g, _y, x: g * m.cos(x),
    doc="The sine, x in radians.")  # fmt: skip

cos = operation(
    "cos", "cos",
    lambda m, g, _y, x: -g * m.sin(x),
    doc="The cosine, x in radians.")  # fmt: skip

erf = operation(
    "erf", lambda m, x: special(m).erf(x),
    lambda m, g, _y, x: (2.0 / _sqrt(pi)) * g * m.exp(-m.square(x)),
    doc="The error function, 2/√π ∫₀ˣ exp(-t²) dt.")  # fmt: skip

ndtr = operation(
    "ndtr", lambda m, x: special(m).ndtr(x),
    lambda m, g, _y, x: g * _density(m, x),
    doc="The distribution function of the standard normal, accurate in both tails.")  # fmt: skip


def _density(m: Any, x: Any) -> Any:
    return (1.0 / _sqrt(2.0 * pi)) * m.exp(-0.5 * m.square(x))


# -- activations ---------------------------------------------------------------------------------
def _sigmoid_forward(m: Any, x: Any) -> Any:
    e = m.exp(-m.abs(x))
    return m.maximum(e, x >= 0) / (1.0 + e)  # e / (1 + e) below 0, 1 / (1 + e) above


tanh = operation(
    "tanh", "tanh",
    lambda m, g, y, _x: g * (1.0 - m.square(y)),
    doc="The hyperbolic tangent.")  # fmt: skip

sigmoid = operation(
    "sigmoid", _sigmoid_forward,
    lambda m, g, y, _x: g * (y * (1.0 - y)),
    doc="1 / (1 + exp(-x)), without overflow.")  # fmt: skip

softplus = operation(
    "softplus", lambda m, x: m.maximum(x, 0.0) + m.log1p(m.exp(-m.abs(x))),
    lambda m, g, _y, x: g * m.sigmoid(x),
    doc="log(1 + exp(x)), without overflow.")  # fmt: skip

relu = operation(
    "relu", lambda m, x: m.maximum(x, 0.0),
    lambda m, g, y, _x: g * m.where(y > 0, 1.0, y),  # y is 0 elsewhere, or NaN
    doc="max(x, 0); its derivative at 0 is taken as 0.")  # fmt: skip

_leaky_relu = operation(
    "leaky_relu", lambda m, x, slope=0.01: m.where(x > 0, x, slope * x),
    lambda m, g, _y, x, slope=0.01: nan_where(m, x, m.where(x > 0, g, slope * g)),
    doc="x where positive, slope · x elsewhere.")  # fmt: skip

_elu = operation(
    "elu", lambda m, x, alpha=1.0: m.where(x > 0, x, alpha * m.expm1(m.minimum(x, 0.0))),
    lambda m, g, _y, x, alpha=1.0: g * m.where(x > 0, 1.0, alpha * m.exp(m.minimum(x, 0.0))),
    doc="x where positive, alpha · (exp(x) - 1) elsewhere.")  # fmt: skip

# Beyond these e^-x, or the tail of the normal, is 0 in every dtype: 0 · x is taken there, not 0 · ∞.
_FAR, _FAR_NORMAL = 750.0, 40.0

silu = operation(
    "silu", lambda m, x: m.maximum(x, -_FAR) * _sigmoid_forward(m, x),
    lambda m, g, _y, x: g * _silu_slope(m, x, m.sigmoid(x)),
    doc="x · sigmoid(x), also called swish.")  # fmt: skip


def _silu_slope(m: Any, x: Any, s: Any) -> Any:
    return s * (1.0 + m.clip(x, -_FAR, _FAR) * (1.0 - s))


gelu = operation(
    "gelu", lambda m, x: m.maximum(x, -_FAR_NORMAL) * m.ndtr(x),
    lambda m, g, _y, x: g * _gelu_slope(m, m.clip(x, -_FAR_NORMAL, _FAR_NORMAL)),
    doc="x · Φ(x) with Φ the distribution function of N(0, 1) (Hendrycks & Gimpel 2016), exactly.",
)  # fmt: skip


def _gelu_slope(m: Any, x: Any) -> Any:
    return m.ndtr(x) + x * _density(m, x)


# -- the cast, the move ------------------------------------------------------------------------------------
_astype = operation(
    "astype", lambda m, x, dtype: x.astype(dtype),
    lambda m, g, _y, _x, dtype: g,  # the engine casts it back
    keeps_dtype=False, whole=True,
    doc="x in another dtype.")  # fmt: skip


_to = operation(
    "to", lambda m, x, device, origin: to_device(x, device),
    lambda m, g, _y, _x, device, origin: (
        to(g, origin) if isinstance(g, Tensor) else to_device(g, origin)),
    whole=True,
    doc="x on another device.")  # fmt: skip


# -- functions with parameters -------------------------------------------------------------------
def power(a: Any, p: Any) -> Tensor:
    """a to the power p, elementwise; the derivative with respect to p counts where a > 0."""
    if type(p) is int or (type(p) is float and as_array(a).dtype.kind == "f"):
        return square(a) if p == 2 else _power(a, p)
    return _power(a, p)  # of whole numbers to a float: floats, as in NumPy


def clip(x: Any, low: Any = None, high: Any = None) -> Tensor:
    """x limited to [low, high], both inputs as x is; None for no limit.

    The derivative goes to x inside, limits included, and outside to the limit that x met.
    """
    if low is None and high is None:
        raise ValueError("clip needs low, high or both")
    x = x if low is None else _clip_below(x, low)
    return x if high is None else _clip_above(x, high)


def leaky_relu(x: Any, slope: float = 0.01) -> Tensor:
    """x where positive, slope · x elsewhere."""
    return _leaky_relu(x, slope=slope)


def elu(x: Any, alpha: float = 1.0) -> Tensor:
    """x where positive, alpha · (exp(x) - 1) elsewhere (Clevert et al. 2015)."""
    return _elu(x, alpha=alpha)


def astype(x: Any, dtype: Any) -> Tensor:
    """x in another dtype; the gradient comes back in the dtype of x."""
    return _astype(x, dtype=np.dtype(dtype))


def to(x: Any, device: str) -> Tensor:
    """x on a device, "cpu" or "gpu": the same Tensor if it is there; the gradient comes back.

    ValueError: an unknown device. DeviceError: no usable GPU.
    """
    x = x if isinstance(x, Tensor) else Tensor(as_array(x))
    namespace_for(device)
    return x if x.device == device else _to(x, device=device, origin=x.device)
