"""The kernels as tinygen uses them: functions, operations, optimisers and the generator.

The form of this machine (C++ where there is a compiler) is held to the NumPy form and to float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from scipy import special

import tinygen as tg
from tinygen import kernels
from tinygen.autodiff.engine import REGISTRY
from tinygen.backend import numpy_namespace as M
from tinygen.kernels import Denoising, Draw
from tinygen.kernels.dispatch import launcher
from tinygen.kernels.signatures import signatures
from tinygen.models.diffusion import NoiseSchedule
from tinygen.optim import EMA, Adam, AdamW
from tinygen.parallel import Ranks, Rows
from tinygen.random import Generator

pytestmark = pytest.mark.cpu_only("the C++ and the NumPy form")

DRAW = Draw(0xFEDCBA9876543210, 0x0123456789ABCDEF)
EPS = float(np.finfo(np.float32).eps)
SIZES = [0, 1, 3, 255, 256, 257, 784, 1001, 4096, 4097, 10000]
SHAPES = [(1, n) for n in SIZES] + [(3, 0), (7, 143), (16, 49), (1001, 1), (3, 4099), (13, 784)]

ACTIVATIONS = ("tanh", "sigmoid", "relu", "leaky_relu", "silu", "gelu")


@contextmanager
def plain_form() -> Iterator[None]:
    """The NumPy form computes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinygen.kernels.fused.launcher", lambda m, *arrays: None)
        yield


@pytest.fixture
def compiled() -> None:
    """The C++ form computes; TINYGEN_KERNELS=native makes it an error that there is none."""
    form = kernels.description("cpu")
    if not form.startswith("C++"):
        pytest.skip(f"no C++ form of the kernels: {form}")


