"""The variance of a reverse step, given or learned, against exact answers."""

from math import log, pi

import numpy
import pytest

from tests.support.diffusion import BETAS, DDPM, GAUSSIAN, mean_errors, rows, true_variance, within
from tests.support.on_device import (
    approx,
    np,
    on_cpu,
    placed,
    tg,
)
from tinygen.models.diffusion import (
    TARGETS,
    NoiseSchedule,
    variational_bound,
)
from tinygen.random import Generator


@pytest.mark.parametrize("predict", TARGETS)
def test_a_learned_variance_is_that_of_clipped_estimates(predict):
    """The estimate of x_0 of all rows is far outside; as it would be at the end of the range."""
    x = rows(6, 2)
    model = DDPM(2, width=4, blocks=1, schedule=NoiseSchedule([0.3, 0.99]), predict=predict,
                 variance="learned")  # fmt: skip
    a, s = (numpy.sqrt(v) for v in (model.schedule.abar, 1 - model.schedule.abar))
    bounds = []
    for x0 in (1.0, 50.0):

        def network(xt, t, x0=x0):
            a_t, s_t = (v[on_cpu(t)][:, None] for v in (a, s))
            u, v = TARGETS[predict](a_t, s_t)
            prediction = u * x0 + v * (on_cpu(xt) - a_t * x0) / s_t
            both = numpy.concatenate([prediction, 0 * prediction], axis=1)
            return tg.Tensor(placed(both.astype(numpy.float32)))

        model.held, model.network = tg.tensor(0.0), network
        bounds.append(model.loss(x, rng=Generator(0))["bound"].item())
    assert bounds[0] == approx(bounds[1], rel=1e-3)


@pytest.mark.parametrize(
    "variance", [[0.1] * 3, [0.1, 0.1, -0.1, 0.1], [0.1, float("nan"), 0.1, 0.1], [[0.1] * 4], 3.0]
)
def test_variances_that_do_not_fit_are_refused(variance):
    with pytest.raises(ValueError, match="4 finite numbers from 0"):
        DDPM(1, T=3, variance=variance, width=4, blocks=1)


def test_given_variances_are_of_single_steps():
    model = DDPM(1, T=3, variance=[0.1] * 4, width=4, blocks=1)
    with pytest.raises(ValueError, match="a step from 3 to 1"):
        model.sample(2, sampler="ddpm", sampling_steps=[3, 1])
    assert model.sample(2, sampling_steps=[3, 1], sampler="ddim").shape == (2, 1)


def learning(schedule, share):
    """The perfect model of the Gaussian data, with `share(t)` for its learned variance."""
    model = GAUSSIAN.model(schedule, variance="learned")
    network = model.network
    model.network = lambda x, t: tg.concatenate(
        [network(x, t), share(t) + 0 * network(x, t)], axis=1
    )
    return model


@pytest.mark.parametrize("share", [-1.0, 0.4, 1.0])
def test_the_loss_of_a_learned_variance_is_the_bound(share):
    """T · one random term is the sum of all terms, in the mean; the prior has nothing to learn."""
    schedule = NoiseSchedule([0.1, 0.3, 0.6, 0.99])
    t = numpy.arange(1, 5)
    small, large = (schedule.variance(kind, t) for kind in ("small", "large"))
    small[0] = small[1]
    used = numpy.exp(numpy.log(small) + (share + 1) / 2 * numpy.log(large / small))
    spread = schedule.variance("small", t) + schedule.posterior_mean(t)[0] ** 2 * mean_errors(
        schedule
    )
    expected = 0.5 * (numpy.log(used) + spread / used)
    expected[0] += 0.5 * log(2 * pi)
    expected[1:] -= 0.5 * (1 + numpy.log(schedule.variance("small", t[1:])))
    model = learning(schedule, lambda t: share)
    terms = [
        model.loss(placed(GAUSSIAN.samples(2000, seed).astype(numpy.float32)), rng=Generator(seed))
        for seed in range(30)
    ]
    assert within([each["bound"].item() for each in terms], expected.sum())
    plain = GAUSSIAN.model(schedule)
    x = placed(GAUSSIAN.samples(2000, 0).astype(numpy.float32))
    error = plain.loss(x, rng=Generator(0))["loss"].item()
    assert terms[0]["loss"].item() == pytest.approx(
        error + 1e-3 * terms[0]["bound"].item(), rel=1e-4
    )
    x = placed(GAUSSIAN.samples(8000, 1).astype(numpy.float32))
    model = learning(schedule, lambda t: share)
    found = variational_bound(model, x, rng=Generator(2))
    assert within(found.steps.sum(1) + found.decoder, expected.sum())


def test_the_best_variance_lies_between_the_limits_and_is_found():
    """For Gaussian data it is the true 1/(α_t/β_t + 1/v_{t-1}), found by descent on the loss."""
    schedule = NoiseSchedule([0.2, 0.3, 0.5, 0.9])
    shares = tg.tensor(placed(numpy.zeros((5, 1), np.float32)), requires_grad=True)
    model = learning(schedule, lambda t: shares[t])
    adam, rng = tg.optim.Adam({"shares": shares}, lambda i: 0.1 * 0.98**i), Generator(0)
    for i in range(200):
        x = placed(GAUSSIAN.samples(300, i).astype(numpy.float32))
        adam.zero_grad()
        model.loss(x, rng=rng)["bound"].backward()
        adam.step()
    found = on_cpu(shares.data)[1:, 0]
    small, large = (schedule.variance(k, numpy.arange(2, 5)) for k in ("small", "large"))
    best = numpy.array(true_variance(schedule))[2:]
    assert (small < best).all() and (best < large).all()
    share = numpy.log(best / small) / numpy.log(large / small)
    np.testing.assert_allclose((found[1:] + 1) / 2, share, atol=0.05)


@pytest.mark.parametrize("times", [None, [20, 11, 10, 3]])
@pytest.mark.parametrize(("share", "kind"), [(-1.0, "small"), (1.0, "large")])
def test_the_ends_of_a_learned_variance_are_the_small_and_the_large_one(share, kind, times):
    model = learning(NoiseSchedule(BETAS), lambda t: share)
    plain = GAUSSIAN.model(NoiseSchedule(BETAS), variance=kind)
    found, expected = (
        m.sample(50, sampler="ddpm", sampling_steps=times, rng=Generator(2)) for m in (model, plain)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for sampler in ("ddim", "dpm-solver"):
        found, expected = (
            m.sample(50, sampler=sampler, sampling_steps=times, rng=Generator(2))
            for m in (model, plain)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_learned_variance_needs_two_steps():
    with pytest.raises(ValueError, match="T = 1"):
        DDPM(1, T=1, variance="learned", width=4, blocks=1)
    model = DDPM(2, T=2, variance="learned", width=4, blocks=1)
    history = model.fit(rows(9, 2), steps=3)
    assert set(history) == {"loss", "bound"} and np.isfinite(model.sample(4, sampler="ddpm")).all()
    assert np.isfinite(variational_bound(model, rows(9, 2)).total).all()
