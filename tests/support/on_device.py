"""NumPy and tinygen for tests, on the device of `python -m pytest --device cpu|gpu`.

    from tests.support.on_device import np, tg

On the CPU, the default, these two are NumPy and tinygen (and `special` and `stats` SciPy's). With
`--device gpu` the same lines make their arrays on the GPU: arrays that `np` makes, Tensors that
`tg` makes of lists and numbers, and layers. So a test written for one runs on both.

There `np` computes with NumPy as before, for an oracle should be independent: it copies to the CPU
and back in so many words, and leaves NumPy arrays alone. `tinygen` itself has the real NumPy, and
none of these ways. The GPU is the machine's where it has one, else the stand-in of strict_cupy.py.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import numpy
import pytest
import scipy.special
import scipy.stats

import tinygen
from tests.support import strict_cupy
from tinygen import backend

DEVICE = "cpu"
np: Any = numpy
special: Any = scipy.special
stats: Any = scipy.stats
tg: Any = tinygen


def use_gpu(stack: ExitStack) -> None:
    """Before test modules import from here: the GPU, or the stand-in until `stack` is closed."""
    global DEVICE, np, special, stats, tg
    if backend.gpu_problem() is not None:
        stack.enter_context(strict_cupy.installed())
    DEVICE = "gpu"
    tg = _tinygen()
    np, special, stats = (_Numpy(m.__name__, m) for m in (numpy, scipy.special, scipy.stats))


def on_cpu(value: Any) -> Any:
    """What NumPy can take: arrays and constant Tensors copied, containers gone through."""
    if backend.is_gpu_array(value):
        return value.get()
    if isinstance(value, tinygen.Tensor) and not value.requires_grad:
        return value.numpy()
    if isinstance(value, dict):
        return {k: on_cpu(v) for k, v in value.items()}
    if callable(value) and hasattr(value, "on_cpu"):  # a function of `np` that NumPy is to call
        return value.on_cpu
    return type(value)(map(on_cpu, value)) if type(value) in (list, tuple) else value


def on_gpu(value: Any) -> Any:
    """NumPy arrays copied, containers gone through."""
    if isinstance(value, numpy.ndarray) and value.dtype.kind in "fiub":
        return backend.to_device(value, "gpu")
    if isinstance(value, dict):
        return {k: on_gpu(v) for k, v in value.items()}
    return type(value)(map(on_gpu, value)) if type(value) in (list, tuple) else value


@functools.cache
def on_device(cls: Any) -> Any:
    """A class of modules, whose instances are made on the device under test."""
    if DEVICE == "cpu":
        return cls

    @functools.wraps(cls.__init__)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, *args, **kwargs)
        self.to(DEVICE)

    moved = type(cls.__name__, (cls,), {"__init__": init, "__module__": __name__})
    globals()[cls.__name__] = moved  # where pickle finds it
    return moved


def placed(value: Any) -> Any:
    """NumPy arrays, also in lists, tuples and dicts, on the device under test."""
    return value if DEVICE == "cpu" else on_gpu(value)


class approx:
    """`pytest.approx`, which asks no array for a conversion to NumPy."""

    __array_ufunc__ = None  # an array on the left leaves the comparison to this
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expected: Any, **tolerances: Any) -> None:
        self._plain = pytest.approx(on_cpu(expected), **tolerances)

    def __eq__(self, actual: object) -> bool:
        return bool(on_cpu(actual) == self._plain)

    def __repr__(self) -> str:
        return repr(self._plain)


def _holds_cpu_array(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_cpu_array, value))
    values = list(value.values()) if isinstance(value, dict) else []
    return isinstance(value, numpy.ndarray) or _holds_cpu_array(values)


class _Numpy(ModuleType):
    """What NumPy and SciPy have functions in (a module, a random generator, a distribution): they
    give arrays on the GPU."""

    def __init__(self, name: str, library: Any) -> None:
        super().__init__(name)
        self._library = library

    def __getattr__(self, name: str) -> Any:
        if name in ("ndarray", "shares_memory", "may_share_memory"):
            return getattr(backend.namespace_for("gpu"), name)
        value = getattr(self._library, name)
        if isinstance(value, ModuleType):
            return _Numpy(name, value)
        if isinstance(value, type) or not callable(value):
            return value
        return _computed(value)


def _computed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def computed(*args: Any, **kwargs: Any) -> Any:
        result = function(*on_cpu(args), **on_cpu(kwargs))
        if not _holds_cpu_array([args, kwargs]):
            result = on_gpu(result)
        with_methods = type(result).__module__.startswith(("numpy.random", "scipy.stats"))
        return _Numpy("object", result) if with_methods else result

    computed.on_cpu = function  # type: ignore[attr-defined]
    return computed


def _tinygen() -> ModuleType:
    module, layers = ModuleType("tinygen"), ModuleType("tinygen.nn")
    vars(module).update(vars(tinygen), tensor=_tensor, nn=layers)
    for name in ("zeros", "ones"):
        setattr(module, name, functools.partial(getattr(tinygen, name), device="gpu"))
    vars(layers).update(vars(tinygen.nn))
    for name in tinygen.nn.__all__:
        value = getattr(tinygen.nn, name)
        if inspect.isclass(value) and value is not tinygen.nn.Module:
            setattr(layers, name, on_device(value))
    return module


def _tensor(data: Any, *, device: str | None = None, **options: Any) -> Any:
    if device is None and not isinstance(data, (tinygen.Tensor, numpy.ndarray)):
        device = "gpu"
    return tinygen.tensor(data, device=device, **options)