@pytest.fixture
def launched(compiled: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that run."""
    names: list[str] = []

    def recording(m: Any, *arrays: Any) -> Any:
        launch = launcher(m, *arrays)
        return launch and (lambda name, *args: (names.append(name), launch(name, *args)))

    monkeypatch.setattr("tinygen.kernels.fused.launcher", recording)
    return names


def forward(name: str, *inputs: Any, **params: Any) -> Any:
    return REGISTRY[name].forward(M, *inputs, **params)


def backward(name: str, g: Any, *inputs: Any, **params: Any) -> Any:
    """The raw first-order gradient in the first input."""
    op = REGISTRY[name]
    y, also = (op.forward(M, *inputs, **params), None)
    if op.also:
        y, also = y
    known = {
        "m": M,
        "g": g,
        "y": y,
        op.also: also,
        **params,
        **dict(zip(op.inputs, inputs, strict=False)),
    }
    return (op.shared or op.rules[op.inputs[0]])(known)


def misaligned(x):
    """As a structure of bytes may hold it."""
    return np.frombuffer(b"-" + x.tobytes(), x.dtype, offset=1).reshape(x.shape)


class Inputs:
    """Arrays to compute with: (rows, columns), and numbers for each row or column."""

    def __init__(self, shape: tuple[int, int]) -> None:
        rng = np.random.default_rng(5)
        rows, columns = shape
        self.x, self.y, self.g, self.full = rng.normal(size=(4, *shape)).astype(np.float32)
        self.a, self.s = rng.normal(size=(2, rows)).astype(np.float32)
        self.bias = rng.normal(size=columns).astype(np.float32)
        self.t = rng.random(shape, np.float32)
        self.h, self.h_gradient = (
            np.concatenate(p, 1) for p in ((self.x, self.y), (self.g, self.y))
        )


STEP = Denoising(1.5, -0.75, -1.0, 1.25, 0.375, 0.625, 0.5)


def optimise(i: Inputs, averaged: bool) -> tuple[Any, ...]:
    given = {"p": (i.x, i.g), "none": (i.x[:0], i.g[:0]), "q": (i.y, i.full)}
    parameters = {name: tg.tensor(x, requires_grad=True) for name, (x, _) in given.items()}
    for name, p in parameters.items():
        p.grad = tg.tensor(given[name][1])
    adam, ema = AdamW(parameters, lr=0.1), EMA(parameters) if averaged else None
    adam.step(ema)
    state = [a for slot in adam.slots for a in adam.state[slot].values()]
    return *(p.data for p in parameters.values()), *state, *(ema.average.values() if ema else ())


def adam_of_one(i: Inputs) -> tuple[Any, ...]:
    state = i.x.copy(), i.g, i.y.copy(), np.abs(i.full)
    kernels.adam(
        M, *state, None, kernels.AdamStep(0.9, 0.1, 0.999, 0.001, 0.1, 1.0, 1e-8, 1.0, 0.0)
    )
    return state


def scaled(arrays: list[Any]) -> tuple[Any, ...]:
    kernels.scale_all(M, arrays, 0.3)
    return tuple(arrays)


F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
DRAWING: dict[str, Callable[[Inputs, Draw], Any]] = {
    "bits": lambda i, draw: kernels.bits(M, i.x.size, draw),
    "integers": lambda i, draw: kernels.integers(M, i.x.size, draw, -7, 2**32),
    "uniform float32": lambda i, draw: kernels.uniform(M, i.x.size, draw, -2.5, 0.1, F32),
    "uniform float64": lambda i, draw: kernels.uniform(M, i.x.size, draw, -2.5, 0.1, F64),
    "normal float32": lambda i, draw: kernels.normal(M, i.x.size, draw, -0.5, 3.0, F32),
    "normal float64": lambda i, draw: kernels.normal(M, i.x.size, draw, -0.5, 3.0, F64),
    "noise_step": lambda i, draw: kernels.noise_step(M, i.x, i.a, i.s, draw)[0],
    "noise_step, noise kept": lambda i, draw: kernels.noise_step(M, i.x, i.a, i.s, draw, True),
    "denoise_step": lambda i, draw: kernels.denoise_step(M, i.x, i.y, STEP, draw),
    "squared_error, noise": lambda i, draw: kernels.squared_error(
        M, i.x, None, None, i.s, draw),
    "squared_error, data and noise": lambda i, draw: kernels.squared_error(
        M, i.x, i.y, i.a, i.s, draw),
    "reparameterise": lambda i, draw: forward("reparameterise", i.h, draw=draw),
    "reparameterise_backward": lambda i, draw: backward(
        "reparameterise", i.h_gradient, i.h, draw=draw),
}  # fmt: skip
FUNCTIONS: dict[str, Callable[[Inputs], Any]] = {
    **{name: lambda i, f=f: f(i, DRAW) for name, f in DRAWING.items()},
    **{f"uniform {dtype}, few numbers": lambda i, dtype=dtype: kernels.uniform(  # and up to the last
        M, i.x.size, DRAW, 1.0, 1.0 + 4 * np.finfo(dtype).eps, dtype) for dtype in (F32, F64)},
    "denoise_step, no noise": lambda i: kernels.denoise_step(
        M, i.x, i.y, STEP._replace(sigma=0.0), DRAW),
    "squared_error": lambda i: kernels.squared_error(M, i.x, i.y),
    "squared_error, data": lambda i: kernels.squared_error(M, i.x, i.y, i.a),
    "sum_squares": lambda i: kernels.sum_squares(M, [i.x, i.y[:0], i.y]),
    **{f"bias_{name}": lambda i, name=name: forward(f"bias_{name}", i.x, i.bias)
       for name in ACTIVATIONS},
    **{f"bias_{name}, bias of each row": lambda i, name=name: forward(f"bias_{name}", i.x, i.full)
       for name in ACTIVATIONS},
    **{f"bias_{name}, backward": lambda i, name=name: backward(f"bias_{name}", i.g, i.x, i.bias)
       for name in ACTIVATIONS},
    **{f"bias_{name}, backward, bias of each row":
       lambda i, name=name: backward(f"bias_{name}", i.g, i.x, i.full) for name in ACTIVATIONS},
    "standardise": lambda i: kernels.standardise(M, i.x, None, 1e-5)[0],
    "standardise, modulated": lambda i: kernels.standardise(M, i.x, i.h, 1e-5)[0],
    "standardise, modulated alike": lambda i: kernels.standardise(
        M, i.x, np.concatenate([i.bias, i.bias]), 1e-5)[0],
    "standardise, backward": lambda i: kernels.standardise_backward(
        M, i.g, i.x, None, 1e-5, None),
    "standardise, backward, modulated": lambda i: kernels.standardise_backward(
        M, i.g, i.x, i.h, 1e-5, None),
    "standardise, backward, modulated alike": lambda i: kernels.standardise_backward(
        M, i.g, i.x, np.concatenate([i.bias, i.bias]), 1e-5, None),
    "scale_all": lambda i: scaled([i.x.copy(), i.y[:0].copy(), i.y.copy()]),
    "bce": lambda i: forward("bce_with_logits", i.x, i.t),
    "bce backward": lambda i: backward("bce_with_logits", i.g, i.x, i.t),
    "bce backward, one number": lambda i: backward(
        "bce_with_logits", np.broadcast_to(np.float32(0.75), i.x.shape), i.x, i.t),
    "bce backward, one of each row": lambda i: backward(
        "bce_with_logits", np.broadcast_to(i.a[:, None], i.x.shape), i.x, i.t),
    "adam, of one": lambda i: adam_of_one(i),
    "sum_squares, of one": lambda i: kernels.sum_squares(M, [i.x]),
    "adam": lambda i: optimise(i, averaged=False),
    "adam, averaged": lambda i: optimise(i, averaged=True),
}  # fmt: skip
EXACT = ("bits", "integers", "uniform")


def arrays_of(result: Any) -> list[np.ndarray]:
    parts = result if isinstance(result, tuple) else (result,)
    return [np.asarray(a) for a in parts if a is not None]


def bytes_of(result: Any) -> bytes:
    return b"".join(a.tobytes() for a in arrays_of(result))


# -- the C++ form and the NumPy form --------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")  # size 0
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_compiled_form_is_the_plain_form(name, launched):
    """Integers and uniforms exactly; else within a dozen roundings of numbers of size 4."""
    tight = 0 if name.startswith(EXACT) else 1e-13 if name == "normal float64" else 12 * EPS
    for shape in SHAPES:
        del launched[:]
        results = arrays_of(FUNCTIONS[name](Inputs(shape)))
        assert launched or not math.prod(shape)
        with plain_form():
            expected = arrays_of(FUNCTIONS[name](Inputs(shape)))
        for a, b in zip(results, expected, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=tight, atol=4 * tight, err_msg=f"{name}, {shape}")


def test_every_kernel_is_among_them(launched):
    for function in FUNCTIONS.values():
        function(Inputs((7, 143)))
    assert set(launched) == signatures().keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inputs_are_not_changed(name):
    used, untouched = Inputs((7, 143)), Inputs((7, 143))
    FUNCTIONS[name](used)
    for key, array in vars(used).items():
        assert array.tobytes() == vars(untouched)[key].tobytes(), key


# -- accuracy: units in the last place ------------------------------------------------------------
POWERS = 10.0 ** np.linspace(-45.5, 38.5, 20001)
WIDE = np.concatenate([np.linspace(-110, 110, 200001), POWERS, -POWERS, [0.0, -0.0]])
with np.errstate(over="ignore"):
    WIDE = WIDE.astype(np.float32)
WIDE = np.sort(WIDE[np.isfinite(WIDE)])
SMALL = 1e-35
"""What is below may be any other such number: some functions keep clear of subnormals."""


def units(result: Any, exact: Any, size: Any = None) -> float:
    """The largest error, in units of the last place of `size`, the exact value if not given."""
    size = np.minimum(np.abs(exact if size is None else size), 3e38).astype(np.float32)
    error = np.abs(result.astype(np.float64) - exact)
    return float(np.max(np.maximum(error - SMALL, 0) / np.spacing(size)))


def of_tanh(u):
    return np.tanh(u), 1 / np.cosh(np.minimum(np.abs(u), 300)) ** 2, 1.0


def of_sigmoid(u):
    s = special.expit(u)
    return s, s * special.expit(-u), s


def of_relu(u):
    return np.maximum(u, 0), 1.0 * (u > 0), None


def of_leaky_relu(u):
    slope = np.where(u > 0, 1, np.float64(np.float32(0.01)))
    return u * slope, slope, None


def of_silu(u):
    s, rest = special.expit(u), special.expit(-u)
    return u * s, s * (1 + u * rest), s * (1 + np.abs(u) * rest)


def of_gelu(u):
    below, density = special.ndtr(u), np.exp(-np.minimum(u * u, 1e4) / 2) / math.sqrt(2 * math.pi)
    return u * below, below + u * density, below + np.abs(u) * density


# name: value and slope of u, the size of what the slope is added up from; then units for both
ORACLES: dict[str, tuple[Callable[[Any], tuple[Any, Any, Any]], float, float]] = {
    "tanh": (of_tanh, 3, 3), "sigmoid": (of_sigmoid, 3, 4), "relu": (of_relu, 0, 0),
    "leaky_relu": (of_leaky_relu, 1, 0), "silu": (of_silu, 3, 5), "gelu": (of_gelu, 6, 6),
}  # fmt: skip


@pytest.mark.parametrize("name", ORACLES)
def test_activations_are_accurate_over_their_whole_range(name, compiled):
    oracle, of_value, of_slope = ORACLES[name]
    nothing = np.float32([-0.0])  # which added to -0 leaves it
    x = WIDE[:, None]
    value, slope, size = oracle(x.astype(np.float64))
    result = kernels.bias_activation(M, name, x, nothing)
    assert units(result, value) <= of_value
    d = backward(f"bias_{name}", np.ones_like(x), x, nothing)
    assert units(d, slope, size) <= of_slope


@pytest.mark.parametrize("name", ORACLES)
def test_activations_of_special_numbers(name, compiled):
    at = np.float32([[np.inf, -np.inf, np.nan, 0.0]])
    limits = {"tanh": (1, -1), "sigmoid": (1, 0), "leaky_relu": (np.inf, -np.inf)}
    high, low = limits.get(name, (np.inf, 0))
    zero = 0.5 if name == "sigmoid" else 0
    result = kernels.bias_activation(M, name, at, np.zeros(4, np.float32))[0]
    if name in ("silu", "gelu") and np.isnan(result[1]):  # NumPy's -inf · 0
        result[1] = 0
    np.testing.assert_allclose(result, [high, low, np.nan, zero], rtol=0, atol=SMALL)
    ones, nan = np.ones((1, 4), np.float32), np.full((1, 4), np.nan, np.float32)
    if name != "relu" and name != "leaky_relu":  # whose slope is of 0 or 1 whatever comes
        assert np.isnan(backward(f"bias_{name}", ones, at, np.zeros(4, np.float32))[0, 2])
    assert np.isnan(backward(f"bias_{name}", nan, ones, np.zeros(4, np.float32))).all()


def test_cross_entropy_is_accurate_over_its_whole_range(compiled):
    l, exact = WIDE, WIDE.astype(np.float64)
    softplus = np.logaddexp(0, exact)
    for target in (0.0, 1.0, 0.3):
        t = np.full_like(l, target)
        loss = np.logaddexp(0, exact) - exact * t.astype(np.float64)
        if target == 1:
            loss = np.logaddexp(0, -exact)
        size = softplus if target == 0 else softplus + np.abs(exact * t)
        assert units(kernels.bce_with_logits(M, l, t), loss, size) <= 3
        d = backward("bce_with_logits", np.ones_like(l), l, t)
        assert units(d, special.expit(exact) - t, special.expit(exact) + t) <= 3


def test_cross_entropy_of_special_numbers(compiled):
    l, t = np.float32([np.nan, 1.0, -np.inf, np.inf, -np.inf]), np.float32([0.5, np.nan, 0, 1, 0.5])
    assert np.isnan(kernels.bce_with_logits(M, l, t)[:2]).all()
    d = backward("bce_with_logits", np.ones(5, np.float32), l, t)
    assert np.isnan(d[:2]).all()
    np.testing.assert_allclose(d[2:], [0, 0, -0.5], atol=SMALL)


def excess(x):
    """e^x - 1 - x."""
    series = x * x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5)))
    return np.where(np.abs(x) < 1e-3, series, np.expm1(x) - x)


def test_divergence_and_deviation_are_accurate_over_their_whole_range(compiled):
    log_var = WIDE[WIDE < 88][:, None]  # e^88 is nearly the largest float
    exact = log_var.astype(np.float64)
    h = np.concatenate([np.zeros_like(log_var), log_var], 1)
    z, kl = forward("reparameterise", h, draw=DRAW).T
    noise = kernels.normal(M, len(h), DRAW, 0.0, 1.0, F32).astype(np.float64)
    assert units(z, np.exp(exact[:, 0] / 2) * noise) <= 3
    assert units(kl, excess(exact[:, 0]) / 2) <= 6
    g = np.tile(np.float32([0, 1]), (len(h), 1))
    d = backward("reparameterise", g, h, draw=DRAW)
    size = (excess(exact[:, 0]) + np.abs(exact[:, 0])) / 2
    assert units(d[:, 1], np.expm1(exact[:, 0]) / 2, size) <= 3


def test_not_a_number_goes_through(compiled):
    h = np.float32([[np.nan, 0.0], [0.0, np.nan]])
    assert np.isnan(forward("reparameterise", h, draw=DRAW)).tolist() == [[True] * 2] * 2
    x, nan = np.zeros((1, 2), np.float32), np.float32([[np.nan, 0]])
    mean, gradient = kernels.squared_error(M, nan, x)
    assert np.isnan(mean) and np.isnan(gradient).tolist() == [[True, False]]
    assert np.isnan(kernels.sum_squares(M, [x, nan]))
    p = tg.tensor(np.ones(2, np.float32), requires_grad=True)
    p.grad = tg.tensor(np.float32([np.nan, 1]))
    Adam({"p": p}).step()
    assert np.isnan(p.data).tolist() == [True, False]


def test_the_library_leaves_subnormal_numbers_alone(compiled):
    kernels.bits(M, 1, DRAW)
    assert np.float32(2e-38) / np.float32(16) > 0


# -- random numbers -------------------------------------------------------------------------------


def pairs_of_normals(whole: np.ndarray, spacing: float) -> np.ndarray:
    """Box and Muller's normals of whole numbers, in float64; the angle is reduced exactly."""
    radius = np.sqrt(-2 * np.log((whole[0::2] + 1) * spacing))
    turns = whole[1::2] * spacing
    quarter = np.rint(4 * turns)
    angle = (turns - quarter / 4) * (2 * math.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    select = [quarter % 4 == k for k in range(4)]
    pair = [
        np.select(select, c)
        for c in ([cosine, -sine, -cosine, sine], [sine, cosine, -sine, -cosine])
    ]
    return (radius * pair).T.reshape(-1)


MILLION = 10**6


def test_a_million_normals_are_accurate(compiled):
    bits = Generator(*DRAW[:2]).bits(MILLION)
    exact = pairs_of_normals((bits >> 8).astype(np.float64), 2.0**-24)
    z = Generator(*DRAW[:2]).normal(MILLION)
    np.testing.assert_allclose(z, exact, rtol=1e-6, atol=0)


def test_a_million_float64_normals_are_accurate(compiled):
    bits = Generator(*DRAW[:2]).bits(2 * MILLION).astype(np.uint64)
    whole = (bits[0::2] >> np.uint64(5)) * np.uint64(2**26) + (bits[1::2] >> np.uint64(6))
    exact = pairs_of_normals(whole.astype(np.float64), 2.0**-53)
    z = Generator(*DRAW[:2]).normal(MILLION, dtype=np.float64)
    np.testing.assert_allclose(z, exact, rtol=1e-14, atol=0)


drawing = pytest.mark.parametrize("name", DRAWING)


@drawing
@pytest.mark.parametrize("moved", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_a_counter_is_added_to_the_number_of_the_draw(name, moved):
    """Modulo 2**64; and it is read, not written."""
    inputs, counter = Inputs((7, 6)), np.array([moved, 0], np.uint64)
    there = DRAW._replace(number=(DRAW.number + moved) % 2**64)
    counted = DRAWING[name](inputs, DRAW._replace(counter=counter))
    assert bytes_of(counted) == bytes_of(DRAWING[name](inputs, there))
    assert counter.tolist() == [moved, 0]


@drawing
def test_a_counter_of_another_length_is_refused(name):
    """A kernel would read beyond its end."""
    draw = DRAW._replace(counter=np.zeros(1, np.uint64))
    with pytest.raises(ValueError, match="two uint64"):
        DRAWING[name](Inputs((7, 6)), draw)


@drawing
def test_every_bit_of_seed_and_number_counts(name):
    draws = [DRAW, *(DRAW._replace(seed=DRAW.seed ^ 1 << k) for k in (0, 31, 32, 63))]
    draws += [DRAW._replace(number=DRAW.number ^ 1 << k) for k in (0, 31, 32, 63)]
    assert len({bytes_of(DRAWING[name](Inputs((7, 6)), draw)) for draw in draws}) == len(draws)


@drawing
def test_rows_do_not_depend_on_those_after(name):
    """What one process computes of the first rows is what another computes of all."""
    for rows in (1, 2, 16):
        inputs, part = Inputs((17, 143)), Inputs((17, 143))
        for key, array in vars(inputs).items():
            setattr(part, key, array[:rows])
        many, few = arrays_of(DRAWING[name](inputs, DRAW)), arrays_of(DRAWING[name](part, DRAW))
        if name.startswith("squared"):  # its mean is of all rows, its gradient by their number
            many, few = [many[1] * 17], [few[1] * rows]
        for a, b in zip(many, few, strict=True):
            tight = 2 * EPS if name.startswith("squared") else 0
            np.testing.assert_allclose(a[: len(b)], b, rtol=tight)


@drawing
@pytest.mark.parametrize("form", ["kernels", "plain"])
@pytest.mark.parametrize("counted", [0, 5])
def test_rows_from_the_middle_are_those_of_the_whole(name, form, counted):
    """What a process computes of rows 8 to 12 is what another computes of all."""
    inputs, part = Inputs((17, 143)), Inputs((17, 143))
    for key, array in vars(inputs).items():
        setattr(part, key, array[8:13])
    draw = DRAW._replace(number=DRAW.number - counted, rows=Rows(8, 5, 17, Ranks()))
    if counted:
        draw = draw._replace(counter=np.array([counted, 0], np.uint64))
    with plain_form() if form == "plain" else pytest.MonkeyPatch.context():
        many, few = arrays_of(DRAWING[name](inputs, DRAW)), arrays_of(DRAWING[name](part, draw))
    if name.startswith("squared"):  # its mean is of all rows, its gradient by their number
        many, few = [many[1] * 17], [few[1] * 5]
    for a, b in zip(many, few, strict=True):
        rows = a.reshape(17, -1)[8:13].reshape(b.shape)
        np.testing.assert_allclose(rows, b, rtol=2 * EPS if name.startswith("squared") else 0)


METHODS: dict[str, Callable[[Generator], Any]] = {
    "bits": lambda g: g.bits(5),
    "uniform": lambda g: g.uniform(5),
    "normal": lambda g: g.normal((3, 3), dtype=np.float64),
    "integers": lambda g: g.integers(-3, 90, 7),
    "bernoulli": lambda g: g.bernoulli(0.5, 64),
    "permutation": lambda g: g.permutation(9),
    "reparameterise": lambda g: tg.reparameterise(np.ones((3, 4), np.float32), g)[0].data,
    "noise_error": lambda g: tg.noise_error(
        np.ones((3, 4), np.float32), np.ones((3, 4), np.float32), None, np.ones(3, np.float32),
        g.next_draw()).data,
}  # fmt: skip


@pytest.mark.parametrize("form", ["kernels", "plain"])
@pytest.mark.parametrize("name", METHODS)
def test_the_counter_of_a_generator(name, form):
    method, g = METHODS[name], Generator(5, 7)
    g.counter = np.array([10, 0], np.uint64)
    with plain_form() if form == "plain" else pytest.MonkeyPatch.context():
        assert bytes_of(method(g)) == bytes_of(method(Generator(5, 17)))
        g.counter[:1] += np.uint64(100)
        assert bytes_of(method(g)) == bytes_of(method(Generator(5, 118)))
    assert g.state == (5, 9)


# -- gradients ------------------------------------------------------------------------------------


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.copy,
    "read-only": read_only,
    "one number": lambda x: np.broadcast_to(x[1, 1], x.shape),
    "one for each row": lambda x: np.broadcast_to(x[:, 1:2], x.shape),
    "one for each column": lambda x: np.broadcast_to(x[1], x.shape),
    "transposed": np.asfortranarray,
    "every second": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "backwards": lambda x: x[::-1, ::-1],
    "rows apart": lambda x: np.pad(x, ((0, 0), (0, 3)))[:, : x.shape[1]],
    "misaligned": misaligned,
    "offset by an element": lambda x: np.pad(x.ravel(), (1, 0))[1:].reshape(x.shape),
}


def leaf(array: np.ndarray) -> tg.Tensor:
    """A Tensor of this very array."""
    t = tg.tensor(array, requires_grad=True)
    t.data = array
    return t


SECOND = {"bce_with_logits": "t", **{f"bias_{name}": "full" for name in ACTIVATIONS}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SECOND)
def test_gradients_do_not_depend_on_the_layout(name, layout):
    """Of any of the arrays; and they are those of float64."""
    inputs = Inputs((7, 13))
    given = [inputs.g, inputs.x, getattr(inputs, SECOND[name])]
    for changed in range(3):
        arrays = list(given)
        arrays[changed] = LAYOUTS[layout](arrays[changed])
        before = [a.tobytes() for a in arrays]
        exact = backward(name, *(a.astype(np.float64) for a in arrays))
        d = backward(name, *arrays)
        assert d.dtype == np.float32 and d.shape == (7, 13)
        np.testing.assert_allclose(d, exact, rtol=8 * EPS, atol=8 * EPS)
        assert [a.tobytes() for a in arrays] == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_mse_do_not_depend_on_the_layout(layout):
    inputs = Inputs((7, 13))
    for a, b in ((LAYOUTS[layout](inputs.x), inputs.y), (inputs.x, LAYOUTS[layout](inputs.y))):
        t = [leaf(a), leaf(b)]
        error = a.astype(np.float64) - b
        for g in (None, np.float32(-3), np.array(2.0), np.broadcast_to(np.float32(0.5), ())):
            of_a, of_b = tg.gradients(tg.mse(*t), t, g)
            expected = (1 if g is None else float(g)) * 2 / error.size * error
            np.testing.assert_allclose(of_a.data, expected, rtol=4 * EPS, atol=EPS)
            np.testing.assert_array_equal(of_b.data, -of_a.data)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("terms", ["data", "noise", "data noise"])
def test_gradient_of_noise_error(terms, layout):
    i = Inputs((7, 143))
    noise = kernels.normal(M, i.x.size, DRAW, 0.0, 1.0, F32).reshape(i.x.shape).astype(np.float64)
    on_data, on_noise = i.a if "data" in terms else None, i.s if "noise" in terms else None
    error = layout(i.x).astype(np.float64)
    for level, of in ((on_data, i.y), (on_noise, noise)):
        if level is not None:
            error -= level[:, None].astype(np.float64) * of
    x = leaf(layout(i.x))
    loss = tg.noise_error(x, i.y, on_data, on_noise, DRAW)
    assert float(loss.data) == pytest.approx(np.mean(error**2), rel=8 * EPS)
    (d,) = tg.gradients(loss, [x], -3.0)
    np.testing.assert_allclose(d.data, -6 / error.size * error, rtol=8 * EPS, atol=EPS / 8)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_of_reparameterise(layout):
    i = Inputs((7, 13))
    g, h = LAYOUTS[layout](i.h_gradient), i.h
    noise = kernels.normal(M, i.x.size, DRAW, 0.0, 1.0, F32).reshape(i.x.shape).astype(np.float64)
    (of_z, of_kl), (mean, log_var) = (np.split(a.astype(np.float64), 2, 1) for a in (g, h))
    of_log_var = (of_z * np.exp(log_var / 2) * noise + of_kl * np.expm1(log_var)) / 2
    expected = np.concatenate([of_z + of_kl * mean, of_log_var], 1)
    np.testing.assert_allclose(
        backward("reparameterise", g, h, draw=DRAW), expected, rtol=16 * EPS, atol=16 * EPS
    )


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("name", SECOND)
def test_gradients_of_little_or_nothing(name, shape):
    arrays = [np.full(shape, v, np.float32) for v in (2.0, 0.5, 0.25)]
    d = backward(name, *arrays)
    assert d.shape == shape and d.dtype == np.float32
    exact = backward(name, *(a.astype(np.float64) for a in arrays))
    np.testing.assert_allclose(d, exact, rtol=4 * EPS)


def test_gradients_without_axes():
    l, t = (tg.tensor(np.array(v, np.float32), requires_grad=True) for v in (0.5, 0.25))
    (d,) = tg.gradients(tg.bce_with_logits(l, t), [l])
    assert d.shape == () and float(d.data) == pytest.approx(special.expit(0.5) - 0.25, rel=4 * EPS)
    (d,) = tg.gradients(tg.mse(l, t), [l])
    assert d.shape == () and float(d.data) == 0.5


@pytest.mark.parametrize("name", [*SECOND, "mse", "noise_error", "reparameterise"])
def test_a_kept_graph_gives_the_same_gradient_again(name):
    """Also after what the first pass gave was changed: no gradient of the graph is handed out."""
    i = Inputs((7, 14))
    x = tg.tensor(i.x, requires_grad=True)
    if name == "reparameterise":
        y = tg.concatenate(tg.reparameterise(x, Generator(3)), axis=-1)
    elif name == "noise_error":
        y = tg.noise_error(x, i.y, i.a, i.s, DRAW)
    elif name == "bce_with_logits":
        y = tg.bce_with_logits(x, i.t)
    elif name == "mse":
        y = tg.mse(x, i.y)
    else:
        y = tg.linear(x, np.eye(14, dtype=np.float32), i.bias, name.removeprefix("bias_"))
    first, second = [], []
    for results in (first, second):
        for g in (np.ones(y.shape, np.float32), np.full(y.shape, 2, np.float32)):
            (d,) = tg.gradients(y, [x], g, retain_graph=True)
            results.append(d.data.copy())
            d.data[...] = np.nan
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first[1], 2 * first[0], rtol=4 * EPS)


# -- the denoise step -----------------------------------------------------------------------------
ABAR, BEFORE = 0.3, 0.45
SIGNAL, LEVEL = math.sqrt(ABAR), math.sqrt(1 - ABAR)
ESTIMATES = {  # of x_0, from x_t and the network's output
    "noise": (1 / SIGNAL, -LEVEL / SIGNAL),
    "data": (0.0, 1.0),
    "velocity": (SIGNAL, -LEVEL),
}


def ddim(eta: float) -> tuple[float, float, float]:
    """What multiplies x_0, x_t and z (Song et al. 2021, eq. 12 and 16)."""
    sigma = eta * math.sqrt((1 - BEFORE) / (1 - ABAR) * (1 - ABAR / BEFORE))
    direction = math.sqrt(1 - BEFORE - sigma**2) / LEVEL
    return math.sqrt(BEFORE) - direction * SIGNAL, direction, sigma


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("predict", ESTIMATES)
@pytest.mark.parametrize("limit", [math.inf, 1.0])
def test_denoising_by_its_definition(predict, eta, limit):
    """From the true noise, data or velocity, against the sampler written out in float64."""
    i = Inputs((7, 143))
    x0, noise = i.x.astype(np.float64), i.y.astype(np.float64)
    xt = (SIGNAL * x0 + LEVEL * noise).astype(np.float32)
    truth = {"noise": noise, "data": x0, "velocity": SIGNAL * noise - LEVEL * x0}[predict]
    on_x0, on_xt, sigma = ddim(eta)
    step = Denoising(*ESTIMATES[predict], -limit, limit, on_x0, on_xt, sigma)
    y = kernels.denoise_step(M, xt, truth.astype(np.float32), step, DRAW)

    z = kernels.normal(M, xt.size, DRAW, 0.0, 1.0, F32).reshape(xt.shape).astype(np.float64)
    estimate = np.clip(x0, -limit, limit)
    direction = (xt - SIGNAL * estimate) / LEVEL  # the noise that fits the estimate
    expected = (
        math.sqrt(BEFORE) * estimate + math.sqrt(1 - BEFORE - sigma**2) * direction + sigma * z
    )
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=3e-6)


