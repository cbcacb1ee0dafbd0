"""A program as one native function: compiled and kept as the kernels are, called through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
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
        self.segments: list[Any] = []
        for segment in emitted.segments:
            if isinstance(segment, Call):
                self.segments.append(segment)
            else:
                function = library[f"run{segment}"]
                function.argtypes = [ctypes.c_void_p] * 3
                self.segments.append(function)
        functions = [*_products(), *(_kernel(name) for name in emitted.kernels)]
        self.functions = (ctypes.c_void_p * len(functions))(*functions)
        outside = program.outside()
        count = 1 + len(outside) + len(program.arguments) + len(program.results)
        self.bases = np.zeros(count, np.uintp)
        self.bases[: 1 + len(outside)] = [
            _address(self.block),
            *(_address(s.source) for s in outside),
        ]
        self.first = 1 + len(outside)
        self.slots = np.zeros(max(len(program.numbers), 1), np.uint64)
        self.reals = self.slots.view(np.float64)
        self.wholes = [i for i, n in enumerate(program.numbers) if n.whole]
        self.places = [i for i, n in enumerate(program.numbers) if not n.whole]
        self.given = [_address(a) for a in (self.bases, self.slots)]
        self.given.append(ctypes.addressof(self.functions))

    def run(self, arguments: list[Any], results: list[Any], numbers: list[Any]) -> str | None:
        self.bases[self.first :] = [
            a.__array_interface__["data"][0] for a in (*arguments, *results)
        ]
        if self.wholes:
            self.slots[self.wholes] = [numbers[i] % 2**64 for i in self.wholes]
        if self.places:
            self.reals[self.places] = [numbers[i] for i in self.places]
        memory: Any = None
        for segment in self.segments:
            if isinstance(segment, Call):
                memory = memory or self.memory_of(arguments, results)
                if stopped := self.perform(segment, memory, numbers):
                    return stopped
            elif code := segment(*self.given):
                return self.stops[code - 1]
        return None


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def _kernel(name: str) -> int:
    launch: Any = dispatch._found("cpu")[0]
    return ctypes.cast(launch.functions[name], ctypes.c_void_p).value or 0


@cache
def _products() -> tuple[int, int]:
    """The addresses of BLAS's sgemm and dgemm, which SciPy hands out."""
    from scipy.linalg import cython_blas

    api = ctypes.pythonapi
    name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    pointer: Callable[..., int] = ctypes.PYFUNCTYPE(
        ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p
    )(("PyCapsule_GetPointer", api))
    capsules = [cython_blas.__pyx_capi__[f"{kind}gemm"] for kind in "sd"]
    single, double = (pointer(capsule, name(capsule)) for capsule in capsules)
    return single, double
