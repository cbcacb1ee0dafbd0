"""Counter-based random numbers: one definition of the stream for every backend.

Word k of a draw is lane ``k % 4`` of the Philox block ``k // 4`` whose key is the generator's seed
and whose counter is (block, draw). So a number depends on the seed, the draw and its place in the
array and on nothing else: row i is the same whoever computes it, and however many rows there are.
This NumPy form is the definition: any other form of the stream is held to it.

References:
    Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
    Box & Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29, 1958.
"""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Callable
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Generator", "default_generator", "manual_seed", "philox4x32"]

Array: TypeAlias = npt.NDArray[Any]
Words: TypeAlias = npt.NDArray[np.uint32]
Shape: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...]

# The constants of the rounds are 0-d arrays, which ufuncs take at a third of a Python int's cost.
_MULTIPLIER_0, _MULTIPLIER_2 = np.array(0xD2511F53, np.uint64), np.array(0xCD9E8D57, np.uint64)
_LOW_WORD, _WORD_BITS = np.array(0xFFFFFFFF, np.uint64), np.array(32, np.uint64)
_KEY_STEP_0, _KEY_STEP_1 = 0x9E3779B9, 0xBB67AE85  # the golden ratio and sqrt(3) - 1
_CHUNK = 4096  # blocks at a time, so that all temporaries stay in the cache
_CHILD_DRAW = 2**64 - 1  # kept for Generator.child: no generator draws here
_SPACING = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}  # of uniforms in [0, 1)


def philox4x32(seed: int, draw: int, block: int, count: int = 1) -> Words:
    """Philox4x32-10 (Salmon et al. 2011): the blocks ``block .. block + count - 1`` of a draw.

    The key is ``seed``; the counter has the block number in its low 64 bits and ``draw`` in its
    high ones. All three are in [0, 2**64), unchecked; block numbers wrap around. Returns uint32,
    shape (count, 4).
    """
    blocks = np.arange(count, dtype=np.uint64)
    blocks += np.uint64(block)
    # Each 32-bit word lives in 64 bits, where the products are exact.
    c0, c1 = blocks & _LOW_WORD, blocks >> _WORD_BITS
    c2, c3 = np.full_like(c0, draw & 0xFFFFFFFF), np.full_like(c0, draw >> 32)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    product_0, product_2 = np.empty_like(c0), np.empty_like(c0)
    for _ in range(10):
        np.multiply(c0, _MULTIPLIER_0, out=product_0)
        np.multiply(c2, _MULTIPLIER_2, out=product_2)
        np.right_shift(product_2, _WORD_BITS, out=c0)
        c0 ^= c1
        c0 ^= np.uint64(k0)
        np.bitwise_and(product_2, _LOW_WORD, out=c1)
        np.right_shift(product_0, _WORD_BITS, out=c2)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        np.bitwise_and(product_0, _LOW_WORD, out=c3)
        k0, k1 = (k0 + _KEY_STEP_0) % 2**32, (k1 + _KEY_STEP_1) % 2**32
    words = np.empty((count, 4), np.uint32)
    words[:, 0], words[:, 1], words[:, 2], words[:, 3] = c0, c1, c2, c3
    return words


