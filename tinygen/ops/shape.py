"""Operations that move elements without changing them: reshape, transpose, index, join, cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod
from operator import index as _whole
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Tensor, operation, public
from tinygen.autodiff.promotion import array_on, as_array, listed
from tinygen.backend import is_gpu_array, namespace_of, to_device

Axis = int | tuple[int, ...] | None

FEW = 2**22
"""Up to so many elements, one large array is faster on a GPU than many kernels of a sort."""


def axes_of(axis: Any, ndim: int, what: str = "axis") -> tuple[int, ...]:
    """`axis` (None for all axes, a number or several) as a tuple of distinct numbers ≥ 0.

    TypeError, ValueError: it is something else, or there is no such axis. `what` names it.
    """
    if axis is None:
        return tuple(range(ndim))
    try:
        given = tuple(_whole(a) for a in (axis if isinstance(axis, (tuple, list)) else (axis,)))
    except TypeError:
        raise TypeError(
            f"{what} is a whole number, a tuple of them or None, not {axis!r}"
        ) from None
    for a in given:
        if not -ndim <= a < ndim:
            raise ValueError(f"{what} {a} does not exist in an array of {ndim} dimensions")
    axes = tuple(a % ndim for a in given)
    if len(set(axes)) != len(axes):
        raise ValueError(f"{what} {axis} names a dimension twice")
    return axes


def axis_of(axis: Any, ndim: int, what: str = "axis") -> int:
    """One axis as a number ≥ 0. Errors are those of `axes_of`; several axes are a TypeError."""
    if axis is None or isinstance(axis, (tuple, list)):
        raise TypeError(f"{what} is one whole number, not {axis!r}")
    return axes_of(axis, ndim, what)[0]


# -- another shape -------------------------------------------------------------------------------
@operation(x=lambda m, g, x_shape: m.reshape(g, x_shape), whole=True)
def reshape(m: Any, x: Any, shape: int | tuple[int, ...]) -> Any:
    """The same elements, in C order, in another shape. One length may be -1."""
    return m.reshape(x, shape)


@operation(x=lambda m, g, x_shape: m.reshape(g, x_shape), whole=True)
def expand_dims(m: Any, x: Any, axis: int | tuple[int, ...]) -> Any:
    """x with new axes of length 1. `axis` gives their positions in the result."""
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    return m.expand_dims(x, axes_of(axes, x.ndim + len(axes)))


@operation(x=lambda m, g, x_shape: m.reshape(g, x_shape), method="squeeze", whole=True)
def squeeze(m: Any, x: Any, axis: Axis = None) -> Any:
    """x without the axes of length 1 that `axis` names. None removes all of them."""
    return m.squeeze(x, None if axis is None else axes_of(axis, x.ndim))


@operation(x=lambda g: g, whole=True)
def broadcast_to(m: Any, x: Any, shape: int | tuple[int, ...]) -> Any:
    """x broadcast to `shape` by NumPy's rules."""
    return m.broadcast_to(x, shape)


# -- another order -------------------------------------------------------------------------------
def _order(axes: Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim))[::-1] if axes is None else axes_of(tuple(axes), ndim)


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(a) for a in range(len(order)))


@operation(x=lambda m, g, axes: m.transpose(g, _inverse(_order(axes, len(g.shape)))), whole=True)
def transpose(m: Any, x: Any, axes: Sequence[int] | None = None) -> Any:
    """x with its axes in the order `axes`. None reverses the order."""
    return m.transpose(x, _order(axes, x.ndim))


@operation(x=lambda m, g, a, b: m.swapaxes(g, a, b), method="swapaxes", whole=True)
def swapaxes(m: Any, x: Any, a: int, b: int) -> Any:
    """x with the axes a and b exchanged."""
    return m.swapaxes(x, axis_of(a, x.ndim), axis_of(b, x.ndim))


@operation(x=lambda m, g, source, destination: m.moveaxis(g, destination, source), whole=True)
def moveaxis(m: Any, x: Any, source: int, destination: int) -> Any:
    """x with the axis `source` moved to the position `destination`. The others keep their order."""
    return m.moveaxis(x, axes_of(source, x.ndim), axes_of(destination, x.ndim))


