"""Operations that reduce or accumulate along axes: sum, mean, max, softmax and similar ones.

axis: None for all axes, a number or a tuple. keepdims: whether reduced axes stay, with length 1.
"""

from __future__ import annotations

from math import prod as _product
from typing import Any

from tinygen.autodiff.engine import Tensor, operation, public
from tinygen.autodiff.promotion import as_array
from tinygen.backend import namespace_of
from tinygen.ops.elementwise import no_share, square
from tinygen.ops.shape import Axis, axes_of, axis_of, concatenate, reshape, transpose


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


def var(x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """The variance along `axis`: the sum of squared deviations from the mean, divided by n - ddof.

    ValueError: n ≤ ddof.
    """
    shape = as_array(x).shape
    n = _product(shape[a] for a in axes_of(axis, len(shape), "var: axis"))
    if n <= ddof:
        raise ValueError(f"var: {n} elements along axis {axis} leave none after ddof={ddof}")
    return sum(square(x - mean(x, axis, keepdims=True)), axis, keepdims) / (n - ddof)


public(var, method="var")


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


def prod(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The product along `axis`.

    The first half is multiplied with the second half, again and again. There is no division by an
    element, so that derivatives of every order are exact even if elements are zero.
    """
    array = as_array(x)
    shape = array.shape
    axes = axes_of(axis, len(shape), "prod: axis")
    if array.dtype.kind != "f":  # whole numbers have no derivative: NumPy's product in 64 bits
        m = namespace_of(array)
        return Tensor(m.asarray(m.prod(array, axis=axes, keepdims=keepdims)))
    others = tuple(a for a in range(len(shape)) if a not in axes)
    n = _count(shape, axes)
    y = reshape(transpose(x, others + axes), (*(shape[a] for a in others), n))
    if n == 0:
        y = sum(y, -1, keepdims=True) + 1.0
    while n > 1:
        half = n // 2
        pairs = y[..., :half] * y[..., half : 2 * half]
        if n % 2:  # an odd number of elements: the last one multiplies the first pair
            first = pairs[..., :1] * y[..., n - 1 :]
            pairs = concatenate([first, pairs[..., 1:]], axis=-1)
        y, n = pairs, half
    kept = tuple(1 if a in axes else k for a, k in enumerate(shape))
    return reshape(y, kept if keepdims else tuple(shape[a] for a in others))


public(prod, method="prod")
