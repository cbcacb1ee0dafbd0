"""The random streams against an oracle in plain Python integers, which shares no code with them."""

import copy
import math
import pickle
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import tinygen as tg
from tinygen import metrics, nn, ops
from tinygen.distributions import (
    Bernoulli,
    Categorical,
    DiscretisedNormal,
    Mixture,
    MultivariateNormal,
    Normal,
    monte_carlo_js,
    monte_carlo_kl,
)
from tinygen.models import MODELS, diffusion
from tinygen.random import Generator, as_generator, default_generator, manual_seed, philox4x32

pytestmark = pytest.mark.cpu_only(
    "the oracle is of Python integers; the GPU is held to the CPU elsewhere"
)

WORD = 2**32
SEED, DRAW = 0x0123456789ABCDEF, 5
CHUNK_ELEMENTS = 4 * 4096  # one-word elements computed at a time
uint64s = st.integers(0, 2**64 - 1)
floats = pytest.mark.parametrize("dtype", [np.float32, np.float64])


# The oracle -------------------------------------------------------------------------------------


def philox_oracle(key, counter):
    """Philox4x32-10 as in the paper: four counter words and two key words in, four words out."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        hi0, lo0 = divmod(0xD2511F53 * c0, WORD)
        hi1, lo1 = divmod(0xCD9E8D57 * c2, WORD)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return c0, c1, c2, c3


def word(k, seed=SEED, draw=DRAW):
    block, lane = divmod(k, 4)
    counter = (block % WORD, block // WORD, draw % WORD, draw // WORD)
    return philox_oracle((seed % WORD, seed // WORD), counter)[lane]


def word64(i):
    return word(2 * i) * WORD + word(2 * i + 1)


def mantissa(i, dtype):
    """Element i's 24 or 53 random bits."""
    if dtype == np.float32:
        return word(i) // 2**8
    return (word(2 * i) // 2**5) * 2**26 + word(2 * i + 1) // 2**6


def spacing(dtype):
    return 2.0**-24 if dtype == np.float32 else 2.0**-53


def normal_oracle(i, dtype):
    j = i - i % 2
    u1 = (mantissa(j, dtype) + 1) * spacing(dtype)
    u2 = mantissa(j + 1, dtype) * spacing(dtype)
    return math.sqrt(-2 * math.log(u1)) * (math.sin, math.cos)[i == j](2 * math.pi * u2)


def fresh():
    return Generator(SEED, DRAW)


@pytest.fixture
def philox_gives(monkeypatch):
    """The NumPy form computes, from the words that a function of (seed, draw, block, n) gives."""
    monkeypatch.setattr("tinygen.kernels.fused.launcher", lambda m, *arrays: None)
    return lambda words: monkeypatch.setattr("tinygen.kernels.philox.philox4x32", words)


METHODS = {
    "bits": lambda g, shape: g.bits(shape),
    "uniform32": lambda g, shape: g.uniform(shape),
    "uniform64": lambda g, shape: g.uniform(shape, dtype=np.float64),
    "normal32": lambda g, shape: g.normal(shape),
    "normal64": lambda g, shape: g.normal(shape, dtype=np.float64),
    "integers": lambda g, shape: g.integers(-5, 1000, shape),
    "bernoulli": lambda g, shape: g.bernoulli(0.3, shape),
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


# Philox -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (4 * "00000000 ", 2 * "00000000 ", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (4 * "ffffffff ", 2 * "ffffffff ", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, words):
    c, k = ([int(w, 16) for w in text.split()] for text in (counter, key))
    expected = [int(w, 16) for w in words.split()]
    assert list(philox_oracle(k, c)) == expected
    block, draw, seed = c[0] + c[1] * WORD, c[2] + c[3] * WORD, k[0] + k[1] * WORD
    result = philox4x32(seed, draw, block)
    assert result.dtype == np.uint32 and result.tolist() == [expected]


@settings(max_examples=100)
@given(uint64s, uint64s, uint64s, st.integers(0, 5))
def test_philox_equals_the_oracle(seed, draw, block, count):
    def expected(b):
        return philox_oracle(
            (seed % WORD, seed // WORD), (b % WORD, b // WORD, draw % WORD, draw // WORD)
        )

    blocks = [list(expected((block + b) % 2**64)) for b in range(count)]
    assert philox4x32(seed, draw, block, count).tolist() == blocks


def test_philox_carries_into_the_second_counter_word():
    carried = philox4x32(SEED, DRAW, WORD - 1, 2)
    assert carried[1].tolist() == list(philox_oracle((SEED % WORD, SEED // WORD), (0, 1, DRAW, 0)))


# The definition of each method ------------------------------------------------------------------


def test_bits_are_the_words():
    bits = fresh().bits((3, 5))
    assert bits.dtype == np.uint32 and bits.shape == (3, 5)
    assert bits.ravel().tolist() == [word(k) for k in range(15)]


@floats
def test_uniform_by_definition(dtype):
    u = fresh().uniform(11, dtype=dtype)
    assert u.dtype == dtype
    assert u.tolist() == [mantissa(i, dtype) * spacing(dtype) for i in range(11)]


@floats
def test_uniform_scales_in_its_own_dtype(dtype):
    low, high = dtype(-0.1), dtype(0.6)  # in float32, their difference is not that of the doubles
    u = fresh().uniform(11, low=-0.1, high=0.6, dtype=dtype)
    assert u.tolist() == [
        low + (high - low) * dtype(mantissa(i, dtype) * spacing(dtype)) for i in range(11)
    ]


@floats
def test_normal_by_definition(dtype):
    z = fresh().normal(11, dtype=dtype)
    assert z.dtype == dtype
    np.testing.assert_allclose(
        z, [normal_oracle(i, dtype) for i in range(11)], rtol=5e-7 if dtype == np.float32 else 4e-15
    )


@floats
def test_normal_scales_in_its_own_dtype(dtype):
    z = fresh().normal(11, dtype=dtype)
    scaled = fresh().normal(11, mean=-0.7, std=2.3, dtype=dtype)
    assert scaled.dtype == dtype
    assert scaled.tolist() == [dtype(-0.7) + dtype(2.3) * e for e in z]


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 1, np.int64),
        (-7, 1000, np.int32),
        (-128, 128, np.int8),
        (0, 2**32, np.uint32),
        (-(2**63), -(2**63) + 2**32, np.int64),
        (2**64 - 2**32, 2**64, np.uint64),
        (5, 5 + 2**32 - 1, np.int64),
    ],
)
def test_integers_by_definition(low, high, dtype):
    result = fresh().integers(low, high, 21, dtype=dtype)
    assert result.dtype == dtype
    assert result.tolist() == [low + word64(i) * (high - low) // 2**64 for i in range(21)]


def test_integers_are_exact_for_extreme_words(philox_gives):
    extremes = np.array([[0, 0, WORD - 1, WORD - 1], [0, WORD - 1, WORD - 1, 0]], np.uint32)
    philox_gives(lambda *_: extremes)
    values = [0, 2**64 - 1, WORD - 1, 2**64 - WORD]
    for size in (1, 3, 2**31 + 1, WORD - 1, WORD):
        assert Generator().integers(0, size, 4).tolist() == [r * size // 2**64 for r in values]


def test_bernoulli_by_definition():
    p = [0.0, 0.25, 0.5, 0.75, 1.0, 0.1, 0.9]
    result = fresh().bernoulli(p)
    assert result.dtype == np.float32
    assert result.tolist() == [
        float(mantissa(i, np.float32) * 2.0**-24 < q) for i, q in enumerate(p)
    ]


def test_bernoulli_compares_a_float64_probability_in_float64():
    # A p between two float32 uniforms: rounding p to float32 would turn this 1 into a 0.
    p = mantissa(0, np.float32) * 2.0**-24 + 1e-12
    assert fresh().bernoulli(p) == 1
    assert fresh().bernoulli(p, (1,)) == 1
    assert fresh().bernoulli(p - 1e-12) == 0


def test_permutation_by_definition():
    result = fresh().permutation(50)
    assert result.dtype == np.int64
    assert result.tolist() == sorted(range(50), key=word64)


def test_permutation_sorts_by_both_words_and_breaks_ties_by_index(philox_gives):
    n = 200
    keys = [[i * 7 % 3, i * 5 % 2] for i in range(n)]
    words = np.array(keys, np.uint32).reshape(-1, 4)
    philox_gives(lambda *_: words)
    assert Generator().permutation(n).tolist() == sorted(range(n), key=keys.__getitem__)


def test_child_seed_by_definition():
    for index in (0, 1, 2**40 + 3, 2**64 - 1):
        counter = (index % WORD, index // WORD, WORD - 1, WORD - 1)
        w0, w1, _, _ = philox_oracle((SEED % WORD, SEED // WORD), counter)
        assert fresh().child(index).state == (w0 + w1 * WORD, 0)


# Accuracy ---------------------------------------------------------------------------------------


def words_for(first, second, dtype):
    """Words that give the normals' pairs of whole numbers (first, second)."""
    numbers = np.stack([first, second], axis=-1).astype(np.uint64)
    if dtype == np.float32:
        words = numbers << np.uint64(8)
    else:
        words = np.stack(
            [
                (numbers >> np.uint64(26)) << np.uint64(5),
                (numbers % np.uint64(2**26)) << np.uint64(6),
            ],
            axis=-1,
        )
    return words.astype(np.uint32).reshape(-1, 4)


def special_numbers(bits):
    """Around the eighths of a turn, where sine and cosine vanish or meet, and at random."""
    near = np.arange(-64, 64)
    eighths = [near + k * 2 ** (bits - 3) for k in range(9)]
    scattered = np.random.default_rng(0).integers(0, 2**bits, 2**16)
    every = np.concatenate([*eighths, scattered])
    every = every[(every >= 0) & (every < 2**bits)]
    return every[: len(every) // 2 * 2]


@floats
def test_normal_is_accurate_relative_to_itself(dtype, philox_gives):
    bits = 24 if dtype == np.float32 else 53
    first = special_numbers(bits)
    second = first[::-1]
    words = words_for(first, second, dtype)
    philox_gives(lambda seed, draw, block, n: words[block : block + n])
    result = Generator().normal(2 * first.size, dtype=dtype).reshape(-1, 2)

    # 1 - u1 is exact, and log1p has no trouble near u1 = 1. The angle is reduced in integers.
    shortfall = (2**bits - 1 - first) * 2.0**-bits
    u1 = (first + 1) * 2.0**-bits
    radius = np.sqrt(-2 * np.where(shortfall < 0.5, np.log1p(-shortfall), np.log(u1)))
    quadrant, rest = np.divmod(second + 2 ** (bits - 3), 2 ** (bits - 2))
    angle = (rest - 2 ** (bits - 3)) * (2 * math.pi * 2.0**-bits)
    sin, cos = np.sin(angle), np.cos(angle)
    turns = [quadrant % 4 == q for q in range(4)]
    expected = np.stack(
        [
            radius * np.select(turns, [cos, -sin, -cos, sin]),
            radius * np.select(turns, [sin, cos, -sin, -cos]),
        ],
        axis=-1,
    )
    assert (expected == 0).any()
    np.testing.assert_array_equal(result[expected == 0], 0)
    np.testing.assert_allclose(result, expected, rtol=5e-7 if dtype == np.float32 else 2e-15)


def test_the_tails_are_finite(philox_gives):
    for dtype, bits in ((np.float32, 24), (np.float64, 53)):
        words = words_for(np.zeros(2), np.zeros(2), dtype)
        philox_gives(lambda seed, draw, block, n, words=words: words[:n])
        z = Generator().normal(1, dtype=dtype)
        assert z[0] == pytest.approx(math.sqrt(2 * bits * math.log(2)), rel=1e-6)


# The layout of the stream -----------------------------------------------------------------------


@methods
def test_rows_do_not_depend_on_their_number(method):
    many = method(fresh(), (23, 3))
    for rows in (0, 1, 2, 5, 22):
        few = method(fresh(), (rows, 3))
        assert few.shape == (rows, 3)
        np.testing.assert_array_equal(few, many[:rows])


@methods
def test_chunks_do_not_show(method):
    n = 2 * CHUNK_ELEMENTS + 7
    everything = method(fresh(), n)
    for size in (
        CHUNK_ELEMENTS // 2 - 1,
        CHUNK_ELEMENTS // 2 + 1,
        CHUNK_ELEMENTS,
        CHUNK_ELEMENTS + 1,
    ):
        np.testing.assert_array_equal(method(fresh(), size), everything[:size])
    assert np.unique(everything).size > 1 and np.any(everything[-7:] != everything[:7])


def test_words_far_from_the_start_are_those_of_their_blocks():
    n = 2 * CHUNK_ELEMENTS + 7
    bits = fresh().bits(n)
    for k in (0, CHUNK_ELEMENTS - 1, CHUNK_ELEMENTS, 2 * CHUNK_ELEMENTS + 1, n - 1):
        assert bits[k] == word(k)


@methods
def test_shapes(method):
    flat = method(fresh(), 12)
    np.testing.assert_array_equal(method(fresh(), (3, 2, 2)), flat.reshape(3, 2, 2))
    np.testing.assert_array_equal(method(fresh(), np.int64(12)), flat)
    single = method(fresh(), ())
    assert isinstance(single, np.ndarray) and single.shape == () and single == flat[0]
    for shape in (0, (0,), (3, 0), (0, 2**40)):
        empty = method(fresh(), shape)
        assert empty.size == 0 and empty.dtype == flat.dtype


# State ------------------------------------------------------------------------------------------


@methods
def test_each_call_is_one_draw(method):
    g = Generator(3)
    for draws, shape in enumerate([0, 1, (), (4, 5), 2 * CHUNK_ELEMENTS]):
        assert g.state == (3, draws)
        method(g, shape)
    g.permutation(0)
    g.permutation(9)
    assert g.state == (3, 7)
    assert np.any(g.bits(40) != g.bits(40))


@settings(max_examples=30)
@given(uint64s, st.integers(0, 2**64 - 3), st.sampled_from(list(METHODS.values())))
def test_a_restored_state_continues_the_stream(seed, draws, method):
    g = Generator(seed, draws)
    method(g, 5)
    seed, draws = g.state
    assert type(seed) is int and type(draws) is int
    restored = Generator()
    restored.state = [np.uint64(seed), np.uint64(draws)]
    assert restored.state == (seed, draws)
    np.testing.assert_array_equal(restored.bits(9), Generator(seed, draws).bits(9))
    np.testing.assert_array_equal(Generator(seed, draws).bits(9), g.bits(9))


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))]
)
def test_copies_are_independent(duplicate):
    g = fresh()
    g.normal(3)
    other = duplicate(g)
    expected = g.normal(7)
    assert other.state == (SEED, DRAW + 1)
    np.testing.assert_array_equal(other.normal(7), expected)


def test_repr_restores_the_generator():
    g = Generator(7, 9)
    assert repr(g) == "Generator(seed=7, draws=9)"
    assert eval(repr(g)).state == g.state


def test_a_word_names_a_child():
    rng = Generator(3)
    assert rng.child("weights").state == rng.child(zlib.crc32(b"weights")).state
    assert rng.child("a").state != rng.child("b").state


def test_children_differ_and_leave_the_parent_alone():
    g = fresh()
    children = [g.child(i) for i in range(100)]
    assert g.state == (SEED, DRAW)
    streams = {tuple(c.bits(4).tolist()) for c in children}
    streams |= {tuple(c.child(0).bits(4).tolist()) for c in children}
    streams |= {tuple(g.bits(4).tolist())}
    assert len(streams) == 201
    first, second = children[0].normal(20_000), children[1].normal(20_000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(20_000)


def test_next_draw_claims_one_draw():
    g = Generator(4, 6)
    assert g.next_draw()[:3] == (4, 6, None)
    assert g.state == (4, 7)


def test_the_draw_of_the_children_is_never_reached():
    g = Generator(1, 2**64 - 2)
    g.bits(1)
    with pytest.raises(ValueError, match=str(2**64 - 1)):
        g.bits(1)
    assert g.state == (1, 2**64 - 1)


def test_manual_seed_restarts_the_default_generator_in_place():
    before = default_generator()
    state = before.state
    try:
        assert manual_seed(11) is before is default_generator()
        assert before.state == (11, 0)
        first = default_generator().bits(5)
        np.testing.assert_array_equal(first, Generator(11).bits(5))
        np.testing.assert_array_equal(manual_seed(11).bits(5), first)
    finally:
        before.state = state


# Ranges and statistics --------------------------------------------------------------------------


@floats
def test_uniform_never_reaches_high(dtype, philox_gives):
    philox_gives(lambda seed, draw, block, n: np.full((n, 4), WORD - 1, np.uint32))
    for low, high in [
        (0, 1),
        (-1, 1),
        (1, 2),
        (1e6, 1e6 + 1),
        (-3e38, -1e38),
        (1, 1 + 2e-7),
        (-1, 0),
    ]:
        u = Generator().uniform(3, low, high, dtype)
        assert (dtype(low) <= u).all() and (u < dtype(high)).all()
    assert (Generator().uniform(3, 2, 2, dtype) == 2).all()


@settings(max_examples=50)
@given(st.integers(-(2**62), 2**62), st.integers(1, 2**32), uint64s)
def test_integers_stay_in_range(low, size, seed):
    result = Generator(seed).integers(low, low + size, 50)
    assert result.min() >= low and result.max() < low + size


@settings(max_examples=50)
@given(st.integers(0, 200), uint64s)
def test_permutation_is_one(n, seed):
    assert sorted(Generator(seed).permutation(n).tolist()) == list(range(n))


def test_bernoulli_edges():
    g = Generator(1)
    assert (g.bernoulli(0.0, 10_000) == 0).all() and (g.bernoulli(1.0, 10_000) == 1).all()
    assert (g.bernoulli(np.array([0, 1]), (500, 2)) == [0, 1]).all()
    assert g.bernoulli(0.5).shape == () and g.bernoulli(np.full((2, 3), 0.5)).shape == (2, 3)
    assert g.bernoulli([]).shape == (0,)
    assert g.bernoulli(0.5, 3, dtype=bool).dtype == np.bool_
    np.testing.assert_array_equal(
        fresh().bernoulli(np.float32(0.5), 99), fresh().bernoulli(np.full(99, 0.5, np.float32))
    )


@floats
def test_uniform_statistics(dtype):
    n = 100_000
    u = Generator(42).uniform(n, dtype=dtype).astype(np.float64)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert abs(u.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / n)
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / math.sqrt(n)


@floats
def test_normal_statistics(dtype):
    n = 100_000
    z = Generator(42).normal(n, dtype=dtype).astype(np.float64)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    for power, (mean, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs((z**power).mean() - mean) < 4 * math.sqrt(variance / n)
    for lag in (1, 2):
        assert abs(np.corrcoef(z[:-lag], z[lag:])[0, 1]) < 4 / math.sqrt(n)
        assert abs(np.corrcoef(z[:-lag] ** 2, z[lag:] ** 2)[0, 1]) < 4 / math.sqrt(n)


def test_draws_and_seeds_are_uncorrelated():
    g = Generator(1)
    streams = [g.normal(20_000), g.normal(20_000), Generator(2).normal(20_000)]
    correlations = np.corrcoef(streams)[np.triu_indices(3, 1)]
    assert (np.abs(correlations) < 4 / math.sqrt(20_000)).all()


def test_integers_are_equally_likely():
    counts = np.bincount(Generator(42).integers(0, 37, 100_000), minlength=37)
    assert counts.size == 37 and stats.chisquare(counts).pvalue > 1e-3


def test_bernoulli_statistics():
    p = np.array([0.01, 0.3, 0.5, 0.99])
    mean = Generator(42).bernoulli(p, (50_000, 4)).mean(axis=0, dtype=np.float64)
    assert (np.abs(mean - p) < 4 * np.sqrt(p * (1 - p) / 50_000)).all()


def test_permutations_are_equally_likely():
    g = Generator(42)
    counts = {}
    for _ in range(2400):
        order = tuple(g.permutation(4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24 and stats.chisquare(list(counts.values())).pvalue > 1e-3


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda g: Generator(-1), ValueError, ["seed", "-1"]),
        (lambda g: Generator(2**64), ValueError, ["seed", str(2**64)]),
        (lambda g: Generator(1.5), TypeError, ["seed", "1.5"]),
        (lambda g: Generator(0, -2), ValueError, ["draws", "-2"]),
        (lambda g: Generator(0, "x"), TypeError, ["draws", "'x'"]),
        (lambda g: setattr(g, "state", (1, 2**64)), ValueError, ["draws", str(2**64)]),
        (lambda g: setattr(g, "state", (1, 2, 3)), ValueError, ["state", "(1, 2, 3)"]),
        (lambda g: setattr(g, "state", 17), ValueError, ["state", "17"]),
        (lambda g: manual_seed(-3), ValueError, ["seed", "-3"]),
        (lambda g: g.child(-4), ValueError, ["index", "-4"]),
        (lambda g: g.child(0.5), TypeError, ["index", "0.5"]),
        (lambda g: g.bits(-1), ValueError, ["shape", "-1"]),
        (lambda g: g.bits((3, -1)), ValueError, ["shape", "(3, -1)"]),
        (lambda g: g.bits(2.5), TypeError, ["shape", "2.5"]),
        (lambda g: g.uniform((2, 1.5)), TypeError, ["shape", "1.5"]),
        (lambda g: g.uniform(2, dtype=np.float16), TypeError, ["dtype", "float16"]),
        (lambda g: g.uniform(2, dtype=None), TypeError, ["dtype", "None"]),
        (lambda g: g.uniform(2, 3, 1), ValueError, ["low", "3", "high", "1"]),
        (lambda g: g.uniform(2, math.nan), ValueError, ["low", "nan"]),
        (lambda g: g.uniform(2, 0, math.inf), ValueError, ["high", "inf"]),
        (lambda g: g.uniform(2, 0, 1e39), ValueError, ["high", "float32", "1e+39"]),
        (lambda g: g.uniform(2, -3e38, 3e38), ValueError, ["high - low", "6e+38"]),
        (lambda g: g.uniform(2, "low"), TypeError, ["low", "'low'"]),
        (lambda g: g.normal(2, dtype="int32"), TypeError, ["dtype", "int32"]),
        (lambda g: g.normal(2, math.inf), ValueError, ["mean", "inf"]),
        (lambda g: g.normal(2, 0, -1.5), ValueError, ["std", "-1.5"]),
        (lambda g: g.normal(2, 0, math.nan), ValueError, ["std", "nan"]),
        (lambda g: g.normal(2, 0, None), TypeError, ["std", "None"]),
        (lambda g: g.integers(3, 3, 2), ValueError, ["low = 3", "high = 3"]),
        (lambda g: g.integers(5, 4, 2), ValueError, ["low = 5", "high = 4"]),
        (lambda g: g.integers(0, 2**32 + 1, 2), ValueError, [str(2**32 + 1)]),
        (lambda g: g.integers(0, 300, 2, np.uint8), ValueError, ["300", "uint8"]),
        (lambda g: g.integers(-1, 3, 2, np.uint8), ValueError, ["-1", "uint8"]),
        (lambda g: g.integers(0, 3, 2, float), TypeError, ["dtype", "float64"]),
        (lambda g: g.integers(0, 3.5, 2), TypeError, ["high", "3.5"]),
        (lambda g: g.bernoulli(1.5), ValueError, ["p", "1.5"]),
        (lambda g: g.bernoulli([0.5, -0.25]), ValueError, ["p", "-0.25"]),
        (lambda g: g.bernoulli([[0.5, math.nan]]), ValueError, ["p", "nan"]),
        (lambda g: g.bernoulli([0.5, 0.5], 3), ValueError, ["(2,)", "(3,)"]),
        (lambda g: g.bernoulli(0.5, -3), ValueError, ["shape", "-3"]),
        (lambda g: g.bernoulli(0.5, dtype="no"), TypeError, ["no"]),
        (lambda g: g.permutation(-2), ValueError, ["n must", "-2"]),
        (lambda g: g.permutation(2.0), TypeError, ["n must", "2.0"]),
    ],
)
def test_errors_name_the_value_and_draw_nothing(call, error, words):
    g = Generator(8, 9)
    with pytest.raises(error) as caught:
        call(g)
    assert all(w in str(caught.value) for w in words), str(caught.value)
    assert g.state == (8, 9)


# Where a generator is taken -----------------------------------------------------------------------

X = np.random.default_rng(0).random((12, 3)).astype(np.float32)


def fitted(name, **options):
    """A small model, whose weights are not the zeros that some begin with."""
    sizes = {"width": 4, "blocks": 1, "T": 5} if name == "ddpm" else {"hidden": (4,), "latent": 2}
    model = MODELS[name](3, **sizes, **options)
    for p in model.parameters():
        p.data[...] = Generator(5).normal(p.shape, 0.0, 0.5)
    return model


def values(found):
    """The numbers in what a function returned."""
    if isinstance(found, nn.Module):
        return [p.numpy() for p in found.parameters()]
    if isinstance(found, dict):
        return [v.item() for v in found.values()]
    return [
        v.data if isinstance(v, tg.Tensor) else v
        for v in (found if isinstance(found, tuple) else (found,))
    ]


TAKERS = {
    "Normal": lambda rng: Normal(X, 1.0).sample(rng),
    "MultivariateNormal": lambda rng: MultivariateNormal(X, np.eye(3)).rsample(rng),
    "Bernoulli": lambda rng: Bernoulli(X).sample(rng),
    "Categorical": lambda rng: Categorical(X).sample(rng),
    "DiscretisedNormal": lambda rng: DiscretisedNormal(X, 1.0).sample(rng),
    "Mixture": lambda rng: Mixture([0.4, 0.6], Normal([-1.0, 1.0], 1.0)).sample(rng, (9,)),
    "monte_carlo_kl": lambda rng: monte_carlo_kl(Normal(0.0, 1.0), Normal(1.0, 1.0), rng, 9),
    "monte_carlo_js": lambda rng: monte_carlo_js(Normal(0.0, 1.0), Normal(1.0, 1.0), rng, 9),
    "Linear": lambda rng: nn.Linear(3, 2, rng=rng),
    "MLP": lambda rng: nn.MLP([3, 3, 3], rng=rng),
    "SpectralLinear": lambda rng: nn.SpectralLinear(3, 2, rng=rng).right.data,
    "Embedding": lambda rng: nn.Embedding(3, 2, rng=rng),
    "Dropout": lambda rng: nn.Dropout(0.5, rng=rng)(X),
    "orthogonal": lambda rng: nn.orthogonal(rng, (3, 2)),
    "reparameterise": lambda rng: ops.reparameterise(np.ones((4, 6), np.float32), rng),
    "sliced_wasserstein": lambda rng: metrics.sliced_wasserstein(X, 2 * X, rng),
    "mmd": lambda rng: metrics.mmd(X[:6], X[6:], rng),
    "c2st": lambda rng: metrics.c2st(X, X[::-1] + 0.1, rng),
    **{f"{n}.sample": lambda rng, n=n: fitted(n).sample(4, rng=rng) for n in MODELS},
    **{
        f"{n}.loss": lambda rng, n=n: fitted(n).objectives()[0].loss(X, rng=rng)
        for n in ("dae", "vae", "gan", "ddpm")
    },
    "elbo": lambda rng: fitted("vae").elbo(X, rng),
    "binarised": lambda rng: fitted("vae", binarise=True, k=2).loss(X, rng),
    "log_likelihood": lambda rng: tuple(fitted("vae").log_likelihood(X, k=2, rng=rng)),
    "annealed": lambda rng: tuple(
        fitted("vae").annealed_log_likelihood(X, temperatures=2, chains=2, rng=rng)
    ),
    "bracket": lambda rng: fitted("vae").bracketed_log_likelihood(
        2, temperatures=2, chains=2, rng=rng
    ),
    "variational_bound": lambda rng: diffusion.variational_bound(fitted("ddpm"), X, rng=rng).total,
    "langevin": lambda rng: diffusion.langevin(lambda x: -x, X, 0.1, 3, rng),
}


@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)
def test_a_seed_is_taken_for_a_generator(take):
    for of_seed, of_generator in zip(values(take(7)), values(take(Generator(7))), strict=True):
        np.testing.assert_array_equal(of_seed, of_generator)
    found = values(take(7))
    others = (values(take(seed)) for seed in range(8, 14))
    assert any((np.asarray(a) != b).any() for o in others for a, b in zip(found, o, strict=True))


@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)
def test_a_generator_of_numpys_is_refused_by_name(take):
    for other, name in ((np.random.default_rng(0), "numpy.*Generator"), (0.5, "float")):
        with pytest.raises(TypeError, match=f"a seed, not .*{name}.* write rng=0"):
            take(other)


def test_layers_of_a_seed_differ_from_one_another():
    first, second = nn.MLP([3, 3, 3], rng=0).layers
    assert (first.weight.data != second.weight.data).all()


def test_no_generator_is_the_default_one():
    tg.manual_seed(5)
    x = fitted("vae").sample(3)
    np.testing.assert_array_equal(x, fitted("vae").sample(3, rng=5))
    assert as_generator(None) is default_generator()
