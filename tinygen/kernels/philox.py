"""The random stream in NumPy: its definition, and what computes where there is no compiler.

Word k of a draw is lane ``k % 4`` of the Philox block ``k // 4`` whose key is the generator's seed
and whose counter is (block, draw). So a number depends on the seed, the draw and its place in the
array and on nothing else: row i is the same whoever computes it, and however many rows there are.

References:
    Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
    Box & Muller, "A note on the generation of random normal deviates", Ann. Math. Stat. 29, 1958.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["bits", "integers", "normal", "philox4x32", "uniform"]

Array: TypeAlias = npt.NDArray[Any]
Words: TypeAlias = npt.NDArray[np.uint32]

# The constants of the rounds are 0-d arrays, which ufuncs take at a third of a Python int's cost.
_MULTIPLIER_0, _MULTIPLIER_2 = np.array(0xD2511F53, np.uint64), np.array(0xCD9E8D57, np.uint64)
_LOW_WORD, _WORD_BITS = np.array(0xFFFFFFFF, np.uint64), np.array(32, np.uint64)
_KEY_STEP_0, _KEY_STEP_1 = 0x9E3779B9, 0xBB67AE85  # the golden ratio and sqrt(3) - 1
_CHUNK = 4096  # blocks at a time, so that all temporaries stay in the cache
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


def bits(n: int, seed: int, draw: int, first: int = 0) -> Words:
    """n words of a draw, from its block `first` on."""
    return _fill(n, seed, draw, first, np.dtype(np.uint32), 1, lambda words: words)


def uniform(
    n: int, seed: int, draw: int, low: float, high: float, dtype: np.dtype[Any], first: int = 0
) -> Array:
    """low + (high - low) u, below high, with u a multiple of 2**-24 (float32) or 2**-53 (float64)."""
    start, end = dtype.type(low), dtype.type(high)
    last = np.nextafter(end, start)  # the sum may round up to high itself

    def convert(words: Words) -> Array:
        numbers = _whole_numbers(words, dtype)
        numbers *= _SPACING[dtype]
        numbers *= end - start
        numbers += start
        np.minimum(numbers, last, out=numbers)
        return numbers

    return _fill(n, seed, draw, first, dtype, dtype.itemsize // 4, convert)


def normal(
    n: int, seed: int, draw: int, mean: float, std: float, dtype: np.dtype[Any], first: int = 0
) -> Array:
    """mean + std z: elements 2j and 2j + 1 are the cosine and the sine of one pair."""

    def convert(words: Words) -> Array:
        normals = _box_muller(_whole_numbers(words, dtype))
        normals *= dtype.type(std)
        normals += dtype.type(mean)
        return normals

    return _fill(n, seed, draw, first, dtype, dtype.itemsize // 4, convert)


def integers(
    n: int, seed: int, draw: int, low: int, size: int, first: int = 0
) -> npt.NDArray[np.int64]:
    """low + floor(r size / 2**64) for 64 random bits r, modulo 2**64; 1 <= size <= 2**32."""
    count, offset = np.uint64(size), np.uint64(low % 2**64)

    def convert(words: Words) -> Array:
        # floor(r * n / 2**64) by words. Nothing overflows: the product of the high word is at
        # most (2**32 - 1) * 2**32, and what is added to it is below 2**32.
        high_words, numbers = words[0::2].astype(np.uint64), words[1::2].astype(np.uint64)
        numbers *= count
        numbers >>= _WORD_BITS
        high_words *= count
        numbers += high_words
        numbers >>= _WORD_BITS
        numbers += offset
        return numbers.view(np.int64)

    return _fill(n, seed, draw, first, np.dtype(np.int64), 2, convert)


def _fill(
    n: int,
    seed: int,
    draw: int,
    first: int,
    dtype: np.dtype[Any],
    each: int,
    convert: Callable[[Words], Array],
) -> Array:
    """n elements of ``each`` words, from block ``first`` on: ``convert`` turns the words of whole
    blocks into elements."""
    result = np.empty(n, dtype)
    per_block = 4 // each
    for block in range(0, -(-n // per_block), _CHUNK):
        part = result[block * per_block : (block + _CHUNK) * per_block]
        words = philox4x32(seed, draw, first + block, -(-part.size // per_block))
        part[:] = convert(words.reshape(-1))[: part.size]
    return result


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
