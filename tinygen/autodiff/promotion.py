"""The inputs of an operation (Tensors, arrays, lists, numbers) become arrays of one dtype and device.

The strongest inputs decide the dtype. Floats are stronger than integers. Among them, arrays with axes
are stronger than lists and than Tensors without axes, and those are stronger than numbers:
`float32 Tensor * 2.0` is float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygen.backend import (
    check_device,
    is_gpu_array,
    namespace_for,
    namespace_of,
    namespaces,
    recorder,
    to_device,
)

__all__ = [
    "Boxed", "array_on", "as_array", "check_tensor", "conform", "explained", "is_number", "listed", "settle",
    "shape_of",
]  # fmt: skip


class Boxed:
    """The base class of Tensor, which holds the array. This file cannot import Tensor itself."""

    __slots__ = ("_data",)

    _data: Any

    @property
    def data(self) -> Any:
        """The NumPy or CuPy array itself. Another may be put in its place, outside the graph."""
        record = recorder.get()
        return self._data if record is None else record.lift(self)

    @data.setter
    def data(self, array: Any) -> None:
        if (record := recorder.get()) is not None:
            record.write(record.lift(self), array)
            return
        if isinstance(array, np.generic):  # what NumPy makes of an array without axes
            array = np.asarray(array)
        if not (isinstance(array, np.ndarray) or is_gpu_array(array)):
            raise TypeError(
                f"the data of a Tensor is a NumPy or CuPy array, not {type(array).__name__}; "
                "write x.data = y.data for that of a Tensor y, x.data[...] = values for a list"
            )
        self._data = array


def check_tensor(what: str, value: Any) -> None:
    """TypeError: `value` is not a Tensor. The message begins with `what`."""
    if not isinstance(value, Boxed):
        raise TypeError(
            f"{what} is a Tensor, not {type(value).__name__}; "
            "make one with tg.tensor(..., requires_grad=True)"
        )


def as_array(value: Any) -> Any:
    """`value` as an array: the data of a Tensor, an array itself, or a new array of a list or number.

    TypeError: it does not give an array of real numbers or truth values.
    """
    if isinstance(value, Boxed):
        return value._data
    try:
        array = value if is_gpu_array(value) else np.asarray(value)
    except ValueError as error:  # ragged nesting
        raise TypeError(f"cannot make a Tensor of this {type(value).__name__}: {error}") from None
    if array is not value and isinstance(value, np.ndarray) and hasattr(value, "mask"):
        raise TypeError("a masked array would lose its mask; fill it first: a.filled(0.0)")
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"a Tensor holds real numbers or truth values, not {array.dtype} "
            f"(from {type(value).__name__})"
        )
    return array


def is_number(value: Any) -> bool:
    """True for Python's numbers, NumPy's numbers and 0-d NumPy arrays."""
    return isinstance(value, (bool, int, float, np.generic)) or (
        not value.ndim if isinstance(value, np.ndarray) else getattr(value, "weak", False)
    )


def array_on(device: str, value: Any, what: str, other: str = "the rest") -> Any:
    """`value` as an array on `device`. Numbers and lists are moved there.

    TypeError: an array or Tensor is on another device. The message names `what` and the `other`.
    """
    found = as_array(value)
    if isinstance(value, (list, tuple)) or is_number(value):
        return to_device(found, device)
    check_device(what, found, other, device)
    return found


def listed(name: str, xs: Any) -> Sequence[Any]:
    """`xs` itself. TypeError: it is not a list or tuple. ValueError: it is empty."""
    if not isinstance(xs, (list, tuple)):
        raise TypeError(f"{name}: pass a list or tuple of arrays, not a {type(xs).__name__}")
    if not xs:
        raise ValueError(f"{name} needs at least one array")
    return xs


def settle(
    name: str, inputs: Sequence[Any], apart: Sequence[int], whole: bool
) -> tuple[list[Any], Any, Any]:
    """The inputs of an operation as arrays, their namespace, and the dtype that they share.

    Numbers stay Python numbers if an array decides the dtype. None stays None. The inputs at the
    positions `apart` (labels, the condition of `where`) keep their own dtype. If all inputs are
    integers, they stay integers if `whole`, else they become float64, so that nothing overflows.
    """
    if (record := recorder.get()) is not None:
        inputs = [record.lifted(x) for x in inputs]
    arrays: list[Any] = []
    dtype = None
    for x in inputs:  # the common case: Tensors and arrays of one dtype, and Python numbers
        array = x._data if isinstance(x, Boxed) else x
        if array is not x or (type(x) is np.ndarray and x.ndim):
            if dtype is None:
                kind, dtype = type(array), array.dtype
            elif array.dtype != dtype or type(array) is not kind:
                break
            arrays.append(array)
        elif type(x) is float or type(x) is int:
            arrays.append(x)
        else:
            break
    else:
        if dtype is not None and dtype.kind == "f" and not apart:
            return arrays, namespaces[kind], dtype
    arrays = list(inputs)
    given = [i for i, x in enumerate(inputs) if x is not None]
    ranks = [_rank(inputs[i], i in apart) for i in given]
    found, m, dtype = _settle_mixed(name, [inputs[i] for i in given], ranks)
    if dtype.kind != "f" and not whole:
        dtype = np.dtype(np.float64)
        found = [
            a if rank == APART or not hasattr(a, "dtype") else a.astype(dtype)
            for a, rank in zip(found, ranks, strict=True)
        ]
    for i, array in zip(given, found, strict=True):
        arrays[i] = array
    return arrays, m, dtype


APART, NUMBER, LIST, ARRAY = -1, 0, 1, 2  # ranks: the inputs of the highest rank decide the dtype


def _rank(x: Any, apart: bool) -> int:
    if apart:
        return APART
    if isinstance(x, (list, tuple)):  # its elements are numbers, but it has axes
        return LIST if np.ndim(x) else NUMBER
    if is_number(x):
        return NUMBER
    if as_array(x).ndim:
        return ARRAY
    return LIST if isinstance(x, Boxed) else NUMBER  # a 0-d array of the GPU counts as a number


def _settle_mixed(
    name: str, inputs: Sequence[Any], ranks: Sequence[int]
) -> tuple[list[Any], Any, Any]:
    arrays: list[Any] = [
        x if isinstance(x, (bool, int, float, np.generic)) else as_array(x) for x in inputs
    ]
    m, top = _common_namespace(name, inputs, arrays), max(ranks)
    arrays = [
        m.asarray(as_array(a)) if rank != NUMBER or top <= NUMBER else a
        for a, rank in zip(arrays, ranks, strict=True)
    ]
    pairs = list(zip(arrays, ranks, strict=True))
    top = max((rank for a, rank in pairs if rank > NUMBER and a.dtype.kind == "f"), default=top)
    dtypes = {a.dtype for a, rank in pairs if rank == top}
    dtype = np.result_type(*({d for d in dtypes if d.kind == "f"} or dtypes))
    for i, (array, rank) in enumerate(pairs):
        if rank == top or (rank > NUMBER and dtype.kind == "f"):
            arrays[i] = array if array.dtype == dtype else array.astype(dtype)
        elif rank == NUMBER and is_gpu_array(array):  # stays on the GPU: reading it would wait
            arrays[i] = array.astype(dtype) if dtype.kind == "f" else array
        elif rank == NUMBER:
            arrays[i] = float(array) if dtype.kind == "f" else np.asarray(array).item()
    return arrays, m, dtype


def _common_namespace(name: str, inputs: Sequence[Any], arrays: Sequence[Any]) -> Any:
    """The namespace of the arrays and Tensors. Numbers and lists have no device."""
    devices = {
        namespace_of(a).device
        for x, a in zip(inputs, arrays, strict=True)
        if not (is_number(x) or isinstance(x, (list, tuple)))
    }
    if len(devices) > 1:
        raise TypeError(
            f"{name}: inputs on {' and '.join(sorted(devices))}; move them to one device, "
            'as in x.to("gpu")'
        )
    return namespace_for(devices.pop() if devices else "cpu")


def conform(name: str, out: Any, m: Any, dtype: Any) -> Any:
    """The result of an operation as an array. If its inputs share a float dtype, it gets that dtype."""
    if not getattr(out, "ndim", 0):  # NumPy returns scalars instead of 0-d arrays
        out = (namespace_of(out) if hasattr(out, "dtype") else m).asarray(out)
    if out.dtype.kind not in "fiub":
        why = (
            "complex ones are not supported" if out.dtype.kind == "c" else "is its return missing?"
        )
        raise TypeError(
            f"the forward function of {name} made {out.dtype} instead of numbers; {why}"
        )
    keep = dtype is None or dtype.kind != "f" or out.dtype == dtype
    return out if keep else out.astype(dtype)


def shape_of(x: Any) -> Any:
    """The shape of an array, () for a number, a list of shapes for a list of arrays."""
    return [shape_of(a) for a in x] if isinstance(x, list) else getattr(x, "shape", ())


def explained(name: str, arrays: Sequence[Any], error: Exception) -> Exception:
    """The error of a forward function, with the operation and its inputs added to the message."""
    what = ", ".join(
        f"{a.dtype}{list(a.shape)}" if hasattr(a, "shape") else repr(a) for a in arrays
    )
    kind = next(k for k in (ValueError, IndexError, TypeError) if isinstance(error, k))
    return kind(f"{name}({what}): {error}")
