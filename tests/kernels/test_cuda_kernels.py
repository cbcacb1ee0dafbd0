"""The CUDA kernels, run on the CPU, against float64 oracles and bit for bit against the C++ build.

Every kernel runs at several sizes, in several geometries, its threads forwards and backwards, its
arrays aligned and not: the results must be the same bytes, and nothing else may be touched.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import special, stats

from tests.support import cuda_on_cpu
from tinygen.kernels import cuda, native
from tinygen.kernels.fused import error_chunk
from tinygen.kernels.signatures import signatures
from tinygen.random import Generator, philox4x32

pytestmark = [
    pytest.mark.cpu_only("what runs is the CUDA source on the CPU"),
    pytest.mark.skipif(cuda_on_cpu.COMPILER is None, reason="needs g++"),
]

SHAPES = [
    (0, 5),
    (3, 0),
    (1, 1),
    (1, 3),
    (16, 49),
    (7, 143),
    (1001, 1),
    (334, 3),
    (64, 64),
    (3, 4099),
]
GEOMETRIES = [(grid, block) for grid in (1, 2, 7) for block in (32, 96, 256)]
ORDERS = ["forward", "backward"]
OPTIONS = [*cuda.OPTIONS, *cuda_on_cpu.FROM_CUPY]
DTYPES = {"float*": "f4", "double*": "f8", "u32*": "u4", "i64*": "i8"}

# A seed and a draw that need all their bits; in half of the cases the draw is reached by a counter.
SEED, DRAW, COUNTED = 0xFEDCBA9876543210, 0x0123456789ABCDEF, 0xFFFFFFFF00000001


# -- what a case says ------------------------------------------------------------------------------


class Near(NamedTuple):
    """An expected value, and how far from it a result may be: ``units`` of rounding of ``size``.

    Numbers below 1e-30 may stand for 0: exponentials saturate, and CuPy flushes what is subnormal.
    """

    value: np.ndarray
    size: np.ndarray
    units: float


Arguments = dict[str, Any]  # an array for a pointer, the name of another argument, None for null
Expected = dict[str, Any]  # of every array that is written: Near, or an array to be equal to
Case = Callable[..., tuple[Arguments, Expected]]

CASES: dict[str, tuple[Case, list[dict[str, Any]]]] = {}


def case(*names: str, **choices: list[Any]) -> Callable[[Case], Case]:
    """Enter a test case for the kernels named; it is called with every combination of choices."""
    variants = [
        dict(zip(choices, combination, strict=True))
        for combination in itertools.product(*choices.values())
    ]

    def enter(function: Case) -> Case:
        CASES.update(
            {name: (function, [{**v, "kernel": name} for v in variants]) for name in names}
        )
        return function

    return enter


def near(value: Any, size: Any = None, units: float = 6.0) -> Near:
    value = np.asarray(value)
    return Near(value, np.abs(value if size is None else size), units)


def array(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


def stream(counted: bool) -> Arguments:
    counter = np.array([COUNTED, 0], np.uint64) if counted else None
    return {"seed": SEED, "draw": (DRAW - COUNTED) % 2**64 if counted else DRAW, "counter": counter}


# -- the random stream, in more precision than the kernels' ----------------------------------------


def words(n: int) -> np.ndarray:
    """n words of the stream."""
    return philox4x32(SEED, DRAW, 0, -(-n // 4)).reshape(-1)[:n]


def box_muller(u: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Pairs of normals from u in (0, 1] and turns in [0, 1), accurate relative to themselves."""
    radius = np.sqrt(-2 * np.log(u))
    quarter = np.rint(4 * turns)
    angle = (turns - quarter / 4) * (8 * np.arctan(np.ones_like(turns)))
    cosine, sine = np.cos(angle), np.sin(angle)
    select = [quarter % 4 == k for k in range(4)]
    pair = [
        np.select(select, [cosine, -sine, -cosine, sine]),
        np.select(select, [sine, cosine, -sine, -cosine]),
    ]
    return np.stack([radius * part for part in pair], -1).reshape(-1)


def noise(*shape: int) -> np.ndarray:
    """The float32 normals of the stream, in float64."""
    n = int(np.prod(shape))
    numbers = (words(n + n % 2) >> 8).astype(np.float64)
    return box_muller((numbers[0::2] + 1) * 2.0**-24, numbers[1::2] * 2.0**-24)[:n].reshape(shape)


