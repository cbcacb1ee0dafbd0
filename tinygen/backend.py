"""The array library of an array, NumPy or CuPy, and the functions that tinygen adds to it.

The devices are "cpu" (NumPy) and "gpu" (CuPy). Only `to_device` moves an array to another device.
CuPy is imported when someone first asks for the device "gpu" or passes a CuPy array.

A derivative is written once. Its argument `m` is the *namespace* to compute in. For raw arrays this
is a module with all functions of NumPy or CuPy, and with those operations of tinygen that they lack
(`m.sigmoid`, `m.erf`, `m.index_add`, ...). Under `create_graph=True` it is the `vocabulary`:
tinygen's own functions on Tensors, which have the same names and meanings.
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
    "DEVICES", "check_device", "gpu_problem", "is_gpu_array", "is_recorded", "keep_freed_memory", "lift",
    "namespace_for", "namespace_of", "numpy_namespace", "recorder", "special", "to_device", "varying",
    "vocabulary",
]  # fmt: skip

DEVICES = ("cpu", "gpu")

recorder: ContextVar[Any] = ContextVar("recorder", default=None)
"""What records the running step for `tg.compile` (tinygen/compile/recording.py), or None."""

recorded_types: set[type] = set()
"""The type of arrays that record, once that is imported."""

raw_forms: dict[str, Callable[..., Any]] = {}
"""The forward functions `f(m, *arrays)` of tinygen's operations by name. `operation` enters them."""

gpu_forms: dict[str, Callable[..., Any]] = {}
"""What stands in the place of functions of CuPy."""

vocabulary: Any = ModuleType("tinygen.vocabulary")
"""tinygen's public functions on Tensors by name. `operation` and `public` enter them."""


def _complete(library: ModuleType, device: str) -> ModuleType:
    """The namespace of an array library: its names, and the raw forms of operations it lacks."""
    # A module, because Python looks names up fastest there.
    namespace = ModuleType(f"tinygen.{library.__name__}")

    def missing(name: str) -> Any:
        value = getattr(library, name, None)
        if value is None:
            if name not in raw_forms:
                raise AttributeError(f"neither {library.__name__} nor tinygen has {name!r}")
            value = functools.partial(raw_forms[name], namespace)
        setattr(namespace, name, value)  # the next look-up finds it there
        return value

    vars(namespace).update(__getattr__=missing, device=device)
    return namespace


numpy_namespace = _complete(np, "cpu")


# NumPy sums in pairs along the last axis in memory. Along other axes it adds one row after the other,
# and rounding errors grow: the sum of a million rows of 0.1 in float32 is 100958. So long axes are
# folded here first.
_LONG, _FOLDS = 128, 16


