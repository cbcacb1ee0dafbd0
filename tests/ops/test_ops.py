"""Every operation, generated from the registry in op_cases.py; and exact answers at delicate points.

The gate: a public function, or an operation in the engine's registry, without a case fails here.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy
import pytest

from tests.support.array_cases import OWN_WAY_WITH_NAN
from tests.support.on_device import DEVICE, np, on_cpu, placed, tg
from tests.support.op_cases import CASES, CONSTANTS, ELSEWHERE, POINTS, Case
from tests.support.tensors import temporary_operation
from tinygen import ops
from tinygen.autodiff.engine import REGISTRY, Node, ancestors

pytestmark = pytest.mark.filterwarnings("error")

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
every_point = pytest.mark.parametrize(
    ("f", "x", "value", "gradient"), [p[1:] for p in POINTS], ids=[p[0] for p in POINTS]
)
both_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])

TIGHT = {"rtol": 1e-12, "atol": 1e-13}
SINGLE = {"rtol": 1e-4, "atol": 1e-5}


def variables(case: Case, dtype: Any = np.float64) -> list[Any]:
    """The inputs: real ones as leaves, others (conditions, labels) as arrays."""
    arrays = placed(case.arrays(dtype))
    return [tg.tensor(x, requires_grad=True) if x.dtype.kind == "f" else x for x in arrays]


def leaves(inputs: list[Any]) -> list[tg.Tensor]:
    return [x for x in inputs if isinstance(x, tg.Tensor)]


def weights(case: Case, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Fixed random numbers: an output gradient or a direction."""
    return np.random.default_rng(len(case.id + name)).normal(size=shape)


def derivative(case: Case, inputs: list[np.ndarray], directions: list[Any]) -> np.ndarray:
    """The derivative of the oracle in the given directions (None: not moved), by a complex step."""
    directions = on_cpu(directions)
    moved = [x if d is None else x + 1e-30j * d for x, d in zip(inputs, directions, strict=True)]
    return case.expected(*moved).imag / 1e-30


def exact_gradients(case: Case, inputs: list[np.ndarray], g: np.ndarray) -> list[np.ndarray]:
    """What backward must give: the derivative along each element of each real input."""
    found = []
    for i, x in enumerate(inputs):
        if x.dtype.kind != "f":
            continue
        result = numpy.empty(x.shape)
        for position in np.ndindex(x.shape):
            unit = numpy.zeros(x.shape)
            unit[position] = 1.0
            directions = [unit if j == i else None for j in range(len(inputs))]
            result[position] = numpy.sum(on_cpu(g) * derivative(case, inputs, directions))
        found.append(result)
    return found


# -- the gate ------------------------------------------------------------------------------------
def test_every_public_function_has_a_case():
    names = {case.name for case in CASES} | {name for name, *_ in CONSTANTS} | {"ACTIVATIONS"}
    missing = sorted(set(ops.__all__) - names - set(ELSEWHERE))
    assert missing == [], "public functions without a row in op_cases.py"


def test_every_operation_has_a_case():
    reached = set()
    for case in CASES:
        graph = ancestors(case(*variables(case)).node)
        reached |= {source.op.name for source in graph if isinstance(source, Node)}
    ours = {
        name
        for name, record in REGISTRY.items()
        if record.rules and record.forward.__module__.partition(".")[0] == "tinygen"
    }
    constant = {name for name, *_ in CONSTANTS}
    missing = sorted(ours - reached - constant - set(ELSEWHERE))
    assert missing == [], "operations that no row of op_cases.py reaches"


def test_case_names_are_unique():
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("name", "args", "expected"), CONSTANTS)
def test_constants(name, args, expected):
    made = getattr(tg, name)(*args)
    assert not getattr(made, "requires_grad", False)
    assert made.dtype == expected.dtype
    np.testing.assert_array_equal(np.asarray(made), expected)


# -- generated for every case ----------------------------------------------------------------------
@every_case
def test_value(case):
    y = case(*case.arrays())
    expected = case.expected(*case.arrays())
    assert type(y) is tg.Tensor and type(y.data) is np.ndarray and not y.requires_grad
    assert y.dtype == np.float64 and y.shape == expected.shape
    np.testing.assert_allclose(y.data, expected, rtol=1e-13, atol=1e-14)


@every_case
def test_gradient(case):
    inputs = variables(case)
    y = case(*inputs)
    g = weights(case, "seed", y.shape)
    y.backward(g)
    exact = exact_gradients(case, case.arrays(), g)
    for x, expected in zip(leaves(inputs), exact, strict=True):
        assert type(x.grad) is tg.Tensor and type(x.grad.data) is np.ndarray
        assert x.grad.shape == x.shape and x.grad.dtype == x.dtype
        np.testing.assert_allclose(x.grad.data, expected, **TIGHT)


@every_case
def test_gradient_by_central_differences(case):
    assert tg.gradcheck(case, placed(case.arrays()))


@every_case
def test_second_derivative(case):
    assert tg.gradgradcheck(case, placed(case.arrays()), rtol=1e-5)


@every_case
def test_create_graph_gives_the_same_gradient(case):
    inputs = variables(case)
    y = case(*inputs)
    g = weights(case, "seed", y.shape)
    plain = tg.gradients(y, leaves(inputs), g, retain_graph=True)
    again = tg.gradients(y, leaves(inputs), g, create_graph=True)
    for a, b in zip(plain, again, strict=True):
        assert not a.requires_grad
        np.testing.assert_allclose(a.data, b.data, **TIGHT)