def noise_of_float64(n: int) -> np.ndarray:
    """The float64 normals of the stream, in extended precision."""
    w = words(2 * (n + n % 2)).astype(np.uint64)
    numbers = ((w[0::2] >> 5) * 2**26 + (w[1::2] >> 6)).astype(np.longdouble)
    spacing = np.longdouble(2.0**-53)
    return box_muller((numbers[0::2] + 1) * spacing, numbers[1::2] * spacing)[:n]


# -- the cases -------------------------------------------------------------------------------------


@case("fill_bits", counted=[False, True])
def fill_bits(rng, rows, columns, kernel, counted):
    n = rows * columns
    return {"n": n, **stream(counted)}, {"out": words(n)}


@case("fill_integers", counted=[False, True], limits=[(0, 10), (-7, 2**32 - 7), (5, 6)])
def fill_integers(rng, rows, columns, kernel, counted, limits):
    n, (low, high) = rows * columns, limits
    arguments = {"n": n, **stream(counted), "size": high - low, "offset": low % 2**64}
    return arguments, {"out": Generator(SEED, DRAW).integers(low, high, n)}


@case("fill_uniform_f32", "fill_uniform_f64", counted=[False, True], limits=[(0, 1), (-2.5, 0.1)])
def fill_uniform(rng, rows, columns, kernel, counted, limits):
    n, dtype = rows * columns, np.float32 if kernel.endswith("f32") else np.float64
    low, high = map(dtype, limits)
    arguments = {"n": n, **stream(counted), "low": low, "width": high - low}
    arguments["last"] = np.nextafter(high, low)
    return arguments, {"out": Generator(SEED, DRAW).uniform(n, *limits, dtype)}


@case("fill_normal_f32", "fill_normal_f64", counted=[False, True], scale=[(0, 1), (-0.5, 3)])
def fill_normal(rng, rows, columns, kernel, counted, scale):
    n, (mean, std) = rows * columns, scale
    z = noise(n) if kernel.endswith("f32") else noise_of_float64(n)
    size = abs(mean) + abs(std * z)
    return {"n": n, **stream(counted), "mean": mean, "std": std}, {
        "out": near(mean + std * z, size)
    }


@case("noise_step", counted=[False, True], keep_noise=[False, True])
def noise_step(rng, rows, columns, kernel, counted, keep_noise):
    x0, a, s = array(rng, rows, columns), array(rng, rows, 1), array(rng, rows, 1)
    z = noise(rows, columns)
    signal, distortion = wide(a) * x0, wide(s) * z
    expected = {"xt": near(signal + distortion, abs(signal) + abs(distortion))}
    if keep_noise:
        expected["eps"] = near(z)
    arguments = {"x0": x0, "a": a, "s": s, "rows": rows, "columns": columns, **stream(counted)}
    return {**arguments, **({} if keep_noise else {"eps": None})}, expected


@case("denoise_step", counted=[False, True], in_place=[False, True], sigma=[0.0, 0.75])
def denoise_step(rng, rows, columns, kernel, counted, in_place, sigma):
    n = rows * columns
    xt, output = array(rng, n), array(rng, n)
    c = dict(from_xt=1.5, from_output=-0.75, low=-1.0, high=1.25, on_x0=0.375, on_xt=0.625)
    first, second = c["from_xt"] * wide(xt), c["from_output"] * wide(output)
    x0 = np.clip(first + second, c["low"], c["high"])
    parts = [c["on_x0"] * x0, c["on_xt"] * xt, sigma * noise(n)]
    size = sum(map(abs, [c["on_x0"] * first, c["on_x0"] * second, *parts]))
    arguments = {"xt": xt, "output": output, "n": n, **c, "sigma": sigma, **stream(counted)}
    return {**arguments, **({"y": "xt"} if in_place else {})}, {"y": near(sum(parts), size)}


