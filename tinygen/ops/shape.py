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


def ravel(x: Any) -> Tensor:
    """The elements along one axis, in C order."""
    return reshape(x, -1)


public(ravel, method="ravel")
public(ravel, method="flatten")  # NumPy's copies; a Tensor is not changed in place


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


@operation(x=lambda m, g, axis1, axis2: m.swapaxes(g, axis1, axis2), method="swapaxes", whole=True)
def swapaxes(m: Any, x: Any, axis1: int, axis2: int) -> Any:
    """x with two axes exchanged."""
    return m.swapaxes(x, axis_of(axis1, x.ndim), axis_of(axis2, x.ndim))


@operation(x=lambda m, g, source, destination: m.moveaxis(g, destination, source), whole=True)
def moveaxis(m: Any, x: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Any:
    """x with the axes `source` moved to the positions `destination`. The others keep their order."""
    return m.moveaxis(x, axes_of(source, x.ndim), axes_of(destination, x.ndim))


@operation(x=lambda m, g, axis: m.flip(g, axis), whole=True)
def flip(m: Any, x: Any, axis: Axis = None) -> Any:
    """x with its elements in reverse order along `axis`. None reverses along all axes."""
    return m.flip(x, axes_of(axis, x.ndim))


def _back(shift: Any) -> Any:
    return tuple(-k for k in shift) if isinstance(shift, (tuple, list)) else -shift


@operation(x=lambda m, g, shift, axis: m.roll(g, _back(shift), axis), whole=True)
def roll(m: Any, x: Any, shift: int | tuple[int, ...], axis: Axis = None) -> Any:
    """x with its elements moved by `shift` along `axis`. What leaves at the end comes in at the start.

    axis: None moves the elements in C order. With several axes, `shift` may have a number for each.
    """
    return m.roll(x, shift, None if axis is None else axes_of(axis, x.ndim))


@operation(x=lambda m, g, k: m.tril(g, k), whole=True)
def tril(m: Any, x: Any, k: int = 0) -> Any:
    """The lower triangle of matrices (..., rows, columns), zeros elsewhere; k = 1 is one diagonal more."""
    return m.tril(x, k)


@operation(x=lambda m, g, k: m.triu(g, k), whole=True)
def triu(m: Any, x: Any, k: int = 0) -> Any:
    """The upper triangle of matrices (..., rows, columns), zeros elsewhere; k = 1 is one diagonal less."""
    return m.triu(x, k)


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
def _middle(pairs: list[list[int]], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The slices of the padded array in which an array of this shape lies."""
    return tuple(slice(start, start + n) for (start, _), n in zip(pairs, shape, strict=True))


def _pairs(widths: Any, ndim: int) -> list[list[int]]:
    given = np.asarray(widths)
    if given.dtype.kind not in "iu":
        raise TypeError(f"pad: widths are whole numbers, not {widths!r}")
    try:
        pairs = np.broadcast_to(given, (ndim, 2))
    except ValueError:
        raise ValueError(
            f"pad: widths {widths!r} do not give a pair for each of {ndim} axes"
        ) from None
    if (pairs < 0).any():
        raise ValueError(f"pad: widths are at least 0, not {widths!r}; x[...] cuts")
    return pairs.tolist()


@operation(x=lambda g, x_shape, pairs: g[_middle(pairs, x_shape)], whole=True)
def _pad(m: Any, x: Any, pairs: list[list[int]], values: Any) -> Any:
    return m.pad(x, pairs, constant_values=values)


@public
def pad(x: Any, pad_width: Any, mode: Any = "constant", constant_values: Any = 0) -> Tensor:
    """x with elements added before and after it along each axis.

    pad_width: how many, as in NumPy: one number, (before, after), or one pair for each axis.
    mode: "constant" adds `constant_values`, which are given like the widths and have no gradient.
        "edge", "reflect", "symmetric" and "wrap" repeat elements of x.
    TypeError: widths are not whole numbers. ValueError: another shape, a width below 0, another mode.
    """
    shape = as_array(x).shape
    pairs = _pairs(pad_width, len(shape))
    if mode == "constant":
        return _pad(x, pairs, constant_values)
    if mode not in ("edge", "reflect", "symmetric", "wrap"):
        known = "constant, edge, reflect, symmetric or wrap"
        raise ValueError(f"pad: the mode is {known}, not {mode!r}")
    for axis, (n, pair) in enumerate(zip(shape, pairs, strict=True)):
        x = take(x, np.pad(np.arange(n), pair, mode).tolist(), axis)
    return x


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


NO_ARRAY = (bool, int, float, np.generic, list, tuple)


def as_arrays(name: str, xs: Sequence[Any]) -> list[Any]:
    """The list `xs` with an array in the place of each number or list, in the dtype of the others."""
    given = [as_array(x) for x in listed(name, xs) if not isinstance(x, NO_ARRAY)]
    floats = [a.dtype for a in given if a.dtype.kind == "f"]
    dtype = np.result_type(*floats) if floats else None
    device = namespace_of(given[0]).device if given else "cpu"
    return [
        to_device(np.asarray(as_array(x), dtype), device) if isinstance(x, NO_ARRAY) else x
        for x in xs
    ]


@public
def stack(xs: Sequence[Any], axis: int = 0) -> Tensor:
    """The arrays `xs` joined along a new axis. ValueError: they do not all have the same shape."""
    xs = as_arrays("stack", xs)
    shapes = {as_array(x).shape for x in xs}
    if len(shapes) > 1:
        raise ValueError(f"stack needs arrays of one shape, these have {sorted(shapes)}")
    axis = axis_of(axis, as_array(xs[0]).ndim + 1, "stack: axis")
    return concatenate([expand_dims(x, axis) for x in xs], axis)


@public
def vstack(xs: Sequence[Any]) -> Tensor:
    """The arrays `xs` joined along the first axis. A vector is a row."""
    xs = as_arrays("vstack", xs)
    return concatenate([x if as_array(x).ndim > 1 else reshape(x, (1, -1)) for x in xs])


@public
def hstack(xs: Sequence[Any]) -> Tensor:
    """The arrays `xs` joined along the second axis. Vectors are joined along the only one."""
    xs = [x if as_array(x).ndim else ravel(x) for x in as_arrays("hstack", xs)]
    return concatenate(xs, 0 if as_array(xs[0]).ndim == 1 else 1)


@public
def column_stack(xs: Sequence[Any]) -> Tensor:
    """The arrays `xs` joined along the second axis. A vector is a column."""
    xs = as_arrays("column_stack", xs)
    return concatenate([x if as_array(x).ndim > 1 else reshape(x, (-1, 1)) for x in xs], 1)


@public
def split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """x cut along `axis`, into a number of equal parts or before each position of a list.

    ValueError: the length of the axis is not a multiple of the number of parts.
    """
    shape = as_array(x).shape
    axis = axis_of(axis, len(shape), "split: axis")
    n, parts = shape[axis], indices_or_sections
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


# -- repeating -----------------------------------------------------------------------------------
def repeat(x: Any, repeats: Any, axis: int | None = None) -> Tensor:
    """Each element of x several times in turn. If `axis` is None, that of all elements in C order.

    repeats: how often, one number or one for each position along the axis.
    """
    if axis is None:
        x, axis = ravel(x), 0
    shape = as_array(x).shape
    axis = axis_of(axis, len(shape), "repeat: axis")
    if np.ndim(repeats):
        return take(x, np.repeat(np.arange(shape[axis]), repeats).tolist(), axis)
    before, after = shape[:axis], shape[axis + 1 :]
    spread = broadcast_to(expand_dims(x, axis + 1), (*before, shape[axis], repeats, *after))
    return reshape(spread, (*before, shape[axis] * repeats, *after))


public(repeat, method="repeat")


@public
def tile(x: Any, reps: int | Sequence[int]) -> Tensor:
    """x laid side by side, `reps` times along each of the last axes. New axes are added in front."""
    shape = as_array(x).shape
    times = tuple(reps) if isinstance(reps, (tuple, list)) else (reps,)
    times = (1,) * (len(shape) - len(times)) + times
    shape = (1,) * (len(times) - len(shape)) + shape
    spread = reshape(x, tuple(k for n in shape for k in (1, n)))
    pairs = list(zip(times, shape, strict=True))
    spread = broadcast_to(spread, tuple(k for pair in pairs for k in pair))
    return reshape(spread, tuple(k * n for k, n in pairs))


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


def take(x: Any, indices: Any, axis: int) -> Tensor:
    """x at these positions along one axis."""
    return index(x, (slice(None),) * axis + (indices,))


@public
def diff(x: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Tensor:
    """The difference of each element to the next along `axis`, n times.

    prepend, append: arrays or numbers that stand before and after x. ValueError: n is below 0.
    """
    shape = as_array(x).shape
    axis = axis_of(axis, len(shape), "diff: axis")
    if n < 0:
        raise ValueError(f"diff: n is at least 0, not {n}")
    given = as_arrays("diff", [part for part in (prepend, x, append) if part is not None])
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    y = concatenate(
        [part if as_array(part).ndim else broadcast_to(part, one) for part in given], axis
    )
    for _ in range(n):
        y = take(y, slice(1, None), axis) - take(y, slice(-1), axis)
    return y


@public
def diag(x: Any, k: int = 0) -> Tensor:
    """The k-th diagonal of a matrix; of a vector, the matrix that has it there and zeros elsewhere.

    k: above the main diagonal if positive, below if negative. ValueError: neither matrix nor vector.
    """
    shape = as_array(x).shape
    if len(shape) not in (1, 2):
        raise ValueError(f"diag takes a vector or a matrix, not {len(shape)} dimensions")
    above, below = (k, 0) if k > 0 else (0, -k)
    length = min(shape[0] - below, shape[1] - above) if len(shape) == 2 else shape[0]
    rows, columns = (list(range(start, start + length)) for start in (below, above))
    if len(shape) == 2:
        return index(x, (rows, columns))
    return index_add(x, (rows, columns), (length + abs(k),) * 2)


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