def test_ddim_with_noise_is_ddpm():
    """eta = 1 is the posterior of Ho et al. 2020, eq. 7, with the small variance."""
    alpha = ABAR / BEFORE
    posterior = (
        math.sqrt(BEFORE) * (1 - alpha) / (1 - ABAR),
        math.sqrt(alpha) * (1 - BEFORE) / (1 - ABAR),
        math.sqrt((1 - BEFORE) / (1 - ABAR) * (1 - alpha)),
    )
    assert ddim(1.0) == pytest.approx(posterior, rel=1e-12)
    schedule = NoiseSchedule([1 - BEFORE, 1 - alpha])
    theirs = *schedule.posterior_mean(2), math.sqrt(schedule.variance("small", 2))
    assert theirs == pytest.approx(posterior, rel=1e-12)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_denoising_in_place_is_denoising(shape, sigma):
    i, step = Inputs(shape), STEP._replace(sigma=sigma)
    expected = kernels.denoise_step(M, i.x, i.y, step, DRAW)
    other = np.full_like(i.x, np.nan)
    assert kernels.denoise_step(M, i.x, i.y, step, DRAW, out=other) is other
    assert kernels.denoise_step(M, i.x, i.y, step, DRAW, out=i.x) is i.x
    assert expected.tobytes() == other.tobytes() == i.x.tobytes()