@case(
    "squared_error",
    target=["data", "on_data data", "noise", "data noise", "on_data data noise"],
    counted=[False, True],
)
def squared_error(rng, rows, columns, kernel, target, counted):
    output, data = array(rng, rows, columns), array(rng, rows, columns)
    on_data, on_noise = array(rng, rows, 1), array(rng, rows, 1)
    target = target.split()
    parts = [wide(output)]
    if "data" in target:
        parts.append(-data * (wide(on_data) if "on_data" in target else 1.0))
    if "noise" in target:
        parts.append(-noise(rows, columns) * on_noise)
    error, size, scale = sum(parts), sum(map(abs, parts)), 0.375
    arguments = {
        "output": output,
        "data": data if "data" in target else None,
        "on_data": on_data if "on_data" in target else None,
        "on_noise": on_noise if "noise" in target else None,
        "rows": rows,
        "columns": columns,
        "scale": scale,
        **stream(counted),
    }
    expected = {
        "sums": near(*(chunk_sums(x**2, error_chunk(x.size)) for x in (error, size)), 1e9),
        "gradient": near(scale * error, scale * size),
    }
    return arguments, expected


def chunk_sums(x: np.ndarray, chunk: int = 4096) -> np.ndarray:
    return np.add.reduceat(x.reshape(-1), range(0, x.size, chunk)) if x.size else np.zeros(0)


@case("sum_squares")
def sum_squares(rng, rows, columns, kernel):
    x = array(rng, rows * columns)
    return {"x": x, "n": x.size}, {"sums": near(chunk_sums(wide(x) ** 2), units=1e9)}


@case("sum_chunks")
def sum_chunks(rng, rows, columns, kernel):
    x = rng.random(rows * columns)
    chunks = np.split(x, range(4096, x.size, 4096))
    totals = 0.375 * np.array([chunk.sum() for chunk in chunks])
    return {"sums": x, "n": x.size, "scale": 0.375}, {"totals": near(totals)}


# Of u: the value, the slope, and the sizes of what they are added up from.
def tanh(u):
    value = np.tanh(u)
    return value, 1 - value**2, value, 1 + value**2


def sigmoid(u):
    value = special.expit(u)
    return value, value * special.expit(-u), value, value


def relu(u):
    value = np.maximum(u, 0)
    return value, (u > 0) * 1.0, value, 0 * u


def leaky_relu(u):
    slope = np.where(u > 0, 1, 0.01)
    return u * slope, slope, u, slope


def silu(u):
    s, rest = special.expit(u), special.expit(-u)
    return u * s, s * (1 + u * rest), u * s, s * (1 + abs(u) * rest)


def gelu(u):
    below, density = special.ndtr(u), np.exp(-u * u / 2) / np.sqrt(2 * np.pi)
    return u * below, below + u * density, u * below, below + abs(u) * density


ACTIVATIONS = {f.__name__: f for f in (tanh, sigmoid, relu, leaky_relu, silu, gelu)}


@case(*(f"bias_{name}" for name in ACTIVATIONS), bias_of_each_row=[False, True])
def forward(rng, rows, columns, kernel, bias_of_each_row):
    x, bias = 4 * array(rng, rows, columns), array(rng, rows if bias_of_each_row else 1, columns)
    value, _, size, _ = ACTIVATIONS[kernel.removeprefix("bias_")](wide(x + bias))
    arguments = {"x": x, "bias": bias, "bias_row": columns if bias_of_each_row else 0}
    return {**arguments, "rows": rows, "columns": columns}, {"y": near(value, size)}


@case(
    *(f"bias_{name}_backward" for name in ("leaky_relu", "silu", "gelu")),
    bias_of_each_row=[False, True],
)
def backward_of_input(rng, rows, columns, kernel, bias_of_each_row):
    forward_kernel = kernel.removesuffix("_backward")
    arguments, _ = forward(rng, rows, columns, forward_kernel, bias_of_each_row)
    g, u = array(rng, rows, columns), wide(arguments["x"] + arguments["bias"])
    _, slope, _, size = ACTIVATIONS[forward_kernel.removeprefix("bias_")](u)
    return {**arguments, "g": g}, {"d": near(g * slope, g * size, 8)}


@case(*(f"{name}_backward" for name in ("tanh", "sigmoid", "relu")))
def backward_of_output(rng, rows, columns, kernel):
    g, u = array(rng, rows * columns), wide(4 * array(rng, rows * columns))
    name = kernel.removesuffix("_backward")
    y = ACTIVATIONS[name](u)[0].astype(np.float32)
    of_y = {"tanh": lambda y: 1 - y * y, "sigmoid": lambda y: y * (1 - y), "relu": lambda y: y > 0}
    slope = of_y[name](wide(y))
    size = 1 if name == "tanh" else slope
    return {"g": g, "y": y, "n": g.size}, {"d": near(g * slope, g * size)}


