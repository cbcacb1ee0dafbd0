"""Special functions under SciPy's names: `tg.special`.

On the GPU they are those of cupyx.scipy.special. The incomplete gamma and beta functions have
derivatives in all of their arguments; SciPy has no function for those in a and b.
"""

from __future__ import annotations

from functools import partial
from math import pi, prod, sqrt
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Tensor, operation
from tinygen.backend import namespace_of, special, to_device
from tinygen.ops import reduce
from tinygen.ops.elementwise import (
    erf,
    exp,
    isinf,
    log,
    multiply,
    named,
    ndtr,
    sigmoid,
    subtract,
    where,
)
from tinygen.ops.shape import reshape

__all__ = [
    "beta", "betainc", "betaln", "digamma", "erf", "erfc", "erfcinv", "erfcx", "erfinv", "expit", "gamma",
    "gammainc", "gammaincc", "gammaln", "i0", "i0e", "i1", "i1e", "log_ndtr", "log_softmax", "logit",
    "logsumexp", "ndtr", "ndtri", "polygamma", "psi", "softmax", "xlog1py", "xlogy",
]  # fmt: skip

_special = partial(named, module=special, home=__name__)
expit = sigmoid


# -- the gamma function and its relatives --------------------------------------------------------
gammaln = _special(
    "gammaln(x)", "log |Γ(x)|.", x=lambda m, g, x: g * m.digamma(x)
)  # fmt: skip
gamma = _special("gamma(x)", "Γ(x).", x=lambda m, g, x, y: g * y * m.digamma(x))
digamma = psi = _special(
    "digamma(x)", "The derivative of log Γ.", x=lambda m, g, x: g * m.polygamma(1, x)
)


@operation(n=None, x=lambda m, g, n, x: g * m.polygamma(n + 1, x))
def polygamma(m: Any, n: Any, x: Any) -> Any:
    """The derivative n of `digamma`, n = 0, 1, ..., as (-1)^(n+1) n! ζ(n + 1, x)."""
    s, n = special(m), m.asarray(n)
    order = n + 1.0
    y = (-1.0) ** order * s.gamma(order) * s.zeta(order, x)
    return m.where(n == 0, s.digamma(x), y)


def _like(m: Any, g: Any, x: Any) -> Any:
    """A number as an array like g, on its device; an array as it is."""
    return x * m.ones_like(g) if isinstance(x, (int, float)) else x


def _beta_slope(m: Any, g: Any, one: Any, other: Any) -> Any:
    """g times the derivative of log B in one of its arguments."""
    return g * (m.digamma(_like(m, g, one)) - m.digamma(one + other))


betaln = _special(
    "betaln(a, b)", "log |B(a, b)|.",
    a=lambda m, g, a, b: _beta_slope(m, g, a, b), b=lambda m, g, a, b: _beta_slope(m, g, b, a),
)  # fmt: skip
beta = _special(
    "beta(a, b)", "B(a, b) = Γ(a) Γ(b) / Γ(a + b).",
    a=lambda m, g, y, a, b: _beta_slope(m, g * y, a, b),
    b=lambda m, g, y, a, b: _beta_slope(m, g * y, b, a),
)  # fmt: skip


# -- the incomplete integrals --------------------------------------------------------------------
# Each is the integral of a density p over v from -∞ to an edge, where t = exp(v), or the sigmoid of v.
# Its derivative in a is that of (∂ log p / ∂a) p, or minus the one from the edge to ∞: that side is
# taken where p falls off, with a + 1 in the place of a, so that it falls fast enough. A recurrence of
# the function leads back to a. The quadrature of (0, ∞), with nodes exp(t - exp(-t)), is exact to
# rounding for such integrands (Takahasi & Mori 1974). As all of this is operations, derivatives of
# every order follow.
_T = np.arange(-3.7, 4.0, 1 / 16)
_NODES = np.exp(_T - np.exp(-_T))
_WEIGHTS = _NODES * (1.0 + np.exp(-_T)) / 16


def _wide(m: Any, g: Any, *inputs: Any) -> list[Any]:
    """The inputs as float64 arrays of the shape of g: large logarithms cancel in what follows."""
    unit = m.ones_like(g).astype(np.float64)
    return [x * unit for x in inputs]


def _plain(x: Any) -> Any:
    return x.data if isinstance(x, Tensor) else x


def _up_to(m: Any, edge: Any, above: Any, rate: Any, slope: Any, parameters: list[Any]) -> Any:
    """The integral of the slope, of integral 0, up to the edge: over what is above it, or below.

    above, rate: constants; where the edge is beyond the peak, and how fast the density falls there.
    slope: a function of v and of the parameters. It is called with all nodes along a new last axis.
    """
    step = (2.0 * above - 1.0) / rate
    nodes, weights = (to_device(k, namespace_of(step).device) for k in (_NODES, _WEIGHTS))
    v = m.expand_dims(edge, -1) + m.expand_dims(step, -1) * nodes
    values = slope(v, *(m.expand_dims(k, -1) for k in parameters))
    return m.sum(values * weights, axis=-1) * -step


