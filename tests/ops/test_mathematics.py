"""Laws and exact answers of the mathematics: operators, products, tg.linalg, tg.special.

Value, derivatives, dtypes and more of each are generated in test_ops.py from the rows in math_cases.py.
"""

from __future__ import annotations

import functools
import importlib

import numpy
import pytest
import scipy.special

from tests.support.on_device import np, on_cpu, placed, tg
from tests.support.op_cases import CASES
from tinygen import Tensor

pytestmark = pytest.mark.filterwarnings("error")

INF = float("inf")
RNG = numpy.random.default_rng(11)


def raw(x):
    """The array of a Tensor, or an array as a transform gives it back, on the CPU."""
    return on_cpu(x.detach() if isinstance(x, Tensor) else x)


def close(found, expected, rtol=1e-12, atol=1e-12):
    numpy.testing.assert_allclose(raw(found), raw(expected), rtol=rtol, atol=atol)


def gradient(f, x):
    return tg.grad(lambda x: f(x).sum())(placed(x))


# -- the namespaces --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["linalg", "special"])
def test_every_function_of_a_namespace_has_a_case_and_a_docstring(name):
    space = importlib.import_module(f"tinygen.{name}")
    rows = {case.name for case in CASES}
    assert [n for n in space.__all__ if f"{name}.{n}" not in rows] == []
    assert all(getattr(space, n).__doc__ for n in space.__all__)


@pytest.mark.parametrize("name", tg.special.__all__)
def test_values_are_those_of_scipy(name):
    """Over its domain, for float32 too."""
    function, inputs = getattr(scipy.special, name), [RNG.uniform(0.02, 0.98, 200)]
    if name in ("beta", "betaln", "betainc", "gammainc", "gammaincc", "xlogy", "xlog1py"):
        inputs = [*(RNG.gamma(1.0, 9.0, 200) for _ in range(2)), *inputs][: 2 + (name == "betainc")]
    elif name == "polygamma":
        inputs = [numpy.array(3), RNG.gamma(1.0, 9.0, 200)]
    elif name not in ("erfinv", "erfcinv", "ndtri", "logit"):
        inputs = [RNG.normal(0, 4, 200).clip(-9)]  # erfcx(-10) is no float32
    for dtype, rtol in [(numpy.float64, 1e-13), (numpy.float32, 2e-5)]:
        given = [x.astype(dtype) if x.dtype.kind == "f" else x for x in inputs]
        y = getattr(tg.special, name)(*placed(given))
        assert y.dtype == dtype
        exact = function(*(x.astype(float) if x.dtype.kind == "f" else x for x in given))
        close(y, exact, rtol, 1e-30 if dtype == numpy.float64 else 1e-6)


def test_a_wrong_place_is_told_the_right_one():
    with pytest.raises(AttributeError, match=r"tg\.special\.gammaln\(x"):
        tg.tensor(1.0).gammaln  # noqa: B018
    with pytest.raises(AttributeError, match=r"tg\.linalg\.inv\(x"):
        tg.tensor(1.0).inv  # noqa: B018
    assert not hasattr(tg, "gammaln") and not hasattr(tg, "cofactors")


@pytest.mark.cpu_only("NumPy and SciPy are those of the CPU")
@pytest.mark.parametrize(
    ("function", "own"),
    [(scipy.special.gammaln, "tg.special.gammaln"), (numpy.linalg.inv, "tg.linalg.inv"),
     (numpy.arctan2, "tg.arctan2"), (numpy.isnan, "tg.isnan"), (numpy.linalg.solve, "tg.solve")],
)  # fmt: skip
def test_a_function_of_another_library_is_told_its_name_here(function, own):
    x = tg.tensor(numpy.eye(2), requires_grad=True)
    with pytest.raises(TypeError, match=rf"{function.__name__} would cut .*call {own}, or"):
        function(x, x) if function in (numpy.arctan2, numpy.linalg.solve) else function(x)