@every_case
def test_directional_derivative(case):
    """jvp differentiates each rule with respect to the output's gradient."""
    arrays = case.arrays()
    real = [x for x in arrays if x.dtype.kind == "f"]
    directions = [weights(case, str(i), x.shape) for i, x in enumerate(real)]

    def f(*moved: Any) -> tg.Tensor:
        given = iter(moved)
        return case(*(next(given) if x.dtype.kind == "f" else x for x in arrays))

    y, tangent = tg.jvp(f, placed(real), directions)
    following = iter(directions)
    expected = derivative(
        case, arrays, [next(following) if x.dtype.kind == "f" else None for x in arrays]
    )
    assert y.shape == tangent.shape
    np.testing.assert_allclose(tangent, expected, **TIGHT)


@every_case
def test_float32_stays_float32(case):
    """Value, gradient and second derivative; and the first two are right."""
    inputs = variables(case, np.float32)
    y = case(*inputs)
    if case.name == "astype":
        assert y.dtype == case.params["dtype"]
    else:
        assert y.dtype == np.float32
    exact = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in case.arrays(np.float32)]
    np.testing.assert_allclose(y.data, case.expected(*exact), **SINGLE)

    g = weights(case, "seed", y.shape)  # of float64: the engine casts it
    plain = tg.gradients(y, leaves(inputs), g, retain_graph=True)
    graph = tg.gradients(y, leaves(inputs), g, create_graph=True)
    for a, b, expected in zip(plain, graph, exact_gradients(case, exact, g), strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a.data, expected, **SINGLE)
        np.testing.assert_allclose(b.data, expected, **SINGLE)
    for first in graph:
        if first.requires_grad:
            for second in tg.gradients(first.sum(), leaves(inputs), retain_graph=True):
                assert second.dtype == np.float32


def read_only(array: np.ndarray) -> None:
    if DEVICE == "cpu":  # CuPy's arrays have no such flag
        array.flags.writeable = False


@every_case
@both_dtypes
def test_nothing_is_changed_and_nothing_is_shared(case, dtype):
    """Read-only inputs work, and each gradient is an array of its own that may be written to."""
    for create_graph in (False, True):
        inputs = variables(case, dtype)
        given = [x.data if isinstance(x, tg.Tensor) else x for x in inputs]
        before = [x.copy() for x in given]
        for array in given:
            read_only(array)
        y = case(*inputs)
        seed = weights(case, "seed", y.shape).astype(y.dtype)
        read_only(seed)
        cycle = pytest.warns(UserWarning, match="cycle")
        with cycle if create_graph else contextlib.nullcontext():
            y.backward(seed, create_graph=create_graph)
        for x, old in zip(given, before, strict=True):
            np.testing.assert_array_equal(x, old)
        found = [x.grad.data for x in leaves(inputs)]
        for i, g in enumerate(found):
            assert DEVICE == "gpu" or g.flags.writeable
            others = [*given, seed, y.data, *found[:i]]
            assert not any(np.shares_memory(g, other) for other in others)


def column_major(x: np.ndarray) -> np.ndarray:
    return x.T.copy().T


def every_other(x: np.ndarray) -> np.ndarray:
    wide = np.full((*x.shape, 2), np.nan)
    wide[..., 0] = x
    return wide[..., 0]


def backwards(x: np.ndarray) -> np.ndarray:
    every_axis = (slice(None, None, -1),) * x.ndim
    return x[every_axis].copy()[every_axis]


@every_case
@pytest.mark.parametrize("layout", [column_major, every_other, backwards])
def test_memory_layout_does_not_matter(case, layout):
    inputs = variables(case)
    y = case(*inputs)
    g = weights(case, "seed", y.shape)
    y.backward(g)
    others = [layout(x) if x.dtype.kind == "f" else x for x in placed(case.arrays())]
    views = variables(case)
    for view, x in zip(views, others, strict=True):
        if isinstance(view, tg.Tensor):
            view.data = x
    again = case(*views)
    again.backward(layout(g))
    np.testing.assert_allclose(again.data, y.data, **TIGHT)
    for a, b in zip(leaves(inputs), leaves(views), strict=True):
        np.testing.assert_allclose(a.grad.data, b.grad.data, **TIGHT)


# -- NaN in, NaN out -------------------------------------------------------------------------------
PROBES = (-9.0, -0.4, 0.6, 9.0)