@operation(x=lambda m, g, axis: m.flip(g, axis), whole=True)
def flip(m: Any, x: Any, axis: Axis = None) -> Any:
    """x with its elements in reverse order along `axis`. None reverses along all axes."""
    return m.flip(x, axes_of(axis, x.ndim))


def _of_several(function: Any) -> Any:
    """A method that may be called as x.reshape(2, 3) or as x.reshape((2, 3))."""

    def method(x: Tensor, *numbers: Any) -> Tensor:
        one = len(numbers) == 1 and not isinstance(numbers[0], int)
        return function(x, *(numbers if one or not numbers else [numbers]))

    method.__name__, method.__doc__ = f"_{function.__name__}", function.__doc__
    return method


public(_of_several(reshape), method="reshape")
public(_of_several(transpose), method="transpose")
setattr(Tensor, "T", property(transpose))  # noqa: B010


# -- joining and cutting -------------------------------------------------------------------------
def _middle(widths: Any, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The slices of the padded array in which an array of this shape lies."""
    pairs = zip(_pairs(widths, len(shape)), shape, strict=True)
    return tuple(slice(before, before + n) for (before, _), n in pairs)


def _pairs(widths: Any, ndim: int) -> list[list[int]]:
    given = np.asarray(widths)
    if given.dtype.kind not in "iu":
        raise TypeError(f"widths are whole numbers, not {widths!r}")
    try:
        pairs = np.broadcast_to(given, (ndim, 2))
    except ValueError:
        raise ValueError(f"widths {widths!r} do not give a pair for each of {ndim} axes") from None
    if (pairs < 0).any():
        raise ValueError(f"widths are at least 0, not {widths!r}; x[...] cuts")
    return pairs.tolist()


@operation(x=lambda g, x_shape, widths: g[_middle(widths, x_shape)], whole=True)
def pad(m: Any, x: Any, widths: Any) -> Any:
    """x with zeros added before and after it along each axis.

    widths: how many, as in NumPy: one number, (before, after), or one pair for each axis.
    TypeError: widths are not whole numbers. ValueError: another shape, or a width below 0.
    """
    return m.pad(x, _pairs(widths, x.ndim))


def _parts(m: Any, g: Any, shapes: list[tuple[int, ...]], axis: int) -> list[Any]:
    ends = list(accumulate(shape[axis] for shape in shapes))
    return m.split(g, ends[:-1], axis=axis)


@operation(
    each="xs",
    shared=lambda m, g, xs_shape, axis: _parts(m, g, xs_shape, axis),
    xs=lambda g, i: g[i],
    whole=True,
)
def concatenate(m: Any, xs: Sequence[Any], axis: int = 0) -> Any:
    """The arrays `xs` joined along an existing axis."""
    return m.concatenate(xs, axis=axis_of(axis, xs[0].ndim))


@public
def stack(xs: Sequence[Any], axis: int = 0) -> Tensor:
    """The arrays `xs` joined along a new axis. ValueError: they do not all have the same shape."""
    xs = listed("stack", xs)
    dtype = next((x.dtype for x in xs if type(x) is Tensor and x.dtype.kind == "f"), None)
    device = next((namespace_of(as_array(x)).device for x in xs if not np.isscalar(x)), "cpu")
    # A number takes the dtype of the arrays.
    xs = [to_device(np.asarray(x, dtype), device) if np.isscalar(x) else x for x in xs]
    shapes = {as_array(x).shape for x in xs}
    if len(shapes) > 1:
        raise ValueError(f"stack needs arrays of one shape, these have {sorted(shapes)}")
    axis = axis_of(axis, as_array(xs[0]).ndim + 1, "stack: axis")
    return concatenate([expand_dims(x, axis) for x in xs], axis)


@public
def split(x: Any, parts: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """x cut along `axis`, into a number of equal parts or before each position of a list.

    ValueError: the length of the axis is not a multiple of the number of parts.
    """
    shape = as_array(x).shape
    axis = axis_of(axis, len(shape), "split: axis")
    n = shape[axis]
    if isinstance(parts, (int, np.integer)):
        if parts < 1 or n % parts:
            raise ValueError(f"split: an axis of length {n} does not cut into {parts} equal parts")
        parts = [n // parts * i for i in range(1, parts)]
    elif not isinstance(parts, (Sequence, np.ndarray)):
        raise TypeError(f"split: parts are a whole number or a list of positions, not {parts!r}")
    return _cut(x, [0, *parts, n], axis)


def _cut(x: Any, edges: list[int], axis: int) -> list[Tensor]:
    """x between each edge and the next, by halves: the gradient of a part is an array as long as
    what the part was cut from, so k parts cut from x itself would cost k times its length."""

    def piece(start: int, end: int) -> Tensor:
        return index(x, (slice(None),) * axis + (slice(start, end),))

    if len(edges) < 5 or edges != sorted(edges):
        return [piece(a, b) for a, b in pairwise(edges)]
    middle = len(edges) // 2
    halves = edges[: middle + 1], edges[middle:]
    parts = [_cut(piece(e[0], e[-1]), [a - e[0] for a in e], axis) for e in halves]
    return parts[0] + parts[1]


# -- indexing ------------------------------------------------------------------------------------
@operation(x=lambda m, g, x_shape, key: m.index_add(g, key, x_shape), whole=True)
def _index(m: Any, x: Any, key: Any) -> Any:
    return x[key]


@operation(values=lambda m, g, key: m.index(g, key), whole=True)
def _index_add(m: Any, values: Any, key: Any, shape: tuple[int, ...]) -> Any:
    if m.device == "gpu" and not isinstance(key, tuple) and _may_repeat(key):
        return _add_rows(m, values, key, shape)
    out = m.zeros(shape, values.dtype)
    if _may_repeat(key):
        m.add.at(out, key, values)
    else:
        out[key] = values  # a slice or a mask has no position twice; add.at would be slow
    return out


def _add_rows(m: Any, g: Any, key: Any, shape: tuple[int, ...]) -> Any:
    """index_add for an array of row numbers. It always adds in the same order; CuPy's add.at does not."""
    n = shape[0]
    rows, g = key.reshape(-1) % n, g.reshape(key.size, prod(shape[1:]))
    numbers = m.arange(n)
    if n * g.size <= FEW:
        return m.where((numbers[:, None] == rows)[..., None], g, 0).sum(1).reshape(shape)
    order = m.argsort(rows)
    rows, g = rows[order], g[order]
    reach = 1
    while reach < rows.size:  # g[i] is the sum over those of the last `reach` positions in its row
        same = (rows[reach:] == rows[:-reach])[:, None]
        g[reach:] += m.where(same, g[:-reach], 0)
        reach *= 2
    last = m.searchsorted(rows, numbers, side="right") - 1
    return m.where((rows[last] == numbers)[:, None], g[last], 0).reshape(shape)


def _may_repeat(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return any(getattr(k, "ndim", 0) > 0 and k.dtype.kind in "iu" for k in parts)


def index(x: Any, key: Any) -> Tensor:
    """x[key]: numbers, slices, None, Ellipsis, integer arrays and Boolean masks, as in NumPy."""
    return _index(x, _raw_key(x, key))


public(index, method="__getitem__")


@public
def index_add(values: Any, key: Any, shape: tuple[int, ...]) -> Tensor:
    """Zeros of `shape` with the values added at [key]. At repeated positions all values are added.

    It is the transpose of indexing: the gradient of x[key] with respect to x. On the GPU the result
    is the same to the bit in every run, unless the key has several arrays and positions repeat.
    """
    return _index_add(values, _raw_key(values, key), tuple(shape))


def _raw_key(x: Any, key: Any) -> Any:
    """The key with its Tensors and lists as raw arrays on the device of x."""
    if isinstance(key, tuple):
        return tuple(_raw_key(x, list(k) if isinstance(k, tuple) else k) for k in key)
    if isinstance(key, range):
        key = list(key)
    if isinstance(key, (Tensor, list, np.ndarray)) or is_gpu_array(key):
        device = namespace_of(as_array(x)).device
        # A copy, because the backward pass uses the key again.
        array = array_on(device, key, "index: the key", "the array").copy()
        return array if array.size or array.dtype == bool else array.astype(int)  # [] is float64
    return key
