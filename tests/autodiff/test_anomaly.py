"""Anomaly mode: the operation that made NaN or an infinity, and the line that called it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.on_device import np, tg
from tests.support.tensors import leaf
from tinygen.errors import NonFiniteError


def lineno():
    return sys._getframe(1).f_lineno


def test_anomaly_names_the_operation_and_the_line_that_made_a_nan():
    x = leaf([-1.0, 2.0], name="x")
    with np.errstate(all="ignore"), tg.detect_anomaly(), pytest.raises(NonFiniteError) as caught:
        line = lineno() + 1
        tg.log(x)
    message = str(caught.value)
    assert "log made NaN" in message and "[2]" in message
    assert f"{__file__}:{line}" in message


def test_anomaly_names_the_operation_that_made_an_infinity():
    with np.errstate(all="ignore"), tg.detect_anomaly():
        with pytest.raises(NonFiniteError, match=r"divide made an infinity.*test_anomaly\.py:\d+"):
            leaf(1.0) / 0.0
        (leaf(float("inf")) * 2.0).sum()  # an infinity that was given is not this operation's


def test_anomaly_names_an_input_that_was_nan_before():
    x = leaf([np.nan], name="pixels")
    with (
        tg.detect_anomaly(),
        pytest.raises(NonFiniteError, match=r"input 0 \(pixels\) of exp holds NaN"),
    ):
        tg.exp(x)


def test_anomaly_names_a_derivative_that_makes_an_infinity():
    x = leaf([0.0, 1.0])
    with np.errstate(all="ignore"), tg.detect_anomaly():
        line = lineno() + 1
        y = tg.sqrt(x).sum()
        with pytest.raises(NonFiniteError) as caught:
            y.backward(retain_graph=True)
        with pytest.raises(NonFiniteError, match="infinity"):
            tg.gradients(y, x, create_graph=True)
    message = str(caught.value)
    assert "the derivative of sqrt with respect to input 0 made an infinity" in message
    assert f"{__file__}:{line}" in message


def test_anomaly_is_off_by_default_and_afterwards():
    x = leaf([-1.0])
    for _ in range(2):
        with np.errstate(all="ignore"):
            y = tg.log(x)
            assert np.isnan(y.data).all() and y.node.line == ""
            y.backward()
        with tg.detect_anomaly():
            pass


def test_anomaly_names_an_array_that_was_changed_before_backward():
    x = leaf([1.0, 2.0])

    def changed(part, build):
        with tg.detect_anomaly():
            y, array = build()
            y.backward(retain_graph=True)  # nothing has changed yet
            array[:] = np.array([4.0, 3.0])
            with pytest.raises(
                ValueError, match=rf"{part} was changed .* at .*test_anomaly\.py:\d+"
            ):
                y.backward(retain_graph=True)
            with pytest.raises(ValueError, match="was changed"):
                tg.gradients(y, x, create_graph=True)

    c, w = np.array([3.0, 4.0]), leaf([3.0, 4.0])
    changed("input b of multiply", lambda: ((x * c).sum(), c))
    changed("input b of multiply", lambda: ((x * w).sum(), w.data))
    changed("the output of exp", lambda: ((y := tg.exp(x)).sum(), y.data))
    d = np.array([5.0, 6.0])
    changed("input operands of einsum", lambda: (tg.einsum("i,i->", x, d), d))


def test_the_line_of_a_caller_beside_the_package_is_the_callers(tmp_path):
    """A directory whose name only begins like the package's is the user's."""
    beside = str(Path(tg.__file__).parent) + "_experiments/train.py"
    code = compile("def f():\n    return tg.log(x)\n", beside, "exec")
    scope = {"tg": tg, "x": leaf(-1.0)}
    exec(code, scope)
    reported = pytest.raises(NonFiniteError, match=r"_experiments/train\.py:2")
    with np.errstate(all="ignore"), tg.detect_anomaly(), reported:
        scope["f"]()


def test_a_nan_that_is_masked_is_no_anomaly():
    x = leaf([1.0, 2.0])
    hole = np.array([np.nan, 1.0])
    with tg.detect_anomaly():
        y = tg.sum(tg.where(np.isnan(hole), x, hole))
    assert y.item() == 2.0
