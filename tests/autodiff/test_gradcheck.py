"""The checks of derivatives find what is wrong, and nothing else."""

from __future__ import annotations

import pytest

from tests.support.on_device import np, tg
from tests.support.tensors import temporary_operation


def test_gradcheck_finds_wrong_derivatives():
    def wrong_sign(x):
        return x * 2.0 - (x * 1.0).detach() * 0.5  # the second term is not seen by backward

    assert tg.gradcheck(lambda x: x * 2.0, [np.ones(2)])
    with pytest.raises(AssertionError, match=r"wrong_sign.*input 0 at \(0,\)"):
        tg.gradcheck(wrong_sign, [np.ones(2)])
    with pytest.raises(AssertionError, match="input 1"):
        tg.gradcheck(lambda a, b: a * b.detach(), [np.ones(2), np.ones(2)])


def test_gradgradcheck_finds_wrong_second_derivatives():
    # Right at first order, but the derivative itself does not depend on x where it should.
    with (
        temporary_operation(
            "half_right",
            lambda m, x: x * x,
            x=lambda g, x: 2.0 * g * (x.data if isinstance(x, tg.Tensor) else x),
        ) as f,
        pytest.raises(AssertionError, match="the gradient of"),
    ):
        tg.gradgradcheck(f, [np.array([1.0, 2.0])])


def test_gradcheck_takes_functions_that_depend_on_nothing():
    assert tg.gradcheck(lambda x: tg.ones_like(x), [np.ones(2)])
    assert tg.gradgradcheck(lambda x: x * 2.0, [np.ones(2)])
    assert tg.gradcheck(lambda x, n: x[n], [np.ones(3), 1])


def test_gradcheck_needs_something_to_check():
    with pytest.raises(ValueError, match="floating-point"):
        tg.gradcheck(tg.square, [np.array([1, 2])])


def test_gradgradcheck_sees_a_wrong_first_derivative():
    """Differences of the wrong gradient would agree with its own derivative."""
    with temporary_operation("wrong", lambda m, x: x * x, x=lambda g, x: 17.0 * g * x) as f:
        with pytest.raises(AssertionError, match="wrong"):
            tg.gradgradcheck(f, [np.array([0.5])])