@case("standardise", modulation=["none", "of each row", "one for all"])
def standardise(rng, rows, columns, kernel, modulation):
    x, eps = array(rng, rows, columns), 1e-5
    centred, deviation, sensitive = _standardised(x, eps)
    z = centred / deviation
    given = array(rng, 1 if modulation == "one for all" else rows, 2 * columns)
    scale, shift = wide(given[:, :columns]), given[:, columns:]
    arguments = {"x": x, "rows": rows, "columns": columns, "eps": eps}
    if modulation == "none":
        arguments |= {"modulation": None, "modulation_row": 0}
        return arguments, {"y": near(z, sensitive)}
    each = 2 * columns if modulation == "of each row" else 0
    arguments |= {"modulation": given, "modulation_row": each}
    size = sensitive * (1 + abs(scale)) + abs(shift)
    return arguments, {"y": near((1 + scale) * z + shift, size)}


def _standardised(x, eps):
    """x without its mean, its deviation, and what the error of their quotient is in proportion to."""
    if not x.size:
        return x, x, x
    centred = wide(x) - wide(x).mean(1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(1, keepdims=True) + np.float32(eps))
    size = (abs(x) + abs(wide(x)).mean(1, keepdims=True)) / deviation
    return centred, deviation, size * (1 + abs(centred / deviation))


@case("standardise_backward", modulation=["none", "of each row", "one for all"])
def standardise_backward(rng, rows, columns, kernel, modulation):
    arguments, _ = standardise(rng, rows, columns, "standardise", modulation)
    g = array(rng, rows, columns)
    centred, deviation, sensitive = _standardised(arguments["x"], arguments["eps"])
    if not g.size:
        of = {} if modulation == "none" else {"of_modulation": np.zeros((rows, 0), np.float32)}
        arguments |= {"of_modulation": None} if modulation == "none" else {}
        return {**arguments, "g": g}, {"d": g, **of}
    z, given = centred / deviation, arguments["modulation"]
    u = g * (1 if given is None else 1 + wide(given[:, :columns]))
    means = [(v * u).mean(1, keepdims=True) for v in (1, z)]
    parts = [u, -means[0] + 0 * z, -z * means[1]]
    size = sum(abs(u) for u in parts[:1]) + (abs(u) * (1 + abs(z))).mean(1, keepdims=True) * (
        1 + abs(z)
    )
    size = size * (1 + sensitive.max(1, keepdims=True)) / deviation
    expected = {"d": near(sum(parts) / deviation, size)}
    if given is None:
        return {**arguments, "g": g, "of_modulation": None}, expected
    value, sizes = np.concatenate([g * z, g], 1), np.concatenate([abs(g) * sensitive, abs(g)], 1)
    return {**arguments, "g": g}, {**expected, "of_modulation": near(value, sizes)}


@case("bce_with_logits")
def bce_with_logits(rng, rows, columns, kernel):
    l, t = 8 * array(rng, rows * columns), rng.random(rows * columns, np.float32)
    parts = np.logaddexp(0, wide(l)), wide(l) * t
    size = sum(map(abs, parts))
    return {"l": l, "t": t, "n": l.size}, {"loss": near(parts[0] - parts[1], size)}


@case("bce_with_logits_backward")
def bce_with_logits_backward(rng, rows, columns, kernel):
    arguments, _ = bce_with_logits(rng, rows, columns, kernel)
    g, s = array(rng, rows * columns), special.expit(wide(arguments["l"]))
    d = near(g * (s - arguments["t"]), g * (s + arguments["t"]))
    return {**arguments, "g": g}, {"d": d}


@case("bce_with_logits_backward_by_row", g_row=[0, 1])
def bce_with_logits_backward_by_row(rng, rows, columns, kernel, g_row):
    arguments, _ = bce_with_logits(rng, rows, columns, kernel)
    del arguments["n"]
    g = array(rng, rows if g_row else 1)
    s, t = (x.reshape(rows, columns) for x in (special.expit(wide(arguments["l"])), arguments["t"]))
    expected = {"d": near(g[:, None] * (s - t), g[:, None] * (s + t))}
    return {**arguments, "g": g, "g_row": g_row, "rows": rows, "columns": columns}, expected


