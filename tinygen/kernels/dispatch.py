"""Which form of the kernels computes: CUDA for CuPy arrays; for NumPy arrays C++ if there is a
compiler, else NumPy. `TINYGEN_KERNELS=numpy` or `native` forces one of the two."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen.errors import DeviceError, unknown

__all__ = ["Launch", "aligned", "description", "launcher", "native"]

Launch = Callable[..., None]

FORMS = ("numpy", "native")
_FLOAT32 = np.dtype(np.float32)


def launcher(m: Any, *arrays: Any) -> Launch | None:
    """`launch(name, *arguments)` of the kernels for arrays of namespace m.

    None where the plain form is to compute: there are no kernels, or one of `arrays` is not a
    contiguous, aligned array of float32, or m is `tinygen.ops`, which makes a graph of what is computed.
    """
    device = getattr(m, "device", None)
    launch = None if device is None else _found(device)[0]
    if launch is not None:
        launch = vars(m).get("launch", launch)  # of arrays that record
        for array in arrays:
            if array.dtype is not _FLOAT32 and array.dtype != _FLOAT32:
                return None
            flags = array.flags
            # NumPy's `carray` is contiguous, aligned and writeable in one look-up: the common case.
            if not (getattr(flags, "carray", False) or (flags.c_contiguous and aligned(flags))):
                return None
    return launch


def native() -> Launch | None:
    """The compiled kernels for the CPU, or None if NumPy computes."""
    return _found("cpu")[0]


def aligned(flags: Any) -> bool:
    """True if elements begin at multiples of their size; CuPy's do, and their flags do not say so."""
    return getattr(flags, "aligned", True)


def description(device: str) -> str:
    """One line: which form computes on the device, and why."""
    return _found(device)[1]


@functools.cache
def _found(device: str) -> tuple[Launch | None, str]:
    """The kernels of a device, found and if need be compiled at their first use."""
    if device == "gpu":
        from tinygen.kernels import cuda

        return cuda.load()
    wish = os.environ.get("TINYGEN_KERNELS", "")
    if wish and wish not in FORMS:
        raise unknown("form of the kernels in TINYGEN_KERNELS", wish, FORMS)
    if wish == "numpy":
        return None, "NumPy, as TINYGEN_KERNELS asks"
    from tinygen.kernels import native

    try:
        launch, what = native.load()
    except native.Unavailable as reason:
        if wish == "native":
            raise DeviceError(f"TINYGEN_KERNELS=native, but {reason}") from None
        from logging import getLogger  # imported here, because the import is slow

        getLogger("tinygen").warning("tinygen: %s; NumPy computes instead", reason)
        return None, f"NumPy: {reason}"
    return launch, f"C++ ({what})"
