"""Trees of arrays: in and out of every transform."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import NamedTuple

import pytest

from tests.support.on_device import np, tg

pytestmark = pytest.mark.filterwarnings("error")

X, W, B = np.array([0.3, -0.7, 1.1]), np.array([2.0, 0.5, -1.0]), 0.25
U, V = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.1, 4.0])


class Line(NamedTuple):
    weight: object
    bias: object


def close(found, expected):
    assert not isinstance(found, tg.Tensor)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def value(x, w, b):
    """Its gradient, by hand: (w c, x c, c) with c = cos(x·w + b)."""
    return tg.sin(x @ w + b)


C = np.cos(X @ W + B)
MAKERS = {
    "dict": (lambda w, b: {"w": w, "b": b}, lambda t: (t["w"], t["b"])),
    "list": (lambda w, b: [w, b], tuple),
    "tuple": (lambda w, b: (w, b), tuple),
    "named tuple": (Line, lambda t: (t.weight, t.bias)),
    "nested": (lambda w, b: [None, {"a": [(w,), None]}, b], lambda t: (t[1]["a"][0][0], t[2])),
    "ordered": (lambda w, b: OrderedDict(w=w, b=b), lambda t: (t["w"], t["b"])),
}
kinds = pytest.mark.parametrize(("make", "parts"), MAKERS.values(), ids=MAKERS)


def structure(tree):
    """The tree with its leaves left out."""
    return tg.tree_map(lambda _: "*", tree)


@kinds
def test_a_gradient_is_a_tree_like_its_argument(make, parts):
    def f(t, x):
        return value(x, *parts(t))

    tree = make(W, B)
    found, y = tg.grad(f)(tree, X), tg.value_and_grad(f)(tree, X)[0]
    assert structure(found) == structure(tree) and type(found) is type(tree)
    close(y, np.sin(X @ W + B))
    for g, expected in zip(parts(found), (X * C, C), strict=True):
        close(g, expected)
    of_tree, of_x = tg.grad(f, (0, -1))(tree, X)
    close(of_x, W * C)
    close(parts(of_tree)[0], X * C)


@kinds
def test_jvp_vjp_and_hvp_take_and_return_trees(make, parts):
    def f(t):
        w, b = parts(t)
        return make(w * b, (w * w).sum())

    y, tangent = tg.jvp(f, (make(W, B),), (make(V, 2.0),))
    close(parts(y)[0], W * B)
    close(parts(tangent)[0], V * B + W * 2.0)
    close(parts(tangent)[1], 2 * W @ V)
    y, pull = tg.vjp(f, make(W, B))
    close(parts(y)[1], W @ W)
    for _ in range(2):
        (back,) = pull(make(U, 3.0))
        close(parts(back)[0], U * B + 6.0 * W)
        close(parts(back)[1], U @ W)

    def number(t, x):
        return value(x, *parts(t))

    s = -np.sin(X @ W + B)
    along = tg.hvp(number, make(W, B), make(V, 2.0), X)
    close(parts(along)[0], s * X * (X @ V + 2.0))
    close(parts(along)[1], s * (X @ V + 2.0))


def test_a_jacobian_of_a_tree_has_a_block_for_each_pair_of_leaves():
    def f(t):
        return [t["a"] * t["b"], t["a"].sum()]

    blocks = tg.jacobian(f)({"a": X, "b": B})
    close(blocks[0]["a"], B * np.eye(3))
    close(blocks[0]["b"], X)
    close(blocks[1]["a"], np.ones(3))
    close(blocks[1]["b"], 0.0)
    of_a, of_b = tg.jacobian(lambda a, b: a * b, (0, 1))(X, B)
    close(of_a, B * np.eye(3))
    close(of_b, X)


def test_a_hessian_of_a_tree_has_a_block_for_each_pair_of_leaves():
    def f(t):
        return (t["a"] ** 2).sum() * t["b"]

    blocks = tg.hessian(f)({"a": X, "b": B})
    close(blocks["a"]["a"], 2 * B * np.eye(3))
    close(blocks["a"]["b"], 2 * X)
    close(blocks["b"]["a"], 2 * X)
    close(blocks["b"]["b"], 0.0)
    blocks = tg.hessian(lambda a, b, scale: scale * (a * a).sum() * b, (0, 1))(X, B, scale=0.5)
    close(blocks[0][0], B * np.eye(3))
    close(blocks[0][1], X)


def test_the_gradients_of_a_module_are_like_its_parameters():
    net = tg.nn.Linear(3, 1, rng=0)
    loss = (net(np.ones((2, 3), np.float32)) ** 2).sum()
    found = tg.gradients(loss, net.named_parameters())
    assert list(found) == ["weight", "bias"] and found["weight"].shape == (3, 1)


def test_what_f_returns_beside_the_number():
    def f(x):
        y = x * x
        return y.sum(), {"squares": y, "name": "f", "n": 3}

    (y, aux), g = tg.value_and_grad(f, has_aux=True)(X)
    again, aux_again = tg.grad(f, has_aux=True)(X)
    for found in (g, again):
        close(found, 2 * X)
    close(y, X @ X)
    for other in (aux, aux_again):
        close(other.pop("squares"), X * X)
        assert other == {"name": "f", "n": 3}
    with pytest.raises(TypeError, match=r"has_aux=True the function returns a pair"):
        tg.grad(lambda x: x.sum(), has_aux=True)(X)


def test_what_f_returns_beside_the_number_stays_in_an_outer_graph():
    def outer(w):
        _, aux = tg.grad(lambda x: ((w * x).sum(), w * w), has_aux=True)(X)
        return aux.sum()

    close(tg.grad(outer)(W), 2 * W)


def test_tensors_in_tensors_out():
    x = tg.tensor(X)
    for found in (
        *tg.value_and_grad(lambda x: (x * x).sum())(x), tg.hessian(lambda x: (x * x).sum())(x),
        *tg.jvp(tg.exp, (x,), (X,)), tg.vjp(tg.exp, x)[0], tg.vjp(tg.exp, x)[1](X)[0],
        tg.grad(lambda t: (t["a"] * t["b"]).sum())({"a": x, "b": X})["b"],
    ):  # fmt: skip
        assert isinstance(found, tg.Tensor) and not found.requires_grad


@pytest.mark.cpu_only("CuPy has no numbers of its own, but arrays without axes")
def test_a_number_comes_out_as_in_numpy():
    y, g = tg.value_and_grad(lambda x: x * x)(3.0)
    assert type(y) is type(g) is np.float64
    assert y == 9.0 and g == 6.0


def test_a_result_in_the_graph_of_a_leaf_is_a_tensor():
    w = tg.tensor(W, requires_grad=True)
    g = tg.grad(lambda x: (w * x * x).sum())(X)
    assert isinstance(g, tg.Tensor)
    close(tg.gradients(g.sum(), w).data, 2 * X)


def test_tree_map_goes_by_key_and_not_by_order():
    found = tg.tree_map(lambda p, g: p - g, {"a": 1, "b": 2}, {"b": 20, "a": 10})
    assert found == {"a": -9, "b": -18} and list(found) == ["a", "b"]
    counts = tg.tree_map(lambda n: n + 1, defaultdict(int, a=1))
    assert counts == {"a": 2} and counts["other"] == 0
    moved = tg.jvp(lambda t: t["a"] * t["b"], ({"a": X, "b": W},), ({"b": V, "a": U},))[1]
    close(moved, U * W + X * V)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"a": X}, r"a dict with the keys 'a' in the place of a dict with the keys 'a', 'b'"),
        ([X, X], r"a list of 2 in the place of a dict"),
        (X, r"ndarray in the place of a dict"),
    ],
)
def test_a_tree_of_another_structure_is_refused(tree, says):
    model = {"a": X, "b": X}
    with pytest.raises(ValueError, match=f"tree 1: {says}"):
        tg.tree_map(lambda a, b: a, model, tree)
    with pytest.raises(ValueError, match=f"the tangents of jvp: {says}"):
        tg.jvp(lambda t: t["a"], (model,), (tree,))
    _, pull = tg.vjp(lambda x: {"a": x, "b": x}, X)
    with pytest.raises(ValueError, match=f"v of vjp: {says}"):
        pull(tree)


def test_v_has_the_shapes_of_the_outputs():
    _, pull = tg.vjp(lambda x: [x, x.sum()], X)
    with pytest.raises(ValueError, match=r"v 1 has shape \(3,\), its output has \(\)"):
        pull([X, X])


def test_what_is_not_a_number_is_not_a_leaf():
    with pytest.raises(TypeError, match="numbers"):
        tg.grad(lambda t: t["x"].sum())({"x": X, "name": "f"})