class Generator:
    """A stream of random arrays. Its whole state is two integers, ``(seed, draws)``.

    Each call of a random method is one draw and advances ``draws`` by one, whatever the size; a
    call that raises is none. ``shape`` is an int or a tuple of ints (``()`` gives a 0-d array), and
    elements are numbered in C order. Both integers are in [0, 2**64), else ValueError or TypeError.
    """

    def __init__(self, seed: SupportsIndex = 0, draws: SupportsIndex = 0) -> None:
        self.state = (seed, draws)

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed}, draws={self._draws})"

    @property
    def state(self) -> tuple[int, int]:
        """``(seed, draws)``, as Python ints. Setting it continues the stream from there."""
        return self._seed, self._draws

    @state.setter
    def state(self, state: tuple[SupportsIndex, SupportsIndex]) -> None:
        try:
            seed, draws = state
        except (TypeError, ValueError):
            raise ValueError(f"state must be (seed, draws), got {state!r}") from None
        self._seed, self._draws = _uint64("seed", seed), _uint64("draws", draws)

    def child(self, index: SupportsIndex | str) -> Generator:
        """An independent generator for each index in [0, 2**64). Does not advance this one.

        A word stands for the CRC-32 of its UTF-8 form: ``rng.child("weights")``.
        """
        if isinstance(index, str):
            index = zlib.crc32(index.encode())
        words = philox4x32(self._seed, _CHILD_DRAW, _uint64("index", index))[0]
        return Generator(int(words[0]) | int(words[1]) << 32)

    def next_draw(self) -> tuple[int, int]:
        """Claim one draw, for a kernel that computes the words itself: its ``(seed, draw)``."""
        if self._draws == _CHILD_DRAW:
            raise ValueError(f"the generator is exhausted: draws = {self._draws}")
        self._draws += 1
        return self._seed, self._draws - 1

    def bits(self, shape: Shape) -> Words:
        """The random words themselves: uint32, all values equally likely."""
        return self._draw(shape, np.dtype(np.uint32), 1, lambda words: words)

    def uniform(
        self, shape: Shape, low: float = 0.0, high: float = 1.0, dtype: npt.DTypeLike = np.float32
    ) -> Array:
        """Uniform in [low, high): ``low + (high - low) * u`` computed in float32 or float64.

        u is a multiple of 2**-24 (float32, one word each) or 2**-53 (float64, two). Raises
        ValueError for low > high or limits that are not finite, TypeError for another dtype.
        """
        dtype = _float_dtype(dtype)
        low, high = _finite("low", low, dtype), _finite("high", high, dtype)
        if low > high:
            raise ValueError(f"low must not exceed high, got low = {low}, high = {high}")
        _finite("high - low", high - low, dtype)
        start, end = dtype.type(low), dtype.type(high)
        last = np.nextafter(end, start)  # the sum may round up to high itself

        def convert(words: Words) -> Array:
            numbers = _whole_numbers(words, dtype)
            numbers *= _SPACING[dtype]
            numbers *= end - start
            numbers += start
            np.minimum(numbers, last, out=numbers)
            return numbers

        return self._draw(shape, dtype, dtype.itemsize // 4, convert)

    def normal(
        self, shape: Shape, mean: float = 0.0, std: float = 1.0, dtype: npt.DTypeLike = np.float32
    ) -> Array:
        """Normal by Box & Muller (1958): ``mean + std * z`` computed in float32 or float64.

        Elements 2j and 2j + 1 are the cosine and the sine of one pair. Raises ValueError for
        std < 0 or parameters that are not finite, TypeError for another dtype.
        """
        dtype = _float_dtype(dtype)
        mean, std = _finite("mean", mean, dtype), _finite("std", std, dtype)
        if std < 0:
            raise ValueError(f"std must not be negative, got {std}")

        def convert(words: Words) -> Array:
            normals = _box_muller(_whole_numbers(words, dtype))
            normals *= dtype.type(std)
            normals += dtype.type(mean)
            return normals

        return self._draw(shape, dtype, dtype.itemsize // 4, convert)

    def integers(
        self,
        low: SupportsIndex,
        high: SupportsIndex,
        shape: Shape,
        dtype: npt.DTypeLike = np.int64,
    ) -> Array:
        """Integers in [low, high): ``low + floor(r * (high - low) / 2**64)``, r of 64 random bits.

        Raises ValueError unless 1 <= high - low <= 2**32 and the dtype holds the limits, TypeError
        for a dtype that is not of integers.
        """
        dtype = np.dtype(dtype)
        if dtype.kind not in "iu":
            raise TypeError(f"dtype must be an integer dtype, got {dtype}")
        low, high = _integer("low", low), _integer("high", high)
        if not 1 <= high - low <= 2**32:
            raise ValueError(f"high - low must be in [1, 2**32], got low = {low}, high = {high}")
        if low < np.iinfo(dtype).min or high - 1 > np.iinfo(dtype).max:
            raise ValueError(f"[{low}, {high}) does not fit into {dtype}")
        size, offset = np.uint64(high - low), np.uint64(low % 2**64)

        def convert(words: Words) -> Array:
            # floor(r * n / 2**64) by words. Nothing overflows: the product of the high word is at
            # most (2**32 - 1) * 2**32, and what is added to it is below 2**32.
            high_words, numbers = words[0::2].astype(np.uint64), words[1::2].astype(np.uint64)
            numbers *= size
            numbers >>= _WORD_BITS
            high_words *= size
            numbers += high_words
            numbers >>= _WORD_BITS
            numbers += offset  # modulo 2**64, which the narrowing to a signed dtype undoes
            return numbers.astype(dtype)

        return self._draw(shape, dtype, 2, convert)

    def bernoulli(
        self, p: npt.ArrayLike, shape: Shape | None = None, dtype: npt.DTypeLike = np.float32
    ) -> Array:
        """1 with probability p, else 0: ``u < p`` for a float32 uniform u.

        p is a number or an array that broadcasts to ``shape`` (None: p's own shape). Raises
        ValueError for a p outside [0, 1] or NaN.
        """
        p, dtype = np.asarray(p), np.dtype(dtype)
        valid = (p >= 0) & (p <= 1)
        if not valid.all():
            raise ValueError(f"p must be in [0, 1], got {p[~valid].flat[0]}")
        # Broadcast first: NumPy 1 would compare with a 0-d float64 p in float32.
        p = np.broadcast_to(p, p.shape if shape is None else _shape(shape))
        return np.asarray(self.uniform(p.shape) < p).astype(dtype)

    def permutation(self, n: SupportsIndex) -> npt.NDArray[np.int64]:
        """A permutation of range(n), int64: the stable order of 64-bit keys. n < 0: ValueError."""
        if (n := _integer("n", n)) < 0:
            raise ValueError(f"n must not be negative, got {n}")

        def convert(words: Words) -> Array:
            return words[0::2].astype(np.uint64) << _WORD_BITS | words[1::2]

        keys = self._draw(n, np.dtype(np.uint64), 2, convert)
        return keys.argsort(kind="stable").astype(np.int64, copy=False)

    def _draw(
        self, shape: Shape, dtype: np.dtype[Any], each: int, convert: Callable[[Words], Array]
    ) -> Array:
        """One draw: ``convert`` turns words of whole blocks into elements of ``each`` words."""
        shape = _shape(shape)
        result = np.empty(math.prod(shape), dtype)
        seed, draw = self.next_draw()
        per_block = 4 // each
        for block in range(0, -(-result.size // per_block), _CHUNK):
            part = result[block * per_block : (block + _CHUNK) * per_block]
            words = philox4x32(seed, draw, block, -(-part.size // per_block))
            part[:] = convert(words.reshape(-1))[: part.size]
        return result.reshape(shape)


def _whole_numbers(words: Words, dtype: np.dtype[Any]) -> Array:
    """Whole numbers as floats: 24 random bits of one word (float32) or 53 of two (float64)."""
    numbers: Array
    if dtype == np.float32:
        # Signed, because processors convert signed integers faster.
        numbers = (words >> np.uint32(8)).view(np.int32).astype(np.float32)
        return numbers
    numbers = (words[0::2] >> np.uint32(5)).astype(np.float64)
    numbers *= 2.0**26
    numbers += words[1::2] >> np.uint32(6)
    return numbers


def _box_muller(numbers: Array) -> Array:
    """Standard normals from whole numbers, whose pairs give a radius and an angle."""
    spacing = _SPACING[numbers.dtype]
    radius = numbers[0::2] + 1  # scaled, it is in (0, 1]: the logarithm of 0 never occurs
    radius *= spacing
    np.log(radius, out=radius)
    radius *= -2
    np.sqrt(radius, out=radius)

    # For an angle of t turns, cos(2 pi t) = sin(2 pi (|t - 1/2| - 1/4)); a sine is the cosine of
    # a quarter turn less. These differences are exact, and pi enters after them: so each result is
    # accurate relative to itself, even where it is nearly 0.
    turns = np.empty((2, radius.size), numbers.dtype)
    np.multiply(numbers[1::2], spacing, out=turns[0])
    np.abs(turns[0] - 0.25, out=turns[1])
    turns -= 0.5
    np.abs(turns, out=turns)
    turns -= 0.25
    turns *= 2 * math.pi
    np.sin(turns, out=turns)
    turns *= radius

    normals = np.empty_like(numbers)
    normals[0::2], normals[1::2] = turns
    return normals


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
    # NumPy reads None as float64, but here the default is float32: so None is refused.
    if dtype is None or np.dtype(dtype) not in _SPACING:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
    return np.dtype(dtype)


_default = Generator()


def default_generator() -> Generator:
    """The generator that random functions use when they are given none."""
    return _default


def manual_seed(seed: SupportsIndex) -> Generator:
    """Restart the default generator, in place, at ``(seed, 0)``, and return it."""
    _default.state = (seed, 0)
    return _default
