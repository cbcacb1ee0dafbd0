"""Elementwise operations: arithmetic, powers, exponentials, trigonometry, activations.

Each stands with its derivatives: the rule named `x` gives the gradient in x, from `g`, the gradient
of the output `y`. All of them broadcast, and take Tensors, arrays and numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from math import factorial as _factorial
from math import log as _log
from math import pi
from math import sqrt as _sqrt
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Tensor, operation, public
from tinygen.autodiff.promotion import as_array
from tinygen.backend import namespace_for, special, to_device, vocabulary
from tinygen.kernels import reference


def named(
    call: str,
    doc: str,
    module: Callable[[Any], Any] = lambda m: m,
    home: str = __name__,
    **record: Any,
) -> Callable[..., Tensor]:
    """The operation that the array library has under this name, with its inputs: "hypot(a, b)".

    module: where it is, from the namespace. home: the file that it belongs to. record: what `operation`
    takes.
    """
    name, _, inputs = call.strip(")").partition("(")

    def forward(m: Any, *arrays: Any) -> Any:
        return getattr(module(m), name)(*arrays)

    forward.__name__ = forward.__qualname__ = name
    forward.__doc__, forward.__module__ = doc, home
    arguments = [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD) for n in ("m", *inputs.split(", "))]
    forward.__signature__ = Signature(arguments)  # type: ignore[attr-defined]
    return operation(**record)(forward)


def flat(m: Any, g: Any) -> Any:
    """The derivative of a step function: 0."""
    return m.zeros_like(g)


# -- arithmetic ----------------------------------------------------------------------------------
@operation(a=lambda g: g, b=lambda g: g, operator="add", whole=True)
def add(m: Any, a: Any, b: Any) -> Any:
    """a + b."""
    return m.add(a, b)


@operation(a=lambda g: g, b=lambda g: -g, operator="sub", whole=True)
def subtract(m: Any, a: Any, b: Any) -> Any:
    """a - b."""
    return m.subtract(a, b)


@operation(a=lambda g, b: g * b, b=lambda g, a: g * a, operator="mul", whole=True)
def multiply(m: Any, a: Any, b: Any) -> Any:
    """a · b."""
    return m.multiply(a, b)


@operation(a=lambda g, b: g / b, b=lambda g, y, b: -(g * y) / b, operator="truediv")
def divide(m: Any, a: Any, b: Any) -> Any:
    """a / b."""
    return m.divide(a, b)


@operation(x=lambda g: -g, method="__neg__", whole=True)
def negative(m: Any, x: Any) -> Any:
    """-x."""
    return m.negative(x)


@operation(x=lambda g: g, method="__pos__", whole=True)
def positive(m: Any, x: Any) -> Any:
    """+x."""
    return m.positive(x)


@operation(
    a=lambda g: g, b=lambda m, g, a, b: -g * m.floor_divide(a, b), operator="mod", whole=True
)
def remainder(m: Any, a: Any, b: Any) -> Any:
    """a % b: what is left of a after whole multiples of b, with the sign of b.

    At the jumps, where b divides a, the derivatives are those of the side where a is larger.
    """
    return m.remainder(a, b)


setattr(vocabulary, "mod", remainder)  # noqa: B010 - NumPy's other name
mod = remainder


@operation(a=flat, b=flat, operator="floordiv", whole=True)
def floor_divide(m: Any, a: Any, b: Any) -> Any:
    """a // b, the largest whole number up to a / b; its derivatives are 0."""
    return m.floor_divide(a, b)


def _is_two(p: Any) -> bool:
    return isinstance(p, (int, float)) and p == 2


def _power_slope(m: Any, a: Any, p: Any) -> Any:
    """p · a**(p - 1), and 0 for p = 0, whatever the power: a**(-1) would make 0·∞."""
    if _is_two(p):
        return p * a
    if isinstance(p, (int, float)):
        return p * m.power(a, p - 1 if p else 1)
    return p * m.power(a, m.where(p == 0, 1.0, p - 1.0))


def _log_where_positive(m: Any, a: Any, y: Any) -> Any:
    # At a = 0 the derivative y log(a) is 0; but where y = 0^p is ∞ it is -∞, ∞ times any log < 0.
    if isinstance(a, (int, float)):
        return _log(a) if a > 0 else m.where(y == float("inf"), -1.0, 0.0)
    return m.log(m.where(a > 0, a, m.where(y == float("inf"), 0.5, 1.0)))


