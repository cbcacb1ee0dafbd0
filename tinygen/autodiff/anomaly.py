"""Anomaly mode: an error names the first operation or derivative that makes NaN or infinity."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.backend import is_gpu_array, namespace_of, to_device
from tinygen.errors import NonFiniteError

__all__ = ["callers_line", "check_derivative", "check_result", "check_unchanged", "digests"]

_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
_NUMPY = f"{Path(np.__file__).parent}{os.sep}"
_ENGINE = tuple(f"{_PACKAGE}{part}{os.sep}" for part in ("autodiff", "ops", "report"))


def callers_line() -> str:
    """The innermost line outside the package. If there is none, the innermost outside the engine."""
    frame: Any = sys._getframe(1)
    inside = None
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_PACKAGE, _NUMPY, "<frozen")):
            return f"{file}:{frame.f_lineno}"
        if inside is None and not file.startswith(_ENGINE):
            inside = f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return inside or "an unknown line"


def check_result(name: str, arrays: Sequence[Any], parents: Sequence[Any], out: Any) -> None:
    """NonFiniteError: the operation made NaN or infinity, or one of its inputs holds NaN."""
    m = namespace_of(out)
    if m.isfinite(out).all():
        return
    given = [i for i, a in enumerate(arrays) if a is not None and m.isnan(a).any()]
    if given:
        source = getattr(parents[given[0]], "name", None)
        raise NonFiniteError(
            f"input {given[0]}{f' ({source})' if source else ''} of {name} holds NaN before the "
            f"operation, at {callers_line()}"
        )
    made = "NaN" if m.isnan(out).any() else "an infinity" if m.isinf(out).any() else None
    if made == "NaN" or (made and not any(m.isinf(a).any() for a in arrays if a is not None)):
        shapes = ", ".join(str(list(getattr(a, "shape", ()))) for a in arrays)
        raise NonFiniteError(
            f"{name} made {made} from finite inputs of shape {shapes}, at {callers_line()}"
        )


def check_derivative(name: str, i: int, array: Any, line: str) -> None:
    """NonFiniteError: the derivative of an operation with respect to input i is not finite."""
    m = namespace_of(array)
    if not m.isfinite(array).all():
        made = "NaN" if m.isnan(array).any() else "an infinity"
        raise NonFiniteError(
            f"the derivative of {name} with respect to input {i} made {made} "
            f"(shape {list(array.shape)}); the operation was called at {line or 'an unknown line'}"
        )


def digests(kept: dict[str, Any]) -> dict[str, int]:
    """A hash of each array, or list of arrays, that a node keeps. It shows a change of the values."""
    return {name: _digest(value) for name, value in kept.items()}


def _digest(value: Any) -> int:
    if isinstance(value, list):
        return hash(tuple(_digest(v) for v in value))
    array = isinstance(value, np.ndarray) or is_gpu_array(value)
    return hash(to_device(value, "cpu").tobytes()) if array else 0


def check_unchanged(node: Any) -> None:
    """ValueError: an array that the node keeps was changed after the node was made."""
    before = node.digests  # empty if the node was made outside anomaly mode
    changed = [name for name, now in digests(node.kept).items() if before.get(name, now) != now]
    if changed:
        what = "the output" if changed[0] == "y" else f"input {changed[0]}"
        raise ValueError(
            f"{what} of {node.op.name} was changed after the operation and before backward; "
            f"it was called at {node.line}"
        )