def moves(case: Case, f: Any, arrays: list[np.ndarray], i: int, place: Any) -> list[np.ndarray]:
    """Which elements of the arrays f(*arrays) depend on the element of input i at `place`."""
    found = [numpy.zeros(numpy.shape(y), bool) for y in f(*arrays)]
    for probe in PROBES:
        moved = [x.copy() for x in arrays]
        moved[i][place] = probe
        with numpy.errstate(all="ignore"):
            if not numpy.isfinite(case.expected(*moved)).all():
                continue  # out of the function's domain
            for y, other, hit in zip(f(*arrays), f(*moved), found, strict=True):
                hit |= ~numpy.isclose(y, other, rtol=1e-9, atol=0.0)
    return found


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name not in OWN_WAY_WITH_NAN], ids=lambda case: case.id
)
@both_dtypes
def test_nan_in_nan_out(case, dtype):
    """What depends on an element is NaN where that is: values, and gradients of both kinds.

    A derivative is as unknown at a NaN as a value is: relu's, which jumps at 0, is no exception.
    """
    arrays = case.arrays()
    y = case.expected(*arrays)
    g = weights(case, "seed", y.shape)
    for i, x in enumerate(arrays):
        if x.dtype.kind != "f" or not x.size:
            continue
        place = tuple(n // 2 for n in x.shape)
        (of_y,) = moves(case, lambda *xs: [case.expected(*xs)], arrays, i, place)
        of_gradients = moves(case, lambda *xs: exact_gradients(case, list(xs), g), arrays, i, place)
        inputs = variables(case, dtype)
        inputs[i].data[place] = np.nan
        try:
            y = case(*inputs)
        except ValueError as error:  # what some LAPACKs find of a NaN
            assert case.name == "cholesky" and "not positive definite" in str(error)
            continue
        assert numpy.isnan(on_cpu(y.data))[of_y].all()
        for create_graph in (False, True):
            found = tg.gradients(y, leaves(inputs), g, retain_graph=True, create_graph=create_graph)
            for d, hit in zip(found, of_gradients, strict=True):
                assert numpy.isnan(on_cpu(d.data))[hit].all()


def test_nan_is_no_perfect_loss():
    x = tg.tensor([[np.nan, 1.0, 2.0], [0.0, 0.0, 0.0]])
    for y in (tg.logsumexp(x, 1), tg.softmax_cross_entropy(x, [1, 0])):
        np.testing.assert_allclose(y.data, [np.nan, np.log(3)], rtol=1e-15)
    for y in (tg.softmax(x, 1), tg.log_softmax(x, 1)):
        assert np.isnan(y.data[0]).all() and np.isfinite(y.data[1]).all()


# -- whole numbers ---------------------------------------------------------------------------------
@every_case
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
@numpy.errstate(invalid="ignore")  # there is no arcsin of 100
def test_whole_numbers_are_floats_before_the_arithmetic(case, dtype):
    """Where the result is a float it is that of the same values in float64: nothing wraps around.

    (A product of matrices, the first part of `linear`, stays whole, as NumPy's: its numbers are small.)
    """
    rng = numpy.random.default_rng(len(case.id))
    whole = [
        x if draw.kind in ("bits", "labels")
        else rng.integers(1, 9, x.shape) + 90 * numpy.eye(x.shape[-1], dtype=int)
        if draw.kind == "dominant"
        else rng.integers(*((1, 5) if case.name == "linear" else (90, 120)), x.shape)
        for x, draw in zip(case.arrays(), case.draws, strict=True)
    ]  # fmt: skip
    if case.id.endswith("p=-1"):
        return  # NumPy has no integer powers below 0 of integers
    y = case(*(
        x if draw.kind in ("bits", "labels") else tg.tensor(placed(x.astype(dtype)))
        for x, draw in zip(whole, case.draws, strict=True)
    ))  # fmt: skip
    if y.dtype.kind == "f" and case.name != "astype":
        floats = [
            x.astype(float) if draw.kind not in ("bits", "labels") else x
            for x, draw in zip(whole, case.draws, strict=True)
        ]
        single = any(getattr(p, "dtype", None) == np.float32 for p in case.params.values())
        assert y.dtype == (np.float32 if single else np.float64)
        close = 1e-6 if single else 1e-14
        np.testing.assert_allclose(y.data, case(*floats).data, rtol=close)


def test_whole_numbers_that_overflowed():
    uint8, int8 = (lambda *x: np.array(x, np.uint8)), (lambda *x: np.array(x, np.int8))
    np.testing.assert_allclose(tg.norm(uint8(200, 100)).data, np.sqrt(50000.0), rtol=1e-15)
    assert tg.mse(uint8(200, 0), uint8(0, 10)).item() == (200**2 + 10**2) / 2
    assert (tg.tensor([2**40]) ** 2.0).data[0] == 2.0**80
    assert (tg.tensor([2**20]) ** 2).data[0] == 2**40  # whole to the whole stays whole
    np.testing.assert_allclose(tg.softplus(uint8(3)).data, [np.log1p(np.exp(3.0))], rtol=1e-15)
    loss = tg.bce_with_logits(uint8(200, 3), uint8(1, 0))
    np.testing.assert_allclose(loss.data, [0.0, np.log1p(np.exp(3.0))], atol=1e-15)
    product = tg.prod(int8(100, 100))  # in 64 bits, as NumPy's
    assert product.item() == 10000 and product.dtype == np.int64
    assert tg.prod(int8(2, 3).reshape(2, 1), 0, keepdims=True).shape == (1, 1)


# -- long sums -------------------------------------------------------------------------------------
@pytest.mark.cpu_only("NumPy's sums are mended; CuPy's need nothing")
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1_000_000, 2), 0), ((1_000_000, 1), 0), ((3000, 3), 0), ((200_001, 2, 2), (0, 2)),
     ((2, 70_001, 3), 1), ((2, 70_001, 3), None)],
)  # fmt: skip
def test_long_sums_in_float32_keep_their_digits(shape, axis):
    """Sums and means, of equal numbers, whose errors all have one sign, and of a view."""
    for x in (np.full(shape, 0.1, np.float32), np.full((*shape, 2), 0.1, np.float32)[..., 0]):
        exact = np.sum(x, axis, dtype=np.float64)
        for y in (tg.sum(x, axis), tg.sum(x, axis, keepdims=True)):
            assert y.dtype == np.float32
            np.testing.assert_allclose(y.data, exact.reshape(y.shape), rtol=1e-6)
        np.testing.assert_allclose(tg.mean(x, axis).data, np.float32(0.1), rtol=1e-6)


@pytest.mark.cpu_only("NumPy's sums are mended; CuPy's need nothing")
def test_the_gradient_of_a_bias_under_many_rows_keeps_its_digits():
    x, b = (
        np.zeros((1_000_000, 2), np.float32),
        tg.tensor(np.zeros(2, np.float32), requires_grad=True),
    )
    for y in (tg.add(x, b), tg.linear(x, np.eye(2, dtype=np.float32), b, "leaky_relu")):
        found = tg.gradients(y, b, np.full(y.shape, 10.0, np.float32))
        slope = 1.0 if y.node.op.name == "add" else 0.01
        np.testing.assert_allclose(found.data, np.full(2, 1e7 * slope), rtol=1e-6)