@operation(
    a=lambda m, g, a, p: g * _power_slope(m, a, p),
    p=lambda m, g, y, a: g * y * _log_where_positive(m, a, y),
    operator="pow",
    whole=True,
)
def power(m: Any, a: Any, p: Any) -> Any:
    """a to the power p, elementwise; the derivative with respect to p counts where a > 0."""
    # Of whole numbers to a float, floats, as in NumPy.
    if _is_two(p) and (type(p) is int or a.dtype.kind == "f"):
        return m.square(a)
    return m.power(a, p)


# -- powers, exponentials and logarithms ---------------------------------------------------------
@operation(x=lambda g, y: g * y)
def exp(m: Any, x: Any) -> Any:
    """e to the power x."""
    return m.exp(x)


@operation(x=lambda g, y: g * (y + 1.0))
def expm1(m: Any, x: Any) -> Any:
    """exp(x) - 1, accurate near 0."""
    return m.expm1(x)


LOG_2, LOG_10 = _log(2), _log(10)
NEAR = 0.5
"""Up to this |x|, `excess` comes from its series."""
SERIES = [2 / _factorial(k) for k in range(2, 17)]
"""The powers of x in (e^x - 1 - x) / (x²/2). Up to NEAR the rest is below rounding, in float32 after 7."""


@operation(x=lambda m, g, x: g * m.expm1(x))
def excess(m: Any, x: Any) -> Any:
    """e^x - 1 - x, accurate also where it is small: how far e^x is above its tangent at 0."""
    small = m.clip(x, -NEAR, NEAR)
    first, *others = SERIES[::-1] if small.dtype == np.float64 else SERIES[7::-1]
    series = first * small
    for coefficient in others[:-1]:
        series = (series + coefficient) * small
    near = 0.5 * m.square(small) * (series + 1.0)
    return m.where(m.abs(x) <= NEAR, near, m.expm1(x) - x)


@operation(x=lambda g, x: g / x)
def log(m: Any, x: Any) -> Any:
    """The natural logarithm."""
    return m.log(x)


@operation(x=lambda g, x: g / (1.0 + x))
def log1p(m: Any, x: Any) -> Any:
    """log(1 + x), accurate near 0."""
    return m.log1p(x)


log2 = named("log2(x)", "The logarithm to the base 2.", x=lambda g, x: g / (x * LOG_2))
log10 = named("log10(x)", "The logarithm to the base 10.", x=lambda g, x: g / (x * LOG_10))
exp2 = named("exp2(x)", "2 to the power x.", x=lambda g, y: g * y * LOG_2)


@operation(
    a=lambda m, g, y, a, b: g * m.sigmoid(_above(m, y, a, b)),
    b=lambda m, g, y, a, b: g * m.sigmoid(_above(m, y, b, a)),
)
def logaddexp(m: Any, a: Any, b: Any) -> Any:
    """log(exp(a) + exp(b)), without overflow. Where both are -∞ the derivatives are taken as 0."""
    same = a == b  # of two infinities there is no difference
    gap = m.where(same, 0.0, a) - m.where(same, 0.0, b)
    return m.maximum(a, b) + m.log1p(m.exp(-m.abs(gap)))


def _above(m: Any, y: Any, a: Any, b: Any) -> Any:
    """a - b, and -∞ where both are."""
    return a - m.where(y == -float("inf"), 0.0, b)


@operation(x=lambda g, y: 0.5 * g / y)
def sqrt(m: Any, x: Any) -> Any:
    """The square root; its derivative at 0 is infinite."""
    return m.sqrt(x)


@operation(x=lambda g, x: 2.0 * g * x, whole=True)
def square(m: Any, x: Any) -> Any:
    """x²."""
    return m.square(x)


# -- pieces --------------------------------------------------------------------------------------
@operation(x=lambda m, g, x: g * m.sign(x), method="__abs__", whole=True)
def abs(m: Any, x: Any) -> Any:
    """|x|; its derivative at 0 is taken as 0."""
    return m.abs(x)


@operation(x=lambda m, g: m.zeros_like(g), whole=True)
def sign(m: Any, x: Any) -> Any:
    """-1, 0 or 1; its derivative is 0."""
    return m.sign(x)


