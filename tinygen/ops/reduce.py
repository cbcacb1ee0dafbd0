"""Operations that reduce or accumulate along axes: sum, mean, max, softmax and their like.

`axis` is None for all axes, a number or a tuple; `keepdims` keeps reduced axes with length 1.
Rules receive `axis` as a tuple of numbers ≥ 0.
"""

from __future__ import annotations

from math import prod as _product
from operator import index
from typing import Any

from tinygen.autodiff.operation import operation
from tinygen.autodiff.tensor import Tensor, as_array
from tinygen.backend import namespace_of
from tinygen.ops.elementwise import nan_where, square
from tinygen.ops.shape import concatenate, reshape, transpose

Axis = int | tuple[int, ...] | None


def _expand(m: Any, g: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    return g if keepdims else m.expand_dims(g, axis)


def _spread(m: Any, g: Any, shape: tuple[int, ...], axis: tuple[int, ...], keepdims: bool) -> Any:
    return m.broadcast_to(_expand(m, g, axis, keepdims), shape)


_sum = operation(
    "sum", lambda m, x, axis, keepdims: m.sum(x, axis=axis, keepdims=keepdims),
    lambda m, g, _y, _x, axis, keepdims: _spread(m, g, _x.shape, axis, keepdims),
    whole=True)  # fmt: skip

_mean = operation(
    "mean", lambda m, x, axis, keepdims: m.mean(x, axis=axis, keepdims=keepdims),
    lambda m, g, _y, _x, axis, keepdims: _spread(
        m, g / _count(_x.shape, axis), _x.shape, axis, keepdims))  # fmt: skip


def _count(shape: tuple[int, ...], axis: tuple[int, ...]) -> int:
    return _product(shape[a] for a in axis)


def _extremum_rule(m: Any, g: Any, y: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    """The gradient goes to the extreme element; ties share it equally."""
    top = _expand(m, y, axis, keepdims)
    hit = x == top
    among = m.maximum(m.sum(hit, axis=axis, keepdims=True), 1)  # nothing equals a NaN
    return nan_where(m, top, m.where(hit, _expand(m, g, axis, keepdims) / among, 0.0))


_max = operation(
    "max", lambda m, x, axis, keepdims: m.max(x, axis=axis, keepdims=keepdims),
    _extremum_rule, whole=True)  # fmt: skip

_min = operation(
    "min", lambda m, x, axis, keepdims: m.min(x, axis=axis, keepdims=keepdims),
    _extremum_rule, whole=True)  # fmt: skip

_cumsum = operation(
    "cumsum", lambda m, x, axis: m.cumsum(x, axis=axis),
    lambda m, g, _y, _x, axis: m.flip(m.cumsum(m.flip(g, axis), axis=axis), axis),
    whole=True)  # fmt: skip


def _finite_max(m: Any, x: Any, axis: tuple[int, ...]) -> Any:
    """The shift that keeps exp from overflowing; 0 where it is infinite, or there is nothing."""
    if not x.size:
        return 0.0
    top = m.max(x, axis=axis, keepdims=True)
    return m.where(m.isinf(top), 0.0, top)  # a NaN stays


def _logsumexp_forward(m: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    top = _finite_max(m, x, axis)
    total = m.sum(m.exp(x - top), axis=axis, keepdims=True)
    y = m.where(total == 0, -m.inf, m.log(m.where(total == 0, 1.0, total))) + top
    return y if keepdims else m.squeeze(y, axis=axis)


def _logsumexp_rule(m: Any, g: Any, y: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    top = _expand(m, y, axis, keepdims)
    finite = m.where(top == -float("inf"), 0.0, top)  # a row of -∞ gets weights exp(-∞) = 0
    weights = m.exp(x - finite)
    # They add up to 1, but for a y so large that it has no digits left for log Σ.
    total = m.sum(weights, axis=axis, keepdims=True)
    return _expand(m, g, axis, keepdims) * (weights / m.where(total == 0, 1.0, total))


_logsumexp = operation("logsumexp", _logsumexp_forward, _logsumexp_rule)


def _softmax_forward(m: Any, x: Any, axis: tuple[int, ...]) -> Any:
    e = m.exp(x - _finite_max(m, x, axis))
    return e / m.sum(e, axis=axis, keepdims=True)


_softmax = operation(
    "softmax", _softmax_forward,
    lambda m, g, y, _x, axis: y * (g - m.sum(g * y, axis=axis, keepdims=True)))  # fmt: skip


def _log_softmax_forward(m: Any, x: Any, axis: tuple[int, ...]) -> Any:
    below = x - _finite_max(m, x, axis)
    return below - _logsumexp_forward(m, below, axis, True)


_log_softmax = operation(
    "log_softmax", _log_softmax_forward,
    lambda m, g, y, _x, axis: g - m.exp(y) * m.sum(g, axis=axis, keepdims=True))  # fmt: skip


def _norm_rule(m: Any, g: Any, y: Any, x: Any, axis: tuple[int, ...], keepdims: bool) -> Any:
    length = _expand(m, y, axis, keepdims)
    safe = m.where(length == 0, 1.0, length)  # the gradient at 0 is taken as 0, not 0/0
    return _expand(m, g, axis, keepdims) * (x / safe)


_norm = operation(
    "norm",
    lambda m, x, axis, keepdims: m.sqrt(m.sum(m.square(x), axis=axis, keepdims=keepdims)),
    _norm_rule)  # fmt: skip


# -- the public functions ------------------------------------------------------------------------
def _axes(what: str, x: Any, axis: Axis) -> tuple[int, ...]:
    """`axis` as a tuple of distinct numbers ≥ 0."""
    ndim = x.ndim if type(x) is Tensor else as_array(x).ndim
    if axis is None:
        return tuple(range(ndim))
    try:
        given = tuple(index(a) for a in (axis if isinstance(axis, (tuple, list)) else (axis,)))
    except TypeError:
        raise TypeError(
            f"{what}: axis is a whole number, a tuple of them or None, not {axis!r}"
        ) from None
    for a in given:
        if not -ndim <= a < ndim:
            raise ValueError(f"{what}: axis {a} does not exist in an array of {ndim} dimensions")
    axes = tuple(a % ndim for a in given)
    if len(set(axes)) != len(axes):
        raise ValueError(f"{what}: axis {axis} names a dimension twice")
    return axes


def sum(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum along `axis`."""
    return _sum(x, axis=_axes("sum", x, axis), keepdims=keepdims)


def mean(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The arithmetic mean along `axis`."""
    return _mean(x, axis=_axes("mean", x, axis), keepdims=keepdims)


def var(x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """The variance along `axis`: squared deviations from the mean, divided by n - ddof."""
    axes = _axes("var", x, axis)
    n = _count(as_array(x).shape, axes)
    if n <= ddof:
        raise ValueError(f"var: {n} elements along axis {axis} leave none after ddof={ddof}")
    total = sum(square(x - mean(x, axes, keepdims=True)), axes, keepdims)
    return total / (n - ddof)


def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element along `axis`; ties share the gradient equally."""
    return _max(x, axis=_axes("max", x, axis), keepdims=keepdims)


def min(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element along `axis`; ties share the gradient equally."""
    return _min(x, axis=_axes("min", x, axis), keepdims=keepdims)


def prod(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The product along `axis`.

    Multiplied in pairs, halves against halves, so that its derivatives of every order are exact
    where elements are zero: no division by them.
    """
    axes = _axes("prod", x, axis)
    array = as_array(x)
    if array.dtype.kind != "f":  # NumPy's product, in 64 bits: it has no derivative
        m = namespace_of(array)
        return Tensor(m.asarray(m.prod(array, axis=axes, keepdims=keepdims)))
    shape = array.shape
    rest = tuple(a for a in range(len(shape)) if a not in axes)
    n = _count(shape, axes)
    y = reshape(transpose(x, rest + axes), (*(shape[a] for a in rest), n))
    if n == 0:
        y = sum(y, -1, keepdims=True) + 1.0
    while n > 1:
        half = n // 2
        pairs = y[..., :half] * y[..., half : 2 * half]
        if n % 2:  # an odd one out joins the first pair
            first = pairs[..., :1] * y[..., n - 1 :]
            pairs = concatenate([first, pairs[..., 1:]], axis=-1)
        y, n = pairs, half
    kept = tuple(1 if a in axes else k for a, k in enumerate(shape))
    return reshape(y, kept if keepdims else tuple(shape[a] for a in rest))


def cumsum(x: Any, axis: int | None = None) -> Tensor:
    """The running sum along one axis, or of all elements in C order if None."""
    if isinstance(axis, (tuple, list)):
        raise TypeError(f"cumsum runs along one axis, not along {axis}; call it once for each")
    if axis is None:
        x, axis = reshape(x, -1), 0
    return _cumsum(x, axis=_axes("cumsum", x, axis)[0])


def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log Σ exp(x) along `axis`, without overflow; -∞ where all elements are -∞."""
    return _logsumexp(x, axis=_axes("logsumexp", x, axis), keepdims=keepdims)


def softmax(x: Any, axis: Axis = -1) -> Tensor:
    """exp(x) / Σ exp(x) along `axis`, without overflow: together over all that it names."""
    return _softmax(x, axis=_some_axes("softmax", x, axis))


def log_softmax(x: Any, axis: Axis = -1) -> Tensor:
    """log softmax(x) along `axis`, without overflow or log 0: together over all that it names."""
    return _log_softmax(x, axis=_some_axes("log_softmax", x, axis))


def _some_axes(what: str, x: Any, axis: Axis) -> tuple[int, ...]:
    axes = _axes(what, x, axis)
    if not axes and axis is not None:
        raise ValueError(f"{what}: axis={axis} names no axis; None stands for all")
    return axes


def norm(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The Euclidean length along `axis`; its gradient at 0 is taken as 0."""
    return _norm(x, axis=_axes("norm", x, axis), keepdims=keepdims)