def _gamma_density(m: Any, g: Any, a: Any, x: Any) -> Any:
    a, x = _wide(m, g, a, x)
    x = m.minimum(x, 1e300)  # 0 at ∞, where two terms would be infinite
    return m.exp(m.xlogy(a - 1.0, x) - x - m.gammaln(a))


def _gammainc_in_a(m: Any, g: Any, a: Any, x: Any) -> Any:
    a, x = _wide(m, g, a, x)
    outside = (_plain(x) == 0) | (_plain(x) == float("inf"))
    x = m.where(outside, 1.0, x)
    log_x, b = m.log(x), a + 1.0
    mean, log_gamma = m.digamma(b), m.gammaln(b)

    def slope(v: Any, b: Any, mean: Any, log_gamma: Any) -> Any:
        return (v - mean) * m.exp(b * v - m.exp(v) - log_gamma)

    at, peak = _plain(x), _plain(b)
    rate = abs(at - peak) + at**0.5
    higher = _up_to(m, log_x, at > peak, rate, slope, [b, mean, log_gamma])
    rest = (log_x - mean) * m.exp(a * log_x - x - log_gamma)  # P(a, x) - P(a + 1, x) in a
    return m.where(outside, 0.0, higher + rest)


gammainc = _special(
    "gammainc(a, x)",
    "P(a, x) = 1/Γ(a) ∫₀ˣ t^(a-1) exp(-t) dt, for a > 0 and x ≥ 0. The derivative in a is computed by "
    "a quadrature, exact to about 1e-14 a log a, in memory for 124 times the elements.",
    a=lambda m, g, a, x: g * _gammainc_in_a(m, g, a, x),
    x=lambda m, g, a, x: g * _gamma_density(m, g, a, x),
)
gammaincc = _special(
    "gammaincc(a, x)", "Q(a, x) = 1 - P(a, x), accurate where it is small; see `gammainc`.",
    a=lambda m, g, a, x: -g * _gammainc_in_a(m, g, a, x),
    x=lambda m, g, a, x: -g * _gamma_density(m, g, a, x),
)  # fmt: skip


def _beta_density(m: Any, g: Any, a: Any, b: Any, x: Any) -> Any:
    a, b, x = _wide(m, g, a, b, x)
    return m.exp(m.xlogy(a - 1.0, x) + m.xlog1py(b - 1.0, -x) - m.betaln(a, b))


def _betainc_in_a(m: Any, g: Any, a: Any, b: Any, x: Any, rest: Any) -> Any:
    """rest = 1 - x. In b the function is 1 minus that of a with both pairs exchanged."""
    a, b, x, rest = _wide(m, g, a, b, x, rest)
    outside = (_plain(x) == 0) | (_plain(rest) == 0)
    x, rest = m.where(outside, 0.5, x), m.where(outside, 0.5, rest)
    log_x, log_rest, c, d = m.log(x), m.log(rest), a + 1.0, b + 1.0
    mean, log_beta = m.digamma(c) - m.digamma(c + d), m.betaln(c, d)

    def slope(v: Any, c: Any, d: Any, mean: Any, log_beta: Any) -> Any:
        log_t, log_other = -m.softplus(-v), -m.softplus(v)
        return (log_t - mean) * m.exp(c * log_t + d * log_other - log_beta)

    at, peak, n = _plain(x), _plain(c), _plain(c) + _plain(d)
    rate = abs(n * at - peak) + (n * at * _plain(rest)) ** 0.5
    parameters = [c, d, mean, log_beta]
    higher = _up_to(m, log_x - log_rest, n * at > peak, rate, slope, parameters)
    # I(a, b) - I(a + 1, b + 1) = x^a (1-x)^b / B(a, b) · ((1-x) / a - x / b), and its derivative
    power = m.exp(a * log_x + b * log_rest - m.betaln(a, b))
    lower = (log_x - m.digamma(a) + m.digamma(a + b)) * (rest / a - x / b) - rest / m.square(a)
    return m.where(outside, 0.0, higher + power * lower)


betainc = _special(
    "betainc(a, b, x)",
    "I_x(a, b) = 1/B(a, b) ∫₀ˣ t^(a-1) (1-t)^(b-1) dt, for a, b > 0 and 0 ≤ x ≤ 1. The derivatives in a "
    "and b are computed as those of `gammainc`.",
    a=lambda m, g, a, b, x: g * _betainc_in_a(m, g, a, b, x, 1.0 - x),
    b=lambda m, g, a, b, x: -g * _betainc_in_a(m, g, b, a, 1.0 - x, x),
    x=lambda m, g, a, b, x: g * _beta_density(m, g, a, b, x),
)


