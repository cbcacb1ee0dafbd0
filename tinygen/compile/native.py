"""A program as one native function: compiled and kept as the kernels are, called through ctypes."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from tinygen.compile.emit import Emitted
from tinygen.compile.program import Call, Program
from tinygen.compile.replay import Replay
from tinygen.kernels import dispatch
from tinygen.kernels.native import compiled, loaded

__all__ = ["Native"]


class Native(Replay):
    """A program whose `run` is a call of its library, and of NumPy for what has no form there."""

    def __init__(self, program: Program, emitted: Emitted) -> None:
        super().__init__(program)
        self.stops = emitted.stops
        library, self.description = compiled("program", emitted.text, loaded)
        self.segments: list[Any] = [
            s if isinstance(s, Call) else _run(library[f"run{s}"]) for s in emitted.segments
        ]
        launch: Any = dispatch.native()
        kernels = [
            ctypes.cast(launch.functions[name], ctypes.c_void_p).value for name in emitted.kernels
        ]
        functions = [*_products(), *kernels]
        self.functions = (ctypes.c_void_p * len(functions))(*functions)
        fixed = [_address(self.block), *(_address(s.source) for s in program.outside())]
        self.first = len(fixed)  # of the base pointers that differ from run to run
        count = self.first + len(program.arguments) + len(program.results)
        self.bases = np.array(fixed + [0] * (count - self.first), np.uintp)
        self.whole = np.zeros(max(len(program.numbers), 1), np.uint64)  # the table of numbers
        self.reals = self.whole.view(np.float64)
        self.given = [_address(self.bases), _address(self.whole), ctypes.addressof(self.functions)]

    def run(self, arguments: list[Any], results: list[Any], numbers: list[Any]) -> str | None:
        self.bases[self.first :] = [_address(a) for a in (*arguments, *results)]
        for number, value in zip(self.program.numbers, numbers, strict=True):
            if number.whole:
                self.whole[number.position] = value % 2**64
            else:
                self.reals[number.position] = value
        for segment in self.segments:
            if isinstance(segment, Call):
                if stopped := self.perform(segment, arguments, results, numbers):
                    return stopped
            elif code := segment(*self.given):
                return self.stops[code - 1]
        return None


def _run(function: Any) -> Any:
    function.argtypes = [ctypes.c_void_p] * 3
    return function


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


@cache
def _products() -> list[int]:
    """The addresses of BLAS's sgemm and dgemm, which SciPy hands out."""
    from scipy.linalg import cython_blas

    api = ctypes.pythonapi
    name: Any = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    kinds = [ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p]
    pointer: Any = ctypes.PYFUNCTYPE(*kinds)(("PyCapsule_GetPointer", api))
    capsules = [cython_blas.__pyx_capi__[f"{kind}gemm"] for kind in "sd"]
    return [pointer(capsule, name(capsule)) for capsule in capsules]
