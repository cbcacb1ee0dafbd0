"""Are the CUDA kernels right: against float64, and bit for bit against the C++ build.

Inputs are fresh, outputs start as NaN, arrays are aligned and not; the results may not depend on
the launch geometry, nor on whether the draw's number is in the host's memory or in the GPU's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import numpy as np

from benchmarks.gpu.table import Kernel, exact_normals, inputs
from tinygen import kernels
from tinygen.backend import namespace_for, numpy_namespace
from tinygen.kernels import Draw, cuda

__all__ = [
    "GEOMETRIES", "SHAPES", "Fresh", "close", "compare", "cpp", "differing", "geometry",
    "moved_by_counter", "moved_by_geometry", "run", "verdict",
]  # fmt: skip

Array = Any
SHAPES = [(0, 5), (1, 1), (1, 3), (16, 49), (7, 143), (64, 64), (101, 9901)]  # to 10^6 + 1 elements
ENOUGH = 700  # elements, for a norm: of a few, one in which much cancelled decides
GEOMETRIES = [(32, 1), (96, 2), (256, 1), (256, 2**16)]  # threads, most blocks per multiprocessor
SMALLEST = 1e-6  # norm of an oracle: below, its own rounding shows (arrays here are of order 1)
MOVED = 2**40 + 3  # by a counter


class Poisoned:
    """A namespace whose empty arrays are full of NaN, or of the largest integer.

    They begin `offset` elements off alignment.
    """

    def __init__(self, m: Any, offset: int) -> None:
        self._m, self._offset = m, offset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._m, name)

    def empty(self, shape: Any, dtype: Any) -> Array:
        dtype = np.dtype(dtype)
        size = prod(shape) if isinstance(shape, tuple) else shape
        whole = self._m.empty(size + self._offset, dtype)
        whole.fill(np.nan if dtype.kind == "f" else np.iinfo(dtype).max)
        return whole[self._offset :].reshape(shape)

    def empty_like(self, x: Array) -> Array:
        return self.empty(x.shape, x.dtype)


class Fresh(NamedTuple):
    """Random inputs on the host, and the draw of the noise. The same again for the same seed."""

    arrays: Any
    draw: Draw

    @classmethod
    def of(cls, kernel: Kernel, shape: tuple[int, int], seed: int) -> Fresh:
        rng = np.random.default_rng([seed, *shape])
        draw = Draw(*(int(k) for k in rng.integers(2**62, 2**63, 2)))

        def normal(*shape: int) -> Array:
            return rng.standard_normal(shape, np.float32)

        return cls(inputs(kernel, normal, lambda *s: rng.random(s, np.float32), *shape), draw)

    def placed(self, m: Any, offset: int = 0) -> Any:
        """A copy of the inputs on m's device, `offset` elements off alignment."""
        placed = {}
        for name, array in arrays_of(self.arrays).items():
            view = m.empty(array.size + offset, array.dtype)[offset:].reshape(array.shape)
            view[...] = m.asarray(array)
            placed[name] = view
        return self.arrays._replace(**placed)


def arrays_of(x: Any) -> dict[str, Array]:
    """The inputs without their number n."""
    return {name: array for name, array in x._asdict().items() if name != "n"}


def run(
    kernel: Kernel, m: Any, fresh: Fresh, offset: int = 0, draw: Draw | None = None
) -> list[Array]:
    """The results on m's device, copied to the host."""
    results = kernel.call(Poisoned(m, offset), fresh.placed(m, offset), draw or fresh.draw)
    return [r if r is None or m is numpy_namespace else r.get() for r in results]


def oracle(kernel: Kernel, fresh: Fresh) -> list[Array]:
    """What the results should be: NumPy's definition, or the plain form in float64."""
    if kernel.plain is None:
        assert kernel.definition is not None
        return kernel.definition(fresh.arrays, fresh.draw)
    wide = {name: x.astype(np.float64) for name, x in arrays_of(fresh.arrays).items()}

    def noise(shape: tuple[int, ...]) -> Array:
        return exact_normals(prod(shape), fresh.draw).reshape(shape)

    return kernel.plain(numpy_namespace, fresh.arrays._replace(**wide), noise)


def differing(a: Array, b: Array) -> int:
    """How many elements have other bits. NaN is NaN, and a float32 below the normal ones is 0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return max(a.size, b.size, 1)
    if a.dtype.kind != "f":
        return int(np.count_nonzero(a != b))
    whole = f"u{a.dtype.itemsize}"
    both_nan = np.isnan(a) & np.isnan(b)
    return int(np.count_nonzero((_flushed(a).view(whole) != _flushed(b).view(whole)) & ~both_nan))


def _flushed(x: Array) -> Array:
    """Subnormal float32 as 0 with their sign: CuPy compiles with -ftz=true."""
    small = (abs(x) < np.finfo(np.float32).tiny) & (x.dtype == np.float32)
    return np.where(small, np.copysign(x.dtype.type(0), x), x)


def errors(results: Sequence[Array], expected: Sequence[Array]) -> tuple[float, float]:
    """The largest ‖out − oracle‖ / ‖oracle‖, and max |out − oracle| / max |oracle|.

    Infinite if a result is not there, has another shape, or is NaN where the oracle is not.
    """
    worst = [0.0, 0.0]
    for out, true in zip(results, expected, strict=True):
        if out is None or out.shape != np.shape(true):
            return np.inf, np.inf
        if out.size:
            # Exact for the integers too: equal ones have no difference in any type.
            difference = np.where(out == true, 0, out.astype(np.float64) - true)
            true = np.abs(np.asarray(true, np.float64))
            for i, norm in enumerate((np.linalg.norm, np.max)):
                error = norm(np.abs(difference).reshape(-1)) / max(norm(true.reshape(-1)), SMALLEST)
                worst[i] = max(worst[i], float(error) if np.isfinite(error) else np.inf)
    return worst[0], worst[1]


def units(a: Array, b: Array) -> int:
    """The largest distance of two floats, in numbers of their type that lie between."""
    a, b = (_flushed(x[np.isfinite(a) & np.isfinite(b)]) for x in (a, b))
    places = [x.view(f"i{x.dtype.itemsize}").astype(np.int64) for x in (a, b)]
    signless = np.iinfo(f"i{a.dtype.itemsize}").max
    first, second = (np.where(p < 0, -(p & signless), p) for p in places)
    return int(abs(first - second).max(initial=0))


@functools.cache
def cpp() -> bool:
    """True where the CPU's kernels are the C++ build."""
    return kernels.description("cpu").startswith("C++")


