"""Module: a class that finds its parameters among its attributes, in the order they were set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygen.autodiff.engine import Tensor
from tinygen.backend import is_gpu_array, namespace_for, to_device
from tinygen.random import Generator

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Module"]

Array = np.ndarray[Any, Any]


class Module:
    """A part of a model. Its attributes are Tensors, random generators and other modules.

    A Tensor that requires a gradient is a parameter. Any other Tensor is a buffer: it is saved but
    not trained. Each has a path, such as `decoder.layers.0.weight`. Members in lists, tuples and
    dicts count too.
    """

    training: bool = True

    def _members(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """(path, Tensor or Generator) for all members of this module and below, in order."""
        for key, value in vars(self).items():
            yield from _walk(f"{prefix}{key}", value)

    def __call__(self, *inputs: Any) -> Any:
        """What the module computes. Each subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")

    def named_parameters(self) -> dict[str, Tensor]:
        """The parameters by path, in order. A shared parameter is listed once, at its first path."""
        found: dict[str, Tensor] = {}
        seen = set()
        for path, value in self._members():
            if isinstance(value, Tensor) and value.is_leaf and id(value) not in seen:
                seen.add(id(value))
                found[path] = value
        return found

    def parameters(self) -> list[Tensor]:
        """The parameters in order."""
        return list(self.named_parameters().values())

    def modules(self) -> Iterator[Module]:
        """This module and every module below it."""
        yield self
        for value in vars(self).values():
            yield from _modules(value)

    def generators(self) -> list[Generator]:
        """The random generators in this module, in order (dropout has one)."""
        return [value for _, value in self._members() if isinstance(value, Generator)]

    def train(self, training: bool = True) -> Self:
        """Switch this module and all below it to training or to evaluation. Returns the module."""
        for module in self.modules():
            module.training = training
        return self

    def eval(self) -> Self:
        """Switch to evaluation, in which dropout does nothing. Returns the module."""
        return self.train(False)

    @property
    def device(self) -> str:
        """The device of the parameters and buffers, 'cpu' or 'gpu'."""
        return next((v.device for _, v in self._members() if isinstance(v, Tensor)), "cpu")

    def to(self, device: str) -> Self:
        """Move all parameters and buffers to "cpu" or "gpu", in place. Returns the module.

        The Tensors stay the same objects, but their gradients are deleted. Make optimisers after the
        move, because they keep arrays on the device of the parameters. DeviceError: no usable GPU.
        """
        namespace_for(device)
        for _, value in self._members():
            if isinstance(value, Tensor) and value.device != device:
                value.data = to_device(value.data, device)
                if value.is_leaf:
                    value.grad = None
        return self

    def __repr__(self) -> str:
        shapes = (f"{n} {list(p.shape)}" for n, p in self.named_parameters().items())
        return f"{type(self).__name__}({', '.join(shapes)})"

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to None."""
        for p in self.parameters():
            p.grad = None

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters, buffers and states of random generators, by path.

        They are NumPy arrays, even if the module is on the GPU.
        """
        return {
            path: np.array(v.state, np.uint64) if isinstance(v, Generator) else v.numpy().copy()
            for path, v in self._members()
        }

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Set every parameter, buffer and generator from `state`.

        The paths and shapes must be exactly those of the module. The arrays may be on any device; the
        module stays on its own.
        ValueError: it lists what is missing, what is not expected, what has another shape, and what
        does not hold numbers. Then nothing was changed.
        """
        own = dict(self._members())
        problems = [f"missing: {path}" for path in own if path not in state]
        problems += [f"not expected: {path}" for path in state if path not in own]
        arrays = {k: v if is_gpu_array(v) else np.asarray(v) for k, v in state.items()}
        for path in own.keys() & state.keys():
            array = arrays[path]
            is_generator = isinstance(own[path], Generator)
            shape, kinds = ((2,), "u") if is_generator else (own[path].shape, "fiub")
            if array.shape != shape:
                problems.append(f"{path}: shape {array.shape}, the module has {shape}")
            elif array.dtype.kind not in kinds:
                problems.append(f"{path}: dtype {array.dtype}")
        if problems:
            raise ValueError("the state does not fit this module; " + "; ".join(sorted(problems)))
        for path, value in own.items():
            if isinstance(value, Generator):
                seed, draws = state[path]
                value.state = int(seed), int(draws)
            else:
                value.data[...] = to_device(arrays[path], value.device)


def _modules(value: Any) -> Iterator[Module]:
    if isinstance(value, Module):
        yield from value.modules()
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _modules(item)
    elif isinstance(value, dict):
        yield from _modules(list(value.values()))


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Tensor, Generator)):
        yield path, value
    elif isinstance(value, Module):
        yield from value._members(path + ".")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _walk(f"{path}.{i}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(f"{path}.{key}", item)
