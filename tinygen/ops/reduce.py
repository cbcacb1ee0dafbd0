"""Operations that reduce or accumulate along axes: sum, mean, max, softmax and similar ones.

axis: None for all axes, a number or a tuple. keepdims: whether reduced axes stay, with length 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import inf, isinf, nan
from math import prod as _product
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Tensor, operation, public
from tinygen.autodiff.promotion import as_array
from tinygen.ops.elementwise import astype, no_share, sqrt, square, where
from tinygen.ops.shape import Axis, axes_of, axis_of, concatenate, ravel, reshape, take, transpose


def _expand(m: Any, g: Any, axis: Axis, keepdims: bool, ndim: int) -> Any:
    """g with the reduced axes put back, with length 1."""
    return g if keepdims else m.expand_dims(g, axes_of(axis, ndim))


def _spread(m: Any, g: Any, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Any:
    return m.broadcast_to(_expand(m, g, axis, keepdims, len(shape)), shape)


def _count(shape: tuple[int, ...], axis: Axis) -> int:
    return _product(shape[a] for a in axes_of(axis, len(shape)))


# -- sums ----------------------------------------------------------------------------------------
@operation(
    x=lambda m, g, x_shape, axis, keepdims: _spread(m, g, x_shape, axis, keepdims),
    method="sum",
    whole=True,
)
def sum(m: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The sum along `axis`."""
    return m.sum(x, axis=axes_of(axis, x.ndim), keepdims=keepdims)