@pytest.mark.parametrize("out", ["float64", "every second"])
def test_denoising_into_any_array(out):
    i = Inputs((7, 143))
    expected = kernels.denoise_step(M, i.x, i.y, STEP, DRAW)
    given = np.zeros((7, 143)) if out == "float64" else np.zeros((7, 286), np.float32)[:, ::2]
    assert kernels.denoise_step(M, i.x, i.y, STEP, DRAW, out=given) is given
    np.testing.assert_allclose(given, expected, rtol=8 * EPS, atol=8 * EPS)


def test_clipping():
    step = Denoising(1.0, 0.0, -1.0, 2.0, 1.0, 0.0, 0.0)
    xt = np.float32([np.nan, np.inf, -np.inf, 3, 2, -1, -1.5, 0.5])
    with np.errstate(invalid="ignore"):  # 0 · inf, which the step has for on_xt
        y = kernels.denoise_step(M, xt, 0 * np.ones_like(xt), step, DRAW)
    assert np.isnan(y[:3]).all()
    np.testing.assert_array_equal(y[3:], [2, 2, -1, -1, 0.5])
    huge = np.float32([3e38, -3e38])
    step = step._replace(from_xt=10.0)
    with np.errstate(over="ignore"):  # the estimate is infinite
        np.testing.assert_array_equal(kernels.denoise_step(M, huge, 0 * huge, step, DRAW), [2, -1])
    not_a_number = kernels.denoise_step(M, 0 * huge, huge * np.float32(np.nan), step, DRAW)
    assert np.isnan(not_a_number).all()