def compare(kernel: Kernel, shape: tuple[int, int], seed: int) -> dict[str, Any]:
    """Errors against the oracle, and elements whose bits the C++ build does not have.

    Of no elements nothing is computed, and the call may give None.
    """
    m, fresh = namespace_for("gpu"), Fresh.of(kernel, shape, seed)
    runs = [run(kernel, m, fresh, offset) for offset in (0, 1)]
    found: dict[str, Any] = {"error": 0.0, "largest": 0.0}
    if fresh.arrays.n:
        expected = oracle(kernel, fresh)
        found["error"], found["largest"] = map(
            max, zip(*(errors(results, expected) for results in runs), strict=True)
        )
    if cpp():
        reference = run(kernel, numpy_namespace, fresh)
        found["bits"] = sum(_differing(results, reference) for results in runs)
        if found["bits"]:
            pairs = [pair for results in runs for pair in zip(results, reference, strict=True)]
            found["units"] = max((units(x, y) for x, y in pairs if alike(x, y)), default=0)
    return found


def alike(a: Array | None, b: Array | None) -> bool:
    """True for two arrays of floats of one type and shape."""
    if a is None or b is None:
        return False
    return a.dtype == b.dtype and a.dtype.kind == "f" and a.shape == b.shape


def _differing(a: Sequence[Array], b: Sequence[Array]) -> int:
    return sum(
        0 if x is y is None else 1 if x is None or y is None else differing(x, y)
        for x, y in zip(a, b, strict=True)
    )


@contextmanager
def geometry(threads: int, blocks: int) -> Iterator[None]:
    """Kernels launched with so many threads in a block, and at most so many blocks for each
    multiprocessor, inside the `with` block."""
    names = ("THREADS", "PER_BLOCK", "BLOCKS_PER_PROCESSOR")
    before = [getattr(cuda, name) for name in names]
    try:
        _set(names, (threads, 4 * threads, blocks))
        yield
    finally:
        _set(names, before)


def _set(names: Sequence[str], values: Sequence[int]) -> None:
    for name, value in zip(names, values, strict=True):
        setattr(cuda, name, value)


def moved_by_geometry(kernel: Kernel, shape: tuple[int, int], seed: int) -> int:
    """Elements that are other ones in another launch geometry."""
    m, fresh = namespace_for("gpu"), Fresh.of(kernel, shape, seed)
    expected, count = run(kernel, m, fresh), 0
    for threads, blocks in GEOMETRIES:
        with geometry(threads, blocks):
            count += _differing(run(kernel, m, fresh), expected)
    return count


def moved_by_counter(kernel: Kernel, shape: tuple[int, int], seed: int) -> int:
    """Elements that are other ones when part of the draw's number is in the GPU's memory."""
    m, fresh = namespace_for("gpu"), Fresh.of(kernel, shape, seed)
    seed, number, *_ = fresh.draw
    counted = Draw(seed, number - MOVED, m.asarray(np.array([MOVED, 0], np.uint64)))
    return _differing(run(kernel, m, fresh, draw=counted), run(kernel, m, fresh))


def verdict(kernel: Kernel, seed: int, shapes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """All of it for one kernel; `ok` if the design's promises hold."""
    found = [compare(kernel, shape, seed) for shape in shapes]
    large = [f for f, shape in zip(found, shapes, strict=True) if prod(shape) >= ENOUGH]
    result: dict[str, Any] = {
        "error": max(f["error"] for f in large),
        "largest": max(f["largest"] for f in large),
        "bits": sum(f["bits"] for f in found) if cpp() else None,
        "units": max(f.get("units", 0) for f in found),
        "geometry": moved_by_geometry(kernel, shapes[-2], seed),
        "counter": moved_by_counter(kernel, shapes[-2], seed),
    }
    counts = [result[name] or 0 for name in ("bits", "geometry", "counter")]
    result["ok"] = all(map(functools.partial(close, kernel), shapes, found)) and not any(counts)
    return result


def close(kernel: Kernel, shape: tuple[int, int], found: dict[str, Any]) -> bool:
    """True if the errors that `compare` found are within the kernel's tolerance."""
    return found["error"] <= kernel.tolerance * (1 if prod(shape) >= ENOUGH else 1e4)