# -- the normal distribution and the error function ----------------------------------------------
erfc = _special(
    "erfc(x)", "1 - erf(x), accurate where it is small.",
    x=lambda m, g, x: (-2.0 / sqrt(pi)) * g * m.exp(-m.square(x)),
)  # fmt: skip
erfinv = _special(
    "erfinv(x)", "The inverse of erf on (-1, 1).",
    x=lambda m, g, y: (0.5 * sqrt(pi)) * g * m.exp(m.square(y)),
)  # fmt: skip
erfcinv = _special(
    "erfcinv(x)", "The inverse of erfc on (0, 2).",
    x=lambda m, g, y: (-0.5 * sqrt(pi)) * g * m.exp(m.square(y)),
)  # fmt: skip

FAR = 30.0
"""From this x on, the derivative of erfcx comes from its asymptotic series."""
SERIES = [(-1) ** k * prod(range(1, 2 * k + 2, 2)) / 2**k for k in range(8)]


def _erfcx_slope(m: Any, x: Any, y: Any) -> Any:
    """2 x y - 2/√π, two terms that cancel more and more as x grows."""
    z = 1.0 / m.square(m.maximum(x, FAR))
    far = 0.0
    for coefficient in SERIES[::-1]:
        far = far * z + coefficient
    near = 2.0 * m.minimum(x, FAR) * y - 2.0 / sqrt(pi)
    return m.where(x < FAR, near, (-1.0 / sqrt(pi)) * z * far)


erfcx = _special("erfcx(x)", "exp(x²) erfc(x).", x=lambda m, g, x, y: g * _erfcx_slope(m, x, y))
ndtri = _special(
    "ndtri(x)", "The inverse of `ndtr` on (0, 1).",
    x=lambda m, g, y: sqrt(2 * pi) * g * m.exp(0.5 * m.square(y)),
)  # fmt: skip
log_ndtr = _special(
    "log_ndtr(x)", "The logarithm of `ndtr`, accurate in both tails.",
    x=lambda m, g, x: sqrt(2 / pi) * g / m.erfcx(-sqrt(0.5) * x),
)  # fmt: skip


# -- logarithms ----------------------------------------------------------------------------------
logit = _special(
    "logit(x)", "log(x / (1 - x)), the inverse of `expit`.",
    x=lambda g, x: g / (x * (1.0 - x)),
)  # fmt: skip


def _quotient(m: Any, a: Any, b: Any) -> Any:
    """a / b, and 0 where both are 0."""
    return a / m.where((a == 0) & (b == 0), 1.0, b)


xlogy = _special(
    "xlogy(a, b)",
    "a log b, and 0 where a is 0. The derivative in a is log b, -∞ at b = 0; in b it is 0 at a = 0.",
    a=lambda m, g, b: g * m.log(_like(m, g, b)),
    b=lambda m, g, a, b: g * _quotient(m, a, b),
)
xlog1py = _special(
    "xlog1py(a, b)", "a log(1 + b), and 0 where a is 0; see `xlogy`.",
    a=lambda m, g, b: g * m.log1p(_like(m, g, b)), b=lambda m, g, a, b: g * _quotient(m, a, 1.0 + b),
)  # fmt: skip


def logsumexp(a: Any, axis: Any = None, b: Any = None, keepdims: bool = False) -> Tensor:
    """log Σ b exp(a) along `axis`, without overflow; b is 1 if it is not given. NaN if Σ < 0."""
    if b is None:
        return reduce.logsumexp(a, axis, keepdims)
    top = reduce.max(a, axis, keepdims=True).detach()
    top = where(isinf(top), 0.0, top)
    y = log(reduce.sum(multiply(b, exp(subtract(a, top))), axis, keepdims))
    return y + reshape(top, y.shape)


def softmax(x: Any, axis: Any = None) -> Tensor:
    """`tg.softmax`, over all axes if none is named."""
    return reduce.softmax(x, axis)


def log_softmax(x: Any, axis: Any = None) -> Tensor:
    """`tg.log_softmax`, over all axes if none is named."""
    return reduce.log_softmax(x, axis)


# -- Bessel functions ----------------------------------------------------------------------------
def _i1_slope(m: Any, i0: Any, x: Any, i1: Any) -> Any:
    """i0 - i1 / x; 1/2 at 0."""
    return i0 - m.where(x == 0, 0.5, i1 / m.where(x == 0, 1.0, x))


i0 = _special("i0(x)", "The modified Bessel function I₀.", x=lambda m, g, x: g * m.i1(x))
i1 = _special(
    "i1(x)", "The modified Bessel function I₁.",
    # i0e, as NumPy has another i0, whose last digits differ
    x=lambda m, g, x, y: g * _i1_slope(m, m.i0e(x) * m.exp(m.abs(x)), x, y),
)  # fmt: skip
i0e = _special("i0e(x)", "exp(-|x|) I₀(x).", x=lambda m, g, x, y: g * (m.i1e(x) - m.sign(x) * y))
i1e = _special(
    "i1e(x)", "exp(-|x|) I₁(x).",
    x=lambda m, g, x, y: g * (_i1_slope(m, m.i0e(x), x, y) - m.sign(x) * y),
)  # fmt: skip
