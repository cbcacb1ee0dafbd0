"""Long loops in parts: the same bits, whoever computes which part."""

from __future__ import annotations

import numpy as np
import pytest

import tinygen as tg
from tinygen.kernels import dispatch, philox, pool

pytestmark = [
    pytest.mark.cpu_only("threads of the CPU"),
    pytest.mark.skipif(
        dispatch.native() is None or pool.table() is None, reason="no compiler, or no pool"
    ),
]

rng = np.random.default_rng(0)
X = rng.normal(size=(300, 257)).astype(np.float32)
NUMBERS = (1, 2, 3, 5)  # of threads


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = tg.get_threads()
    yield
    tg.set_threads(before)


def each(function):
    """What the function returns on different numbers of threads, as bytes."""
    found = []
    for n in NUMBERS:
        tg.set_threads(n)
        found.append([np.asarray(x).tobytes() for x in function()])
    return found


def sums(m, x):
    """All roles of a loop: full, row, column, total, and a phase after the sum of a row."""
    y = m.exp(0.1 * x)
    share = y / m.sum(y, axis=1, keepdims=True)
    return share, m.sum(share * x, axis=0), m.sum(y * y), m.sum(x > 0, axis=0), 2.0 * x + 1.0


def test_a_program_has_the_same_bits_for_every_number_of_threads():
    step = tg.compile(lambda x: sums(tg, tg.tensor(x)))
    step(X)
    assert step._made  # two recordings are compared before the program is kept
    found = each(lambda: [t.data for t in step(X)])
    assert found.count(found[0]) == len(found)
    for got, exact in zip(step(X), sums(np, X.astype(np.float64)), strict=True):
        np.testing.assert_allclose(got.data, exact, rtol=2e-6)


def test_its_loops_are_cut(monkeypatch):
    texts = []
    native = pytest.importorskip("tinygen.compile.native")
    compiled = native.compiled
    monkeypatch.setattr(
        native,
        "compiled",
        lambda kind, text, load: texts.append(text) or compiled(kind, text, load),
    )
    step = tg.compile(lambda x: sums(tg, tg.tensor(x)))
    step(X), step(X[:2, :3])
    assert len(texts) == 2
    long, short = texts
    assert "in_parts(call, 8, 300," in long
    assert "in_parts(call, 1, 2," in short
    assert not any(f"in_parts(call, {n}, 2" in short for n in range(2, 9))


@pytest.mark.parametrize("shape", [(300, 257), (1, 77_100), (77_100, 1), (0, 5), (3, 0)])
def test_every_element_is_computed_once(shape):
    """Also in a single row, where the loop over its elements is the one to be cut."""
    x = rng.integers(-9, 9, shape).astype(np.float32)
    step = tg.compile(
        lambda x: (tg.tensor(x) * 2.0 + 1.0, tg.sum(tg.tensor(x)), tg.sum(tg.tensor(x), axis=0))
    )
    for n in NUMBERS:
        tg.set_threads(n)
        y, total, columns = step(x)
        np.testing.assert_array_equal(y.data, x * 2 + 1)
        assert total.item() == x.sum()
        np.testing.assert_array_equal(columns.data, x.sum(axis=0))


def test_kernels_have_the_same_bits_for_every_number_of_threads_and_those_of_their_definitions():
    n, float32 = X.size, np.dtype(np.float32)
    bias = np.linspace(-1, 1, X.shape[1], dtype=np.float32)

    def of_all():
        stream = tg.random.Generator(3)
        z, u = stream.normal(X.shape), stream.uniform((n,))
        whole = stream.integers(0, 1000, (n,))
        h, b = (tg.tensor(a, requires_grad=True) for a in (X, bias))
        w = tg.tensor(np.eye(X.shape[1], dtype=np.float32))
        y = tg.ops.linear(h, w, b, "silu")
        error, entropy = tg.mse(y, z), tg.ops.bce_with_logits(h, u.reshape(X.shape))
        (error + tg.mean(entropy)).backward()
        gradient = h.grad.data.copy()
        tg.optim.Adam({"h": h}, 0.1).step()
        return z, u, whole, y.data, error.data, entropy.data, gradient, h.data

    found = each(of_all)
    assert found.count(found[0]) == len(found)

    z, u, whole, y, error, entropy, gradient, moved = of_all()
    np.testing.assert_allclose(z.ravel(), philox.normal(n, 3, 0, 0, 1, float32), 1e-6, 1e-6)
    np.testing.assert_array_equal(u, philox.uniform(n, 3, 1, 0.0, 1.0, float32))
    np.testing.assert_array_equal(whole, philox.integers(n, 3, 2, 0, 1000))
    exact, zd = X.astype(np.float64), z.astype(np.float64)
    inside = exact + bias
    sigmoid = 1 / (1 + np.exp(-inside))
    np.testing.assert_allclose(y, inside * sigmoid, 1e-5, 1e-6)
    np.testing.assert_allclose(error, np.mean((inside * sigmoid - zd) ** 2), 1e-6)
    u = u.reshape(X.shape)
    np.testing.assert_allclose(entropy, np.logaddexp(0, exact) - exact * u, 1e-5, 1e-6)
    slope = sigmoid * (1 + inside * (1 - sigmoid))
    wanted = 2 * (inside * sigmoid - zd) * slope + 1 / (1 + np.exp(-exact)) - u
    np.testing.assert_allclose(gradient, wanted / n, 1e-4, 1e-9)
    first = gradient / (np.abs(gradient) + 1e-8)  # of Adam's steps
    np.testing.assert_allclose(moved, X - 0.1 * first, 1e-5, 1e-5)
