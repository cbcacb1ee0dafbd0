"""The functions of a student's file, and what a law may ask of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen.autodiff.engine import Tensor


class Broken(Exception):
    """A law does not hold. The message has the input and the two values."""


def require(true: Any, problem: str) -> None:
    """Broken with this problem, unless it is true."""
    if not true:
        raise Broken(problem)


def close(found: Any, right: Any, what: str, within: float = 1e-8) -> None:
    """Broken, unless `found` has the shape and the values of `right`. `what` names it.

    within: the tolerance, relative to values above 1.
    """
    found, right = _numbers(found, what), _numbers(right, what)
    shapes = f"{what} has the shape {found.shape}, the right shape is {right.shape}"
    require(found.shape == right.shape, shapes)
    off = ~(abs(found - right) <= within * np.maximum(1, abs(right)))  # NaN is off
    for at in map(tuple, np.argwhere(off)[:1].tolist()):
        place = f" at {list(at)}" * bool(at)
        raise Broken(f"{what} is {found[at]:.7g}{place}, the right value is {right[at]:.7g}")


def parts(value: Any, n: int, what: str) -> Any:
    """`value`, a tuple or list of n things. Broken if it is something else."""
    fits = isinstance(value, (tuple, list)) and len(value) == n
    require(fits, f"{what} is {_shown(value)}, not {n} things: return them as a, b, ...")
    return value


def connected(value: Any, what: str) -> Any:
    """`value`, a Tensor in a graph. Broken if it is something else."""
    in_graph = isinstance(value, Tensor) and value.requires_grad
    require(in_graph, f"no gradient flows back through {what}: use tinygen's operations")
    return value


class Function:
    """A function of the student's file. It may change its arguments: they are copies."""

    def __init__(self, name: str, function: Any) -> None:
        require(callable(function), f"the file has no function {name}")
        self.name, self.function = name, function

    def __call__(self, *args: Any) -> Any:
        """What it returns. Broken if that is nothing."""
        value = self.function(*(a.copy() if isinstance(a, np.ndarray) else a for a in args))
        require(value is not None, f"{self.name} returned None: has it a return line?")
        return value

    def gives(self, right: Any, *args: Any, within: float = 1e-8) -> None:
        """Broken, unless the call gives what is right."""
        close(self(*args), right, f"{self.name}({', '.join(map(_shown, args))})", within)


class Functions:
    """The functions of a student's file, as attributes."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names

    def __getattr__(self, name: str) -> Function:
        return Function(name, self._names.get(name))


def _numbers(value: Any, what: str) -> Any:
    """The value as a float array. Broken if it is not made of real numbers."""
    try:
        array = np.asarray(value.data if isinstance(value, Tensor) else value)
    except ValueError:  # a ragged list
        array = np.array("")
    require(array.dtype.kind in "biuf", f"{what} is {_shown(value)}, not real numbers")
    return array.astype(float)


def _shown(value: Any) -> str:
    """A value in few letters."""
    value = value.data if isinstance(value, Tensor) else value
    if isinstance(value, np.ndarray):
        return str(value.round(4).tolist() if value.size < 5 else f"array{list(value.shape)}")
    text = f"{value:.4g}" if isinstance(value, float) else repr(value)
    return text if len(text) < 60 else f"{text[:56]} ..."