# -- sums -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
def test_sums_are_the_same_wherever_the_numbers_lie(n, compiled):
    x, target = (np.random.default_rng(k).normal(size=n).astype(np.float32) for k in (0, 1))
    sums, errors = set(), set()
    for offset in range(17):
        buffer = np.empty(n + 16, np.float32)
        view = buffer[offset : offset + n]
        view[...] = x
        sums.add(kernels.sum_squares(M, [view]).tobytes())
        if n:
            errors.add(bytes_of(kernels.squared_error(M, view, target)))
    assert len(sums) == 1 and len(errors) <= 1


@pytest.mark.parametrize("n", [*SIZES, 300001])
def test_sums_are_accurate(n):
    """Four numbers are added in float32, all else in float64."""
    x = np.random.default_rng(2).normal(size=n).astype(np.float32)
    y = np.zeros_like(x)
    exact = math.fsum(float(v) ** 2 for v in x)
    assert float(kernels.sum_squares(M, [x])) == pytest.approx(exact, rel=4 * EPS, abs=0)
    if n:
        mean, _ = kernels.squared_error(M, x, y)
        assert float(mean) == pytest.approx(exact / n, rel=4 * EPS, abs=0)


def test_sums_lose_nothing_beside_a_large_number():
    """2**24 + 1 is no float32."""
    x = np.zeros(300 * 4096, np.float32)
    x[4:1024:4] = x[4096::4096] = 1
    x[0] = 4096
    assert kernels.sum_squares(M, [x]) == kernels.sum_squares(M, [x[:9], x[9:]]) == 2**24 + 554