# -- operators -------------------------------------------------------------------------------------
def test_operators_are_those_of_numpy():
    x, y = numpy.array([-4.5, 3.0, 7.0]), numpy.array([2.0, -2.0, 4.0])
    a, b = (tg.tensor(placed(k)) for k in (x, y))
    array = placed(x)
    for found, expected in [
        (a % b, x % y), (a % 2, x % 2), (2 % a, 2 % x), (array % b, x % y),
        (a // b, x // y), (a // 2, x // 2), (2 // a, 2 // x), (array // b, x // y), (+a, x),
    ]:  # fmt: skip
        close(found, expected)
    p, q = x > 0, y > 0
    s, t = a > 0, b > 0
    for found, expected in [
        (s & t, p & q), (s | t, p | q), (s ^ t, p ^ q), (~s, ~p), (s & True, p), (False | t, q),
        (placed(p) & t, p & q), (placed(p) ^ t, p ^ q), (s & (t | ~s), p & (q | ~p)),
    ]:  # fmt: skip
        assert found.dtype == bool and not found.requires_grad
        close(found, expected)
    whole = tg.tensor(placed(numpy.int8([5, 6])))
    for found in (
        whole & 3,
        whole | 1,
        whole % 2,
        whole // 2,
        +whole,
        tg.floor(whole),
        tg.round(whole),
    ):
        assert found.dtype == numpy.int8


def test_methods_are_the_functions():
    x = tg.tensor(placed(numpy.arange(9.0).reshape(3, 3) / 4))
    for found, expected in [
        (x.dot(x), tg.dot(x, x)), (x.round(), tg.round(x)), (x.round(1), tg.round(x, 1)),
        (x.trace(1), tg.trace(x, 1)),
    ]:  # fmt: skip
        close(found, raw(expected))


def test_a_leaf_is_not_replaced_by_a_remainder():
    x = tg.tensor([5.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"x %= y"):
        x %= 2
    with pytest.raises(TypeError, match=r"x //= y"):
        x //= 2
    y = x * 1.0
    y %= 2
    assert y.item() == 1.0 and y.requires_grad


def test_masks_of_variables_are_constants():
    x = tg.tensor([1.0, -2.0, 0.5], requires_grad=True)
    inside = (x > -1.0) & (x < 0.9) | tg.isnan(x)
    close(tg.gradients(tg.where(inside, 3.0 * x, 0.0).sum(), x), [0.0, 0.0, 3.0])
    for mask in (tg.isfinite(x), tg.equal(x, 1.0), tg.logical_not(x), tg.signbit(x)):
        assert mask.dtype == bool and not mask.requires_grad


# -- exact identities ------------------------------------------------------------------------------
def test_the_chain_of_derivatives_of_log_gamma():
    """digamma, then polygamma(n), each the derivative of the one before; also left of 0."""
    x = numpy.array([-2.7, -0.4, 0.03, 0.9, 4.5, 60.0])
    close(gradient(tg.special.gammaln, x), scipy.special.digamma(x), 1e-14)
    f = tg.special.digamma
    for n in range(1, 4):
        f = functools.partial(gradient_of, f)
        close(f(placed(x[2:])), scipy.special.polygamma(n, x[2:]), 1e-13)
    steps = 1e-5 * numpy.array([1, -1])[:, None] + x[:2]
    up, down = scipy.special.digamma(steps)
    close(gradient(tg.special.digamma, x[:2]), (up - down) / 2e-5, 1e-8)


PAIRS = [
    (tg.arcsin, tg.sin, (-0.9, 0.9)), (tg.arccos, tg.cos, (-0.9, 0.9)), (tg.arctan, tg.tan, (-9, 9)),
    (tg.arcsinh, tg.sinh, (-9, 9)), (tg.arccosh, tg.cosh, (1.1, 9)), (tg.arctanh, tg.tanh, (-0.9, 0.9)),
    (tg.log2, tg.exp2, (0.1, 9)), (tg.special.erfinv, tg.special.erf, (-0.9, 0.9)),
    (tg.special.erfcinv, tg.special.erfc, (0.1, 1.9)), (tg.special.ndtri, tg.special.ndtr, (0.1, 0.9)),
    (tg.special.logit, tg.special.expit, (0.1, 0.9)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("inverse", "f", "limits"), PAIRS, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_function_of_its_inverse_is_the_identity_to_second_order(inverse, f, limits):
    x = numpy.linspace(*limits, 9)
    back = lambda x: f(inverse(x))  # noqa: E731
    close(back(placed(x)), x)
    close(gradient(back, x), numpy.ones(9), 1e-10)
    close(gradient(lambda x: gradient_of(back, x), x), numpy.zeros(9), 0, 1e-8)


def gradient_of(f, x):
    return tg.grad(lambda x: f(x).sum())(x)


def test_functions_that_belong_together():
    x, y = placed(RNG.gamma(2.0, 1.0, 50)), placed(RNG.gamma(2.0, 1.0, 50))
    s = tg.special
    close(tg.exp(s.gammaln(x)), raw(s.gamma(x)), 1e-12)
    close(s.betaln(x, y), raw(s.gammaln(x) + s.gammaln(y) - s.gammaln(x + y)))
    close(s.gammainc(x, y) + s.gammaincc(x, y), numpy.ones(50))
    close(s.erfcx(x) * tg.exp(-(x * x)), raw(s.erfc(x)), 1e-12)
    close(s.log_ndtr(x), raw(tg.log(s.ndtr(x))))
    close(tg.hypot(x, y), numpy.abs(on_cpu(x) + 1j * on_cpu(y)))
    close(tg.arctan2(x, -y), numpy.angle(-on_cpu(y) + 1j * on_cpu(x)))
    close(tg.logaddexp(x, y), raw(tg.logsumexp(tg.stack([x, y]), 0)))
    assert (
        s.logsumexp(placed(numpy.array([1e3, 1e3])), b=placed(numpy.array([2.0, -1.0]))).item()
        == 1e3
    )


# -- the incomplete integrals in their parameters --------------------------------------------------
SHAPES = 10.0 ** RNG.uniform(-2, 4, (2, 300))


def test_the_incomplete_gamma_function_in_a_obeys_its_recurrence():
    """P(a, x) = P(a + 1, x) + x^a exp(-x) / Γ(a + 1), its derivative in a, and that one's in x."""
    a = SHAPES[0]
    x = a * numpy.exp(RNG.normal(size=300) / numpy.sqrt(1 + a))

    def recurrence(a, x):
        rest = tg.exp(a * tg.log(x) - x - tg.special.gammaln(a + 1.0))
        return tg.special.gammainc(a, x) - tg.special.gammainc(a + 1.0, x) - rest

    def in_a(a):
        return tg.grad(lambda a: recurrence(a, placed(x)).sum())(a)

    scale = numpy.abs(raw(tg.grad(lambda a: tg.special.gammainc(a, placed(x)).sum())(placed(a))))
    error = numpy.abs(raw(in_a(placed(a))))
    assert (error <= 1e-13 * (1 + scale) * (1 + a * numpy.log(a + 2))).all()


@pytest.mark.parametrize("name", ["gammainc", "gammaincc", "betainc"])
def test_derivatives_in_the_parameters_agree_with_differences(name):
    """Over six orders of magnitude, on both sides of the peak, of the values that SciPy computes."""
    a, b = SHAPES
    noise = numpy.exp(RNG.normal(size=300) / numpy.sqrt(1 + a))
    x = numpy.clip(a / (a + b) * noise, 1e-6, 1 - 1e-6) if name == "betainc" else a * noise
    inputs = [a, b, x] if name == "betainc" else [a, x]
    exact = getattr(scipy.special, name)
    for i in range(len(inputs) - 1):
        h = 1e-4 * numpy.minimum(inputs[i], numpy.sqrt(inputs[i]))
        at = lambda k, i=i, h=h: exact(*(y + k * h * (j == i) for j, y in enumerate(inputs)))  # noqa: E731
        expected = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)
        found = tg.grad(lambda *xs: getattr(tg.special, name)(*xs).sum(), i)(*placed(inputs))
        numpy.testing.assert_allclose(raw(found) * h, expected * h, rtol=1e-6, atol=1e-12)


def test_gamma_and_beta_distributions_belong_together():
    """P(1/2, x²) = erf x; I_x(a, 1) = x^a; I_x(1/2, 1/2) = 2/π arcsin √x: derivatives in x and in a."""
    x = numpy.linspace(0.1, 0.9, 7)
    s = tg.special
    close(gradient(lambda x: s.gammainc(0.5, x * x) - s.erf(x), x), 0 * x)
    a = placed(numpy.linspace(0.3, 5.0, 7))
    powers = lambda a: s.betainc(a, 1.0, placed(x)) - tg.power(placed(x), a)  # noqa: E731
    close(powers(a), 0 * x)
    close(tg.grad(lambda a: powers(a).sum())(a), 0 * x)
    close(tg.grad(lambda a: tg.grad(lambda a: powers(a).sum())(a).sum())(a), 0 * x, 0, 1e-10)
    close(
        gradient(lambda x: s.betainc(0.5, 0.5, x) - 2 / numpy.pi * tg.arcsin(tg.sqrt(x)), x), 0 * x
    )


def test_parameters_in_float32_have_derivatives_in_float32():
    a = tg.tensor(numpy.float32([2.0, 900.0]), requires_grad=True)
    y = tg.special.gammainc(a, numpy.float32([1.5, 910.0]) if a.device == "cpu" else placed(
        numpy.float32([1.5, 910.0])))  # fmt: skip
    found = tg.gradients(y.sum(), a)
    wide = tg.grad(lambda a: tg.special.gammainc(a, placed(numpy.array([1.5, 910.0]))).sum())
    assert found.dtype == numpy.float32
    close(found, raw(wide(placed(numpy.array([2.0, 900.0])))), 1e-5)


# -- matrices --------------------------------------------------------------------------------------
def matrices(*shape):
    return RNG.normal(size=shape)


def test_decompositions_give_the_matrix_back():
    for shape in [(4, 4), (5, 3), (3, 5), (2, 4, 3)]:
        a = matrices(*shape)
        u, s, vh = tg.linalg.svd(placed(a), full_matrices=False)
        q, r = tg.linalg.qr(placed(a))
        close((u * s[..., None, :]) @ vh, a)
        close(q @ r, a)
        close(
            tg.swapaxes(q, -1, -2) @ q,
            numpy.broadcast_to(numpy.eye(q.shape[-1]), r.shape[:-1] + q.shape[-1:]),
        )
        close(tg.linalg.svd(placed(a), compute_uv=False), numpy.linalg.svd(a, compute_uv=False))
    a = matrices(3, 4, 4)
    w, v = tg.linalg.eigh(placed(a + a.swapaxes(-1, -2)))
    close((v * w[:, None, :]) @ tg.swapaxes(v, -1, -2), a + a.swapaxes(-1, -2))
    result = tg.linalg.eigh(placed(a[0]))
    assert result.eigenvalues is result[0] and result._fields == ("eigenvalues", "eigenvectors")


def test_what_a_decomposition_gives_back_moves_as_the_matrix_does():
    """The derivative of U diag(S) Vh, of Q R and of V diag(w) Vᵀ is the identity; the second one is 0."""
    g, direction = placed(matrices(2, 4, 3)), placed(matrices(2, 4, 3))

    def svd(a):
        u, s, vh = tg.linalg.svd(a, full_matrices=False)
        return (u * s[..., None, :]) @ vh

    for f in (svd, lambda a: tg.matmul(*tg.linalg.qr(a))):
        a = tg.tensor(placed(matrices(2, 4, 3)), requires_grad=True)
        first = tg.gradients(f(a), a, g, create_graph=True)
        close(first, on_cpu(g), 1e-11)
        close(tg.gradients((first * direction).sum(), a), numpy.zeros((2, 4, 3)), 0, 1e-9)

    def eigh(a):
        w, v = tg.linalg.eigh(a)
        return (v * w[..., None, :]) @ tg.swapaxes(v, -1, -2)

    a = tg.tensor(placed(matrices(3, 3)), requires_grad=True)
    half = on_cpu(g)[0, :3]
    close(tg.gradients(eigh(a), a, placed(half)), (half + half.T) / 2)


def test_jacobis_formula():
    """d det(A) = tr(adj(A) dA), and d log |det A| = tr(A⁻¹ dA), with det = sign exp(logabsdet)."""
    a, d = matrices(4, 3, 3), matrices(4, 3, 3)
    sign, log = tg.linalg.slogdet(placed(a))
    close(sign * tg.exp(log), numpy.linalg.det(a))
    _, along = tg.jvp(tg.linalg.det, (placed(a),), (placed(d),))
    inverse = numpy.linalg.inv(a)
    traces = numpy.trace(inverse @ d, axis1=-2, axis2=-1)
    close(along, numpy.linalg.det(a) * traces, 1e-11)
    _, along = tg.jvp(lambda a: tg.linalg.slogdet(a).logabsdet, (placed(a),), (placed(d),))
    close(along, traces, 1e-11)


def test_the_cofactors_of_matrices_of_every_rank():
    """Those of Laplace, whatever the rank."""
    for rank in range(5):
        a = matrices(4, rank) @ matrices(rank, 4)
        minors = [[numpy.linalg.det(numpy.delete(numpy.delete(a, i, 0), j, 1)) * (-1) ** (i + j)
                   for j in range(4)] for i in range(4)]  # fmt: skip
        close(gradient(tg.linalg.det, a), numpy.array(minors), 1e-10, 1e-12)


def test_the_inverses_agree():
    a = matrices(3, 4, 4) + 3 * numpy.eye(4)
    b = matrices(4)
    close(tg.linalg.inv(placed(a)) @ placed(a), numpy.broadcast_to(numpy.eye(4), (3, 4, 4)))
    for f in (
        lambda a: tg.linalg.inv(a),
        lambda a: tg.linalg.pinv(a),
        lambda a: tg.solve(a, np.eye(4)),
    ):
        g = placed(matrices(3, 4, 4))
        x = tg.tensor(placed(a), requires_grad=True)
        y = on_cpu(numpy.linalg.inv(a)).swapaxes(-1, -2)
        close(tg.gradients(f(x), x, g), -y @ on_cpu(g) @ y, 1e-10)
    close(tg.linalg.solve(placed(a), placed(b)), numpy.linalg.inv(a) @ b)
    close(tg.linalg.solve(placed(a), tg.tensor(placed(b))), numpy.linalg.inv(a) @ b)
    assert tg.linalg.solve is tg.solve and tg.linalg.cholesky is tg.cholesky


@pytest.mark.parametrize("order", [None, 0, 1, 2, 3, -1, -2, 0.5, INF, -INF])
def test_norms_of_vectors_are_numpys(order):
    x = RNG.normal(size=(3, 4)) * (order != 0 or RNG.random((3, 4)) < 0.5)
    for axis, keepdims in [(0, False), (-1, True)]:
        expected = numpy.linalg.norm(x, order, axis, keepdims)
        close(tg.linalg.norm(placed(x), order, axis, keepdims), expected)
    close(tg.linalg.norm(placed(x[0]), order), numpy.linalg.norm(x[0], order))


@pytest.mark.parametrize("order", [None, "fro", "nuc", 1, -1, 2, -2, INF, -INF])
def test_norms_of_matrices_are_numpys(order):
    x = RNG.normal(size=(2, 3, 4))
    for axis, keepdims in [((0, 1), False), ((-1, 0), True), ((1, 2), False)]:
        expected = numpy.linalg.norm(x, order, axis, keepdims)
        close(tg.linalg.norm(placed(x), order, axis, keepdims), expected)
    close(tg.linalg.norm(placed(x[0]), order), numpy.linalg.norm(x[0], order))
    whole = numpy.arange(6, dtype=numpy.uint8).reshape(2, 3) + 100
    close(tg.linalg.norm(placed(whole), order), numpy.linalg.norm(whole.astype(float), order))


@pytest.mark.parametrize("cut", [1e-3, 0.3])
def test_the_pseudo_inverse_cuts_small_singular_values(cut):
    a = matrices(5, 3) @ numpy.diag([1.0, 0.8, 1e-2]) @ matrices(3, 3)
    close(tg.linalg.pinv(placed(a), cut), numpy.linalg.pinv(a, cut), 1e-10)


# -- refused ---------------------------------------------------------------------------------------
a23 = numpy.ones((2, 3))
REFUSED = [
    (lambda: tg.linalg.inv(placed(a23)), "inv", "square", "(2, 3)"),
    (lambda: tg.linalg.det(placed(a23)), "det", "square"),
    (lambda: tg.linalg.slogdet(placed(a23)), "slogdet", "square"),
    (lambda: tg.linalg.eigh(placed(a23)), "eigh", "square"),
    (lambda: tg.linalg.svd(placed(a23)), "svd", "2 columns of 3", "full_matrices=False"),
    (lambda: tg.linalg.qr(placed(a23), "complete"), "qr", "'complete'", '"reduced"'),
    (lambda: tg.linalg.norm(placed(a23), 7), "norm", "7", '"nuc"'),
    (lambda: tg.linalg.norm(placed(a23), "fro", 0), "norm", "'fro'", "number"),
    (lambda: tg.linalg.norm(placed(a23[None]), 2), "norm", "ord=2", "not 3"),
    (lambda: tg.cross(placed(a23[:, :2]), placed(a23)), "cross", "three components", "2 and 3"),
    (lambda: tg.tensordot(placed(a23), placed(a23), 1), "tensordot", "[3] and [2]"),
    (lambda: tg.tensordot(placed(a23), placed(a23), 3), "tensordot", "axis -3"),
    (lambda: tg.solve(placed(a23[0]), placed(a23[0])), "solve", "two dimensions"),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[1])
def test_errors_say_what_was_given(row):
    call, *parts = row
    with pytest.raises(ValueError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.cpu_only("LAPACK says so; on the GPU it would have to wait")
def test_singular_matrices_are_refused_by_name():
    for f in (tg.linalg.inv, lambda a: tg.solve(a, numpy.ones(2))):
        with pytest.raises(ValueError, match=r"(inv|solve)\(.*: Singular matrix"):
            f(numpy.ones((2, 2)))


@pytest.mark.parametrize("f", [tg.linalg.inv, tg.linalg.eigh, tg.special.gammaln, tg.tan, tg.dot])
def test_complex_numbers_are_refused_by_name(f):
    z = numpy.eye(2) * 1j
    with pytest.raises(TypeError, match=r"real numbers.*complex128"):
        f(z, z) if f is tg.dot else f(z)
    with pytest.raises(TypeError, match=r"bitwise_and\(float64"):
        tg.tensor([1.0]) & tg.tensor([True])