def test_means_of_float16_do_not_overflow():
    x = np.full((300, 4), 1000.0, np.float16)
    np.testing.assert_array_equal(tg.mean(x, 0).data, np.full(4, 1000.0))


# -- joining many ----------------------------------------------------------------------------------
def test_the_gradient_of_one_part_does_not_look_at_the_others():
    """So n parts take n steps, not n²: the rule of a part asks for its share alone."""
    assert REGISTRY["concatenate"].rules["xs"].names == ("g", "i")
    xs = [tg.tensor([float(i)], requires_grad=True) for i in range(500)]
    for joined in (tg.concatenate, tg.stack):
        y = joined(xs)
        found = tg.gradients(y, xs, np.arange(500.0).reshape(y.shape))
        np.testing.assert_array_equal([d.item() for d in found], np.arange(500.0))


# -- exact answers ---------------------------------------------------------------------------------
@every_point
def test_point(f, x, value, gradient):
    """Values and gradients at kinks and in tails, in both modes of backward, without a warning."""
    leaf = tg.tensor(x, dtype=np.float64, requires_grad=True)
    y = f(leaf)
    np.testing.assert_allclose(y.data, value, rtol=1e-12, atol=1e-30)
    plain = tg.gradients(y, leaf, np.ones(y.shape), retain_graph=True)
    graph = tg.gradients(y, leaf, np.ones(y.shape), create_graph=True)
    np.testing.assert_allclose(plain.data, gradient, rtol=1e-12, atol=1e-30)
    np.testing.assert_allclose(graph.data, gradient, rtol=1e-12, atol=1e-30)


