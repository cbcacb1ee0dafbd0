"""The array library behind an array, and what tinygen adds to it.

A derivative is written once and takes the *namespace* to compute in as its first argument `m`.
For raw arrays that is a module with all of NumPy, and beside it the raw forms of the operations
that NumPy lacks (`m.sigmoid`, `m.erf`, `m.index_add`, ...). Under `create_graph=True` it is the
module `tinygen.ops`, whose functions carry the same names and meanings on Tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["namespace_of", "numpy_namespace", "special"]

raw_forms: dict[str, Callable[..., Any]] = {}
"""Forward forms `f(m, *arrays)` of tinygen's operations by name; filled as they are defined."""


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


class _Namespaces(dict[type, ModuleType]):
    """Namespace by the exact type of an array: one dictionary look-up on the hot path."""

    def __missing__(self, kind: type) -> ModuleType:
        if issubclass(kind, (np.ndarray, np.generic)):
            self[kind] = numpy_namespace
            return numpy_namespace
        raise TypeError(
            f"arrays of type {kind.__module__}.{kind.__qualname__} are not supported; "
            "convert to a NumPy array first"
        )


_namespaces = _Namespaces({np.ndarray: numpy_namespace})


def namespace_of(array: Any) -> Any:
    """The namespace that computes with `array`; TypeError for a type that tinygen does not know."""
    return _namespaces[type(array)]


def special(m: Any) -> Any:
    """The module of special functions (erf, ...) that belongs to namespace `m`."""
    from scipy import special as scipy_special  # only when used: SciPy imports slowly

    return scipy_special
