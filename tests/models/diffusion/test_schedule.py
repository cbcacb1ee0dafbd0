"""Noise schedules against the papers, Bayes' rule and brute force."""

import re
from itertools import pairwise
from math import pi, sqrt

import numpy
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tests.support.diffusion import DDPM, betas, many, normals, within
from tests.support.on_device import (
    approx,
    np,
    on_cpu,
    special,
    stats,
)
from tinygen.models.diffusion import (
    SCHEDULES,
    NoiseSchedule,
    add_noise,
    cosine_schedule,
    linear_schedule,
    log_normal_schedule,
    sigmoid_schedule,
)


def test_the_linear_schedule_is_that_of_the_paper():
    schedule = linear_schedule(1000)
    assert schedule.T == 1000 and len(schedule.beta) == len(schedule.abar) == 1001
    assert schedule.beta[0] == 0 and schedule.abar[0] == schedule.alpha[0] == 1
    assert schedule.beta[1] == approx(1e-4, rel=1e-12)
    assert schedule.beta[1000] == approx(0.02, rel=1e-12)
    np.testing.assert_allclose(np.diff(schedule.beta[1:]), 0.0199 / 999, rtol=1e-9)
    assert schedule.abar[1000] == approx(4.0358e-5, rel=1e-4)
    assert all(a.dtype == np.float64 for a in (schedule.beta, schedule.alpha, schedule.abar))


@pytest.mark.parametrize("steps", [25, 100, 4000])
def test_the_linear_schedule_ends_in_noise_for_any_length(steps):
    assert linear_schedule(steps).abar[-1] < 1e-4


def test_the_cosine_schedule_is_that_of_the_paper():
    steps = 200
    schedule = cosine_schedule(steps)
    t = np.arange(steps + 1)
    f = np.cos((t / steps + 0.008) / 1.008 * pi / 2) ** 2
    assert len(schedule.abar) == steps + 1
    np.testing.assert_allclose(schedule.abar[:-1], (f / f[0])[:-1], rtol=1e-9)
    assert schedule.beta[-1] == 0.999  # capped
    assert schedule.abar[-1] == approx(0.001 * schedule.abar[-2])


@given(betas)
@many
def test_abar_is_the_product_of_the_alphas(beta):
    schedule = NoiseSchedule(beta)
    assert len(beta) == schedule.T and schedule.abar[0] == 1 and schedule.beta[0] == 0
    product = 1.0
    for t, b in enumerate(beta, start=1):
        product *= 1 - b
        assert schedule.beta[t] == b and schedule.alpha[t] == 1 - b
        assert schedule.abar[t] == approx(product, rel=1e-12)


@pytest.mark.parametrize(
    ("beta", "message"),
    [
        ([0.1, 0.2, 1.0], "β_3 = 1 "),
        ([0.0, 0.1], "β_1 = 0 "),
        ([0.1, -0.5, 2.0], "β_2 = -0.5 "),
        ([0.1, float("nan")], "β_2 = nan "),
        ([], r"\(0,\)"),
        ([[0.1]], r"\(1, 1\)"),
    ],
)
def test_a_schedule_names_the_step_that_is_wrong(beta, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(beta)


@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule])
@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "10"])
def test_a_number_of_steps_is_a_whole_number(make, steps):
    with pytest.raises(ValueError, match=re.escape(repr(steps))):
        make(steps)


@pytest.mark.parametrize("steps", [1, 2, 15, 20])
def test_a_linear_schedule_that_is_too_short_is_refused(steps):
    with pytest.raises(ValueError, match="larger T"):
        linear_schedule(steps)


@given(betas)
@many
def test_single_steps_compose_to_the_closed_form(beta):
    """q(x_t | x_{t-1}) = N(sqrt(1 - β) x_{t-1}, β): mean and variance after t of them."""
    schedule = NoiseSchedule(beta)
    mean, variance = 1.0, 0.0
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    for t, b in enumerate(beta, start=1):
        mean, variance = sqrt(1 - b) * mean, (1 - b) * variance + b
        signal = add_noise(one, zero, schedule.abar[t]).item()
        noise = add_noise(zero, one, schedule.abar[t]).item()
        assert signal == approx(mean, rel=1e-9)
        assert noise**2 == approx(variance, rel=1e-9)


def test_a_chain_of_single_steps_has_the_law_of_the_closed_form():
    beta = [0.1, 0.4, 0.7]
    rng = np.random.default_rng(0)
    x = np.full(40_000, 2.0)
    for b in beta:
        x = sqrt(1 - b) * x + sqrt(b) * rng.normal(size=x.shape)
    abar = NoiseSchedule(beta).abar[3]
    assert within(x, 2 * sqrt(abar)) and within((x - 2 * sqrt(abar)) ** 2, 1 - abar)


def test_noise_is_added_at_the_level_of_each_row_and_in_its_dtype():
    x, noise = normals(3, 2).astype(np.float32), normals(3, 2, seed=1).astype(np.float32)
    abar = np.array([1.0, 0.25, 0.0])
    y = add_noise(x, noise, abar)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y[0], x[0])
    np.testing.assert_allclose(y[1], 0.5 * x[1] + sqrt(0.75) * noise[1], rtol=1e-6)
    np.testing.assert_array_equal(y[2], noise[2])