@operation(x=flat, whole=True)
def floor(m: Any, x: Any) -> Any:
    """The largest whole number up to x; its derivative is 0."""
    return m.floor(x) if x.dtype.kind == "f" else x.copy()


@operation(x=flat, whole=True)
def ceil(m: Any, x: Any) -> Any:
    """The smallest whole number from x on; its derivative is 0."""
    return m.ceil(x) if x.dtype.kind == "f" else x.copy()


@operation(x=flat, whole=True)
def trunc(m: Any, x: Any) -> Any:
    """The whole number next to x on the side of 0; its derivative is 0."""
    return m.trunc(x) if x.dtype.kind == "f" else x.copy()


rint = named("rint(x)", "The nearest whole number, of two the even one; see `floor`.", x=flat)


@operation(x=flat, method="round", whole=True)
def round(m: Any, x: Any, decimals: int = 0) -> Any:
    """x to so many decimal places, of two equally near ones to the even; its derivative is 0."""
    return m.round(x, decimals)


def no_share(m: Any, y: Any) -> Any:
    """0, but NaN where y is: the derivative in what was not chosen, a choice that NaN leaves open."""
    m, y = reference.constant(m, y)
    return m.clip(y, 0.0, 0.0)


def _share(m: Any, g: Any, y: Any, wins: Any, ties: Any) -> Any:
    """g where an input wins, half of it where it ties, else 0."""
    return m.where(ties, 0.5 * g, m.where(wins, g, no_share(m, y)))


@operation(
    a=lambda m, g, y, a, b: _share(m, g, y, a > b, a == b),
    b=lambda m, g, y, a, b: _share(m, g, y, b > a, a == b),
    whole=True,
)
def maximum(m: Any, a: Any, b: Any) -> Any:
    """The larger of a and b; a tie gives half of the gradient to each."""
    return m.maximum(a, b)


@operation(
    a=lambda m, g, y, a, b: _share(m, g, y, a < b, a == b),
    b=lambda m, g, y, a, b: _share(m, g, y, b < a, a == b),
    whole=True,
)
def minimum(m: Any, a: Any, b: Any) -> Any:
    """The smaller of a and b; a tie gives half of the gradient to each."""
    return m.minimum(a, b)


@operation(
    condition=None,
    a=lambda m, g, condition: m.where(condition, g, 0.0),
    b=lambda m, g, condition: m.where(condition, 0.0, g),
    whole=True,
)
def where(m: Any, condition: Any, a: Any, b: Any) -> Any:
    """a where condition, b elsewhere.

    No gradient comes from the side that was not taken, but a NaN made there before does: make the
    inputs safe, not the result.
    """
    return m.where(condition, a, b)


def _inside(m: Any, g: Any, y: Any, x: Any) -> Any:
    return m.where(y == x, g, no_share(m, y))


def _outside(m: Any, g: Any, y: Any, x: Any) -> Any:
    return m.where(y != x, g, 0.0) + no_share(m, y)


@operation(x=_inside, limit=_outside, whole=True)
def _clip_below(m: Any, x: Any, limit: Any) -> Any:
    return m.maximum(x, limit)


@operation(x=_inside, limit=_outside, whole=True)
def _clip_above(m: Any, x: Any, limit: Any) -> Any:
    return m.minimum(x, limit)


def clip(x: Any, low: Any = None, high: Any = None) -> Tensor:
    """x limited to [low, high], both inputs as x is; None for no limit.

    The derivative goes to x inside, limits included, and outside to the limit that x met.
    """
    if low is None and high is None:
        raise ValueError("clip needs low, high or both")
    x = x if low is None else _clip_below(x, low)
    return x if high is None else _clip_above(x, high)


public(clip, method="clip")


# -- conditions: Boolean constants ----------------------------------------------------------------
def _condition(call: str, doc: str, **record: Any) -> Callable[..., Tensor]:
    record |= dict.fromkeys(call[call.index("(") + 1 : -1].split(", "), flat)
    return named(call, doc, keeps_dtype=False, whole=True, **record)


