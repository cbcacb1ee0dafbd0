"""tg.scipy.minimize, and scipy.optimize itself with tinygen's transforms."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from scipy import optimize

import tinygen as tg

pytestmark = pytest.mark.cpu_only("SciPy computes on the CPU")

rng = np.random.default_rng(0)
ROWS, WEIGHT, BIAS = rng.normal(size=(40, 3)), np.array([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]]), 0.7
TARGETS = ROWS @ WEIGHT + BIAS
START = np.array([-1.2, 1.0, 0.8, -0.5])


class Line(NamedTuple):
    weight: object
    bias: object


def rosenbrock(x):
    """It has a local minimum near (-0.78, 0.61, ...) besides the one at ones."""
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


def squares(line, x, y):
    return tg.mse(x @ line.weight + line.bias, y)


# -- SciPy's own functions -------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {"jac": tg.grad(rosenbrock)},
        {"jac": tg.grad(rosenbrock), "method": "L-BFGS-B", "tol": 1e-10},
        {"jac": tg.grad(rosenbrock), "hess": tg.hessian(rosenbrock), "method": "trust-exact"},
        {"jac": tg.grad(rosenbrock), "hessp": partial(tg.hvp, rosenbrock), "method": "Newton-CG"},
    ],
    ids=["BFGS", "L-BFGS-B", "trust-exact", "Newton-CG"],
)
def test_scipy_takes_transforms_as_they_are(options):
    found = optimize.minimize(rosenbrock, np.full(5, 0.9), **options)
    np.testing.assert_allclose(found.x, np.ones(5), rtol=1e-4)


def test_scipy_takes_value_and_gradient_in_one():
    f = tg.value_and_grad(rosenbrock)
    found = optimize.minimize(f, np.full(5, 0.9), jac=True)
    np.testing.assert_allclose(found.x, np.ones(5), rtol=1e-5)


def test_root_and_least_squares_take_the_jacobian():
    def f(x):
        return tg.stack([x[0] * x[1] - 6.0, x[0] - x[1] - 1.0])

    for solve in (optimize.root, optimize.least_squares):
        found = solve(f, np.array([1.0, 1.0]), jac=tg.jacobian(f))
        np.testing.assert_allclose(found.x, [3.0, 2.0], rtol=1e-7)


# -- tg.scipy.minimize -----------------------------------------------------------------------------
METHODS = [
    "Nelder-Mead", "Powell", "CG", "BFGS", "L-BFGS-B", "TNC", "SLSQP", "Newton-CG", "trust-ncg",
    "trust-krylov", "trust-constr", "dogleg", "trust-exact", "COBYLA", None,
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gets_what_it_uses_and_nothing_else(method):
    """A convex function of a tree; SciPy warns of derivatives that a method does not use."""

    def f(t, k):
        return k * ((t["a"] - 1.0) ** 2).sum() + (t["b"] + t["a"].sum() - 5.0) ** 2

    found = tg.scipy.minimize(f, {"a": np.zeros((1, 2)), "b": 0.5}, (3.0,), method, tol=1e-8)
    assert list(found.x) == ["a", "b"] and found.x["a"].shape == (1, 2)
    np.testing.assert_allclose(found.x["a"], [[1.0, 1.0]], atol=1e-3)
    np.testing.assert_allclose(found.x["b"], 3.0, atol=1e-3)
    assert found.fun == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("method", ["BFGS", "Newton-CG", "trust-exact"])
@pytest.mark.parametrize("compile", [False, True])
def test_a_tree_is_fitted_to_the_exact_answer(method, compile):
    start = Line(np.zeros((3, 2)), 0.0)
    found = tg.scipy.minimize(squares, start, (ROWS, TARGETS), method, compile=compile, tol=1e-9)
    assert type(found.x) is Line
    np.testing.assert_allclose(found.x.weight, WEIGHT, atol=1e-6)
    np.testing.assert_allclose(found.x.bias, BIAS, atol=1e-6)


def test_a_vector_takes_the_same_way_as_in_scipy():
    ours = tg.scipy.minimize(rosenbrock, START, method="BFGS")
    theirs = optimize.minimize(rosenbrock, START, method="BFGS", jac=tg.grad(rosenbrock))
    assert ours.nit == theirs.nit and ours.nfev == theirs.nfev
    np.testing.assert_array_equal(ours.x, theirs.x)
    np.testing.assert_array_equal(ours.hess_inv, theirs.hess_inv)


def test_the_result_is_of_the_kinds_and_dtypes_that_x0_has():
    seen = set()

    def f(x):
        seen.update(leaf.dtype for leaf in x.values())
        return sum(((leaf - 2.0) ** 2).sum() for leaf in x.values())

    x0 = {
        "tensor": tg.tensor(np.zeros(2, np.float32), requires_grad=True), "number": 1,
        "half": np.zeros(3, np.float32), "whole": np.array([1, 2]),
    }  # fmt: skip
    x = tg.scipy.minimize(f, x0).x
    assert seen == {np.dtype(float)}
    assert isinstance(x["tensor"], tg.Tensor) and not x["tensor"].requires_grad
    assert x["tensor"].dtype == x["half"].dtype == np.float32
    assert type(x["number"]) is np.float64 and x["whole"].dtype == np.float64
    for leaf in (x["tensor"].numpy(), x["number"], x["half"], x["whole"]):
        np.testing.assert_allclose(leaf, 2.0, atol=1e-5)
    assert x0["number"] == 1 and x0["whole"].tolist() == [1, 2] and x0["tensor"].grad is None


@pytest.mark.parametrize("method", ["BFGS", "Nelder-Mead", "trust-constr", "SLSQP"])
def test_a_callback_sees_x_as_a_tree(method):
    seen = []

    def callback(x, *state):
        seen.append((x["a"].shape, float(x["b"])))

    x0 = {"a": np.zeros(2), "b": 3.0}
    found = tg.scipy.minimize(
        lambda t: (t["a"] ** 2).sum() + t["b"] ** 2, x0, method=method, callback=callback
    )
    assert len(seen) >= found.nit - 1 > 0 and {shape for shape, _ in seen} == {(2,)}


def test_bounds_are_those_of_the_leaves_in_order():
    found = tg.scipy.minimize(
        lambda t: ((t[0] - 3.0) ** 2).sum() + (t[1] + 1.0) ** 2, [np.zeros(2), 1.0],
        bounds=[(None, 2.0), (None, None), (0.0, None)],
    )  # fmt: skip
    np.testing.assert_allclose(found.x[0], [2.0, 3.0], atol=1e-6)
    np.testing.assert_allclose(found.x[1], 0.0, atol=1e-6)


def test_a_function_of_several_numbers_is_refused():
    with pytest.raises(ValueError, match=r"one number, this returns \(4,\)"):
        tg.scipy.minimize(lambda x: x * x, START)


def test_tinygen_finds_it_when_asked_and_imports_no_optimiser_before():
    code = (
        "import sys, tinygen as tg; assert 'tinygen.scipy' not in sys.modules; tg.scipy.minimize; "
        "assert 'scipy.optimize' not in sys.modules; tg.nothing"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "module 'tinygen' has no attribute 'nothing'" in ran.stderr