@operation(
    x=lambda m, g, x_shape, axis, keepdims: _spread(
        m, g / _count(x_shape, axis), x_shape, axis, keepdims
    ),
    method="mean",
)
def mean(m: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The arithmetic mean along `axis`."""
    return m.mean(x, axis=axes_of(axis, x.ndim), keepdims=keepdims)


def _freedom(name: str, x: Any, axis: Axis, ddof: float) -> float:
    """The number of elements along `axis`, less ddof. ValueError: none are left."""
    shape = as_array(x).shape
    n = _product(shape[a] for a in axes_of(axis, len(shape), f"{name}: axis"))
    if n <= ddof:
        raise ValueError(f"{name}: {n} elements along axis {axis} leave none after ddof={ddof}")
    return n - ddof


def var(x: Any, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """The variance along `axis`: the sum of squared deviations from the mean, divided by n - ddof.

    ValueError: n ≤ ddof.
    """
    n = _freedom("var", x, axis, ddof)
    return sum(square(x - mean(x, axis, keepdims=True)), axis, keepdims) / n


public(var, method="var")


def std(x: Any, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """The standard deviation along `axis`, the root of `var`. Where it is 0 its derivative is 0.

    ValueError: n ≤ ddof.
    """
    n = _freedom("std", x, axis, ddof)
    return norm(x - mean(x, axis, keepdims=True), axis, keepdims) / n**0.5


public(std, method="std")


@operation(
    x=lambda m, g, axis, x_shape: m.reshape(
        m.flip(m.cumsum(m.flip(g, axis), axis=axis), axis), x_shape
    ),
    method="cumsum",
    whole=True,
)
def cumsum(m: Any, x: Any, axis: int | None = None) -> Any:
    """The cumulative sum along one axis. If `axis` is None, that of all elements in C order."""
    return m.cumsum(x, axis=None if axis is None else axis_of(axis, x.ndim))


def cumprod(x: Any, axis: int | None = None) -> Tensor:
    """The cumulative product along one axis. If `axis` is None, that of all elements in C order.

    Each element is multiplied with the product of those before it: 1, 2, 4, ... of them in turn. There
    is no division, so that derivatives of every order are exact even if elements are zero.
    """
    if axis is None:
        x, axis = ravel(x), 0
    array = as_array(x)
    axis = axis_of(axis, array.ndim, "cumprod: axis")
    y = astype(x, np.cumprod(np.empty(0, array.dtype)).dtype)  # small whole numbers become int64
    reach = 1
    while reach < y.shape[axis]:
        first = take(y, slice(reach), axis)
        others = take(y, slice(reach, None), axis) * take(y, slice(-reach), axis)
        y, reach = concatenate([first, others], axis), 2 * reach
    return y


public(cumprod, method="cumprod")


@operation(
    a=lambda m, g, v: m.convolve(g, m.flip(v), "valid"),
    v=lambda m, g, a: m.convolve(g, m.flip(a), "valid"),
    whole=True,
)
def _convolve(m: Any, a: Any, v: Any) -> Any:
    return m.convolve(a, v)


@public
def convolve(a: Any, v: Any, mode: str = "full") -> Tensor:
    """The convolution of two vectors: y[k] = Σᵢ a[i] v[k - i].

    mode: "full" has all sums (n + m - 1), "same" the middle ones, as many as the longer vector has
        elements, "valid" those in which the shorter one lies whole within the other.
    ValueError: another mode, not vectors, or an empty one.
    """
    shorter, longer = sorted(as_array(x).size for x in (a, v))
    cuts = {"full": 0, "same": (shorter - 1) // 2, "valid": shorter - 1}
    if mode not in cuts:
        raise ValueError(f'convolve: the mode is "full", "same" or "valid", not {mode!r}')
    y, start = _convolve(a, v), cuts[mode]
    length = longer if mode == "same" else y.size - 2 * start
    return take(y, slice(start, start + length), 0)


# -- truth ---------------------------------------------------------------------------------------
@operation(x=None, whole=True, keeps_dtype=False, method="any")
def any(m: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Whether some element along `axis` is true, or not 0. The result is a constant."""
    return m.any(x, axis=axes_of(axis, x.ndim), keepdims=keepdims)


@operation(x=None, whole=True, keeps_dtype=False, method="all")
def all(m: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Whether all elements along `axis` are true, or not 0. The result is a constant."""
    return m.all(x, axis=axes_of(axis, x.ndim), keepdims=keepdims)


# -- extremes ------------------------------------------------------------------------------------
def _to_extremes(m: Any, g: Any, y: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    """The gradient goes to the extreme element. Equal extremes share it equally."""
    n = len(x.shape)
    top = _expand(m, y, axis, keepdims, n)
    hit = x == top
    among = m.maximum(m.sum(hit, axis=axis, keepdims=True), 1)  # nothing equals a NaN
    return m.where(hit, _expand(m, g, axis, keepdims, n) / among, no_share(m, top))


@operation(x=_to_extremes, method="max", whole=True)
def max(m: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The largest element along `axis`. Equal maxima share the gradient equally."""
    return m.max(x, axis=axes_of(axis, x.ndim), keepdims=keepdims)


@operation(x=_to_extremes, method="min", whole=True)
def min(m: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The smallest element along `axis`. Equal minima share the gradient equally."""
    return m.min(x, axis=axes_of(axis, x.ndim), keepdims=keepdims)


# -- sums of exponentials ------------------------------------------------------------------------
def _finite_max(m: Any, x: Any, axis: Axis) -> Any:
    """The maximum, subtracted so that exp cannot overflow. 0 if it is infinite or x is empty."""
    if not x.size:
        return 0.0
    top = m.max(x, axis=axis, keepdims=True)
    return m.where(m.isinf(top), 0.0, top)  # a NaN stays


def _weights(m: Any, g: Any, y: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    """g · softmax(x), from y = logsumexp(x)."""
    n = len(x.shape)
    top = _expand(m, y, axis, keepdims, n)
    finite = m.where(top == -float("inf"), 0.0, top)  # in a row of -∞ all weights are exp(-∞) = 0
    weights = m.exp(x - finite)
    # Their sum is 1, except when y is so large that rounding loses the logarithm of the sum.
    total = m.sum(weights, axis=axis, keepdims=True)
    return _expand(m, g, axis, keepdims, n) * (weights / m.where(total == 0, 1.0, total))


@operation(x=_weights)
def logsumexp(m: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """log Σ exp(x) along `axis`, without overflow. -∞ if all elements are -∞."""
    axis = axes_of(axis, x.ndim)
    top = _finite_max(m, x, axis)
    total = m.sum(m.exp(x - top), axis=axis, keepdims=True)
    y = m.where(total == 0, -m.inf, m.log(m.where(total == 0, 1.0, total))) + top
    return y if keepdims else m.squeeze(y, axis=axis)


def _some_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    axes = axes_of(axis, ndim)
    if not axes and axis is not None:
        raise ValueError(f"axis={axis} names no axis; None means all axes")
    return axes


@operation(x=lambda m, g, y, axis: y * (g - m.sum(g * y, axis=axis, keepdims=True)))
def softmax(m: Any, x: Any, axis: Axis = -1) -> Any:
    """exp(x) / Σ exp(x), without overflow. The sum is over all axes that `axis` names."""
    axis = _some_axes(axis, x.ndim)
    e = m.exp(x - _finite_max(m, x, axis))
    return e / m.sum(e, axis=axis, keepdims=True)


@operation(x=lambda m, g, y, axis: g - m.exp(y) * m.sum(g, axis=axis, keepdims=True))
def log_softmax(m: Any, x: Any, axis: Axis = -1) -> Any:
    """The logarithm of `softmax`, without overflow or log 0."""
    axis = _some_axes(axis, x.ndim)
    below = x - _finite_max(m, x, axis)
    return below - m.logsumexp(below, axis, True)


def _directions(m: Any, g: Any, y: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    """g · x / |x|. At x = 0 it is 0 instead of 0/0."""
    n = len(x.shape)
    length = _expand(m, y, axis, keepdims, n)
    return _expand(m, g, axis, keepdims, n) * (x / m.where(length == 0, 1.0, length))


@operation(x=_directions)
def norm(m: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The Euclidean norm along `axis`. The gradient at 0 is defined as 0."""
    return m.sqrt(m.sum(m.square(x), axis=axes_of(axis, x.ndim), keepdims=keepdims))


def reduced(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """The shape of a result that was reduced along these axes."""
    return tuple(1 if a in axes else n for a, n in enumerate(shape) if keepdims or a not in axes)


def axes_last(x: Any, axes: tuple[int, ...]) -> Tensor:
    """x with these axes joined to one, the last."""
    shape = as_array(x).shape
    others = tuple(a for a in range(len(shape)) if a not in axes)
    return reshape(
        transpose(x, others + axes), (*(shape[a] for a in others), _product(shape[a] for a in axes))
    )


@operation(x=None, whole=True, keeps_dtype=False)
def _product_of_whole_numbers(m: Any, x: Any, axes: Any, keepdims: bool) -> Any:
    return m.prod(x, axis=axes, keepdims=keepdims)  # in 64 bits, without a derivative


def prod(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The product along `axis`.

    The first half is multiplied with the second half, again and again. There is no division by an
    element, so that derivatives of every order are exact even if elements are zero.
    """
    array = as_array(x)
    shape = array.shape
    axes = axes_of(axis, len(shape), "prod: axis")
    if array.dtype.kind != "f":
        return _product_of_whole_numbers(x, axes, keepdims)
    y, n = axes_last(x, axes), _count(shape, axes)
    if n == 0:
        y = sum(y, -1, keepdims=True) + 1.0
    while n > 1:
        half = n // 2
        pairs = y[..., :half] * y[..., half : 2 * half]
        if n % 2:  # an odd number of elements: the last one multiplies the first pair
            first = pairs[..., :1] * y[..., n - 1 :]
            pairs = concatenate([first, pairs[..., 1:]], axis=-1)
        y, n = pairs, half
    return reshape(y, reduced(shape, axes, keepdims))


public(prod, method="prod")


# -- without NaN ---------------------------------------------------------------------------------
def boxed(x: Any) -> Tensor:
    """x itself if it is a Tensor, else a constant."""
    return x if isinstance(x, Tensor) else Tensor(as_array(x))


def _without_nan(function: Callable[..., Any], fill: float) -> Callable[..., Tensor]:
    """The public form of `function` in which NaN count as `fill`. No gradient flows to them."""

    @wraps(function)
    def form(x: Any, *args: Any, **options: Any) -> Tensor:
        x = boxed(x)
        if x.dtype.kind != "f":
            return function(x, *args, **options)
        y = function(where(x == x, x, fill), *args, **options)
        return where(any(x == x, *args, **options), y, nan) if isinf(fill) else y

    nothing = (
        "where there are only NaN the result is NaN" if isinf(fill) else f"they count as {fill}"
    )
    form.__name__ = form.__qualname__ = f"nan{function.__name__}"
    form.__doc__ = f"`{function.__name__}` of the elements that are not NaN; {nothing}."
    return public(form)


nansum, nancumsum = _without_nan(sum, 0), _without_nan(cumsum, 0)
nanprod, nancumprod = _without_nan(prod, 1), _without_nan(cumprod, 1)
nanmax, nanmin = _without_nan(max, -inf), _without_nan(min, inf)


def _numbers(x: Tensor, axis: Axis, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """How many elements along `axis` are not NaN, less ddof; NaN where none are left."""
    n = astype(sum(x == x, axis, keepdims), x.dtype if x.dtype.kind == "f" else float) - ddof
    return where(n > 0, n, nan)


@public
def nanmean(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """`mean` of the elements that are not NaN; where there are none the result is NaN."""
    x = boxed(x)
    return nansum(x, axis, keepdims) / _numbers(x, axis, keepdims=keepdims)


def _deviations(x: Tensor, axis: Axis) -> Tensor:
    """x less the mean along `axis`, 0 in the place of NaN."""
    return where(x == x, x - nanmean(x, axis, keepdims=True), 0.0)


@public
def nanvar(x: Any, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """`var` of the elements that are not NaN; where they are not more than ddof the result is NaN."""
    x = boxed(x)
    return sum(square(_deviations(x, axis)), axis, keepdims) / _numbers(x, axis, ddof, keepdims)


@public
def nanstd(x: Any, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """`std` of the elements that are not NaN; where they are not more than ddof the result is NaN."""
    x = boxed(x)
    return norm(_deviations(x, axis), axis, keepdims) / sqrt(_numbers(x, axis, ddof, keepdims))