isnan = _condition("isnan(x)", "True where x is NaN.")
isinf = _condition("isinf(x)", "True where x is ∞ or -∞.")
isfinite = _condition("isfinite(x)", "True where x is neither infinite nor NaN.")
signbit = _condition("signbit(x)", "True where x has a minus sign; -0.0 has one.")
equal = _condition("equal(a, b)", "True where a = b.")
not_equal = _condition("not_equal(a, b)", "True where a ≠ b.")
less = _condition("less(a, b)", "True where a < b.")
less_equal = _condition("less_equal(a, b)", "True where a ≤ b.")
greater = _condition("greater(a, b)", "True where a > b.")
greater_equal = _condition("greater_equal(a, b)", "True where a ≥ b.")
logical_not = _condition("logical_not(x)", "True where x is 0.")
logical_and = _condition("logical_and(a, b)", "True where neither is 0.")
logical_or = _condition("logical_or(a, b)", "True where not both are 0.")
logical_xor = _condition("logical_xor(a, b)", "True where one is 0 and the other is not.")
bitwise_and = _condition("bitwise_and(a, b)", "a & b, of masks or whole numbers.", operator="and")
bitwise_or = _condition("bitwise_or(a, b)", "a | b, of masks or whole numbers.", operator="or")
bitwise_xor = _condition("bitwise_xor(a, b)", "a ^ b, of masks or whole numbers.", operator="xor")


# -- trigonometry and special functions ----------------------------------------------------------
@operation(x=lambda m, g, x: g * m.cos(x))
def sin(m: Any, x: Any) -> Any:
    """The sine, x in radians."""
    return m.sin(x)


@operation(x=lambda m, g, x: -g * m.sin(x))
def cos(m: Any, x: Any) -> Any:
    """The cosine, x in radians."""
    return m.cos(x)


@operation(x=lambda g, y: g * (1.0 + y * y))
def tan(m: Any, x: Any) -> Any:
    """The tangent, x in radians."""
    return m.tan(x)


sinh = named("sinh(x)", "The hyperbolic sine.", x=lambda m, g, x: g * m.cosh(x))
cosh = named("cosh(x)", "The hyperbolic cosine.", x=lambda m, g, x: g * m.sinh(x))
arcsin = named(
    "arcsin(x)", "The angle in [-π/2, π/2] with this sine. At ±1 its derivative is infinite.",
    x=lambda m, g, x: g / m.sqrt((1.0 - x) * (1.0 + x)),
)  # fmt: skip
arccos = named(
    "arccos(x)", "The angle in [0, π] with this cosine. At ±1 its derivative is infinite.",
    x=lambda m, g, x: -g / m.sqrt((1.0 - x) * (1.0 + x)),
)  # fmt: skip
arctan = named(
    "arctan(x)", "The angle in (-π/2, π/2) with this tangent.",
    x=lambda m, g, x: g / (1.0 + m.square(x)),
)  # fmt: skip
arcsinh = named(
    "arcsinh(x)", "The inverse of sinh.", x=lambda m, g, x: g / m.sqrt(1.0 + m.square(x))
)
arccosh = named(
    "arccosh(x)", "The inverse of cosh on [1, ∞). At 1 its derivative is infinite.",
    x=lambda m, g, x: g / m.sqrt((x - 1.0) * (x + 1.0)),
)  # fmt: skip
arctanh = named(
    "arctanh(x)", "The inverse of tanh on (-1, 1).", x=lambda g, x: g / ((1.0 - x) * (1.0 + x))
)


def _per(m: Any, part: Any, whole: Any) -> Any:
    """part / whole, and 0 where both are 0."""
    return part / m.where(whole == 0, 1.0, whole)


@operation(a=lambda m, g, y, a: g * _per(m, a, y), b=lambda m, g, y, b: g * _per(m, b, y))
def hypot(m: Any, a: Any, b: Any) -> Any:
    """sqrt(a² + b²), without overflow. Where both are 0 the derivatives are taken as 0."""
    return m.hypot(a, b)


def _across(m: Any, part: Any, a: Any, b: Any) -> Any:
    """part / (a² + b²), without overflow, and 0 where both are 0."""
    length = m.hypot(a, b)
    return _per(m, _per(m, part, length), length)


@operation(
    a=lambda m, g, a, b: g * _across(m, b, a, b), b=lambda m, g, a, b: -g * _across(m, a, a, b)
)
def arctan2(m: Any, a: Any, b: Any) -> Any:
    """The angle of the point (b, a), in (-π, π]. At (0, 0) the derivatives are taken as 0."""
    return m.arctan2(a, b)


