"""Score, Langevin dynamics and likelihood against the density of a mixture."""

import re
from math import log, sqrt

import numpy
import pytest
import scipy.special
import scipy.stats

from tests.support.diffusion import (
    GAUSSIAN,
    THREE,
    TWO,
    Mixture,
    any_target,
    check_samples,
    diffusion,
    even,
    half,
    normals_on_cpu,
    within,
)
from tests.support.on_device import (
    approx,
    np,
    on_cpu,
    placed,
    tg,
)
from tinygen.models.diffusion import (
    SCHEDULES,
    TARGETS,
    NoiseSchedule,
    annealed_langevin,
    cosine_schedule,
    langevin,
    ode_log_likelihood,
    score,
)
from tinygen.random import Generator


def test_annealed_langevin_reproduces_a_mixture():
    """With steps of a third of the variance the modes come out a little wide."""
    model = TWO.model(even(40))
    x = annealed_langevin(
        model, 2000, sampling_steps=40, corrector_steps=8, size=0.3, rng=Generator(2)
    )
    assert x.dtype == np.float32 and x.shape == (2000, 1)
    check_samples(x, TWO, std=0.2, p=0.0)


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_annealed_langevin_of_normal_data_has_their_variance(make):
    """N(0, 1) is wide beside the noise of the last times, whose steps hardly move it."""
    model = Mixture([[0.0]], 1.0).model(make(200), predict="noise")
    x = on_cpu(annealed_langevin(model, 20_000, rng=Generator(3)))
    assert x.var() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        (cosine_schedule(3), {}),
        (even(40), {"sampling_steps": 5}),
        (even(40), {"sampling_steps": [40, 20, 1]}),
    ],
)
def test_annealed_langevin_says_where_its_steps_cannot_follow(schedule, options):
    model = Mixture([[0.0]], 1.0).model(schedule, predict="noise")
    with pytest.warns(UserWarning, match="data N.0, 1. would come out with variance") as told:
        x = annealed_langevin(model, 20_000, rng=Generator(3), **options)
    assert told[0].filename == __file__
    expected = float(re.search(r"variance (\S+);", str(told[0].message))[1])
    assert abs(expected - 1) > 0.1
    assert on_cpu(x).var() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("size", [0.0, -0.1, 2.0, float("nan")])
def test_a_size_of_langevin_steps_is_one_that_does_not_diverge(size):
    with pytest.raises(ValueError, match=f"between 0 and 2, not {size}"):
        annealed_langevin(TWO.model(even(5)), 3, size=size)


@any_target
@pytest.mark.parametrize("t", [1, 10, 20])
def test_the_score_is_that_of_the_mixture(predict, t):
    """∇ log q(x_t), by differences of the log density."""
    model = THREE.model(even(20), predict=predict)
    x, h = 1.5 * normals_on_cpu(40, 2), 1e-5
    abar = model.schedule.abar[t]
    expected = numpy.stack(
        [
            (THREE.log_density(x + h * e, abar) - THREE.log_density(x - h * e, abar)) / (2 * h)
            for e in numpy.eye(2)
        ],
        axis=1,
    )
    np.testing.assert_allclose(score(model, placed(x), t), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", [0.1, 0.5, np.float64(1.2)])
def test_langevin_dynamics_has_the_law_of_its_autoregression(step):
    """On N(0, s²), x ← (1 - h/s²) x + sqrt(2h) z has the variance s²/(1 - h/(2 s²)) in the end,
    and from x_0 = 0 it approaches that as (1 - h/s²)^(2 n)."""
    n, s2 = 20_000, 0.8
    x = np.zeros((n, 1), np.float32)
    for steps in (1, 4, 60):
        y = langevin(lambda x: -x / np.float32(s2), x, step, steps, Generator(steps))
        assert y.dtype == np.float32
        end = s2 / (1 - step / (2 * s2))
        variance = end * (1 - (1 - step / s2) ** (2 * steps))
        assert within(y, 0) and within(y**2, variance)
    np.testing.assert_array_equal(langevin(None, x, 0.1, 0, None), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0.0}, "above 0, not 0"),
        ({"step": float("nan")}, "nan"),
        ({"n": -1}, "Langevin steps.*-1"),
        ({"n": 1.5}, "1.5"),
    ],
)
def test_langevin_steps_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        langevin(lambda x: -x, np.zeros((2, 1)), **{"step": 0.1, "n": 3, "rng": None, **options})


@pytest.mark.parametrize(
    ("mixture", "predict"),
    [(GAUSSIAN, "velocity"), (THREE, "velocity"), *((TWO, target) for target in (*TARGETS, half))],
)
def test_the_likelihood_by_the_flow_is_the_density_of_the_mixture(mixture, predict):
    """At the noise of t = 1, with the exact divergence; in the units of the data."""
    model = mixture.model(even(30, -9.0, 2.0), predict=predict)
    model.shift.data[...], model.scale.data[...] = 3.0, 2.0
    x = mixture.samples(30, seed=1)
    noise = sqrt(1 / model.schedule.snr[1])
    d = x.shape[1]
    expected = mixture.log_density(x, noise=noise) - d * log(2)
    found = ode_log_likelihood(model, placed((3 + 2 * x).astype(np.float32)), rtol=1e-5)
    assert found.dtype == np.float64 and type(found) is numpy.ndarray
    np.testing.assert_allclose(found, expected, atol=3e-3)


def test_bounded_data_have_the_density_of_their_own_units():
    model = Mixture([[0.2]], 0.04).model(even(30, -9.0, 2.0), predict="noise")
    inside = diffusion(model.schedule.beta[1:], predict="noise", bounded=True)
    inside.network, inside.held = model.network, tg.tensor(0.0)  # a model is where its arrays are
    x = np.array([[0.5], [0.6]], np.float32)
    np.testing.assert_allclose(
        ode_log_likelihood(inside, x), ode_log_likelihood(model, 2 * x - 1) + log(2), atol=1e-3
    )


def test_the_estimated_divergence_is_unbiased():
    """Above 16 features one probe: over many, the mean is the density of a correlated Gaussian."""
    d = 17
    mix = normals_on_cpu(d, d, seed=3) / sqrt(d)
    mixture = Mixture([0.3 * numpy.ones(d)], mix @ mix.T + 0.1 * numpy.eye(d))
    model = mixture.model(even(15, -6.0, 1.0))
    x = numpy.repeat(mixture.samples(1), 400, axis=0)
    found = ode_log_likelihood(model, placed(x.astype(np.float32)), rng=Generator(0))
    expected = mixture.log_density(x[:1], noise=sqrt(1 / model.schedule.snr[1]))[0]
    assert found.std() > 0.1  # an estimate
    assert within(found, expected)


def test_a_flow_without_length_is_the_prior():
    """T = 1: the noise of the first time is that of the last."""
    model = Mixture([[0.0]], 1.0).model(NoiseSchedule([1 - 1e-9]))
    x = np.array([[0.5]], np.float32)
    signal = sqrt(model.schedule.abar[1])
    expected = scipy.stats.norm(0, 1 / signal).logpdf(0.5)
    assert ode_log_likelihood(model, x).item() == approx(expected, rel=1e-6)
