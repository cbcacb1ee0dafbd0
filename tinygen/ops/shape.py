"""Operations that move elements without changing them: reshape, transpose, index, join, cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np

from tinygen.autodiff.operation import operation
from tinygen.autodiff.tensor import Tensor, array_on, as_array
from tinygen.backend import is_gpu_array, namespace_of, to_device

FEW = 2**22
"""Elements that cost less to write than the launches that a sort and its sums take."""

_reshape = operation(
    "reshape", lambda m, x, shape: m.reshape(x, shape),
    lambda m, g, _y, _x, shape: m.reshape(g, _x.shape),
    whole=True)  # fmt: skip

_transpose = operation(
    "transpose", lambda m, x, axes: m.transpose(x, axes),
    lambda m, g, _y, _x, axes: m.transpose(g, tuple(axes.index(a) for a in range(len(axes)))),
    whole=True,
)  # fmt: skip

_broadcast_to = operation(
    "broadcast_to", lambda m, x, shape: m.broadcast_to(x, shape),
    lambda m, g, _y, _x, shape: g,
    whole=True)  # fmt: skip

_flip = operation(
    "flip", lambda m, x, axis: m.flip(x, axis),
    lambda m, g, _y, _x, axis: m.flip(g, axis),
    whole=True)  # fmt: skip

_pad = operation(
    "pad", lambda m, x, widths: m.pad(x, widths),
    lambda m, g, _y, _x, widths: g[tuple(
        slice(before, before + n) for (before, _), n in zip(widths, _x.shape, strict=True))],
    whole=True,
)  # fmt: skip

_concatenate = operation(
    "concatenate", lambda m, *xs, axis, ends: m.concatenate(xs, axis=axis),
    variadic=lambda m, g, _y, *_xs, axis, ends, i: g[
        (slice(None),) * axis + (slice(ends[i - 1] if i else 0, ends[i]),)],
    whole=True,
)  # fmt: skip


def _index_add_forward(m: Any, g: Any, key: Any, shape: tuple[int, ...]) -> Any:
    if m.device == "gpu" and not isinstance(key, tuple) and _may_repeat(key):
        return _add_rows(m, g, key, shape)
    out = m.zeros(shape, g.dtype)
    if _may_repeat(key):
        m.add.at(out, key, g)
    else:
        out[key] = g  # a slice or a mask takes each element once: no slow add.at
    return out


def _add_rows(m: Any, g: Any, key: Any, shape: tuple[int, ...]) -> Any:
    """index_add for an array of row numbers, in the same order every time: CuPy's add.at has none."""
    n = shape[0]
    rows, g = key.reshape(-1) % n, g.reshape(key.size, prod(shape[1:]))
    numbers = m.arange(n)
    if n * g.size <= FEW:
        return m.where((numbers[:, None] == rows)[..., None], g, 0).sum(1).reshape(shape)
    order = m.argsort(rows)
    rows, g = rows[order], g[order]
    reach = 1
    while reach < rows.size:  # then g[i] is the sum of the last `reach` up to i that are of its row
        same = (rows[reach:] == rows[:-reach])[:, None]
        g[reach:] += m.where(same, g[:-reach], 0)
        reach *= 2
    last = m.searchsorted(rows, numbers, side="right") - 1
    return m.where((rows[last] == numbers)[:, None], g[last], 0).reshape(shape)