@every_point
def test_point_in_float32(f, x, value, gradient):
    leaf = tg.tensor(x, dtype=np.float32, requires_grad=True)
    y = f(leaf)
    found = tg.gradients(y, leaf, np.ones(y.shape))
    assert y.dtype == found.dtype == np.float32
    np.testing.assert_allclose(y.data, value, rtol=1e-4, atol=1e-30)
    np.testing.assert_allclose(found.data, gradient, rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", ["sigmoid", "silu", "gelu", "softplus", "tanh", "elu"])
def test_activations_are_right_to_the_ends_of_a_dtype(name, dtype):
    """Value and slope, as close to the truth as the dtype has numbers."""
    from scipy.special import expit, ndtr  # on the CPU, for the truth

    end, kind = numpy.finfo(dtype).max, numpy.finfo(dtype)
    x = numpy.array(
        [-end, -1e3, -100.0, -50.0, -15.0, -5.0, 0.0, 2.0, 15.0, 100.0, 1e3, end], dtype
    )
    t = x.astype(float)
    s, low = expit(t), numpy.clip(t, -800.0, 800.0)
    density = numpy.exp(-low * low / 2) / numpy.sqrt(2 * numpy.pi)
    value, slope = {
        "sigmoid": (s, s * expit(-t)),
        "silu": (low * s + (t - low) * (t > 0), s * (1 + low * expit(-t))),
        "gelu": (low * ndtr(t) + (t - low) * (t > 0), ndtr(t) + low * density),
        "softplus": (numpy.logaddexp(0.0, t), s),
        "tanh": (numpy.tanh(t), 1 - numpy.tanh(t) ** 2),
        "elu": (numpy.maximum(t, numpy.expm1(numpy.minimum(t, 0.0))), numpy.exp(numpy.minimum(t, 0.0))),
    }[name]  # fmt: skip
    leaf = tg.tensor(placed(x), requires_grad=True)
    y = getattr(tg, name)(leaf)
    # Among the subnormals a factor of x has few digits; a slope of 1 - y has those of the 1.
    last = float(kind.smallest_subnormal) * numpy.clip(abs(t), 4.0, 800.0)
    found = tg.gradients(y, leaf, np.ones(x.shape))
    for actual, expected, least in [(y, value, last), (found, slope, 4 * kind.eps)]:
        error = abs(on_cpu(actual.data).astype(float) - expected)
        assert (error <= 8 * kind.eps * abs(expected) + least).all()


def test_the_derivative_in_the_exponent_of_0():
    """0 to a negative power falls from infinity as steeply as can be; to others it stays 0."""
    for a in (0.0, placed(np.zeros(3))):
        p = tg.tensor([-1.0, 0.0, 2.0], requires_grad=True)
        with np.errstate(divide="ignore"):
            y = tg.power(a, p)
        for create_graph in (False, True):
            d = tg.gradients(y, p, np.ones(3), retain_graph=True, create_graph=create_graph)
            np.testing.assert_array_equal(d.data, [-np.inf, 0.0, 0.0])


@pytest.mark.parametrize(
    ("f", "x", "second"),
    [
        (lambda x: x**0, 0.0, 0.0),
        (lambda x: x**1, 0.0, 0.0),
        (lambda x: x**2, 0.0, 2.0),
        (lambda x: x**3, 0.0, 0.0),
        (lambda x: x ** np.array(2.0), 0.0, 2.0),
        (lambda x: tg.power(x, tg.tensor(2.0)), 0.0, 2.0),
        (lambda x: x * tg.abs(x), 0.0, 0.0),
        (tg.sigmoid, 800.0, 0.0),
        (tg.softplus, -800.0, 0.0),
        (tg.softplus, 0.0, 0.25),
        (tg.softplus, 800.0, 0.0),
        (tg.gelu, 40.0, 0.0),
        (tg.silu, 0.0, 0.5),
        (tg.elu, -1.0, np.exp(-1.0)),
        (lambda x: tg.bce_with_logits(x, 1.0), 1e4, 0.0),
    ],
)
def test_second_derivative_at_a_point(f, x, second):
    found = tg.grad(tg.grad(f))(np.array(x)).item()
    assert found == pytest.approx(second, rel=1e-12, abs=1e-30)


def test_prod_has_its_hessian_at_zeros():
    found = tg.hessian(tg.prod)(np.array([0.0, 0.0, 4.0, 2.0]))
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 8.0
    np.testing.assert_array_equal(found, expected)


def test_where_takes_no_gradient_from_the_other_side():
    x = tg.tensor([0.0, 4.0], requires_grad=True)
    safe = tg.where(x.data > 0, x, 1.0)
    tg.where(x.data > 0, tg.sqrt(safe), 0.0).sum().backward()
    np.testing.assert_array_equal(x.grad.data, [0.0, 0.25])


def test_clip_refuses_no_limits():
    with pytest.raises(ValueError, match="low, high or both"):
        tg.clip(tg.tensor([1.0]))


# -- the law of dtypes -----------------------------------------------------------------------------
BINARY = [
    tg.add, tg.subtract, tg.multiply, tg.divide, tg.power, tg.maximum, tg.minimum, tg.mse,
    tg.bce_with_logits, tg.gaussian_kl, lambda a, b: tg.where(True, a, b),
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / b,
    lambda a, b: a**b, lambda a, b: tg.clip(a, b), lambda a, b: tg.clip(a, high=b),
]  # fmt: skip
WEAK = [
    2.0, 2, True, np.float64(2.0), np.float32(2.0), np.float16(2.0), np.int64(2), np.array(2.0),
    np.array(2), np.array([1, 2]), np.array([True, True]),
]  # fmt: skip


@pytest.mark.parametrize("shape", [(2,), ()])
@pytest.mark.parametrize("other", WEAK, ids=lambda v: f"{type(v).__name__} {v!r}")
@pytest.mark.parametrize("f", BINARY)
def test_scalars_and_integers_do_not_widen_float32(f, other, shape):
    for swap in (False, True):
        x = tg.tensor(np.full(shape, 1.5, np.float32), requires_grad=True)
        y = f(other, x) if swap else f(x, other)
        assert y.dtype == np.float32
        (found,) = tg.gradients(y.sum(), [x], create_graph=True)
        assert found.dtype == np.float32
        if found.requires_grad:
            assert tg.gradients(found.sum(), x).dtype == np.float32


@pytest.mark.parametrize("other", [np.array([1.0, 2.0]), tg.tensor([1.0, 2.0])])
@pytest.mark.parametrize("f", BINARY)
def test_float64_arrays_are_a_choice(f, other):
    """float32 and float64 meet at float64; each gradient has the dtype of its own Tensor."""
    for swap in (False, True):
        x = tg.tensor(np.full(2, 1.5, np.float32), requires_grad=True)
        z = tg.tensor(other, requires_grad=True)
        y = f(z, x) if swap else f(x, z)
        assert y.dtype == np.float64
        (dx, dz) = tg.gradients(y.sum(), [x, z], create_graph=True)
        assert dx.dtype == np.float32 and dz.dtype == np.float64
        if dx.requires_grad:
            (dx, dz) = tg.gradients(dx.sum(), [x, z])
            assert dx.dtype == np.float32 and dz.dtype == np.float64


def test_a_0d_tensor_is_as_weak_as_a_number_and_differentiable():
    """It does not widen the vector it meets, and has its gradients of both orders."""
    x = tg.tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    scale = tg.tensor(3.0, requires_grad=True)
    for inner in (lambda s: s, lambda s: s * 1.0, lambda s: 1.0 * s[None].sum()):  # leaf or node
        y = tg.exp(x * inner(scale) * 0.1)
        assert y.dtype == np.float32
        dx, ds = tg.gradients(y.sum(), [x, scale], create_graph=True)
        assert dx.dtype == np.float32 and ds.dtype == np.float64
        exponentials = np.exp(np.array([0.3, 0.6]))
        np.testing.assert_allclose(dx.data, 0.3 * exponentials, rtol=1e-5)
        assert ds.item() == pytest.approx(float(np.array([0.1, 0.2]) @ exponentials), rel=1e-5)
        second = tg.gradients(ds, scale)
        assert second.item() == pytest.approx(
            float(np.array([0.01, 0.04]) @ exponentials), rel=1e-5
        )


def test_integers_become_floats_where_numpy_makes_them():
    whole = tg.tensor([1, 2])
    assert (whole * 2).dtype == np.int64 and (whole * 2.5).dtype == np.float64
    np.testing.assert_array_equal((whole * np.array(2.5)).data, [2.5, 5.0])
    assert (whole / 2).dtype == np.float64 and tg.exp(whole).dtype == np.float64
    assert (whole * tg.tensor(np.ones(2, np.float32))).dtype == np.float32


def test_joining_does_not_widen():
    x = tg.tensor(np.ones(2, np.float32), requires_grad=True)
    assert tg.stack([x[0], 2.0, np.float64(1.0)]).dtype == np.float32
    assert tg.stack([2.0, x[0]]).dtype == np.float32
    assert tg.concatenate([x, np.array([1, 2])]).dtype == np.float32
    assert tg.concatenate([x, np.array([1.0])]).dtype == np.float64
    for f in (tg.stack, tg.vstack, tg.hstack, tg.column_stack):
        y = f([[3.0, 4.0], x, [5, 6]])
        assert y.dtype == np.float32 and y.requires_grad
        assert f([1.0, x[0]]).dtype == f([x.data, x]).dtype == np.float32
        assert f([x, np.array([3.0, 4.0])]).dtype == np.float64
    assert tg.diff(x, prepend=0.0, append=[1.0]).dtype == np.float32
    assert tg.interp([0.5, 1.0], [0, 1], x).dtype == np.float32
    assert tg.interp(x, placed(np.arange(3)), [0.0, 1.0, 5.0]).dtype == np.float32
    assert tg.linspace(0.0, x).dtype == tg.convolve(x, [0.5, 0.5]).dtype == np.float32
    assert tg.quantile(x, [0.1, 0.9]).dtype == tg.median(x).dtype == np.float32


def test_a_cast_gives_the_gradient_back_in_the_dtype_it_came_from():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x.astype(np.float32)
    assert y.dtype == np.float32 and y.requires_grad
    (y * y).sum().backward()
    assert x.grad.dtype == np.float64
    np.testing.assert_array_equal(x.grad.data, [2.0, 4.0])
    assert not x.astype(int).requires_grad


# -- keys ------------------------------------------------------------------------------------------
def test_repeated_positions_add_up():
    x = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    for key in ([0, 0, 2], np.array([0, 0, 2]), tg.tensor([0, 0, 2]), ((0, 0, 2),)):
        np.testing.assert_array_equal(tg.gradients(x[key].sum(), x).data, [2.0, 0.0, 1.0])


def test_a_comparison_is_a_mask():
    x = tg.tensor([-1.0, 2.0, 3.0], requires_grad=True)
    np.testing.assert_array_equal(tg.gradients(x[x > 0].sum(), x).data, [0.0, 1.0, 1.0])


# -- methods are the functions -----------------------------------------------------------------------
def test_methods_and_operators_are_the_functions():
    x = tg.tensor(np.arange(6.0).reshape(2, 3) + 1)
    pairs = [
        (x.sum(0), tg.sum(x, 0)),
        (x.mean(1, keepdims=True), tg.mean(x, 1, keepdims=True)),
        (x.var(0, 1), tg.var(x, 0, 1)),
        (x.std(0, 1), tg.std(x, 0, 1)),
        (x.max(), tg.max(x)),
        (x.min(-1), tg.min(x, -1)),
        (x.prod(1), tg.prod(x, 1)),
        (x[:, :1].squeeze(1), tg.squeeze(x[:, :1], 1)),
        (x.reshape(3, 2), tg.reshape(x, (3, 2))),
        (x.reshape((3, 2)), tg.reshape(x, (3, 2))),
        (x.reshape(-1), tg.reshape(x, -1)),
        (x.clip(2.0, 4.0), tg.clip(x, 2.0, 4.0)),
        (x.cumsum(1), tg.cumsum(x, 1)),
        (x.cumprod(1), tg.cumprod(x, 1)),
        (x.any(0), tg.any(x, 0)),
        (x.all(0, keepdims=True), tg.all(x, 0, keepdims=True)),
        (x.argmax(1), tg.argmax(x, 1)),
        (x.argmin(), tg.argmin(x)),
        (x.argsort(0), tg.argsort(x, 0)),
        (x.ravel(), tg.ravel(x)),
        (x.flatten(), tg.ravel(x)),
        (x.repeat(2, axis=1), tg.repeat(x, 2, 1)),
        (x.diagonal(1), tg.diagonal(x, 1)),
        (x.swapaxes(0, 1), tg.swapaxes(x, 0, 1)),
        (x.T, tg.transpose(x)),
        (x.transpose(), tg.transpose(x)),
        (x.transpose(1, 0), tg.transpose(x, (1, 0))),
        (x.transpose((0, 1)), x),
        (x.astype(np.float32), tg.astype(x, np.float32)),
        (x @ x.T, tg.matmul(x, tg.transpose(x))),
        (-x, tg.negative(x)),
        (abs(-x), x),
        (x[0], tg.index(x, 0)),
        (2.0**x, tg.power(2.0, x)),
        (2.0 / x, tg.divide(2.0, x)),
        (2.0 - x, tg.subtract(2.0, x)),
    ]
    for a, b in pairs:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.data, b.data)


