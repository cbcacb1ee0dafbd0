"""How many kernels a piece of work launches on the GPU, counted on the stand-in for CuPy.

    with counted() as launches:
        step()
    launches["add"], sum(launches.values())

Every call of a ufunc or a function that makes an array counts as one, a mean as two, a sum of arrays
joined as one for each; so do a copy, a cast, and a write into an array. What only looks at memory
that is there counts as none: views, empty arrays, arrays of zeros (which the driver fills) and
products, which are cuBLAS's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.support import strict_cupy
from tinygen import backend
from tinygen.kernels import dispatch

FREE = ("array", "empty", "empty_like", "zeros", "zeros_like", "matmul")
IN_PLACE = (
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "ipow",
    "iand",
    "ior",
    "setitem",
    "copy",
    "deepcopy",
)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """The launches inside the block, by name."""
    found: Counter[str] = Counter()
    compute = strict_cupy._compute
    launch, what = dispatch._found("gpu")

    def computed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = compute(function, *args, **kwargs)
        name, owner = function.__name__, getattr(function, "__self__", None)
        found[name] += _launches(name, owner, result, args, kwargs)
        return result

    def launched(name: str, *arguments: Any) -> None:
        found[name] += 1
        launch(name, *arguments)

    def method(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return function(*args, **kwargs)

        return counting

    m = backend.namespace_for("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(m, "array", method("array", m.array))  # a copy
        patch.setattr(strict_cupy, "_compute", computed)
        patch.setattr(dispatch, "_found", lambda device: (launched, what))
        for name in IN_PLACE:
            full = f"__{name}__"
            if hasattr(strict_cupy.ndarray, full):
                patch.setattr(
                    strict_cupy.ndarray, full, method(name, getattr(strict_cupy.ndarray, full))
                )
        yield found


def _launches(
    name: str, owner: Any, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> int:
    """owner: of a method."""
    given = [x for x in (owner, *args, *kwargs.values()) if isinstance(x, np.ndarray)]
    made = result if isinstance(result, (list, tuple)) else [result]
    if name in FREE or all(any(np.may_share_memory(x, g) for g in given) for x in made):
        return 1 if isinstance(kwargs.get("out"), np.ndarray) else 0
    if name == "concatenate":
        return len(args[0])
    return 2 if name == "mean" else 1
