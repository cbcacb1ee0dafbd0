"""Functions of functions: grad, vjp, jvp, jacobian, hessian, hvp, against closed forms and each other."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.on_device import np, tg

pytestmark = pytest.mark.filterwarnings("error")

A = np.array([[2.0, 1.0, -1.0], [0.5, 3.0, 0.0], [1.0, -2.0, 1.0]])
X = np.array([0.3, -0.7, 1.1])


def close(found, expected, rtol=1e-12):
    """An array, as arrays were given, or a number."""
    assert not isinstance(found, tg.Tensor)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-13)


def quadratic(x):
    return x @ A @ x


def vector(x):
    """R³ → R²: Jacobian and Hessian by hand below."""
    return tg.stack([x[0] * x[1], tg.sin(x[2]) * x[0]])


VECTOR_JACOBIAN = np.array([[X[1], X[0], 0.0], [np.sin(X[2]), 0.0, np.cos(X[2]) * X[0]]])


# -- closed forms ------------------------------------------------------------------------------------
def test_grad():
    close(tg.grad(quadratic)(X), (A + A.T) @ X)


def test_value_and_grad():
    value, g = tg.value_and_grad(quadratic)(X)
    close(value, X @ A @ X)
    close(g, (A + A.T) @ X)


def test_argnums():
    def f(x, k, y):
        return (x * x * y).sum() * k

    x, y = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    close(tg.grad(f)(x, 2.0, y), 4 * x * y)
    close(tg.grad(f, 2)(x, 2.0, y), 2 * x * x)
    found = tg.grad(f, (2, 0, 1))(x, 2.0, y)
    assert type(found) is tuple
    for g, expected in zip(found, (2 * x * x, 4 * x * y, x @ (x * y)), strict=True):
        close(g, expected)
    assert len(tg.grad(f, [0])(x, 2.0, y)) == 1
    close(tg.grad(f, -1)(x, 2.0, y), 2 * x * x)
    close(tg.grad(f, (-3, 1))(x, 2.0, y)[1], x @ (x * y))
    for bad in (3, -4):
        with pytest.raises(ValueError, match=f"argument {bad} to differentiate, but 3"):
            tg.grad(f, bad)(x, 2.0, y)
    with pytest.raises(ValueError, match=r"positions \(0, -3\) name an argument twice"):
        tg.grad(f, (0, -3))(x, 2.0, y)


def test_vjp_may_be_called_again():
    y, pull = tg.vjp(vector, X)
    close(y, [X[0] * X[1], np.sin(X[2]) * X[0]])
    for v in ([1.0, 0.0], [0.0, 1.0], [2.0, -3.0]):
        found = pull(v)
        assert type(found) is tuple and len(found) == 1
        close(found[0], np.array(v) @ VECTOR_JACOBIAN)
    with pytest.raises(ValueError, match="shape"):
        pull([1.0, 2.0, 3.0])


def test_vjp_of_several_primals():
    y, pull = tg.vjp(lambda a, b: a @ b, np.eye(2), np.array([3.0, 4.0]))
    close(y, [3.0, 4.0])
    da, db = pull([1.0, 2.0])
    close(da, [[3.0, 4.0], [6.0, 8.0]])
    close(db, [1.0, 2.0])


def test_jvp():
    v = np.array([1.0, -2.0, 0.5])
    y, tangent = tg.jvp(vector, (X,), (v,))
    close(y, vector(tg.tensor(X)).data)
    close(tangent, VECTOR_JACOBIAN @ v)


def test_jvp_of_several_primals_and_unused_ones():
    a, b = np.array([1.0, 2.0]), np.array(3.0)
    _, tangent = tg.jvp(lambda a, b, c: a * b, (a, b, X), (np.array([1.0, 0.0]), np.array(2.0), X))
    close(tangent, [3.0 + 2.0, 4.0])
    y, tangent = tg.jvp(lambda a: tg.ones(3), (a,), (a,))
    close(y, [1.0, 1.0, 1.0])
    close(tangent, [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="2 primals but 1 tangents"):
        tg.jvp(lambda a, b: a, (a, b), (a,))


@pytest.mark.parametrize("tangent", [1.0, np.ones(1), np.ones((3, 3))])
def test_a_tangent_has_the_shape_of_its_primal(tangent):
    with pytest.raises(ValueError, match=r"tangent 0 has shape .* its primal has \(3,\)"):
        tg.jvp(tg.exp, (X,), (tangent,))


def test_jacobian():
    close(tg.jacobian(vector)(X), VECTOR_JACOBIAN)
    close(tg.jacobian(lambda x: x @ A)(X), A.T)
    j = tg.jacobian(lambda k, x: tg.exp(k * x), 1)(2.0, np.ones((2, 1)))
    assert j.shape == (2, 1, 2, 1)
    close(j.reshape(2, 2), 2 * np.exp(2.0) * np.eye(2))
    assert tg.jacobian(lambda x: x[:0])(X).shape == (0, 3)
    assert tg.jacobian(lambda x: x[0])(X).shape == (3,)


def test_hessian():
    close(tg.hessian(quadratic)(X), A + A.T)
    s = 1 / (1 + np.exp(-(A @ X)))
    close(tg.hessian(lambda x: tg.softplus(A @ x).sum())(X), A.T @ np.diag(s * (1 - s)) @ A)
    close(tg.hessian(lambda k, x: k * x[0] * x[1], 1)(3.0, np.ones(2)), [[0.0, 3.0], [3.0, 0.0]])
    close(tg.hessian(lambda x: tg.sum(x) * 2.0)(X), np.zeros((3, 3)))


def test_hvp():
    v = np.array([1.0, 2.0, -1.0])
    close(tg.hvp(quadratic, X, v), (A + A.T) @ v)

    def f(x):
        return tg.logsumexp(x * x) + tg.sin(x[0] * x[2])

    close(tg.hvp(f, X, v), tg.hessian(f)(X) @ v)
    close(tg.hvp(lambda x: x.sum(), X, v), np.zeros(3))


def test_orders_one_to_four():
    f, x = tg.sin, 0.4
    for expected in (np.cos(x), -np.sin(x), -np.cos(x), np.sin(x)):
        f = tg.grad(f)
        close(f(x), expected)


# -- nesting -----------------------------------------------------------------------------------------
def test_the_outer_derivative_of_an_inner_gradient():
    """d/dw of d/dx sin(w x²) = d/dw 2 w x cos(w x²), where w is a closure of the inner function."""
    x0, w0 = 0.7, 1.3

    def inner(w):
        return tg.grad(lambda x: tg.sin(w * x * x))(x0)

    expected = 2 * x0 * np.cos(w0 * x0**2) - 2 * w0 * x0**3 * np.sin(w0 * x0**2)
    close(inner(w0), 2 * w0 * x0 * np.cos(w0 * x0**2))
    close(tg.grad(inner)(w0), expected)


def test_the_same_by_backward_to_a_leaf():
    w = tg.tensor(1.3, requires_grad=True)
    value, g = tg.value_and_grad(lambda x: tg.sin(w * x * x))(np.array(0.7))
    assert value.requires_grad and g.requires_grad
    g.backward()
    close(
        w.grad.data,
        tg.grad(lambda w: tg.grad(lambda x: tg.sin(w * x * x))(np.array(0.7)))(np.array(1.3)),
    )


def test_inner_and_outer_variable_are_not_confused():
    close(tg.grad(lambda x: x * tg.grad(lambda y: x + y)(1.0))(1.0), 1.0)
    close(tg.grad(lambda x: x * tg.grad(lambda y: x * y * y)(x))(3.0), 6 * 3.0**2)


def test_an_inner_function_of_the_outer_variable_alone():
    close(tg.grad(lambda x: tg.grad(lambda z: x * x)(5.0) + x)(2.0), 1.0)
    close(tg.grad(lambda x: tg.tensor(3.0))(2.0), 0.0)
    close(tg.grad(lambda x: 0.0 * x + tg.grad(lambda z: tg.tensor(3.0))(x))(2.0), 0.0)
    value, g = tg.value_and_grad(lambda x: tg.tensor(3.0))(np.ones((2, 3)))
    assert value.item() == 3.0 and g.shape == (2, 3)


def test_every_transform_inside_every_other():
    def f(x):
        return tg.sin(x[0]) * x[1] ** 2

    x = np.array([0.5, 2.0])
    s, c = np.sin(0.5), np.cos(0.5)
    v = np.array([1.0, 3.0])
    hessian = np.array([[-s * 4, c * 4], [c * 4, 2 * s]])
    close(tg.jacobian(tg.grad(f))(x), hessian)
    close(tg.jacobian(lambda x: tg.jacobian(f)(x))(x), hessian)
    close(tg.jacobian(lambda x: tg.vjp(f, x)[1](1.0)[0])(x), hessian)
    close(tg.grad(lambda x: tg.jvp(f, (x,), (v,))[1])(x), hessian @ v)
    close(tg.jvp(tg.grad(f), (x,), (v,))[1], hessian @ v)
    close(tg.jvp(lambda x: tg.jvp(f, (x,), (v,))[1], (x,), (v,))[1], v @ hessian @ v)
    close(tg.vjp(tg.grad(f), x)[1](v)[0], hessian @ v)
    third = np.zeros((2, 2, 2))
    third[0, 0] = np.array([-c * 4, -s * 4])
    third[0, 1] = third[1, 0] = np.array([-s * 4, c * 2])
    third[1, 1] = np.array([2 * c, 0.0])
    close(tg.jacobian(tg.hessian(f))(x), third)
    close(tg.grad(lambda x: tg.hvp(f, x, v) @ v)(x), np.einsum("ijk,j,k->i", third, v, v))


def test_a_tangent_can_be_differentiated():
    def along(v):
        return tg.jvp(vector, (X,), (v,))[1][1]

    close(tg.grad(along)(np.ones(3)), VECTOR_JACOBIAN[1])
    _, pull = tg.vjp(vector, X)
    close(tg.jacobian(lambda v: pull(v)[0])(np.ones(2)), VECTOR_JACOBIAN.T)


def test_no_grad_outside_does_not_switch_a_transform_off():
    with tg.no_grad():
        g = tg.grad(tg.grad(tg.sin))(0.4)
        close(tg.hessian(quadratic)(X), A + A.T)
    close(g, -np.sin(0.4))


# -- arguments ---------------------------------------------------------------------------------------
def test_whole_numbers_are_differentiated_as_float64():
    for x in (3, np.int32(3), np.array(3), tg.tensor(3)):
        g = tg.grad(lambda t: t * t)(x)
        assert g.dtype == np.float64 and g.item() == 6.0
    assert tg.grad(lambda t: (t * t).sum())(np.array([1, 2])).dtype == np.float64


def test_floats_keep_their_dtype():
    x = np.ones(2, np.float32)
    value, g = tg.value_and_grad(lambda t: (tg.exp(t) * 2.0).sum())(x)
    assert value.dtype == g.dtype == np.float32
    assert tg.hessian(lambda t: (t * t * t).sum())(x).dtype == np.float32
    assert tg.jvp(tg.exp, (x,), (x,))[1].dtype == np.float32
    assert tg.jvp(tg.exp, (x,), (np.ones(2),))[1].dtype == np.float32


def test_other_arguments_are_passed_as_they_are():
    given = []
    tg.grad(lambda x, text, n: given.append((text, n)) or x * n)(1.0, "text", 2)
    assert given == [("text", 2)]


def test_the_arguments_are_not_touched():
    x = tg.tensor(X, requires_grad=True)
    tg.grad(quadratic)(x).sum()
    tg.hessian(quadratic)(x)
    assert x.grad is None
    np.testing.assert_array_equal(x.data, X)


def test_what_a_function_must_return():
    with pytest.raises(ValueError, match=r"one number.*\(3,\)"):
        tg.grad(tg.exp)(X)
    with pytest.raises(TypeError, match=r"one number, not a tree; has_aux=True"):
        tg.grad(lambda x: (x, x))(1.0)
    with pytest.raises(TypeError, match="returned float"):
        tg.grad(lambda x: 2.0)(1.0)
    close(tg.grad(lambda x: tg.exp(x)[None])(0.0), 1.0)  # one number, whatever its axes


def test_keywords_are_passed_on():
    def f(x, k=1.0):
        return (x * x * k).sum()

    for transform in (tg.grad, tg.jacobian):
        close(transform(f)(X, k=3.0), 6.0 * X)
    close(tg.hessian(f)(X, k=3.0), 6.0 * np.eye(3))


def test_what_looks_like_the_arguments_is_refused():
    y = tg.sum(tg.tensor(X, requires_grad=True))
    for transform in (tg.grad, tg.value_and_grad, tg.vjp, tg.jacobian, tg.hessian):
        with pytest.raises(TypeError, match=r"takes a function, not Tensor.*tg\.gradients\(y, x\)"):
            transform(y)
    for transform in (tg.grad, tg.value_and_grad, tg.jacobian, tg.hessian):
        for x in (X, tg.tensor(1.0), 1.0):
            with pytest.raises(TypeError, match=r"position.*not .*\(f\)\(x\)"):
                transform(quadratic, x)
    for primals, tangents in ((X, X), (1.0, 1.0), ((X,), X), (tg.tensor(X), (X,))):
        with pytest.raises(TypeError, match=r"tuples.*tg\.jvp\(f, \(x,\), \(v,\)\)"):
            tg.jvp(quadratic, primals, tangents)


# -- laws, on random compositions ----------------------------------------------------------------------
UNARY = [
    tg.sin, tg.tanh, tg.sigmoid, tg.softplus, tg.gelu, tg.silu, tg.erf,
    lambda t: tg.exp(-t * t), lambda t: tg.log1p(t * t), lambda t: t / (1.0 + t * t),
    lambda t: tg.sqrt(1.0 + t * t), tg.softmax, tg.log_softmax, lambda t: tg.flip(tg.cumsum(t)),
    lambda t: A @ t, lambda t: t[[2, 0, 0]] * t[1], lambda t: t - tg.logsumexp(t),
    lambda t: tg.standardise(t, 0.5), lambda t: tg.linear(t, A, X, "gelu"),
]  # fmt: skip
BINARY = [tg.add, tg.subtract, tg.multiply, tg.gaussian_kl, lambda a, b: a / tg.exp(tg.sin(b))]

compositions = st.lists(
    st.tuples(st.sampled_from(UNARY), st.one_of(st.none(), st.sampled_from(BINARY))),
    min_size=1,
    max_size=4,
)
points = st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3).map(np.array)
laws = settings(max_examples=100, derandomize=True)


def composed(steps):
    """Each step applies a function, or joins its result with the value that went in."""

    def f(x):
        y = x
        for unary, binary in steps:
            inner = unary(tg.tanh(y))  # keeps every value within reach
            y = inner if binary is None else binary(inner, tg.tanh(y))
        return y

    return f


@laws
@given(compositions, points, points, points)
def test_jvp_and_vjp_are_transposes(steps, x, u, v):
    f = composed(steps)
    y, pull = tg.vjp(f, x)
    again, tangent = tg.jvp(f, (x,), (v,))
    close(again, y)
    np.testing.assert_allclose(u @ tangent, pull(u)[0] @ v, rtol=1e-9, atol=1e-11)


@laws
@given(compositions, points, points)
def test_the_jacobian_has_the_jvps_as_columns_and_the_vjps_as_rows(steps, x, v):
    f = composed(steps)
    j = tg.jacobian(f)(x)
    np.testing.assert_allclose(tg.jvp(f, (x,), (v,))[1], j @ v, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(tg.vjp(f, x)[1](v)[0], v @ j, rtol=1e-9, atol=1e-11)


@laws
@given(compositions, points, points)
def test_the_hessian_is_symmetric_and_gives_the_hvp(steps, x, v):
    def f(t):
        return (composed(steps)(t) * np.array([1.0, -0.5, 2.0])).sum()

    h = tg.hessian(f)(x)
    scale = 1.0 + np.abs(h).max()
    np.testing.assert_allclose(h, h.T, rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(tg.hvp(f, x, v), h @ v, rtol=0, atol=1e-10 * scale)


@laws
@given(compositions, points, points, points, st.floats(-2, 2))
def test_the_gradient_is_linear_in_the_seed(steps, x, u, v, c):
    _, pull = tg.vjp(composed(steps), x)
    together = pull(u + c * v)[0]
    apart = pull(u)[0] + c * pull(v)[0]
    np.testing.assert_allclose(together, apart, rtol=1e-9, atol=1e-11)


@settings(max_examples=40, derandomize=True)
@given(compositions, points)
def test_compositions_pass_gradcheck(steps, x):
    assert tg.gradcheck(composed(steps), [x], rtol=1e-5)
