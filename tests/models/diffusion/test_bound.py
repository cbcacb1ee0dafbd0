"""The variational bound against closed forms."""

from math import log, pi, sqrt

import numpy
import pytest
import scipy.special
import scipy.stats

from tests.support.diffusion import (
    BOUND,
    DDPM,
    GAUSSIAN,
    MEAN,
    STD,
    diffusion,
    rows,
    true_variance,
    within,
)
from tests.support.on_device import (
    approx,
    np,
    placed,
    tg,
)
from tinygen.models.diffusion import (
    NoiseSchedule,
    variational_bound,
)
from tinygen.random import Generator


def bound_of(x, schedule, variance):
    """Prior, steps and decoder of the perfect model at one normalised x, in closed form."""
    abar, t = schedule.abar[1:], numpy.arange(1, schedule.T + 1)
    v = abar * STD**2 + 1 - abar
    error = ((1 - abar) ** 2 * (x - MEAN) ** 2 + STD**4 * abar * (1 - abar)) / v**2
    on_x0, small = schedule.posterior_mean(t)[0], schedule.variance("small", t)
    last = abar[-1]
    prior = 0.5 * (last * x**2 - last - numpy.log1p(-last))
    steps = 0.5 * (
        numpy.log(variance[1:] / small[1:]) + (small + on_x0**2 * error)[1:] / variance[1:] - 1
    )
    decoder = 0.5 * (log(2 * pi * variance[0]) + error[0] / variance[0])
    return prior, steps, decoder


@pytest.mark.parametrize("variance", ["true", "small", "large", "twice"])
@pytest.mark.parametrize("steps", BOUND)
def test_the_bound_is_exact_with_the_true_reverse_kernels_and_a_bound_with_others(steps, variance):
    """Term by term; with the true kernels it is -log p(x) for every T, and for every x. With others
    the model has another law, and the bound is above in the mean over the data."""
    schedule = NoiseSchedule(BOUND[steps])
    if variance in ("small", "large"):
        chosen = variance
        used = schedule.variance(variance, numpy.arange(1, steps + 1))
        if variance == "small":
            used[0] = used[1] if steps > 1 else schedule.beta[1]
    else:
        used = numpy.array(true_variance(schedule)) * (2 if variance == "twice" else 1)
        chosen, used = used.tolist(), used[1:]
    model = GAUSSIAN.model(schedule, variance=chosen)
    model.shift.data[...], model.scale.data[...] = 3.0, 2.0  # of the data's units
    above = []
    for x in (MEAN - STD, MEAN + STD, -1.3):
        data = placed(numpy.full((6000, 1), 3 + 2 * x, numpy.float32))
        found = variational_bound(model, data, rng=Generator(1))
        prior, terms, decoder = bound_of(x, schedule, used)
        decoder = decoder + log(2)  # a density of data, two units to one
        assert found.steps.shape == (6000, steps - 1)
        np.testing.assert_allclose(found.prior, prior, rtol=1e-5, atol=1e-8)
        for t in range(2, steps + 1):
            assert within(found.steps[:, t - 2], terms[t - 2], rounding=1e-6)
        assert within(found.decoder, decoder, rounding=1e-6)
        nats = -scipy.stats.norm(MEAN, STD).logpdf(x) + log(2)
        total = prior + terms.sum() + decoder
        assert within(found.total, total, rounding=1e-6)
        above.append(total - nats)
    if variance == "true":
        assert above == pytest.approx([0.0] * 3, abs=1e-6)
    else:
        assert sum(above[:2]) > 1e-3  # the mean of a quadratic function over the data


@pytest.mark.parametrize("beta", [[0.01], [0.3, 0.4], [0.5, 0.9, 0.99]])
def test_the_prior_of_the_bound_is_what_is_left_of_the_data(beta):
    """KL(N(sqrt(abar_T) x, 1 - abar_T) ‖ N(0, 1)), summed over features."""
    abar, x = numpy.prod(1 - numpy.array(beta)), numpy.array([[0.5, -1.0], [2.0, 0.0]])
    model = diffusion(beta, lambda x, t, s: 0 * x, features=2)
    found = variational_bound(model, placed(x)).prior
    kl = 0.5 * (abar * x**2 + (1 - abar) - 1 - log(1 - abar))
    np.testing.assert_allclose(found, kl.sum(axis=1), rtol=1e-5)


def test_nats_and_bits_are_sums_of_the_terms():
    model = DDPM(3, T=4, schedule="cosine", width=4, blocks=1)
    found = variational_bound(model, rows(1001, 3), rng=Generator(0))  # more than go at a time
    assert found.prior.shape == found.decoder.shape == (1001,) and found.steps.shape == (1001, 3)
    assert all(type(a) is numpy.ndarray and a.dtype == np.float64 for a in vars(found).values())
    assert (found.prior >= 0).all() and (found.steps >= 0).all() and (found.decoder >= 0).all()
    np.testing.assert_allclose(found.total, found.prior + found.steps.sum(1) + found.decoder)
    assert found.bits_per_dimension(3) == approx(found.total.mean() / 3 / log(2))


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("variance", ["small", "large", "learned", [0, 1e-6, 0.1, 0.1]])
def test_the_decoder_is_a_law_over_the_grey_levels(levels, variance):
    """A network that does not look gives one law of x_0, and the bound the probability of each level."""
    model = DDPM(1, T=3, variance=variance, predict="data", width=4, blocks=1)
    said = numpy.array([[0.3, 0.5] if variance == "learned" else [0.3]], numpy.float32)
    model.network = lambda x, t: tg.Tensor(placed(numpy.repeat(said, len(x), axis=0)))
    x = placed((numpy.arange(levels)[:, None] / (levels - 1)).astype(np.float32))
    found = variational_bound(model, x, levels=levels)
    assert numpy.exp(-found.decoder).sum() == pytest.approx(1, abs=1e-5)
    if variance == "large":  # and it is that of the normal distribution around the estimate
        step = 2 / (levels - 1)
        edges = numpy.r_[-numpy.inf, numpy.arange(1, levels) * step - 1 - step / 2, numpy.inf]
        law = numpy.diff(scipy.stats.norm(0.3, sqrt(model.schedule.beta[1])).cdf(edges))
        np.testing.assert_allclose(numpy.exp(-found.decoder), law, rtol=1e-3, atol=1e-6)


def test_the_bound_takes_the_levels_of_the_training_data():
    model = DDPM(2, T=3, width=4, blocks=1)
    x = placed((numpy.random.default_rng(0).integers(0, 5, (50, 2)) / 4).astype(np.float32))
    default, fine, five = (
        variational_bound(model, x, levels=n, rng=Generator(0)).decoder for n in (None, 256, 5)
    )
    np.testing.assert_array_equal(default, fine)
    model.prepare(x)
    np.testing.assert_array_equal(variational_bound(model, x, rng=Generator(0)).decoder, five)
    assert not np.array_equal(five, fine)


def test_a_variance_of_zero_has_no_bound():
    model = DDPM(1, T=3, variance=[0.0] * 4, width=4, blocks=1)
    assert np.isfinite(model.sample(3)).all()
    with pytest.raises(ValueError, match="above 0"):
        variational_bound(model, rows(2, 1))