@operation(x=lambda m, g, x: (2.0 / _sqrt(pi)) * g * m.exp(-m.square(x)))
def erf(m: Any, x: Any) -> Any:
    """The error function, 2/√π ∫₀ˣ exp(-t²) dt."""
    return special(m).erf(x)


@operation(x=lambda m, g, x: g * reference.normal_density(m, x))
def ndtr(m: Any, x: Any) -> Any:
    """The distribution function of the standard normal, accurate in both tails."""
    return special(m).ndtr(x)


# -- activations ---------------------------------------------------------------------------------
# Their slopes stand in reference.py, because kernels compute them too.
@operation(x=lambda m, g, y: g * reference.tanh_slope(m, y))
def tanh(m: Any, x: Any) -> Any:
    """The hyperbolic tangent."""
    return m.tanh(x)


@operation(x=lambda m, g, y: g * reference.sigmoid_slope(m, y))
def sigmoid(m: Any, x: Any) -> Any:
    """1 / (1 + exp(-x)), without overflow."""
    e = m.exp(-m.abs(x))
    return m.maximum(e, x >= 0) / (1.0 + e)  # e / (1 + e) below 0, 1 / (1 + e) above


@operation(x=lambda m, g, x: g * reference.softplus_slope(m, x))
def softplus(m: Any, x: Any) -> Any:
    """log(1 + exp(x)), without overflow."""
    return m.maximum(x, 0.0) + m.log1p(m.exp(-m.abs(x)))


@operation(x=lambda m, g, y: g * reference.relu_slope(m, y))
def relu(m: Any, x: Any) -> Any:
    """max(x, 0); its derivative at 0 is taken as 0."""
    return m.maximum(x, 0.0)


@operation(x=lambda m, g, x, slope: g * reference.leaky_relu_slope(m, x, slope))
def leaky_relu(m: Any, x: Any, slope: float = 0.01) -> Any:
    """x where positive, slope · x elsewhere. ValueError: a slope outside [0, 1]."""
    if not 0 <= slope <= 1:
        raise ValueError(f"the slope lies in [0, 1], not {slope}")
    return m.maximum(x, 0.0) + slope * m.minimum(x, 0.0)


@operation(x=lambda m, g, x, alpha: g * reference.elu_slope(m, x, alpha))
def elu(m: Any, x: Any, alpha: float = 1.0) -> Any:
    """x where positive, alpha · (exp(x) - 1) elsewhere (Clevert et al. 2015)."""
    return m.where(x > 0, x, alpha * m.expm1(m.minimum(x, 0.0)))


@operation(x=lambda m, g, x: g * reference.silu_slope(m, x))
def silu(m: Any, x: Any) -> Any:
    """x · sigmoid(x), also called swish."""
    return m.maximum(x, -reference.FAR) * m.sigmoid(x)


@operation(x=lambda m, g, x: g * reference.gelu_slope(m, x))
def gelu(m: Any, x: Any) -> Any:
    """x · Φ(x) with Φ the distribution function of N(0, 1) (Hendrycks & Gimpel 2016), exactly."""
    return m.maximum(x, -reference.FAR_NORMAL) * m.ndtr(x)


# -- the cast, the move --------------------------------------------------------------------------
@operation(x=lambda g: g, keeps_dtype=False, method="astype", whole=True)  # the engine casts g back
def astype(m: Any, x: Any, dtype: Any) -> Any:
    """x in another dtype; the gradient comes back in the dtype of x."""
    return x.astype(np.dtype(dtype))


@operation(
    x=lambda g, origin: g.to(origin) if isinstance(g, Tensor) else to_device(g, origin), whole=True
)
def _to(m: Any, x: Any, device: str, origin: str) -> Any:
    return to_device(x, device)


def to(x: Any, device: str) -> Tensor:
    """x on a device, "cpu" or "gpu": the same Tensor if it is there; the gradient comes back.

    ValueError: an unknown device. DeviceError: no usable GPU.
    """
    x = x if isinstance(x, Tensor) else Tensor(as_array(x))
    namespace_for(device)
    return x if x.device == device else _to(x, device, x.device)


public(to, method="to")
