"""NumPy and tinygen for tests, on the device of `python -m pytest --device cpu|gpu`.

    from on_device import np, tg

On the CPU, the default, these two are NumPy and tinygen. With `--device gpu` the same lines make
their arrays on the GPU: arrays that `np` makes, Tensors that `tg` makes of lists and numbers, and
layers. So a test written for one runs on both.

There `np` computes with NumPy as before, for an oracle should be independent; it copies to the CPU
and back in so many words. `tinygen` itself has the real NumPy, and none of these ways. The GPU is
the machine's where it has one, else the stand-in of strict_cupy.py.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import numpy
import strict_cupy

import tinygen
from tinygen import backend

DEVICE = "cpu"
np: Any = numpy
tg: Any = tinygen


def use_gpu(stack: ExitStack) -> None:
    """Before test modules import from here: the GPU, or the stand-in until `stack` is closed."""
    global DEVICE, np, tg
    if backend.gpu_problem() is not None:
        stack.enter_context(strict_cupy.installed())
        backend.gpu_problem.cache_clear()
        stack.callback(backend.gpu_problem.cache_clear)
    DEVICE, np, tg = "gpu", _Numpy("numpy", numpy), _tinygen()


def on_cpu(value: Any) -> Any:
    """What NumPy can take: arrays and constant Tensors copied, containers gone through."""
    if backend.is_gpu_array(value):
        return value.get()
    if isinstance(value, tinygen.Tensor) and not value.requires_grad:
        return value.numpy()
    if isinstance(value, dict):
        return {k: on_cpu(v) for k, v in value.items()}
    return type(value)(map(on_cpu, value)) if type(value) in (list, tuple) else value


def on_gpu(value: Any) -> Any:
    """NumPy arrays copied, containers gone through."""
    if isinstance(value, numpy.ndarray) and value.dtype.kind in "fiub":
        return backend.to_device(value, "gpu")
    if isinstance(value, dict):
        return {k: on_gpu(v) for k, v in value.items()}
    return type(value)(map(on_gpu, value)) if type(value) in (list, tuple) else value


def placed(value: Any) -> Any:
    """NumPy arrays, also in lists, tuples and dicts, on the device under test."""
    return value if DEVICE == "cpu" else on_gpu(value)


class _Numpy(ModuleType):
    """A module of NumPy's, or a random generator, whose functions give arrays on the GPU."""

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
        return functools.wraps(value)(self._function(value))

    @staticmethod
    def _function(function: Callable[..., Any]) -> Callable[..., Any]:
        def computed(*args: Any, **kwargs: Any) -> Any:
            result = on_gpu(function(*on_cpu(args), **on_cpu(kwargs)))
            random = isinstance(result, numpy.random.Generator)
            return _Numpy("generator", result) if random else result

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
            setattr(layers, name, functools.partial(_moved, value))
    return module


def _tensor(data: Any, *, device: str | None = None, **options: Any) -> Any:
    if device is None and not isinstance(data, (tinygen.Tensor, numpy.ndarray)):
        device = "gpu"
    return tinygen.tensor(data, device=device, **options)


def _moved(layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return layer(*args, **kwargs).to("gpu")