# -- errors name the operation and what it was given ---------------------------------------------------
a23, a4, f32 = np.ones((2, 3)), np.ones(4), np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (lambda: tg.tensor(a23) + a4, ValueError, ["add", "float64[2, 3]", "float64[4]"]),
        (lambda: tg.tensor(f32) * a4, ValueError, ["multiply", "[3]", "[4]"]),
        (lambda: tg.tensor(a23) @ a23, ValueError, ["matmul", "float64[2, 3]"]),
        (lambda: tg.matmul(2.0, a23), ValueError, ["matmul", "one dimension"]),
        (lambda: tg.sum(a23, 2), ValueError, ["sum", "axis 2", "2 dimensions"]),
        (lambda: tg.mean(a23, (0, -2)), ValueError, ["mean", "twice"]),
        (lambda: tg.sum(a23, axis=1.0), TypeError, ["sum", "whole number", "not 1.0"]),
        (lambda: tg.sum(a23, axis=(0, 1.0)), TypeError, ["sum", "not (0, 1.0)"]),
        (lambda: tg.sum(a23, axis="rows"), TypeError, ["sum", "not 'rows'"]),
        (lambda: tg.concatenate([a23], axis=1.0), TypeError, ["concatenate", "not 1.0"]),
        (lambda: tg.softmax(a23, ()), ValueError, ["softmax", "axis=()", "no axis"]),
        (lambda: tg.log_softmax(a23, []), ValueError, ["log_softmax", "no axis"]),
        (lambda: tg.cumsum(a23, (0, 1)), TypeError, ["cumsum", "one whole number", "(0, 1)"]),
        (lambda: tg.cumsum(a23, ()), TypeError, ["cumsum", "one whole number", "()"]),
        (lambda: tg.pad(a23, 1.5), TypeError, ["pad", "whole numbers", "1.5"]),
        (lambda: tg.pad(a23, -1), ValueError, ["pad", "-1"]),
        (lambda: tg.pad(a23, (1, 2, 3)), ValueError, ["pad", "(1, 2, 3)", "2 axes"]),
        (lambda: tg.var(np.ones(1), ddof=1), ValueError, ["var", "ddof=1"]),
        (lambda: tg.std(np.ones(1), ddof=1), ValueError, ["std", "ddof=1"]),
        (lambda: tg.pad(a4, 1, "mean"), ValueError, ["pad", "'mean'", "reflect"]),
        (lambda: tg.pad(np.ones(0), 1, "edge"), ValueError, ["empty axis"]),
        (lambda: tg.diff(a4, -1), ValueError, ["diff", "-1"]),
        (lambda: tg.diag(np.ones((1, 1, 1))), ValueError, ["diag", "3 dimensions"]),
        (lambda: tg.vstack([a23, a4]), ValueError, ["concatenate", "[1, 4]"]),
        (lambda: tg.hstack([]), ValueError, ["hstack", "at least one"]),
        (lambda: tg.column_stack(a4), TypeError, ["column_stack", "list"]),
        (lambda: tg.moveaxis(a23, (0, 1), 0), ValueError, ["moveaxis"]),
        (lambda: tg.convolve(a4, a4, "half"), ValueError, ["convolve", "'half'"]),
        (lambda: tg.convolve(a4, np.ones(0)), ValueError, ["convolve", "empty"]),
        (lambda: tg.quantile(a4, 1.5), ValueError, ["quantile", "[0, 1]", "1.5"]),
        (lambda: tg.quantile(a4, np.nan), ValueError, ["quantile", "[0, 1]"]),
        (lambda: tg.quantile(a4, 0.5, method="best"), ValueError, ["'best'", "hazen"]),
        (lambda: tg.median(np.ones((2, 0)), 1), ValueError, ["median", "axis 1"]),
        (lambda: tg.nanmedian(np.ones(0)), ValueError, ["nanmedian", "one element"]),
        (lambda: tg.nanargmax(np.full(2, np.nan)), ValueError, ["nanargmax", "float64[2]"]),
        (lambda: tg.argmax(np.ones(0)), ValueError, ["argmax", "float64[0]"]),
        (lambda: tg.interp(1.0, a4, a23), ValueError, ["interp", "(4,)", "(2, 3)"]),
        (lambda: tg.interp(1.0, [], []), ValueError, ["interp", "(0,)"]),
        (lambda: tg.interp(1.0, a4, a4, period=0), ValueError, ["interp", "period"]),
        (lambda: tg.reshape(a23, (4,)), ValueError, ["reshape", "float64[2, 3]", "(4,)"]),
        (lambda: tg.transpose(a23, (0, 2)), ValueError, ["transpose", "axis 2"]),
        (lambda: tg.transpose(a23, (0, 0)), ValueError, ["transpose", "float64[2, 3]"]),
        (lambda: tg.swapaxes(a23, 0, 2), ValueError, ["swapaxes", "axis 2"]),
        (lambda: tg.moveaxis(a23, 5, 0), ValueError, ["moveaxis", "axis 5"]),
        (lambda: tg.expand_dims(a23, 4), ValueError, ["expand_dims", "[2, 3]", "axis 4"]),
        (lambda: tg.squeeze(a23, 0), ValueError, ["squeeze", "[2, 3]"]),
        (lambda: tg.concatenate([a23, a4]), ValueError, ["concatenate", "float64[4]"]),
        (lambda: tg.concatenate([]), ValueError, ["concatenate", "at least one"]),
        (lambda: tg.stack([]), ValueError, ["stack", "at least one"]),
        (lambda: tg.stack([a23, a4]), ValueError, ["stack", "one shape", "(2, 3)", "(4,)"]),
        (lambda: tg.split(a4, 3), ValueError, ["split", "length 4", "3"]),
        (lambda: tg.split(a4, np.int64(3)), ValueError, ["split", "length 4", "3"]),
        (lambda: tg.split(a4, 2.0), TypeError, ["split", "2.0"]),
        (lambda: tg.tensor(a23)[5], IndexError, ["index", "float64[2, 3]", "5"]),
        (lambda: tg.diagonal(a4), ValueError, ["diagonal", "two dimensions"]),
        (lambda: tg.diagonal(a23, 0, 1, -1), ValueError, ["diagonal", "both 1"]),
        (lambda: tg.einsum("ij,jk", a23), ValueError, ["einsum", "2 terms", "1 operands"]),
        (lambda: tg.einsum("ij->i", a4), ValueError, ["einsum", "'ij'", "1 dimensions"]),
        (lambda: tg.einsum("ij,jk->ik", a23, a23), ValueError, ["einsum", "float64[2, 3]"]),
        (lambda: tg.einsum(a23, "ij->ji"), TypeError, ["einsum", "'ij,jk->ik'", "first", "ndarray"]),
        (lambda: tg.einsum(tg.tensor(a23), "ij"), TypeError, ["einsum", "first", "Tensor"]),
        (lambda: tg.einsum("ii", a23), ValueError, ["einsum", "'ii'", "2 and 3", "'i'"]),
        (lambda: tg.einsum("i1->i", a23), ValueError, ["einsum", "'i1->i'", "'1'"]),
        (lambda: tg.einsum("i%->i", a23), ValueError, ["einsum", "'i%->i'", "'%'"]),
        (lambda: tg.einsum("i.->i", a23), ValueError, ["einsum", "'i.->i'", "'.'"]),
        (lambda: tg.einsum("ij->i->j", a23), ValueError, ["einsum", "'ij->i->j'"]),
        (lambda: tg.einsum("ij->k", a23), ValueError, ["einsum", "'k'"]),
        (lambda: tg.einsum("ij->ii", a23), ValueError, ["einsum", "'i'"]),
        (lambda: tg.max(np.ones((0, 2))), ValueError, ["max", "float64[0, 2]"]),
        (lambda: tg.linear(a23, a23.T, None, "rellu"), ValueError, ["rellu", "'relu'"]),
        (lambda: tg.softmax_cross_entropy(a23, [0.0, 1.0]), ValueError, ["float64"]),
        (lambda: tg.tensor(["a"]), TypeError, ["list"]),
        (lambda: tg.tensor([[1.0], [1.0, 2.0]]), TypeError, ["list"]),
        (lambda: tg.tensor([1 + 2j]), TypeError, ["complex128"]),
        (lambda: tg.tensor([1.0]) + "a", TypeError, ["str"]),
        (lambda: tg.tensor([1.0]) + None, TypeError, ["NoneType"]),
    ],
)  # fmt: skip
def test_errors_say_what_was_given(call, error, parts):
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


