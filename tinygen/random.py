"""Counter-based random numbers: one definition of the stream for every backend.

A number depends on the generator's seed, on which of its draws this is, and on its place in the
array, and on nothing else: not on the device, nor on how many rows there are. How words become
numbers is in `tinygen.kernels`: `philox.py` is the definition, in NumPy.
"""

from __future__ import annotations

import math
import operator
import zlib
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from tinygen import kernels
from tinygen.backend import is_recorded, namespace_for, namespace_of, recorder, varying
from tinygen.kernels.fused import Draw
from tinygen.kernels.philox import philox4x32

__all__ = ["Generator", "Rng", "as_generator", "default_generator", "manual_seed", "philox4x32"]

Array: TypeAlias = Any
Rng: TypeAlias = "Generator | SupportsIndex"  # a stream, or the seed of a new one
Shape: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...]

_CHILD_DRAW = 2**64 - 1  # reserved for Generator.child
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Generator:
    """A stream of random arrays. Its whole state is two integers, ``(seed, draws)``.

    Each call of a random method is one draw. It advances ``draws`` by one, whatever the size of the
    array. A call that raises an error does not. Both integers are in [0, 2**64), else ValueError or
    TypeError. ``shape`` is an int or a tuple of ints; ``()`` gives a 0-d array. Elements are numbered
    in C order.

    ``device`` is where the array is made, 'cpu' or 'gpu'. Bits, uniforms and integers are the same
    on both, normals to 1e-6. float32 normals are the same bits in the C++ and the CUDA kernels.

    ``counter`` is None, or an array of two uint64 that the kernel adds to Philox's counter: to
    ``draws``, and to the numbers of the blocks, 0. On a GPU, code there can advance it without this
    object.

    ``rows`` is None, or what `tinygen.parallel` sets: the rows of a batch that this process holds. An
    array then has one row for each of them (else ValueError), and its numbers are those of these rows
    in the draw for the whole batch. A draw of shape () is the same in all processes.
    """

    counter: Array = None
    rows: Any = None

    def __init__(self, seed: SupportsIndex = 0, draws: SupportsIndex = 0) -> None:
        self.state = (seed, draws)
        self._made_in = recorder.get()

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed}, draws={self._draws})"

    @property
    def state(self) -> tuple[int, int]:
        """``(seed, draws)``, as Python ints. Set it to continue the stream from there."""
        return self._seed, self._draws

    @state.setter
    def state(self, state: tuple[SupportsIndex, SupportsIndex]) -> None:
        try:
            seed, draws = state
        except (TypeError, ValueError):
            raise ValueError(f"state must be (seed, draws), got {state!r}") from None
        self._seed, self._draws = _uint64("seed", seed), _uint64("draws", draws)

    def child(self, index: SupportsIndex | str) -> Generator:
        """An independent generator for each index in [0, 2**64). This generator does not advance.

        A string is converted to the CRC-32 of its UTF-8 bytes: ``rng.child("weights")``.
        """
        if isinstance(index, str):
            index = zlib.crc32(index.encode())
        words = philox4x32(self._seed, _CHILD_DRAW, _uint64("index", index))[0]
        child = Generator(int(words[0]) | int(words[1]) << 32)
        child.rows = self.rows
        return child

    def next_draw(self) -> Draw:
        """Claim one draw, for a kernel that computes the numbers itself."""
        # A generator that is made within a compiled step is the same one at every run.
        draw: Draw = self._claim() if recorder.get() is self._made_in else varying(self._claim)
        return draw if self.rows is None else draw._replace(rows=self.rows)

    def _draw(self, shape: tuple[int, ...]) -> Draw:
        """`next_draw` for an array of this shape."""
        if self.rows is not None and shape and shape[0] != self.rows.count:
            raise ValueError(
                f"a draw of shape {shape} for {self.rows.count} rows of a batch that processes share: "
                "draw one row for each, as in rng.normal((len(x), ...))"
            )
        draw = self.next_draw()
        return draw if shape else draw._replace(rows=None)

    def _claim(self) -> Draw:
        if self._draws == _CHILD_DRAW:
            raise ValueError(f"the generator is exhausted: draws = {self._draws}")
        self._draws += 1
        return Draw(self._seed, self._draws - 1, self.counter)

    def bits(self, shape: Shape, device: str = "cpu") -> Array:
        """The random words themselves: uint32, uniform over all values."""
        shape, m = _shape(shape), namespace_for(device)
        return kernels.bits(m, math.prod(shape), self._draw(shape)).reshape(shape)

    def uniform(
        self,
        shape: Shape,
        low: float = 0.0,
        high: float = 1.0,
        dtype: npt.DTypeLike = np.float32,
        device: str = "cpu",
    ) -> Array:
        """Uniform numbers in [low, high): ``low + (high - low) * u`` in float32 or float64.

        u is a multiple of 2**-24 (float32, from one word) or of 2**-53 (float64, from two).
        ValueError: low > high, or limits that are not finite. TypeError: another dtype.
        """
        dtype, shape, m = _float_dtype(dtype), _shape(shape), namespace_for(device)
        low, high = _finite("low", low, dtype), _finite("high", high, dtype)
        if low > high:
            raise ValueError(f"low must not exceed high, got low = {low}, high = {high}")
        _finite("high - low", high - low, dtype)
        n = math.prod(shape)
        return kernels.uniform(m, n, self._draw(shape), low, high, dtype).reshape(shape)

    def normal(
        self,
        shape: Shape,
        mean: float = 0.0,
        std: float = 1.0,
        dtype: npt.DTypeLike = np.float32,
        device: str = "cpu",
    ) -> Array:
        """Normal numbers by Box & Muller (1958): ``mean + std * z`` in float32 or float64.

        Elements 2j and 2j + 1 are the cosine and the sine part of one pair.
        ValueError: std < 0, or parameters that are not finite. TypeError: another dtype.
        """
        dtype, shape, m = _float_dtype(dtype), _shape(shape), namespace_for(device)
        mean, std = _finite("mean", mean, dtype), _finite("std", std, dtype)
        if std < 0:
            raise ValueError(f"std must not be negative, got {std}")
        n = math.prod(shape)
        return kernels.normal(m, n, self._draw(shape), mean, std, dtype).reshape(shape)

    def integers(
        self,
        low: SupportsIndex,
        high: SupportsIndex,
        shape: Shape,
        dtype: npt.DTypeLike = np.int64,
        device: str = "cpu",
    ) -> Array:
        """Integers in [low, high): ``low + floor(r * (high - low) / 2**64)``, r of 64 random bits.

        ValueError: high - low is not in [1, 2**32], or the dtype cannot hold the limits. TypeError: a
        dtype that is not of integers.
        """
        dtype, shape, m = np.dtype(dtype), _shape(shape), namespace_for(device)
        if dtype.kind not in "iu":
            raise TypeError(f"dtype must be an integer dtype, got {dtype}")
        low, high = _integer("low", low), _integer("high", high)
        if not 1 <= high - low <= 2**32:
            raise ValueError(f"high - low must be in [1, 2**32], got low = {low}, high = {high}")
        if low < np.iinfo(dtype).min or high - 1 > np.iinfo(dtype).max:
            raise ValueError(f"[{low}, {high}) does not fit into {dtype}")
        # Computed modulo 2**64 in int64. The cast to an unsigned dtype gives the right numbers.
        numbers = kernels.integers(m, math.prod(shape), self._draw(shape), low, high - low)
        return numbers.astype(dtype, copy=False).reshape(shape)

    def bernoulli(
        self,
        p: Any,
        shape: Shape | None = None,
        dtype: npt.DTypeLike = np.float32,
        device: str | None = None,
    ) -> Array:
        """1 with probability p, else 0: ``u < p`` for a float32 uniform u.

        p is a number or an array that broadcasts to ``shape`` (None: the shape of p). The result of
        an array p is on its device. ValueError: a p that is NaN or outside [0, 1].
        """
        dtype, number = np.dtype(dtype), not hasattr(p, "dtype") or isinstance(p, np.generic)
        p = np.asarray(p) if number else p
        valid = (p >= 0) & (p <= 1)
        if not is_recorded(p) and not valid.all():
            raise ValueError(f"p must be in [0, 1], got {p[~valid].ravel()[0]}")
        m = namespace_of(p) if device is None or not number else namespace_for(device)
        # m.full, because a copy to the GPU would wait for the device.
        p = m.full((), p.item(), p.dtype) if number and not p.ndim else m.asarray(p)
        # Broadcast first: NumPy 1 would compare with a 0-d float64 p in float32.
        p = m.broadcast_to(p, p.shape if shape is None else _shape(shape))
        return m.asarray(self.uniform(p.shape, device=m.device) < p).astype(dtype)

    def permutation(self, n: SupportsIndex) -> npt.NDArray[np.int64]:
        """A permutation of range(n), int64, on the CPU: the stable sort order of random 64-bit keys.

        ValueError: n < 0.
        """
        if (n := _integer("n", n)) < 0:
            raise ValueError(f"n must not be negative, got {n}")
        words = self.bits(2 * n)
        keys = words[0::2].astype(np.uint64) << np.uint64(32) | words[1::2]
        return keys.argsort(kind="stable").astype(np.int64, copy=False)


