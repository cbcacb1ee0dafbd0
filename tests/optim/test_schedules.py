"""Schedules of the learning rate against their formulas."""

from math import cos, pi, sqrt

import pytest

from tests.support.on_device import np
from tinygen.optim import constant, cosine, step_decay, warmup


def test_constant():
    assert [constant(0.3)(step) for step in (0, 1, 10**6)] == [0.3] * 3


def test_cosine_values():
    rate = cosine(0.8, 100, 0.2)
    assert rate(0) == 0.8
    assert rate(50) == pytest.approx(0.5, rel=1e-14)
    assert rate(25) == pytest.approx(0.2 + 0.3 * (1 + sqrt(0.5)), rel=1e-14)
    assert rate(33) == pytest.approx(0.2 + 0.3 * (1 + cos(0.33 * pi)), rel=1e-14)
    assert rate(99) > 0.2
    assert rate(100) == rate(101) == rate(10**9) == pytest.approx(0.2, rel=1e-14)
    assert cosine(1.0, 7)(7) == pytest.approx(0, abs=1e-16)
    falling = [rate(step) for step in range(101)]
    assert falling == sorted(falling, reverse=True)


def test_step_decay_values():
    rate = step_decay(0.5, 10, 0.2)
    expected = [0.5] * 10 + [0.1] * 10 + [0.02] * 2
    np.testing.assert_allclose([rate(step) for step in range(22)], expected, rtol=1e-14)
    assert step_decay(1.0, 1)(3) == pytest.approx(1e-3)


def test_warmup_values():
    rate = warmup(constant(0.4), 4)
    np.testing.assert_allclose([rate(s) for s in range(6)], [0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert warmup(constant(0.4), 0)(0) == 0.4 == warmup(constant(0.4), 1)(0)
    inner = cosine(1.0, 10)
    rate = warmup(inner, 5)
    for step in range(12):  # the schedule beneath is not delayed
        assert rate(step) == pytest.approx(inner(step) * min((step + 1) / 5, 1), rel=1e-14)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cosine(0.1, 0), "steps.*0"),
        (lambda: step_decay(0.1, 0), "every.*0"),
        (lambda: warmup(constant(0.1), -3), "steps.*-3"),
    ],
)
def test_schedules_name_bad_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()