@given(betas)
@many
def test_the_posterior_is_that_of_bayes_rule(beta):
    """q(x_{t-1} | x_t, x_0) ∝ q(x_t | x_{t-1}) q(x_{t-1} | x_0): precisions add."""
    schedule = NoiseSchedule(beta)
    signal, noise = 1.0, 0.0  # the law of x_{t-1} given x_0
    for t, b in enumerate(beta, start=1):
        if t > 1:
            precision = (1 - b) / b + 1 / noise
            of_x0, of_xt = signal / noise / precision, sqrt(1 - b) / b / precision
            assert schedule.posterior_mean(t) == approx((of_x0, of_xt), rel=1e-8)
            assert schedule.variance("small", t) == approx(1 / precision, rel=1e-8)
        signal, noise = sqrt(1 - b) * signal, (1 - b) * noise + b
        assert schedule.variance("large", t) == b
        assert schedule.variance("small", t) <= b * (1 + 1e-12)
    assert schedule.posterior_mean(1) == approx((1.0, 0.0), abs=1e-12)
    assert schedule.variance("small", 1) == 0


def test_the_posterior_by_brute_force_on_a_grid():
    schedule = NoiseSchedule([0.2, 0.5, 0.3])
    t, x0, xt = 3, 0.7, -0.4
    grid = np.linspace(-8, 8, 20_001)
    weight = stats.norm(sqrt(0.7) * grid, sqrt(0.3)).pdf(xt)
    weight *= stats.norm(sqrt(0.8 * 0.5) * x0, sqrt(1 - 0.8 * 0.5)).pdf(grid)
    weight /= weight.sum()
    mean = (weight * grid).sum()
    a, b = schedule.posterior_mean(t)
    assert a * x0 + b * xt == approx(mean, rel=1e-9)
    variance = (weight * (grid - mean) ** 2).sum()
    assert schedule.variance("small", t) == approx(variance, rel=1e-9)


@given(betas, st.data())
@many
def test_a_jump_is_a_step_of_the_schedule_of_its_times(beta, data):
    """Respaced abar is subsampled abar: the posterior of a jump is one step of the shorter chain."""
    schedule = NoiseSchedule(beta)
    times = data.draw(st.sets(st.integers(1, len(beta)), min_size=1).map(sorted))
    kept = schedule.abar[[0, *times]]
    shorter = NoiseSchedule(1 - kept[1:] / kept[:-1])
    np.testing.assert_allclose(shorter.abar, kept, rtol=1e-9, atol=1e-15)
    for i, (s, t) in enumerate(pairwise([0, *times]), start=1):
        assert schedule.posterior_mean(t, s) == approx(
            shorter.posterior_mean(i), rel=1e-6, abs=1e-9
        )
        for kind in ("small", "large"):
            assert schedule.variance(kind, t, s) == approx(shorter.variance(kind, i), rel=1e-6)


@given(betas)
@many
def test_numbers_for_many_times_are_those_for_each(beta):
    schedule = NoiseSchedule(beta)
    t = on_cpu(np.arange(1, len(beta) + 1))
    each = [schedule.posterior_mean(int(i)) for i in t]
    assert [*zip(*schedule.posterior_mean(t), strict=True)] == each
    for kind in ("small", "large"):
        assert schedule.variance(kind, t).tolist() == [schedule.variance(kind, int(i)) for i in t]


def test_times_are_evenly_spaced_from_the_last_to_the_first():
    schedule = cosine_schedule(1000)
    assert schedule.times() == [*range(1000, 0, -1)]
    assert schedule.times(1) == [1000] and schedule.times(2) == [1000, 1]
    assert schedule.times(4) == [1000, 667, 334, 1]
    for n in (3, 17, 999, 1000):
        times = schedule.times(n)
        assert (len(times), times[0], times[-1]) == (n, 1000, 1)
        steps = -numpy.diff(times)
        assert steps.min() >= 1 and steps.max() - steps.min() <= 1
    assert schedule.pairs([7, 3]) == [(7, 3), (3, 0)]
    assert schedule.pairs(numpy.array([7, 3])) == [(7, 3), (3, 0)]


def test_the_sigmoid_schedule_is_that_of_the_paper():
    """Jabri, Fleet & Chen 2022, algorithm 1 with start -3, end 3, τ 1."""
    steps, sigmoid = 100, special.expit
    t = np.arange(steps + 1) / steps
    gamma = (sigmoid(3.0) - sigmoid(6 * t - 3)) / (sigmoid(3.0) - sigmoid(-3.0))
    schedule = sigmoid_schedule(steps)
    np.testing.assert_allclose(schedule.abar[:-1], gamma[:-1], rtol=1e-9)
    assert schedule.beta[-1] == 0.999


def test_the_log_normal_schedule_has_the_quantiles_of_its_law():
    found = numpy.log(1 / log_normal_schedule(200, mean=1.0, std=1.1).snr[1:]) / 2
    middle = scipy.stats.norm(1.0, 1.1).cdf(found)
    numpy.testing.assert_allclose(middle, (numpy.arange(1, 201) - 0.5) / 200, rtol=1e-9)


@given(st.sampled_from([*SCHEDULES]), st.integers(1, 400))
@many
def test_a_named_schedule_ends_in_noise_for_any_length(name, steps):
    schedule = SCHEDULES[name](max(steps, 21) if name == "linear" else steps)
    assert ((schedule.beta[1:] > 0) & (schedule.beta[1:] < 1)).all()
    assert (np.diff(schedule.abar) < 0).all() and schedule.abar[-1] < 2e-3
    assert np.isfinite(schedule.snr[1:]).all() and schedule.snr[0] == np.inf
    DDPM(1, schedule=schedule, width=4, blocks=1)  # and there is no warning


def test_a_schedule_that_keeps_the_data_is_told():
    """β not rescaled to a small T, as in a well-known small implementation: abar_50 = .6."""
    with pytest.warns(UserWarning, match=r"abar_T = 0\.603: .*larger T"):
        DDPM(1, schedule=NoiseSchedule(numpy.linspace(1e-4, 0.02, 50)), width=4, blocks=1)
