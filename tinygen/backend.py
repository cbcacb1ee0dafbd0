"""The array library behind an array, and what tinygen adds to it.

Devices are the words "cpu" (NumPy) and "gpu" (CuPy). An array is where it is: only `to_device`
moves one. CuPy is imported when the GPU is first asked for, by name or by one of its arrays.

A derivative is written once and takes the *namespace* to compute in as its first argument `m`.
For raw arrays that is a module with all of NumPy or CuPy, and beside it the raw forms of the
operations that they lack (`m.sigmoid`, `m.erf`, `m.index_add`, ...). Under `create_graph=True` it
is the `vocabulary`: tinygen's own functions, which carry the same names and meanings on Tensors.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from tinygen.errors import DeviceError, pip_install

__all__ = [
    "DEVICES", "check_device", "gpu_problem", "is_gpu_array", "is_recorded", "lift", "namespace_for",
    "namespace_of",    "numpy_namespace", "recorder", "special", "to_device", "varying", "vocabulary",
]  # fmt: skip

DEVICES = ("cpu", "gpu")

recorder: ContextVar[Any] = ContextVar("recorder", default=None)
"""What records the running step for `tg.compile` (tinygen/compile/recording.py), or None."""

recorded_types: set[type] = set()
"""The type of arrays that record, once that is imported."""

raw_forms: dict[str, Callable[..., Any]] = {}
"""Forward forms `f(m, *arrays)` of tinygen's operations by name; filled as they are defined."""

vocabulary: Any = ModuleType("tinygen.vocabulary")
"""tinygen's public functions on Tensors by name; filled as they are defined."""


def _complete(library: ModuleType, device: str) -> ModuleType:
    """The namespace of an array library: its names, and the raw forms of operations it lacks."""
    namespace = ModuleType(
        f"tinygen.{library.__name__}"
    )  # Python looks names up fastest in a module

    def missing(name: str) -> Any:
        value = getattr(library, name, None)
        if value is None:
            if name not in raw_forms:
                raise AttributeError(f"neither {library.__name__} nor tinygen has {name!r}")
            value = functools.partial(raw_forms[name], namespace)
        setattr(namespace, name, value)  # found there from now on
        return value

    vars(namespace).update(__getattr__=missing, device=device)
    return namespace


numpy_namespace = _complete(np, "cpu")


# NumPy adds in pairs along the last axis in memory, and one after the other along others, where the
# errors pile up: a million rows of 0.1 in float32 make 100958. Here long axes are folded first.
_LONG, _FOLDS = 128, 16