def _integer(name: str, value: SupportsIndex) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def _uint64(name: str, value: SupportsIndex) -> int:
    number = _integer(name, value)
    if not 0 <= number < 2**64:
        raise ValueError(f"{name} must be in [0, 2**64), got {number}")
    return number


def _shape(shape: Shape) -> tuple[int, ...]:
    sizes = tuple(_integer("shape", n) for n in (shape if isinstance(shape, tuple) else (shape,)))
    if min(sizes, default=0) < 0:
        raise ValueError(f"shape must not be negative, got {shape!r}")
    return sizes


def _finite(name: str, value: float, dtype: np.dtype[Any]) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not abs(number) <= float(np.finfo(dtype).max):
        raise ValueError(f"{name} must be finite in {dtype}, got {value!r}")
    return number


def _float_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    # NumPy reads None as float64, but the default here is float32. So None is refused.
    if dtype is None or np.dtype(dtype) not in _FLOATS:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
    return np.dtype(dtype)


_default = Generator()


def default_generator() -> Generator:
    """The generator that random functions use if you pass none."""
    return _default


def as_generator(rng: Rng | None, seed: SupportsIndex | None = None) -> Generator:
    """A generator: `rng` itself, a new one with the seed `rng`, or the default one for None.

    seed: the seed of a new one, in the place of `rng`.
    TypeError: anything else, such as a generator of NumPy, or both.
    """
    if seed is not None:
        if rng is not None:
            raise TypeError(f"rng={rng} and seed={seed}: pass one of them")
        rng = seed
    if isinstance(rng, Generator):
        return rng
    if rng is None:
        return _default
    try:
        return Generator(operator.index(rng))
    except TypeError:
        raise TypeError(
            f"rng is a tinygen.random.Generator or a seed, not {type(rng)}; write rng=0, or any other "
            "whole number"
        ) from None


def manual_seed(seed: SupportsIndex) -> Generator:
    """Set the default generator to ``(seed, 0)``, in place, and return it."""
    _default.state = (seed, 0)
    return _default
