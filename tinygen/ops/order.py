"""Operations that follow from the order of the elements: places of extremes, sort, quantiles, interpolation.

Positions are constants. Derivatives flow to the elements that stand there.
"""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Tensor, operation, public
from tinygen.autodiff.promotion import as_array
from tinygen.backend import namespace_of
from tinygen.ops.elementwise import astype, no_share, where
from tinygen.ops.reduce import axes_last, boxed, reduced
from tinygen.ops.shape import (
    Axis,
    as_arrays,
    axes_of,
    axis_of,
    concatenate,
    index,
    moveaxis,
    ravel,
    reshape,
)


# -- places --------------------------------------------------------------------------------------
def _at(axis: int | None, ndim: int) -> int | None:
    return None if axis is None else axis_of(axis, ndim)


@operation(x=None, whole=True, keeps_dtype=False, method="argmax")
def argmax(m: Any, x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """The position of the (first) largest element along an axis, None for all elements in C order.

    The result is a constant of whole numbers.
    """
    return m.argmax(x, axis=_at(axis, x.ndim), keepdims=keepdims)


@operation(x=None, whole=True, keeps_dtype=False, method="argmin")
def argmin(m: Any, x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """The position of the (first) smallest element, as in `argmax`."""
    return m.argmin(x, axis=_at(axis, x.ndim), keepdims=keepdims)


@operation(x=None, whole=True, keeps_dtype=False)
def nanargmax(m: Any, x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """`argmax` of the elements that are not NaN. ValueError: there are none."""
    return m.nanargmax(x, axis=_at(axis, x.ndim), keepdims=keepdims)


@operation(x=None, whole=True, keeps_dtype=False)
def nanargmin(m: Any, x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """`argmin` of the elements that are not NaN. ValueError: there are none."""
    return m.nanargmin(x, axis=_at(axis, x.ndim), keepdims=keepdims)


@operation(x=None, whole=True, keeps_dtype=False, method="argsort")
def argsort(m: Any, x: Any, axis: int | None = -1) -> Any:
    """The positions that sort x along an axis, None for all elements in C order. Equal ones keep theirs.

    The result is a constant of whole numbers.
    """
    return m.argsort(x, axis=_at(axis, x.ndim), kind="stable")


# -- sorted --------------------------------------------------------------------------------------
@public
def take_along_axis(x: Any, indices: Any, axis: int | None = -1) -> Tensor:
    """The elements of x at positions along an axis, such as `argsort` finds. The other axes broadcast.

    axis: None takes from all elements in C order.
    """
    if axis is None:
        x, axis = ravel(x), 0
    array = as_array(x)
    axis, arange = axis_of(axis, array.ndim, "take_along_axis: axis"), namespace_of(array).arange
    ones = (1,) * array.ndim
    grid = [arange(n).reshape((*ones[:a], n, *ones[a + 1 :])) for a, n in enumerate(array.shape)]
    return index(x, (*grid[:axis], indices, *grid[axis + 1 :]))


@public
def sort(x: Any, axis: int | None = -1) -> Tensor:
    """x in ascending order along an axis, None for all elements in C order. NaN come last.

    The gradient of an element goes to where it came from.
    """
    return take_along_axis(x, argsort(x, axis), axis)


CONTINUOUS = {
    "linear": (1, 1), "hazen": (1 / 2, 1 / 2), "weibull": (0, 0), "median_unbiased": (1 / 3, 1 / 3),
    "normal_unbiased": (3 / 8, 3 / 8), "interpolated_inverted_cdf": (0, 1),
}  # fmt: skip
"""α and β of Hyndman & Fan (1996): quantile q of n elements is at position q (n + 1 - α - β) + α - 1."""

STEPPED: dict[str, Callable[[Any, Any], Any]] = {
    "lower": lambda m, place: m.floor(place),
    "higher": lambda m, place: m.ceil(place),
    "midpoint": lambda m, place: 0.5 * (m.floor(place) + m.ceil(place)),
    "nearest": lambda m, place: m.rint(place),
}
"""What these methods make of the position of the linear one."""


def _quantile(
    name: str, x: Any, q: Any, axis: Axis, method: str, keepdims: bool, skip_nan: bool
) -> Tensor:
    x, levels = boxed(x), np.asarray(q, float)
    if not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError(f"{name}: q lies in [0, 1], not {q}")
    if method not in CONTINUOUS | STEPPED:
        known = ", ".join(CONTINUOUS | STEPPED)
        raise ValueError(f"{name}: the method is one of {known}, not {method!r}")
    axes = axes_of(axis, x.ndim, f"{name}: axis")
    y = sort(axes_last(x, axes))
    m, n = namespace_of(y.data), y.shape[-1]
    if not n:
        raise ValueError(f"{name} needs at least one element along axis {axis}")
    if skip_nan:  # they are the last
        n = m.sum(y.data == y.data, axis=-1, keepdims=True)
        y = where(y == y, y, nan)  # no gradient flows to one that is taken where there are only NaN
    elif y.dtype.kind == "f":  # NaN if one element is, with the derivatives
        y = y * (1.0 + no_share(m, y.data[..., -1:]))
    alpha, beta = CONTINUOUS.get(method, (1, 1))
    place = m.asarray(levels.reshape(-1)) * (n + (1 - alpha - beta)) + (alpha - 1)
    place = m.maximum(m.minimum(place, n - 1), 0)
    place = STEPPED[method](m, place) if method in STEPPED else place
    # On an element itself both halves are of this one: with weights 0 and 1, 0 · ∞ would make NaN.
    low, high = m.floor(place), m.ceil(place)
    share = m.where(low == high, 0.5, place - low).astype(y.dtype if y.dtype.kind == "f" else float)
    below, above = (take_along_axis(y, at.astype(int)) for at in (low, high))
    made = moveaxis(below * (1.0 - share) + above * share, -1, 0)
    return reshape(made, levels.shape + reduced(x.shape, axes, keepdims))


@public
def quantile(
    x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False
) -> Tensor:
    """The value below which the share q of the elements along `axis` lies. It is NaN if one of them is.

    q: one number in [0, 1] or several, whose axes come first in the result. It has no derivative.
    method: how it lies between two elements: linear, lower, higher, midpoint, nearest, hazen, weibull,
        median_unbiased, normal_unbiased or interpolated_inverted_cdf (Hyndman & Fan 1996).
    ValueError: another method, q outside of [0, 1], no elements.
    """
    return _quantile("quantile", x, q, axis, method, keepdims, skip_nan=False)


@public
def nanquantile(
    x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False
) -> Tensor:
    """`quantile` of the elements that are not NaN; where there are none the result is NaN."""
    return _quantile("nanquantile", x, q, axis, method, keepdims, skip_nan=True)


@public
def median(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The middle element along `axis`, or the mean of the two. It is NaN if an element is.

    ValueError: no elements.
    """
    return _quantile("median", x, 0.5, axis, "linear", keepdims, skip_nan=False)


@public
def nanmedian(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """`median` of the elements that are not NaN; where there are none the result is NaN."""
    return _quantile("nanmedian", x, 0.5, axis, "linear", keepdims, skip_nan=True)


# -- between given points ------------------------------------------------------------------------
@public
def interp(
    x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: float | None = None
) -> Tensor:
    """The piecewise linear function through the points (xp, fp), at x. It has derivatives in all three.

    xp: a vector in ascending order, which is not checked; fp: one value for each.
    left, right: the values below xp[0] and above xp[-1]; by default fp[0] and fp[-1].
    period: of the function. Then xp may be in any order, and every x lies between two points.
    ValueError: xp and fp are not vectors of one length ≥ 1, or the period is 0.
    """
    parts = [boxed(part) for part in as_arrays("interp", [x, xp, fp])]
    dtype = next((part.dtype for part in parts if part.dtype.kind == "f"), float)
    x, xp, fp = (part if part.dtype.kind == "f" else astype(part, dtype) for part in parts)
    if xp.ndim != 1 or xp.shape != fp.shape or not xp.size:
        raise ValueError(f"interp: xp and fp are vectors of one length, not {xp.shape}, {fp.shape}")
    if period is not None:
        if not period:
            raise ValueError("interp: the period is not 0")
        period = abs(period)
        x, xp = (part - period * _floor(part / period) for part in (x, xp))
        places = argsort(xp)
        xp, fp = xp[places], fp[places]
        xp = concatenate([xp[-1:] - period, xp, xp[:1] + period])
        fp = concatenate([fp[-1:], fp, fp[:1]])
    m, n = namespace_of(xp.data), xp.size
    low = m.clip(m.searchsorted(xp.data, x.data, side="right") - 1, 0, max(n - 2, 0))
    high = m.minimum(low + 1, n - 1)
    length = xp[high] - xp[low] + no_share(m, x.data)
    flat = length == 0
    y = fp[low] + (fp[high] - fp[low]) * (x - xp[low]) / where(flat, 1.0, length)
    y = where(flat, fp[high], y)
    y = where(x < xp[0], fp[0] if left is None else left, y)
    return where(x > xp[-1], fp[-1] if right is None else right, y)


def _floor(x: Tensor) -> Tensor:
    return Tensor(namespace_of(x.data).floor(x.data))