def _may_repeat(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return any(getattr(k, "ndim", 0) > 0 and k.dtype.kind in "iu" for k in parts)


# Each is the other's derivative.
_index = operation(
    "index", lambda m, x, key: x[key],
    lambda m, g, _y, _x, key: m.index_add(g, key=key, shape=_x.shape),
    whole=True)  # fmt: skip

_index_add = operation(
    "index_add", _index_add_forward,
    lambda m, g, _y, _x, key, shape: m.index(g, key=key),
    whole=True)  # fmt: skip


# -- the public functions ------------------------------------------------------------------------
def _ndim(x: Any) -> int:
    return x.ndim if type(x) is Tensor else as_array(x).ndim


def _axis(what: str, axis: int, ndim: int) -> int:
    if not isinstance(axis, (int, np.integer)):
        raise TypeError(f"{what}: an axis is a whole number, not {axis!r}")
    if not -ndim <= axis < ndim:
        raise ValueError(f"{what}: axis {axis} does not exist in an array of {ndim} dimensions")
    return axis % ndim


def reshape(x: Any, shape: int | tuple[int, ...]) -> Tensor:
    """The same elements in C order in another shape; one length may be -1."""
    return _reshape(x, shape=shape)


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """The axes in another order; reversed if `axes` is None."""
    ndim = _ndim(x)
    order = (
        tuple(range(ndim))[::-1]
        if axes is None
        else tuple(_axis("transpose", a, ndim) for a in axes)
    )
    return _transpose(x, axes=order)


def swapaxes(x: Any, a: int, b: int) -> Tensor:
    """Axes a and b exchanged."""
    order = list(range(_ndim(x)))
    a, b = _axis("swapaxes", a, len(order)), _axis("swapaxes", b, len(order))
    order[a], order[b] = b, a
    return _transpose(x, axes=tuple(order))


def moveaxis(x: Any, source: int, destination: int) -> Tensor:
    """Axis `source` moved to position `destination`; the others keep their order."""
    ndim = _ndim(x)
    order = list(range(ndim))
    order.insert(_axis("moveaxis", destination, ndim), order.pop(_axis("moveaxis", source, ndim)))
    return _transpose(x, axes=tuple(order))


def expand_dims(x: Any, axis: int | tuple[int, ...]) -> Tensor:
    """New axes of length 1 at the positions `axis` of the result."""
    return _reshape(x, shape=_shape_by(np.expand_dims, x, axis))


def squeeze(x: Any, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Without the axes of length 1 named by `axis`, or without any if None."""
    return _reshape(x, shape=_shape_by(np.squeeze, x, axis))


def _shape_by(function: Any, x: Any, axis: Any) -> tuple[int, ...]:
    """The shape that NumPy's expand_dims or squeeze gives to x."""
    shape = as_array(x).shape
    try:
        return function(np.broadcast_to(0, shape), axis).shape
    except ValueError as error:
        raise ValueError(f"{function.__name__} of an array of shape {shape}: {error}") from None


def broadcast_to(x: Any, shape: int | tuple[int, ...]) -> Tensor:
    """x repeated to `shape` by NumPy's rules of broadcasting."""
    return _broadcast_to(x, shape=(shape,) if isinstance(shape, int) else tuple(shape))


def flip(x: Any, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """The elements in reverse order along `axis`, along all axes if None."""
    return _flip(x, axis=axis)


def pad(x: Any, widths: Any) -> Tensor:
    """Zeros around x: `widths` as in NumPy, a number, (before, after), or one pair for each axis.

    TypeError: widths that are no whole numbers. ValueError: other shapes, widths below 0.
    """
    given = np.asarray(widths)
    if given.dtype.kind not in "iu":
        raise TypeError(f"pad: widths are whole numbers, not {widths!r}")
    try:
        pairs = np.broadcast_to(given, (_ndim(x), 2))
    except ValueError:
        raise ValueError(f"pad: widths {widths!r} are no pairs for {_ndim(x)} axes") from None
    if (pairs < 0).any():
        raise ValueError(f"pad: widths are not below 0, as in {widths!r}; x[...] cuts")
    return _pad(x, widths=tuple((int(a), int(b)) for a, b in pairs))


def concatenate(xs: Sequence[Any], axis: int = 0) -> Tensor:
    """The arrays `xs` joined along an existing axis."""
    _check_list("concatenate", xs)
    axis = _axis("concatenate", axis, _ndim(xs[0]))
    lengths = [as_array(x).shape[axis] for x in xs]
    return _concatenate(*xs, axis=axis, ends=tuple(accumulate(lengths)))


def _check_list(what: str, xs: Any) -> None:
    if not isinstance(xs, (list, tuple)):
        raise TypeError(f"{what}: pass a list or tuple of arrays, not a {type(xs).__name__}")
    if not xs:
        raise ValueError(f"{what} needs at least one array")


def stack(xs: Sequence[Any], axis: int = 0) -> Tensor:
    """The arrays `xs`, all of one shape, joined along a new axis."""
    _check_list("stack", xs)
    dtype = next((x.dtype for x in xs if type(x) is Tensor and x.dtype.kind == "f"), None)
    device = next((namespace_of(as_array(x)).device for x in xs if not np.isscalar(x)), "cpu")
    xs = [to_device(np.asarray(x, dtype), device) if np.isscalar(x) else x for x in xs]  # weak
    shapes = {as_array(x).shape for x in xs}
    if len(shapes) > 1:
        raise ValueError(f"stack needs arrays of one shape, these have {sorted(shapes)}")
    shape = _shape_by(np.expand_dims, xs[0], axis)
    return concatenate([_reshape(x, shape=shape) for x in xs], axis)


def split(x: Any, parts: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """x cut along `axis` into a number of equal parts, or before each of the positions given."""
    shape = as_array(x).shape
    axis = _axis("split", axis, len(shape))
    n = shape[axis]
    if isinstance(parts, (int, np.integer)):
        if parts < 1 or n % parts:
            raise ValueError(f"split: an axis of length {n} does not cut into {parts} equal parts")
        parts = [n // parts * i for i in range(1, parts)]
    elif not isinstance(parts, (Sequence, np.ndarray)):
        raise TypeError(f"split: parts are a whole number or a list of positions, not {parts!r}")
    edges = [0, *parts, n]
    return [index(x, (slice(None),) * axis + (slice(a, b),)) for a, b in pairwise(edges)]


def index(x: Any, key: Any) -> Tensor:
    """x[key]: numbers, slices, None, Ellipsis, integer arrays and Boolean masks, as in NumPy."""
    return _index(x, key=_raw_key(x, key))


def index_add(g: Any, key: Any, shape: tuple[int, ...]) -> Tensor:
    """Zeros of `shape` with g added at [key], repeatedly where positions repeat.

    The transpose of indexing: the gradient of x[key] with respect to x. On the GPU it repeats bit
    for bit unless positions of a key of several arrays repeat.
    """
    return _index_add(g, key=_raw_key(g, key), shape=tuple(shape))


def _raw_key(x: Any, key: Any) -> Any:
    """The key with raw arrays, on the device of x."""
    if isinstance(key, tuple):
        return tuple(_raw_key(x, list(k) if isinstance(k, tuple) else k) for k in key)
    if isinstance(key, range):
        key = list(key)
    if isinstance(key, (Tensor, list, np.ndarray)) or is_gpu_array(key):
        device = namespace_of(as_array(x)).device
        # A copy, because the backward pass uses it once more.
        array = array_on(device, key, "index: the key", "the array").copy()
        return array if array.size or array.dtype == bool else array.astype(int)  # [] makes floats
    return key
