"""The array library behind an array, and what tinygen adds to it.

A derivative is written once and takes the *namespace* to compute in as its first argument `m`.
For raw arrays that is a `Namespace`: all of NumPy, and beside it the raw forms of the operations
that NumPy lacks (`m.sigmoid`, `m.erf`, `m.index_add`, ...). Under `create_graph=True` it is the
module `tinygen.ops`, whose functions carry the same names and meanings on Tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["Namespace", "namespace_of", "numpy_namespace", "special"]

raw_forms: dict[str, Callable[..., Any]] = {}
"""Forward forms `f(m, *arrays)` of tinygen's operations by name; filled as they are defined."""


class Namespace:
    """An array library, completed by the raw forms of tinygen's own operations."""

    def __init__(self, library: ModuleType, device: str) -> None:
        self.library = library
        self.device = device

    def __getattr__(self, name: str) -> Any:
        # Reached once per name: the answer is stored as an attribute, which is found first.
        value = getattr(self.library, name, None)
        if value is None:
            if name not in raw_forms:
                raise AttributeError(f"neither {self.library.__name__} nor tinygen has {name!r}")
            value = functools.partial(raw_forms[name], self)
        setattr(self, name, value)
        return value

    def __repr__(self) -> str:
        return f"Namespace({self.library.__name__})"


numpy_namespace = Namespace(np, "cpu")


class _Namespaces(dict[type, Namespace]):
    """Namespace by the exact type of an array: one dictionary look-up on the hot path."""

    def __missing__(self, kind: type) -> Namespace:
        if issubclass(kind, (np.ndarray, np.generic)):
            self[kind] = numpy_namespace
            return numpy_namespace
        raise TypeError(
            f"arrays of type {kind.__module__}.{kind.__qualname__} are not supported; "
            "convert to a NumPy array first"
        )


_namespaces = _Namespaces({np.ndarray: numpy_namespace})


def namespace_of(array: Any) -> Namespace:
    """The namespace that computes with `array`; TypeError for a type that tinygen does not know."""
    return _namespaces[type(array)]


def special(m: Namespace) -> Any:
    """The module of special functions (erf, ...) that belongs to namespace `m`."""
    from scipy import special as scipy_special  # only when used: SciPy imports slowly

    return scipy_special