NO_SUCH_AXIS = {
    name: functools.partial(lambda name, axis: getattr(tg, name)(a23, axis), name)
    for name in (
        "sum", "mean", "var", "cumsum", "max", "min", "logsumexp", "softmax", "log_softmax", "norm",
        "prod", "expand_dims", "squeeze", "flip", "std", "cumprod", "any", "all", "argmax", "argmin",
        "argsort", "median", "nanmedian",
    )
} | {
    "swapaxes": lambda axis: tg.swapaxes(a23, 0, axis),
    "moveaxis": lambda axis: tg.moveaxis(a23, 0, axis),
    "transpose": lambda axis: tg.transpose(a23, (0, axis)),
    "concatenate": lambda axis: tg.concatenate([a23, a23], axis),
    "stack": lambda axis: tg.stack([a23, a23], axis),
    "split": lambda axis: tg.split(a23, 1, axis),
    "diff": lambda axis: tg.diff(a23, 1, axis),
    "roll": lambda axis: tg.roll(a23, 1, axis),
    "repeat": lambda axis: tg.repeat(a23, 2, axis),
    "take_along_axis": lambda axis: tg.take_along_axis(a23, a23.astype(int), axis),
    "quantile": lambda axis: tg.quantile(a23, 0.5, axis),
    "diagonal": lambda axis: tg.diagonal(a23, 0, 0, axis),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_SUCH_AXIS)