def test_more_chunks_than_there_are_elements_in_one():
    """The sums of the chunks are then summed up in chunks themselves."""
    x = np.ones(4096 * 4097 + 3, np.float32)
    x[::4096] = 3
    assert kernels.sum_squares(M, [x]) == x.size + 8 * 4098


def test_sums_of_many_arrays():
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=s).astype(np.float32) for s in ((4097,), (0,), (3, 5), (), (0, 7))]
    total = kernels.sum_squares(M, arrays)
    assert total.dtype == np.float64 and total.shape == ()
    exact = math.fsum(float(v) ** 2 for a in arrays for v in a.ravel())
    assert float(total) == pytest.approx(exact, rel=4 * EPS, abs=0)
    for nothing in ([], arrays[1:2], arrays[4:]):
        assert kernels.sum_squares(M, nothing) == 0.0


# -- Adam -----------------------------------------------------------------------------------------


def run_adam(kind: Any, n: int, dtype: Any = np.float32, offset: int = 0) -> dict[str, np.ndarray]:
    """Twenty steps, and the average of the parameters."""
    rng = np.random.default_rng(n)
    buffer = np.full(n + 2, 7.0, dtype)
    p = tg.tensor(np.zeros(n, dtype), requires_grad=True)
    p.data = buffer[offset : offset + n]
    p.data[...] = rng.normal(size=n).astype(np.float32)
    adam = kind({"p": p}, lr=lambda step: 0.01 / (1 + step))
    ema = EMA({"p": p}, decay=0.9)
    for _ in range(20):
        p.grad = tg.tensor(rng.normal(size=n).astype(np.float32).astype(dtype))
        adam.step(ema)
    rest = np.delete(buffer, np.s_[offset : offset + n])
    assert (rest == 7.0).all(), "written out of bounds"
    return {"p": p.data, "average": ema.average["p"], **{s: adam.state[s]["p"] for s in adam.slots}}


