"""A program as one native function: compiled and kept as the kernels are, called through ctypes."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from tinygen.compile.emit import Emitted
from tinygen.compile.program import Call, Program, address
from tinygen.compile.replay import Replay
from tinygen.kernels import dispatch, pool
from tinygen.kernels.native import Unavailable, compiled, loaded

__all__ = ["Native", "Unavailable"]


class Native(Replay):
    """A program whose `run` is a call of its library, and of NumPy for what has no form there."""

    def __init__(self, program: Program, emitted: Emitted) -> None:
        super().__init__(program)
        library, self.description = compiled("program", emitted.emit(program.nodes), loaded)
        self.stops, self.segments = emitted.stops, [
            s if isinstance(s, Call) else _function(library, f"run{s}") for s in emitted.segments
        ]  # fmt: skip
        launch: Any = dispatch.native()
        kernels = [ctypes.cast(launch.functions[k], ctypes.c_void_p).value for k in emitted.kernels]
        functions = [*_products(), *kernels]
        self.functions = (ctypes.c_void_p * len(functions))(*functions)
        fixed = [self.block, *(s.source for s in program.outside())]
        self.fixed, count = len(fixed), len(fixed) + len(program.arguments) + len(program.results)
        self.bases = np.zeros(
            count, np.uintp
        )  # pointers: those after `fixed` differ from run to run
        self.bases[: self.fixed] = [address(a) for a in fixed]
        self.numbers = {"whole": np.zeros(len(program.numbers) + 1, np.uint64)}  # one table of them
        self.numbers["number"] = self.numbers["whole"].view(np.float64)
        tables = [self.bases, self.numbers["whole"]]
        self.given = [*map(address, tables), ctypes.addressof(self.functions)]

    def run(self, arguments: list[Any], results: list[Any], numbers: list[Any]) -> str | None:
        arrays = arguments + results
        self.bases[self.fixed :] = [a.__array_interface__["data"][0] for a in arrays]
        for number, value in zip(self.program.numbers, numbers, strict=True):
            self.numbers[number.field][number.position] = value
        if len(self.segments) > 1:
            self.bind(arguments, results)
        for segment in self.segments:
            if isinstance(segment, Call):
                self.perform(segment, numbers)
            elif code := segment(*self.given):
                return self.stops[code - 1]
        return None


def _function(library: ctypes.CDLL, name: str) -> Any:
    function = library[name]
    function.argtypes = [ctypes.c_void_p] * 3
    return function


@cache
def _products() -> list[int]:
    """The addresses of the pool's table, and where there is no pool of SciPy's sgemm and dgemm."""
    if table := pool.table():
        return [table, 0, 0]
    from scipy.linalg import cython_blas  # takes 60 ms

    pointer, name = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_GetName
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    capsules = [cython_blas.__pyx_capi__[f"{kind}gemm"] for kind in "sd"]
    return [0, *(pointer(capsule, name(capsule)) for capsule in capsules)]