def test_all_operations_have_the_same_words_for_an_axis_that_does_not_exist(name):
    words = rf"^{name}(\(.*\))?: axis 7 does not exist in an array of [23] dimensions$"
    with pytest.raises(ValueError, match=words):
        NO_SUCH_AXIS[name](7)
    with pytest.raises(TypeError, match=rf"^{name}(\(.*\))?: axis is .*whole number.*, not .*1\.5"):
        NO_SUCH_AXIS[name](1.5)


@pytest.mark.parametrize("size", [-1e8, 1e8, -3e38])
def test_logarithms_of_sums_of_huge_numbers(size):
    """log 3 is lost beside the number itself, but not in what depends on differences alone."""
    x = tg.tensor(np.full(3, size, np.float32), requires_grad=True)
    y = tg.logsumexp(x)
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), np.full(3, 1 / 3), rtol=1e-6)
    np.testing.assert_allclose(tg.log_softmax(x).numpy(), np.full(3, -np.log(3)), rtol=1e-6)


def test_labels_out_of_range():
    logits = tg.tensor(np.zeros((2, 3)))
    if logits.device == "gpu":  # a check would wait for the GPU
        loss = tg.softmax_cross_entropy(logits, [0, 3]).numpy()
        np.testing.assert_allclose(loss[0], np.log(3))
        assert np.isnan(loss[1])
    else:
        with pytest.raises(ValueError, match=r"0\.\.3 are out of range for 3 classes"):
            tg.softmax_cross_entropy(logits, [0, 3])


def test_an_unknown_rule_shape_is_named():
    """A derivative of a wrong shape is an error of the rule, and says which."""
    with temporary_operation("wrong_shape", lambda m, x: m.sum(x), x=lambda g: g * np.ones(5)) as f:
        y = f(tg.tensor([1.0, 2.0], requires_grad=True))
        with pytest.raises(ValueError, match=r"wrong_shape.*input 0.*\(5,\).*\(2,\)"):
            y.backward()


def test_a_split_into_many_parts_costs_little_more_than_one_into_few():
    """All arrays that its backward pass makes: log2 of the parts times the length, not their number."""
    x = tg.tensor(np.arange(512.0), requires_grad=True)
    parts = tg.split(x, 256)
    np.testing.assert_array_equal(tg.stack(parts).data, x.data.reshape(256, 2))
    joined = tg.concatenate(parts)
    nodes = [s for s in ancestors(joined.node) if isinstance(s, Node) and s.op.name == "index"]
    assert sum(node.parents[0].shape[0] for node in nodes) <= 2 * 512 * 8
    weights = np.linspace(-1, 1, 512)
    np.testing.assert_array_equal(tg.gradients(joined, x, weights).data, weights)


@pytest.mark.parametrize(
    "positions", [[1, 2, 4, 7, 7, 9], [0, 3, 3, 8, 10], [4, 2, 6, 12, 3]], ids=str
)
def test_a_split_at_many_positions(positions):
    x = np.arange(20.0).reshape(2, 10)
    for part, expected in zip(
        tg.split(x, positions, 1), numpy.split(on_cpu(x), positions, 1), strict=True
    ):
        np.testing.assert_array_equal(part.data, expected)