@pytest.mark.parametrize("n", [n for n in SIZES if n])
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_adam_in_one_pass_is_adam(kind, n, launched):
    """After twenty steps: the blocks of NumPy in float32, and float64."""
    results = run_adam(kind, n)
    assert launched == ["adam"] * 20
    del launched[:]
    exact = run_adam(kind, n, np.float64)
    assert not launched
    with plain_form():
        plain = run_adam(kind, n)
    for name, result in results.items():
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, exact[name], rtol=20 * EPS, atol=10 * EPS, err_msg=name)
        np.testing.assert_allclose(result, plain[name], rtol=20 * EPS, atol=10 * EPS, err_msg=name)


@pytest.mark.parametrize("n", [1, 255, 1001])
def test_adam_off_alignment(n, compiled):
    aligned, shifted = (run_adam(AdamW, n, offset=k) for k in (0, 1))
    for name, result in aligned.items():
        assert result.tobytes() == shifted[name].tobytes(), name


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_adam_refuses_what_it_cannot_update(kind):
    buffer = np.ones((4, 6), np.float32)
    p = tg.tensor(np.ones((4, 3), np.float32), requires_grad=True)
    adam, ema = kind({"p": p}), EMA({"p": p})
    p.data = buffer[:, ::2]
    p.grad = tg.tensor(np.ones((4, 3), np.float32))
    with pytest.raises(ValueError, match=r"shape \(4, 3\) is not contiguous"):
        adam.step(ema)
    assert (buffer == 1).all() and (ema.average["p"] == 1).all()
    assert all((adam.state[slot]["p"] == 0).all() for slot in adam.slots)


def test_adam_takes_gradients_of_any_layout():
    for layout in LAYOUTS.values():
        i, results = Inputs((7, 13)), []
        for g in (layout(i.g), np.ascontiguousarray(layout(i.g))):
            p = tg.tensor(i.x, requires_grad=True)
            p.grad = leaf(g)
            Adam({"p": p}).step()
            results.append(p.data)
        np.testing.assert_allclose(*results, rtol=2 * EPS)


# -- what goes to the plain form ------------------------------------------------------------------


class Subclass(np.ndarray):
    """An array that is not NumPy's own."""


OTHERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "every second": lambda x: np.repeat(x, 2, -1)[..., ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "misaligned": misaligned,
}
TAKING: dict[str, Callable[[Inputs], Any]] = {
    name: FUNCTIONS[name]
    for name in FUNCTIONS
    if name.startswith(("bias", "bce", "adam")) and ", one" not in name
}
TAKING |= {
    "denoise_step": lambda i: kernels.denoise_step(M, i.x, i.y, STEP._replace(sigma=0.0), DRAW),
    "squared_error": FUNCTIONS["squared_error"],
    "squared_error, data": FUNCTIONS["squared_error, data"],
    "sum_squares": lambda i: kernels.sum_squares(M, [i.x, i.y]),
}


def changed_inputs(change: Callable[[np.ndarray], np.ndarray]) -> tuple[Inputs, Inputs]:
    """Inputs of another kind, and the same numbers in float64."""
    given, exact = Inputs((8, 6)), Inputs((8, 6))
    for key, array in vars(given).items():
        setattr(given, key, change(array))
        setattr(exact, key, change(array).astype(np.float64))
    return given, exact


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", TAKING)
def test_arrays_that_no_kernel_takes(name, kind, launched):
    given, exact = changed_inputs(OTHERS[kind])
    results, expected = arrays_of(TAKING[name](given)), arrays_of(TAKING[name](exact))
    if not name.startswith("adam"):  # whose parameter is a copy, with the layout of its own
        assert not launched
    tight = 8 * np.finfo(given.x.dtype).eps
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tight, atol=tight)


@pytest.mark.parametrize("kind", [kind for kind in OTHERS if kind != "float64"])
def test_noise_for_arrays_that_no_kernel_takes(kind):
    """It is that of float32, which float16 rounds."""
    given, exact = changed_inputs(OTHERS[kind])
    tight = 8 * np.finfo(given.x.dtype).eps
    z = kernels.normal(M, 48, DRAW, 0.0, 1.0, F32).reshape(8, 6).astype(np.float64)
    xt, kept = kernels.noise_step(M, given.x, given.a, given.s, DRAW, keep_noise=True)
    np.testing.assert_allclose(kept, z, rtol=tight)
    np.testing.assert_allclose(xt, exact.a[:, None] * exact.x + exact.s[:, None] * z, atol=tight)
    y = kernels.denoise_step(M, given.x, given.y, STEP, DRAW)
    x0 = np.clip(STEP.from_xt * exact.x + STEP.from_output * exact.y, STEP.low, STEP.high)
    np.testing.assert_allclose(
        y, STEP.on_x0 * x0 + STEP.on_xt * exact.x + STEP.sigma * z, atol=tight
    )
    latent = forward("reparameterise", given.h, draw=DRAW)[:, :6]
    np.testing.assert_allclose(latent, exact.x + np.exp(exact.y / 2) * z, rtol=tight, atol=tight)
    assert {a.dtype.itemsize for a in (xt, kept, y, latent)} == {given.x.itemsize}


@pytest.mark.parametrize("name", TAKING)
def test_subclasses_and_read_only_arrays(name):
    for change in (lambda x: x.copy().view(Subclass), read_only):
        given, exact = changed_inputs(change)
        for a, b in zip(
            arrays_of(TAKING[name](given)), arrays_of(TAKING[name](exact)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=8 * EPS, atol=8 * EPS)


@pytest.mark.parametrize(
    "bias", [(), (1,), (8, 1), (1, 1), (3, 8, 6), (3, 1, 6), (1, 1, 6)], ids=str
)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_biases_of_other_shapes(name, bias, launched):
    x, b = Inputs((8, 6)).x, np.random.default_rng(0).normal(size=bias).astype(np.float32)
    exact = forward(f"bias_{name}", x.astype(np.float64), b.astype(np.float64))
    y = forward(f"bias_{name}", x, b)
    assert not launched and y.shape == exact.shape
    np.testing.assert_allclose(y, exact, rtol=8 * EPS, atol=EPS)


@pytest.mark.parametrize("bias", [(6,), (1, 6), (8, 6)], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_biases_that_kernels_take(name, bias, launched):
    x, b = Inputs((8, 6)).x, np.random.default_rng(0).normal(size=bias).astype(np.float32)
    y = forward(f"bias_{name}", x, b)
    assert launched == [f"bias_{name}"]
    exact = forward(f"bias_{name}", x.astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(y, exact, rtol=8 * EPS, atol=EPS)


# What NumPy would broadcast: a kernel would read behind the smaller array, or write there.
ROW, ONE = np.ones((1, 3), np.float32), np.ones(1, np.float32)
OTHER_SHAPES: dict[str, Callable[[Any], Any]] = {
    "noise_step, one level": lambda x: kernels.noise_step(M, x, ONE, 0 * ONE, DRAW)[0],
    "denoise_step, one output": lambda x: kernels.denoise_step(
        M, x, ROW, Denoising(1, 1, -9, 9, 1, 0, 0), DRAW),
    "squared_error, one row of data": lambda x: kernels.squared_error(M, x, ROW),
    "squared_error, one level": lambda x: kernels.squared_error(M, x, x, ONE),
    "squared_error, one level of noise": lambda x: kernels.squared_error(M, x, x, None, ONE, DRAW),
    "bce": lambda x: forward("bce_with_logits", x, ROW),
    "bce backward": lambda x: backward("bce_with_logits", np.ones_like(x), x, ROW),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_shapes_that_broadcast(name):
    x = np.float32([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]])
    with plain_form():
        expected = arrays_of(OTHER_SHAPES[name](x))
    for a, b in zip(arrays_of(OTHER_SHAPES[name](x)), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=8 * EPS, atol=8 * EPS)


def test_shapes_that_do_not_fit():
    x, few = np.ones((4, 3), np.float32), np.full((9, 3), 7, np.float32)
    with pytest.raises(ValueError):
        tg.noise_error(x, few[:2], np.ones(4, np.float32), None, DRAW)
    with pytest.raises(ValueError):
        kernels.denoise_step(M, x, x, STEP, DRAW, out=few[:1])
    assert (few == 7).all()