def _sum(x: Any, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Any:
    """np.sum with a rounding error that does not grow with the length of any axis."""
    if x.size > _LONG and x.dtype.kind == "f" and dtype is None:
        axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        if len(axes) < x.ndim or not x.flags.c_contiguous:  # else NumPy sums them as one axis
            for a in axes:
                while x.shape[a] > _LONG and x.strides[a] != x.itemsize:
                    x = _folded(x, a % x.ndim)
    return np.add.reduce(x, axis, dtype, keepdims=keepdims)


def _folded(x: Any, axis: int) -> Any:
    """x with its axis cut into 16 equal parts, which are added. A remainder is added to element 0."""
    before, n, after = x.shape[:axis], x.shape[axis] // _FOLDS, x.shape[axis + 1 :]
    along = (slice(None),) * axis
    y = np.add.reduce(x[(*along, slice(n * _FOLDS))].reshape(*before, _FOLDS, n, *after), axis)
    if x.shape[axis] > n * _FOLDS:
        y[(*along, 0)] += np.add.reduce(x[(*along, slice(n * _FOLDS, None))], axis)
    return y


def _mean(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """np.mean with `_sum`. float16 is summed in float32, as in NumPy."""
    total = _sum(x.astype(np.float32) if x.dtype == np.float16 else x, axis, keepdims=keepdims)
    return (total / (x.size // max(total.size, 1))).astype(
        x.dtype if x.dtype.kind == "f" else float
    )


# NumPy compares an array with a number element by element, but limits it to two in the vector unit.
_MANY = 2**13


def _faster_as_clip(a: Any, b: Any) -> bool:
    return type(b) is float and getattr(a, "size", 0) > _MANY and a.dtype.kind == "f"


def _maximum(a: Any, b: Any) -> Any:
    """np.maximum."""
    return a.clip(b, np.inf) if _faster_as_clip(a, b) else np.maximum(a, b)


def _minimum(a: Any, b: Any) -> Any:
    """np.minimum."""
    return a.clip(-np.inf, b) if _faster_as_clip(a, b) else np.minimum(a, b)


vars(numpy_namespace).update(sum=_sum, mean=_mean, maximum=_maximum, minimum=_minimum)


class _Namespaces(dict[type, ModuleType]):
    """The namespace for each type of array. On the hot path it is one dictionary look-up."""

    def __missing__(self, kind: type) -> ModuleType:
        if issubclass(kind, (np.ndarray, np.generic)):
            self[kind] = numpy_namespace
        elif _cupy() is not None and issubclass(kind, _cupy().ndarray):
            self[kind] = _complete(_cupy(), "gpu")
            vars(self[kind]).update(gpu_forms)
        else:
            raise TypeError(
                f"arrays of type {kind.__module__}.{kind.__qualname__} are not supported; "
                "convert to a NumPy array first"
            )
        return self[kind]


namespaces = _Namespaces({np.ndarray: numpy_namespace})


def _cupy() -> Any:
    """CuPy if it was imported, else None. If a CuPy array exists, it was."""
    return sys.modules.get("cupy")


def namespace_of(array: Any) -> Any:
    """The namespace that computes with `array`. TypeError: neither a NumPy nor a CuPy array."""
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
    # Imported here, because the import is slow. Arrays that record answer to SciPy's functions.
    of_cpu = m.device == "cpu" or "launch" in vars(m)
    return import_module("scipy.special" if of_cpu else "cupyx.scipy.special")


@functools.cache  # once is enough
def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next arrays.

    glibc returns the end of its heap to the system when more of it is free than twice the largest block
    that was ever freed. The arrays of a training step are freed together, so that the next step would
    have to ask for all those pages again: for some models that takes longer than the computation.
    A block of 31 MB that is made and freed raises the limit. None of its pages is ever touched.
    """
    np.empty(31 << 20, np.uint8)


# -- devices -------------------------------------------------------------------------------------
@functools.cache
def gpu_problem() -> str | None:
    """Why the device "gpu" cannot be used, or None if it can. The first call tries it."""
    try:
        cupy = import_module("cupy")
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise
        return f"CuPy is not installed: {pip_install('cupy-cuda13x[ctk]')}"
    try:
        # These lines need a driver, a compiler for a kernel, and cuBLAS.
        square = cupy.arange(4.0).reshape(2, 2)
        float(cupy.matmul(square, square).sum())
    except Exception as error:  # whatever CUDA answers
        return f"no usable GPU: {error}"
    return None


def namespace_for(device: str) -> Any:
    """The namespace of a device. ValueError: not "cpu" or "gpu". DeviceError: no usable GPU."""
    record = recorder.get()
    if record is not None and record.namespace.device == device:
        return record.namespace
    if device == "cpu":
        return numpy_namespace
    if device not in DEVICES:
        raise ValueError(f'a device is "cpu" or "gpu", not {device!r}')
    problem = gpu_problem()
    if problem is not None:
        raise DeviceError(f'device "gpu": {problem}')
    return namespaces[import_module("cupy").ndarray]


def to_device(array: Any, device: str) -> Any:
    """`array` itself if it is on `device`, else a copy there. Errors are those of `namespace_for`."""
    if namespace_of(array).device == device:
        return array
    m = namespace_for(device)
    return array.get() if device == "cpu" else m.asarray(array)


def check_device(what: str, array: Any, other: str, device: str) -> None:
    """TypeError: `array` is not on the `device` of the other. The message names both."""
    found = namespace_of(array).device
    if found != device:
        raise TypeError(
            f'{what} on the {found}, {other} on the {device}; move one of them: .to("{device}")'
        )