@case("reparameterise", counted=[False, True])
def reparameterise(rng, rows, columns, kernel, counted):
    h = array(rng, rows, 2, columns)
    mean, log_var = wide(h[:, 0]), wide(h[:, 1])
    spread = np.exp(log_var / 2) * noise(rows, columns)
    kl = 0.5 * (mean**2 + np.expm1(log_var) - log_var)
    value, size = [mean + spread, kl], [abs(mean) + abs(spread), kl]
    arguments = {"h": h, "rows": rows, "columns": columns, **stream(counted)}
    return arguments, {"out": near(np.stack(value, 1), np.stack(size, 1), 7)}


@case("reparameterise_backward", counted=[False, True])
def reparameterise_backward(rng, rows, columns, kernel, counted):
    arguments, _ = reparameterise(rng, rows, columns, kernel, counted)
    g = array(rng, rows, 2, columns)
    mean, log_var = wide(arguments["h"][:, 0]), wide(arguments["h"][:, 1])
    of_z, of_kl = wide(g[:, 0]), wide(g[:, 1])
    parts = of_z, of_kl * mean
    more = of_z * 0.5 * np.exp(log_var / 2) * noise(rows, columns), 0.5 * of_kl * np.expm1(log_var)
    value, size = [sum(parts), sum(more)], [sum(map(abs, parts)), sum(map(abs, more))]
    return {**arguments, "g": g}, {"d": near(np.stack(value, 1), np.stack(size, 1))}


@case("adam", averaged=[False, True])
def adam(rng, rows, columns, kernel, averaged):
    n = rows * columns
    p, g, mean, average = (array(rng, n) for _ in range(4))
    square = rng.random(n, np.float32)
    c = dict(beta1=0.9, one_minus_beta1=0.1, beta2=0.999, one_minus_beta2=0.001, step_size=0.01)
    c.update(bias_correction=31.6, eps=1e-8)
    c.update(weight_decay_factor=0.9999, one_minus_average_decay=0.05)
    v = {name: float(np.float32(value)) for name, value in c.items()}
    means = v["beta1"] * mean, v["one_minus_beta1"] * wide(g)
    squares = v["beta2"] * square, v["one_minus_beta2"] * wide(g) ** 2
    new_mean, new_square = map(sum, (means, squares))
    denominator = np.sqrt(new_square) * v["bias_correction"] + v["eps"]
    params = v["weight_decay_factor"] * p, -v["step_size"] * new_mean / denominator
    new_p, size_p = sum(params), sum(map(abs, params))
    arguments = {"p": p, "g": g, "mean": mean, "square": square, "average": None, "n": n, **c}
    expected = {
        "p": near(new_p, size_p),
        "mean": near(new_mean, sum(map(abs, means))),
        "square": near(new_square),
    }
    if averaged:
        arguments["average"] = average
        share = v["one_minus_average_decay"]
        value = average + share * (new_p - average)
        expected["average"] = near(value, abs(average) + share * (size_p + abs(average)))
    return arguments, expected