def _sum(x: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Any:
    """np.sum, whose error does not grow with the length of any axis."""
    if x.size > _LONG and x.dtype.kind == "f" and dtype is None:
        axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        if len(axes) < x.ndim or not x.flags.c_contiguous:  # else they are one axis to NumPy
            for a in axes:
                while x.shape[a] > _LONG and x.strides[a] != x.itemsize:
                    x = _folded(x, a % x.ndim)
    return np.add.reduce(x, axis, dtype, keepdims=keepdims)


def _folded(x: Any, axis: int) -> Any:
    """x with its axis laid in 16 folds, which are added; what is left over joins the first place."""
    before, n, after = x.shape[:axis], x.shape[axis] // _FOLDS, x.shape[axis + 1 :]
    along = (slice(None),) * axis
    y = np.add.reduce(x[(*along, slice(n * _FOLDS))].reshape(*before, _FOLDS, n, *after), axis)
    if x.shape[axis] > n * _FOLDS:
        y[(*along, 0)] += np.add.reduce(x[(*along, slice(n * _FOLDS, None))], axis)
    return y


def _mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """np.mean by that sum; of float16 in float32, as there."""
    total = _sum(x.astype(np.float32) if x.dtype == np.float16 else x, axis, keepdims=keepdims)
    return (total / (x.size // max(total.size, 1))).astype(
        x.dtype if x.dtype.kind == "f" else float
    )


vars(numpy_namespace).update(sum=_sum, mean=_mean)


class _Namespaces(dict[type, ModuleType]):
    """Namespace by the exact type of an array: one dictionary look-up on the hot path."""

    def __missing__(self, kind: type) -> ModuleType:
        if issubclass(kind, (np.ndarray, np.generic)):
            self[kind] = numpy_namespace
        elif _cupy() is not None and issubclass(kind, _cupy().ndarray):
            self[kind] = _complete(_cupy(), "gpu")
        else:
            raise TypeError(
                f"arrays of type {kind.__module__}.{kind.__qualname__} are not supported; "
                "convert to a NumPy array first"
            )
        return self[kind]


namespaces = _Namespaces({np.ndarray: numpy_namespace})


def _cupy() -> Any:
    """CuPy if something imported it: whoever holds one of its arrays did."""
    return sys.modules.get("cupy")


def namespace_of(array: Any) -> Any:
    """The namespace that computes with `array`; TypeError for a type that tinygen does not know."""
    return namespaces[type(array)]


def is_gpu_array(value: Any) -> bool:
    """True for an array whose values are not at hand: CuPy's, and one that records a step."""
    return is_recorded(value) or (_cupy() is not None and isinstance(value, _cupy().ndarray))


def is_recorded(value: Any) -> bool:
    """True for an array of a step that is being recorded: it has no values to look at."""
    return type(value) in recorded_types


def lift(array: Any) -> Any:
    """`array` as a step that is being recorded sees it, so that writing into it is noted; else itself."""
    record = recorder.get()
    return array if record is None else record.lift(array)


def varying(make: Callable[[], Any]) -> Any:
    """What `make` gives: a number, or a tuple of numbers, that is another one at every step.

    In a step that `tg.compile` records these are inputs of the program, and `make` is called again
    before each run. So counters that it advances advance there too.
    """
    record = recorder.get()
    return make() if record is None else record.varying(make)


def special(m: Any) -> Any:
    """The module of special functions (erf, ...) that belongs to namespace `m`."""
    # Only when used: it imports slowly.
    return import_module("scipy.special" if m.device == "cpu" else "cupyx.scipy.special")


# -- devices -------------------------------------------------------------------------------------
@functools.cache
def gpu_problem() -> str | None:
    """Why the device "gpu" cannot be used, None if it can. Tried at the first call."""
    try:
        cupy = import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        return f"CuPy is not installed: {pip_install('cupy-cuda13x[ctk]')}"
    try:
        # What needs a driver; a compiler, for a kernel; cuBLAS.
        square = cupy.arange(4.0).reshape(2, 2)
        float(cupy.matmul(square, square).sum())
    except Exception as error:  # whatever CUDA answers
        return f"no usable GPU: {error}"
    return None


def namespace_for(device: str) -> Any:
    """The namespace of a device. ValueError: an unknown word; DeviceError: no usable GPU."""
    if device == "cpu":
        record = recorder.get()
        return numpy_namespace if record is None else record.namespace
    if device not in DEVICES:
        raise ValueError(f'a device is "cpu" or "gpu", not {device!r}')
    problem = gpu_problem()
    if problem is not None:
        raise DeviceError(f'device "gpu": {problem}')
    return namespaces[import_module("cupy").ndarray]


def to_device(array: Any, device: str) -> Any:
    """`array` on `device`: itself if it is there, else a copy. Errors as for `namespace_for`."""
    if namespace_of(array).device == device:
        return array
    m = namespace_for(device)
    return array.get() if device == "cpu" else m.asarray(array)


def check_device(what: str, array: Any, other: str, device: str) -> None:
    """TypeError, naming both, unless `array` is on the `device` of the other: nothing moves by
    itself."""
    found = namespace_of(array).device
    if found != device:
        raise TypeError(
            f'{what} on the {found}, {other} on the {device}; move one of them: .to("{device}")'
        )