# The arrays of a table go by the names "arrays.ROW.PLACE".
def sizes_of_rows(n: int) -> list[int]:
    return [n, 0, min(n, 1), n // 2, 3 * n]


@case("sum_squares_of_all")
def sum_squares_of_all(rng, rows, columns, kernel):
    given = {f"arrays.{k}.0": array(rng, n) for k, n in enumerate(sizes_of_rows(rows * columns))}
    sums = np.concatenate([chunk_sums(wide(x) ** 2) for x in given.values()])
    return given, {"sums": near(sums, units=1e9)}


@case("scale_all")
def scale_all(rng, rows, columns, kernel):
    given = {f"arrays.{k}.0": array(rng, n) for k, n in enumerate(sizes_of_rows(rows * columns))}
    factor = np.float32(0.3)
    return {**given, "factor": 0.3}, {name: factor * x for name, x in given.items()}


@case("adam_of_all", averaged=[False, True])
def adam_of_all(rng, rows, columns, kernel, averaged):
    names = ("p", "g", "mean", "square", "average")
    given, expected = {}, {}
    for k, n in enumerate(sizes_of_rows(rows * columns)):
        arguments, found = adam(rng, 1, n, kernel, averaged)
        for i, name in enumerate(names):
            given[f"arrays.{k}.{i}"] = arguments.pop(name)
            if name in found:
                expected[f"arrays.{k}.{i}"] = found[name]
    del arguments["n"]
    return {**arguments, **given}, expected


# -- running a kernel ------------------------------------------------------------------------------

GUARD, FILL = 64, 0xCB  # bytes before and after every array, and what stands there


class Guarded:
    """An array between bytes that must not be touched, ``offset`` elements off alignment."""

    def __init__(self, content: np.ndarray, offset: int = 0) -> None:
        start = GUARD + offset * content.itemsize
        self._part = slice(start, start + content.nbytes)
        self._bytes = np.full(self._part.stop + GUARD, FILL, np.uint8)
        assert self._bytes.ctypes.data % 16 == 0
        self.array = self._bytes[self._part].view(content.dtype).reshape(content.shape)
        self.array[...] = content

    def check(self) -> None:
        """Raise if anything around the array has changed."""
        outside = self._bytes.copy()
        outside[self._part] = FILL
        assert (outside == FILL).all(), "written out of bounds"


def run(
    launch: Callable[[list[Any]], None],
    kernel: str,
    arguments: Arguments,
    expected: Expected,
    offsets: Mapping[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """The arrays that a kernel writes. ``launch`` gets its arguments, in the order declared."""
    declared = {name: kind.removeprefix("const ") for kind, name in signatures()[kernel]}
    missing = {
        name: poison(expected[name], DTYPES[declared[name]]) for name in expected.keys() - arguments
    }
    given = {**missing, **arguments}
    assert {name.split(".")[0] for name in given} == declared.keys()
    alias = {name: value for name, value in given.items() if isinstance(value, str)}
    buffers = {
        name: Guarded(value, (offsets or {}).get(name, 0))
        for name, value in given.items()
        if isinstance(value, np.ndarray)
    }

    arrays = {name: buffer.array for name, buffer in buffers.items()}
    placed = {name: arrays.get(alias.get(name, name), value) for name, value in given.items()}
    launch([placed[name] if name in placed else rows_of(placed, name) for name in declared])
    written = {alias.get(name, name) for name in expected}
    for name, buffer in buffers.items():
        buffer.check()
        assert name in written or buffer.array.tobytes() == given[name].tobytes(), name
    return {name: arrays[alias.get(name, name)] for name in expected}


def rows_of(placed: Mapping[str, Any], table: str) -> list[list[Any]]:
    """The rows of a table from its arrays by name."""
    rows: dict[str, list[Any]] = {}
    for name, value in placed.items():
        if name.startswith(f"{table}."):
            rows.setdefault(name.split(".")[1], []).append(value)
    return list(rows.values())


def poison(expected: Near | np.ndarray, dtype: str) -> np.ndarray:
    """An array for a result, full of NaN or -1: every bit is set."""
    shape = expected.value.shape if isinstance(expected, Near) else expected.shape
    return np.full(shape, -1, f"i{dtype[1]}").view(dtype)


def check(results: dict[str, np.ndarray], expected: Expected) -> None:
    """Raise if a result is not what the oracle says."""
    for name, result in results.items():
        if isinstance(expected[name], Near):
            value, size, units = expected[name]
            bound = units * np.finfo(result.dtype).eps / 2 * size + 1e-30
            error = abs(result - value)
            assert (error <= bound).all(), f"{name}: {np.max(error / bound) * units:.2f} units"
        else:
            np.testing.assert_array_equal(result, expected[name], name, strict=True)


def on_cpu(
    kernels: cuda_on_cpu.Kernels,
    kernel: str,
    grid: int = 2,
    block: int = 96,
    order: str = "forward",
) -> Callable[[list[Any]], None]:
    """A launcher for ``run``: the types of the arguments are those that would go to CuPy."""

    def launch(arguments: list[Any]) -> None:
        arguments = [as_cupy(x) if isinstance(x, list) else x for x in arguments]
        typed = [f(value) for f, value in zip(cuda._converters(kernel), arguments, strict=True)]
        kernels.launch(kernel, grid, block, typed, order)

    return launch


def as_cupy(rows: list[list[Any]]) -> list[list[Any]]:
    """Arrays that say where they are as CuPy's do."""
    return [
        [
            x if x is None
            else SimpleNamespace(data=SimpleNamespace(ptr=x.ctypes.data), size=x.size)
            for x in row
        ]
        for row in rows
    ]  # fmt: skip


load_native = functools.cache(native.load)


def on_native(kernel: str) -> Callable[[list[Any]], None]:
    """A launcher for ``run``: the C++ build."""
    launch, _ = load_native()
    return lambda arguments: launch(kernel, *arguments)


def cases(kernel: str, shape: tuple[int, int]) -> Iterator[tuple[Arguments, Expected]]:
    """The arguments of a kernel, and what it is expected to make of them."""
    function, variants = CASES[kernel]
    for seed, variant in enumerate(variants):
        yield function(np.random.default_rng(seed), *shape, **variant)


def check_values(kernels: cuda_on_cpu.Kernels, kernel: str, shape: tuple[int, int]) -> None:
    """Every variant gives what the oracle says."""
    for arguments, expected in cases(kernel, shape):
        check(run(on_cpu(kernels, kernel), kernel, arguments, expected), expected)


def check_sameness(
    kernels: cuda_on_cpu.Kernels,
    kernel: str,
    shape: tuple[int, int],
    geometries: Sequence[tuple[int, int]] = GEOMETRIES,
) -> None:
    """Every geometry, order of the threads, and alignment gives the same bytes."""
    pointers = [name for kind, name in signatures()[kernel] if kind.endswith("*")]
    for arguments, expected in cases(kernel, shape):
        placed = pointers + [name for name in arguments if "." in name]
        offsets = [dict.fromkeys(names, 1) for names in (placed, *([name] for name in placed))]
        ways = [(geometry, order, {}) for geometry in geometries for order in ORDERS]
        ways += [((2, 96), "backward", offset) for offset in offsets]
        results = run(on_cpu(kernels, kernel), kernel, arguments, expected)
        for (grid, block), order, offset in ways:
            launch = on_cpu(kernels, kernel, grid, block, order)
            again = run(launch, kernel, arguments, expected, offset)
            for name, result in results.items():
                same = again[name].tobytes() == result.tobytes()
                assert same, f"{name} differs for {grid} x {block} threads, {order}, {offset}"


def check_bits(kernels: cuda_on_cpu.Kernels, kernel: str, shape: tuple[int, int]) -> None:
    """Every variant gives the same bits as the C++ build."""
    for arguments, expected in cases(kernel, shape):
        compare_with_cpp(kernels, kernel, arguments, expected)


def compare_with_cpp(
    kernels: cuda_on_cpu.Kernels,
    kernel: str,
    arguments: Arguments,
    expected: Expected,
    flushed: bool = False,
) -> None:
    """Raise if the two builds differ; one NaN is as good as another. ``flushed``: the C++ build has
    0 for subnormal numbers as well."""
    results = run(on_cpu(kernels, kernel), kernel, arguments, expected)
    with cuda_on_cpu.flushing() if flushed else nullcontext():
        of_cpp = run(on_native(kernel), kernel, arguments, expected)
    for name in of_cpp:
        pair = results[name], of_cpp[name]
        if flushed:  # also where either has copied a number, or dropped a product with 1
            pair = tuple(
                np.where(abs(x) < np.finfo(x.dtype).tiny, np.copysign(x.dtype.type(0), x), x)
                for x in pair
            )
        np.testing.assert_array_equal(*pair, name, strict=True)
        zeros = pair[1] == 0
        signs = [np.signbit(x[zeros]) for x in pair]
        np.testing.assert_array_equal(*signs, f"{name}: signs of zeros")


# -- tests -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernels():
    return cuda_on_cpu.build(cuda.source(), OPTIONS)


def test_every_kernel_has_a_case():
    assert CASES.keys() == signatures().keys()


def test_arguments_are_those_declared(kernels):
    declared = {name: [list(argument) for argument in x] for name, x in signatures().items()}
    assert {name: x.arguments for name, x in kernels.prototypes.items()} == declared


@pytest.mark.parametrize("kernel", CASES)
def test_values(kernels, kernel):
    for shape in SHAPES:
        check_values(kernels, kernel, shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kernel", CASES)
def test_geometry_order_and_alignment_do_not_matter(kernels, kernel, shape):
    check_sameness(kernels, kernel, shape)


@pytest.mark.parametrize("kernel", CASES)
def test_cpp_build_gives_the_same_bits(kernels, kernel):
    for shape in SHAPES:
        check_bits(kernels, kernel, shape)


SPECIAL = np.float32([0, 1e-45, 1e-38, 1e-8, 0.5, 1, 16, 88, 89, 103, 105, 1e4, 3e38, np.inf])
SPECIAL = np.concatenate([SPECIAL, -SPECIAL, np.float32([np.nan])])


@pytest.mark.parametrize("kernel", [name for name in CASES if not name.startswith("fill_")])
def test_special_numbers_go_through_both_builds_alike(kernels, kernel):
    shape = 12, 4 * SPECIAL.size
    rng = np.random.default_rng(0)
    for arguments, expected in cases(kernel, shape):
        for name, value in arguments.items():
            if isinstance(value, np.ndarray) and value.dtype == np.float32:
                chosen = rng.choice(SPECIAL, value.shape)
                arguments[name] = np.where(rng.random(value.shape) < 0.5, chosen, value)
        compare_with_cpp(kernels, kernel, arguments, expected, flushed=True)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_over_their_whole_range(kernels, name):
    x = np.linspace(-110, 110, 88001, dtype=np.float32)
    x = np.concatenate([x, np.float32([1e4, -1e4, 3e38, -3e38, np.nan])])
    value, _, size, _ = ACTIVATIONS[name](wide(x))
    arguments = {"x": x, "bias": np.float32([0]), "bias_row": 0, "rows": x.size, "columns": 1}
    expected = {"y": near(value, size)}
    (y,) = run(on_cpu(kernels, f"bias_{name}"), f"bias_{name}", arguments, expected).values()
    check({"y": y[:-1]}, {"y": near(value[:-1], size[:-1])})
    assert np.isnan(y[-1])


SANITIZED = """
import sys
from tests.kernels import test_cuda_kernels as tests
from tests.support import cuda_on_cpu
tests.GUARD = 0  # the sanitizer's own bytes stand around the arrays
names = sys.argv[1:]
kernels = cuda_on_cpu.build(sys.stdin.read(), tests.OPTIONS, sanitize=True, only=names)
for kernel in names:
    for shape in tests.SHAPES:
        tests.check_sameness(kernels, kernel, shape, [(2, 32)])
"""


def run_sanitized(source: str, kernels: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run kernels under the sanitizers; the return code tells whether all is well."""
    return subprocess.run(
        [sys.executable, "-c", SANITIZED, *kernels],
        input=source,
        capture_output=True,
        text=True,
        env=cuda_on_cpu.sanitizer_environment(),
    )


@pytest.mark.slow
def test_kernels_stay_within_their_arrays():
    done = run_sanitized(cuda.source(), list(CASES))
    assert done.returncode == 0, done.stderr


# -- statistics ------------------------------------------------------------------------------------

COUNT = 2**18


def normals(kernels, kernel: str, seed: int, draw: int) -> np.ndarray:
    out = np.empty(COUNT, np.float32 if kernel.endswith("f32") else np.float64)
    scale = out.dtype.type(0), out.dtype.type(1)
    numbers = np.int64(COUNT), np.uint64(seed), np.uint64(draw), np.uintp(0)
    kernels.launch(kernel, 4, 256, [out, *numbers, *scale])
    return wide(out)


@pytest.mark.parametrize("kernel", ["fill_normal_f32", "fill_normal_f64"])
@pytest.mark.parametrize("seed", [0, SEED])
def test_normals_are_normal(kernels, kernel, seed):
    z = normals(kernels, kernel, seed, 0)
    assert stats.kstest(z, "norm").pvalue > 0.01
    # Mean, variance, skewness and kurtosis, in units of their standard errors.
    errors = np.sqrt(np.array([1, 2, 15, 96]) / COUNT)
    moments = np.array([z.mean(), (z**2).mean() - 1, (z**3).mean(), (z**4).mean() - 3])
    assert (abs(moments / errors) < 4).all()
    assert 4 < abs(z).max() < 9


@pytest.mark.parametrize("kernel", ["fill_normal_f32", "fill_normal_f64"])
def test_normals_are_not_correlated(kernels, kernel):
    draws = [(0, 0), (0, 1), (0, 2**32), (1, 0), (2**32, 0)]
    z = [normals(kernels, kernel, *draw) for draw in draws]
    pairs = [(z[0][lag:], z[0][:-lag]) for lag in range(1, 9)]
    pairs += list(itertools.combinations(z, 2))
    for x, y in pairs:
        assert abs(np.mean(x * y)) < 4 / np.sqrt(COUNT)
        assert abs(np.mean((x**2 - 1) * (y**2 - 1))) < 4 * 2 / np.sqrt(COUNT)
