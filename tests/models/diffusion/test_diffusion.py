"""Diffusion against exact answers: closed forms, Bayes' rule, perfect networks of known data."""

import re
from itertools import pairwise, product
from math import log, pi, sqrt

import numpy
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.interrupted import Interrupted, stop_at
from tests.support.on_device import (
    DEVICE,
    approx,
    np,
    on_cpu,
    on_device,
    placed,
    special,
    stats,
    tg,
)
from tinygen import kernels
from tinygen.backend import namespace_of
from tinygen.models import load
from tinygen.models.diffusion import (
    DDPM,
    SCHEDULES,
    TARGETS,
    NoiseSchedule,
    add_noise,
    annealed_langevin,
    cosine_schedule,
    ddim,
    dpm_solver,
    langevin,
    linear_schedule,
    log_normal_schedule,
    ode_log_likelihood,
    score,
    sigmoid_schedule,
    variational_bound,
)
from tinygen.random import Generator

DDPM = on_device(DDPM)


def rows(n, features=4, seed=0):
    """Data in [0, 1], float32."""
    return np.random.default_rng(seed).random((n, features), np.float32)


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def normals_on_cpu(*shape, seed=0):
    return numpy.random.default_rng(seed).normal(size=shape)


def within(values, expected, errors=4.0, rounding=1e-9):
    """The mean of independent values is `expected`, to so many standard errors."""
    values = np.asarray(values, float)
    return (
        abs(values.mean() - expected) <= errors * values.std(ddof=1) / sqrt(len(values)) + rounding
    )


# Diffusion: schedules ---------------------------------------------------------------------------

betas = st.lists(st.floats(1e-4, 0.999), min_size=1, max_size=12)
many = settings(max_examples=60, derandomize=True)


def test_the_linear_schedule_is_that_of_the_paper():
    schedule = linear_schedule(1000)
    assert schedule.steps == 1000 and len(schedule.beta) == len(schedule.abar) == 1001
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
    assert schedule.steps == len(beta) and schedule.abar[0] == 1 and schedule.beta[0] == 0
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


# Diffusion: the two chains ----------------------------------------------------------------------


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


STANDARD = Generator(0).normal((1, 1), dtype=np.float64).item()  # the first draw


def reverse(model, x, t, rng):
    """x_{t-1} from x_t."""
    return model.denoise_step(x, model.guided()(x, t), t, t - 1, rng)


def diffusion(beta, network=None, features=1, **options):
    """A model on unbounded features with the given β_t, and a network of (x, t, schedule)."""
    model = DDPM(features, **{"steps": 25, "width": 4, "blocks": 1, "bounded": False, **options})
    model.schedule = schedule = NoiseSchedule(beta)
    if network is not None:
        model.held = tg.tensor(0.0)  # a model is where its arrays are
        model.network = lambda x, t: tg.Tensor(placed(network(*on_cpu((x, t)), schedule)))
    return model


@given(betas, st.floats(-3, 3), st.floats(-3, 3))
@many
def test_the_reverse_step_written_with_the_noise(beta, x, noise):
    """(x_t - (1 - α_t)/sqrt(1 - abar_t) ε)/sqrt(α_t) (Ho et al. 2020, algorithm 2)."""
    model = diffusion(beta, lambda x, t, s: np.full(x.shape, noise), predict="noise")
    for t in range(1, len(beta) + 1):
        alpha, abar = 1 - beta[t - 1], np.prod(1 - np.array(beta[:t]))
        expected = (x - (1 - alpha) / sqrt(1 - abar) * noise) / sqrt(alpha)
        z = model.reverse_step(t).sigma * STANDARD
        found = reverse(model, np.array([[x]]), t, Generator(0)).item()
        assert found - z == approx(expected, rel=1e-6, abs=1e-6)


def test_the_reverse_step_is_not_the_one_that_the_handout_prints():
    """abar in the place of α: the same at t = 1 alone."""
    beta, x, noise = [0.1, 0.2, 0.3], 0.8, -0.5
    model = diffusion(beta, lambda x, t, s: np.full(x.shape, noise), predict="noise")
    for t in (1, 2, 3):
        abar = model.schedule.abar[t]
        printed = (x - (1 - abar) / sqrt(1 - abar) * noise) / sqrt(abar)
        z = model.reverse_step(t).sigma * STANDARD
        found = reverse(model, np.array([[x]]), t, Generator(0)).item()
        assert (found - z == approx(printed, rel=1e-9)) == (t == 1)


@pytest.mark.parametrize("kind", ["small", "large"])
def test_the_noise_of_a_reverse_step(kind):
    model = diffusion([0.1, 0.2, 0.3], lambda x, t, s: 0 * x, variance=kind)
    x = np.array([[0.3]])
    for t in (1, 2, 3):
        found = reverse(model, x, t, Generator(0)).item()
        mean = model.reverse_step(t)._replace(sigma=0.0)
        moved = found - kernels.denoise_step(namespace_of(x), x, 0 * x, mean, None).item()
        variance = model.schedule.variance(kind, t) if t > 1 else 0.0
        assert (moved / STANDARD) ** 2 == approx(variance, rel=1e-5)
    # At t = 1 nothing is drawn: there is no generator to ask.
    assert np.isfinite(reverse(model, x, 1, None))


@given(st.floats(1e-3, 1 - 1e-3), st.floats(-4, 4), st.floats(-4, 4))
@many
def test_every_target_gives_x0_back(abar, x0, noise):
    a, s = sqrt(abar), sqrt(1 - abar)
    xt = a * x0 + s * noise
    assert set(TARGETS) == {"noise", "data", "velocity"}
    model = DDPM(1, steps=25, width=4, blocks=1, bounded=False)
    model.schedule = NoiseSchedule([1 - abar])
    for predict, target in TARGETS.items():
        u, v = target(a, s)
        model.predict = predict
        from_xt, from_output, low, high, *_ = model.reverse_step(1)
        assert from_xt * xt + from_output * (u * x0 + v * noise) == approx(x0, abs=1e-9)
        assert (low, high) == (-np.inf, np.inf)
    assert TARGETS["noise"](a, s) == (0, 1) and TARGETS["data"](a, s) == (1, 0)
    # velocity is the derivative of x_t in the angle with (cos, sin) = (a, s)
    angle, h = np.arctan2(s, a), 1e-6
    moved = [np.cos(u) * x0 + np.sin(u) * noise for u in (angle + h, angle - h)]
    u, v = TARGETS["velocity"](a, s)
    assert u * x0 + v * noise == approx((moved[0] - moved[1]) / (2 * h), abs=1e-8)


# Diffusion: perfect networks --------------------------------------------------------------------

MEAN, STD = 0.5, 0.5  # of the data


def output(predict, xt, noise, abar):
    """What the network is to put out where the best estimate of the noise is `noise`."""
    a, s = np.sqrt(abar), np.sqrt(1 - abar)
    x0 = (xt - s * noise) / a
    return {"noise": noise, "data": x0, "velocity": a * noise - s * x0}[predict]


def perfect(predict):
    """ε* = E[ε | x_t] of data N(MEAN, STD²), as a network."""

    def network(x, t, schedule):
        abar = schedule.abar[t][:, None]
        v = abar * STD**2 + 1 - abar
        noise = np.sqrt(1 - abar) * (x - np.sqrt(abar) * MEAN) / v
        return output(predict, x, noise, abar).astype(np.float32)

    return network


def chain(schedule, kind, times=None):
    """(gain, shift, σ) of the reverse steps from x_T, or through some times, to x_0 with the perfect
    network, in float64: each is one step of a shorter schedule."""
    times = [*(times or range(schedule.steps, 0, -1)), 0]
    for t, s in pairwise(times):
        abar, before = schedule.abar[t], schedule.abar[s]
        alpha = abar / before
        beta = 1 - alpha
        v = abar * STD**2 + 1 - abar
        variance = beta if kind == "large" else (1 - before) / (1 - abar) * beta
        gain = (1 - beta / v) / sqrt(alpha)
        yield gain, beta * sqrt(abar) * MEAN / v / sqrt(alpha), sqrt(variance) * (s > 0)


BETAS = np.linspace(0.02, 0.5, 20).tolist()
kinds = pytest.mark.parametrize("kind", ["small", "large"])
targets = pytest.mark.parametrize("predict", TARGETS)


@kinds
@targets
def test_the_chain_of_gaussian_data_has_the_variance_of_its_recursion(kind, predict):
    """V ← A² V + σ², and the mean likewise exactly, for any schedule."""
    model = diffusion(BETAS, perfect(predict), variance=kind, predict=predict)
    n = 20_000
    x = model.sample(n, sampler="ddpm", rng=Generator(1)).astype(float)
    mean, variance = 0.0, 1.0
    for gain, shift, sigma in chain(model.schedule, kind):
        mean, variance = gain * mean + shift, gain**2 * variance + sigma**2
    assert abs(x.mean() - mean) < 4 * sqrt(variance / n)
    assert abs(x.var() - variance) < 4 * variance * sqrt(2 / n)
    assert stats.kstest(x[:, 0], stats.norm(mean, sqrt(variance)).cdf).pvalue > 1e-3


@kinds
@targets
def test_every_sample_of_the_chain_with_the_same_noise(kind, predict):
    """An exact test: it sees a loop that stops early, noise at t = 1, and any wrong number."""
    model = diffusion(BETAS, perfect(predict), variance=kind, predict=predict)
    found = model.sample(500, sampler="ddpm", rng=Generator(3))
    rng = Generator(3)
    x = rng.normal((500, 1)).astype(float)  # an oracle on the CPU
    for gain, shift, sigma in chain(model.schedule, kind):
        x = gain * x + shift + (sigma * rng.normal((500, 1)) if sigma else 0)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)
    assert found.dtype == np.float32


def test_the_network_is_asked_for_every_t_from_the_last_to_the_first():
    seen = []

    def network(x, t, schedule):
        assert t.shape == (1,)  # one time for all rows
        seen.append(int(t[0]))
        return 0 * x

    diffusion([0.1, 0.2, 0.3, 0.4], network).sample(3, sampler="ddpm")
    assert seen == [4, 3, 2, 1]


def test_a_chain_of_one_step():
    """T = 1: x_0 is the network's estimate from pure noise, without noise added."""
    model = diffusion([0.9], perfect("noise"), predict="noise")
    x = Generator(0).normal((5, 1))
    np.testing.assert_allclose(model.sample(5), model.predict_x0(placed(x), 1), rtol=1e-6)
    trained = DDPM(2, steps=1, width=4, blocks=1)
    trained.fit(rows(10, 2), steps=2)
    assert trained.sample(3).shape == (3, 2)


def test_the_least_l_simple_of_gaussian_data():
    """min = mean over t of abar_t s² / v_t."""
    model = diffusion([0.1, 0.3, 0.6], perfect("noise"), predict="noise")
    abar = model.schedule.abar[1:]
    least = (abar * STD**2 / (abar * STD**2 + 1 - abar)).mean()
    losses = []
    for seed in range(25):
        x = (MEAN + STD * normals(4000, 1, seed=seed)).astype(np.float32)
        losses.append(model.loss(x, Generator(seed))["loss"].item())
    assert within(losses, least)
    assert np.std(losses) < 0.05 * least  # the test is sharp


@targets
@pytest.mark.parametrize("bounded", [True, False])
def test_a_network_that_knows_the_only_point_has_no_loss_and_samples_it(predict, bounded):
    point = 0.75
    inside = 2 * point - 1 if bounded else point  # bounded data are mapped to [-1, 1]

    def network(x, t, schedule):
        abar = schedule.abar[t][:, None]
        noise = (x - np.sqrt(abar) * inside) / np.sqrt(1 - abar)
        return output(predict, x, noise, abar).astype(np.float32)

    model = diffusion(BETAS, network, predict=predict, bounded=bounded)
    x = np.full((500, 1), point, np.float32)
    assert model.loss(x, Generator(0))["loss"].item() < 1e-9
    np.testing.assert_allclose(model.sample(5, sampler="ddpm"), point, rtol=1e-4)


def test_times_are_uniform_from_the_first_to_the_last():
    seen = []
    model = diffusion([0.1, 0.2, 0.3, 0.4], lambda x, t, s: seen.append(t) or 0 * x)
    n = 20_000
    model.loss(np.zeros((n, 1), np.float32), Generator(0))
    values, counts = np.unique(seen[0], return_counts=True)
    assert values.tolist() == [1, 2, 3, 4]
    assert (abs(counts / n - 0.25) < 4 * sqrt(0.25 * 0.75 / n)).all()


def test_the_loss_is_a_mean_over_elements_and_every_element_has_its_own_noise():
    model = DDPM(3, steps=25, width=4, blocks=1, predict="noise", bounded=False)
    x = np.zeros((5000, 3), np.float32)
    seen = []
    model.network = lambda xt, t: seen.append((xt, t)) or tg.Tensor(0 * xt)
    losses = [model.loss(x, Generator(s))["loss"].item() for s in range(20)]
    assert within(losses, 1.0)  # E ε² for a network that says 0
    xt, t = seen[0]
    noise = on_cpu(xt) / np.sqrt(1 - model.schedule.abar[on_cpu(t)])[:, None]
    np.testing.assert_allclose(np.corrcoef(noise.T), np.eye(3), atol=4 / sqrt(5000))


def test_a_new_denoiser_says_zero_and_tells_times_apart_once_trained():
    model = DDPM(4, width=16, blocks=1, steps=25)
    x = rows(6)
    assert (model.network(x, np.arange(1, 7)).data == 0).all()
    model.network.last.weight.data[...] = normals(16, 4)
    model.network.blocks[0].time.weight.data[...] = normals(64, 32)
    one, other = model.network(x, np.full(6, 3)).data, model.network(x, np.full(6, 20)).data
    assert not np.allclose(one, other, atol=0.01)
    alone = model.network(x[2:3], np.array([3])).data
    np.testing.assert_allclose(alone, one[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("predict", "bounded"), [("data", True), ("data", False), ("velocity", True)]
)
def test_an_estimate_beyond_the_range_of_the_data_counts_as_at_its_end(predict, bounded):
    """If the output is x_0 of bounded data; the gradient goes on as if it were not cut."""
    model = diffusion([0.2], features=2, predict=predict, bounded=bounded)
    output = numpy.array([[-3.0, 0.5], [0.2, 7.0]], numpy.float32)
    output = tg.tensor(placed(output), requires_grad=True)
    model.network = lambda x, t: output
    model.held = tg.tensor(0.0)  # a model is where its arrays are
    x = numpy.array([[0.6, 0.75], [0.1, 1.0]], numpy.float32)
    loss = model.loss(placed(x), Generator(0))["loss"]
    loss.backward()
    x0 = 2 * x - 1 if bounded else x
    if predict == "velocity":
        draw = Generator(0)
        draw.integers(1, 2, 2)
        noise = on_cpu(draw.normal((2, 2)))
        target = sqrt(0.8) * noise - sqrt(0.2) * x0
    else:
        target = x0
    taken = on_cpu(output.data)
    if predict == "data" and bounded:
        taken = numpy.clip(taken, -1, 1)
    error = taken - target
    assert loss.item() == approx((error**2).mean(), rel=1e-5)
    np.testing.assert_allclose(output.grad.data, placed(2 * error / 4), rtol=1e-5, atol=1e-6)


def says(value, features=2, **options):
    """A model of bounded data whose network puts out x_0 = value everywhere."""
    model = DDPM(features, **{"width": 4, "blocks": 1, "steps": 25, "predict": "data", **options})
    model.network.skip.bias.data[...] = 0
    model.network.last.bias.data[...] = np.array(value)
    return model


def test_an_estimate_beyond_the_range_is_at_its_end_in_scores_and_likelihoods():
    x = rows(5, 2)
    for t in (1, 12, 25):
        np.testing.assert_array_equal(*(score(says(v), x, t) for v in (3.0, 1.0)))
    np.testing.assert_array_equal(*(ode_log_likelihood(says(v), x) for v in (-2.0, -1.0)))


def test_guidance_is_between_estimates_in_the_range_of_the_data():
    model = says(0.0, classes=1, variance="learned")
    beyond = placed(numpy.array([[3.0, -3.0, 3.0, 3.0]], numpy.float32))  # two of them a variance
    inside = placed(numpy.array([[0.5, 0.25, 0.1, 0.1]], numpy.float32))
    model.network = lambda x, t, labels: tg.Tensor((beyond if labels[0] == 0 else inside).copy())
    found = model.guided(placed(numpy.array([0])), 2.0)(
        placed(numpy.zeros((1, 2), numpy.float32)), 5
    )
    numpy.testing.assert_allclose(on_cpu(found), [[2 - 0.5, -2 - 0.25, 3.0, 3.0]], rtol=1e-6)


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
        bounds.append(model.loss(x, Generator(0))["bound"].item())
    assert bounds[0] == approx(bounds[1], rel=1e-3)


def test_what_is_best_for_many_features_is_the_default_above_256():
    few, many = (DDPM(n, blocks=1, steps=25) for n in (256, 257))
    for model, predict, schedule, width in (
        (few, "velocity", "cosine", 256),
        (many, "data", "log-normal", 512),
        (
            DDPM(257, blocks=1, steps=25, predict="noise", schedule="linear", width=3),
            "noise", "linear", 3,
        ),
    ):  # fmt: skip
        assert (model.predict, model.network.last.weight.shape[0]) == (predict, width)
        numpy.testing.assert_array_equal(model.schedule.abar, SCHEDULES[schedule](25).abar)
        named = {name: model.config[name] for name in ("predict", "schedule", "width")}
        assert named == {"predict": predict, "schedule": schedule, "width": width}


@pytest.mark.parametrize("variance", ["small", "learned"])
def test_the_output_has_a_multiple_of_x_t_that_depends_on_the_time(variance):
    model = DDPM(3, width=8, blocks=1, steps=25, predict="data", variance=variance)
    network, x, parts = model.network, rows(5, 3), 1 + (variance == "learned")
    network.skip.bias.data[...] = np.array([2.0, -1.0])[:parts]
    t = placed(numpy.array([1, 7, 7, 12, 25]))
    found = on_cpu(network(x, t).data).reshape(5, parts, 3)
    numpy.testing.assert_allclose(found[:, 0], 2 * on_cpu(x), rtol=1e-6)
    if parts == 2:
        numpy.testing.assert_allclose(found[:, 1], -on_cpu(x), rtol=1e-6)
    network.skip.weight.data[...] = normals(64, parts)
    shares = on_cpu(network(x, t).data).reshape(5, parts, 3) / on_cpu(x)[:, None]
    numpy.testing.assert_allclose(shares, shares[:, :, :1].repeat(3, axis=2), rtol=1e-4)
    numpy.testing.assert_allclose(shares[1], shares[2], rtol=1e-4)
    assert (numpy.abs(shares[0] - shares[1]) > 0.01).all()
    alone = network(x[1:3], placed(numpy.array([7]))).data  # one time for all rows
    numpy.testing.assert_allclose(on_cpu(alone), on_cpu(network(x, t).data)[1:3], rtol=1e-4)


def test_bounded_data_go_to_minus_one_and_one_and_back():
    model = DDPM(4, width=16, blocks=1, steps=25)
    x = rows(5)
    x[0] = np.array([0, 1, 0.5, 0.25])
    np.testing.assert_array_equal(model.normalise(x)[0], [-1, 1, 0, -0.5])
    np.testing.assert_allclose(model.denormalise(model.normalise(x)), x, atol=1e-7)
    model.network.last.bias.data[...] = 1000 * np.array([1, -1, 1, -1])  # a network gone wild
    samples = model.sample(20)
    assert samples.min() >= 0 and samples.max() <= 1


# Diffusion: some of the times -------------------------------------------------------------------

subsets = st.lists(st.integers(1, 20), min_size=1, max_size=20, unique=True).map(
    lambda times: sorted(times, reverse=True)
)


@given(subsets, st.sampled_from(["small", "large"]))
@settings(max_examples=25, derandomize=True)
def test_the_chain_through_any_times_has_the_law_of_its_recursion(times, kind):
    model = diffusion(BETAS, perfect("noise"), variance=kind, predict="noise")
    found = model.sample(40, sampler="ddpm", steps=times, rng=Generator(3))
    rng = Generator(3)
    x = rng.normal((40, 1)).astype(float)
    for gain, shift, sigma in chain(model.schedule, kind, times):
        x = gain * x + shift + (sigma * rng.normal((40, 1)) if sigma else 0)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([3, 5, 1], r"fall from at most 20 to 1, not \[3, 5, 1\]"),
        ([5, 5, 1], "fall"),
        ([21, 4], "at most 20"),
        ([5, 0], "a whole number from 1, not 0"),
        ([5, -1], "-1"),
        ([5.0, 1], r"a whole number from 1, not 5\.0"),
        ([float("nan")], "nan"),
        ([], r"not \[\]"),
        (0, "from 1, not 0"),
        (21, "21 sampling steps from a schedule of 20"),
        (2.5, "2.5"),
        (True, "True"),
        ("7", "'7'"),
    ],
)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver"])
def test_times_that_do_not_fall_are_named(sampler, times, message):
    model = diffusion(BETAS)
    with pytest.raises((ValueError, TypeError), match=message):
        model.sample(2, sampler=sampler, steps=times)


# Diffusion: schedules of every kind -------------------------------------------------------------


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


# Diffusion: what is known of a mixture ----------------------------------------------------------


class Mixture:
    """Data Σ w_k N(m_k, C), what follows at every time, and the perfect network.

    With C = 0 they are points: the training set itself.
    """

    def __init__(self, means, cov, weights=None):
        self.means = numpy.array(means, float)  # (k, d)
        k, d = self.means.shape
        self.cov = cov * numpy.eye(d) if numpy.ndim(cov) == 0 else numpy.array(cov)
        self.weights = numpy.full(k, 1 / k) if weights is None else numpy.array(weights)

    def cov_at(self, abar):
        return abar * self.cov + (1 - abar) * numpy.eye(len(self.cov))

    def log_density(self, x, abar=1.0, noise=0.0):
        """log q(x_t), or that of data with noise of this standard deviation on them."""
        cov = self.cov_at(abar) + noise**2 * numpy.eye(len(self.cov))
        each = [
            scipy.stats.multivariate_normal(sqrt(abar) * m, cov).logpdf(x).reshape(-1)
            for m in self.means
        ]
        return scipy.special.logsumexp(numpy.stack(each, axis=1), axis=1, b=self.weights)

    def samples(self, n, seed=0):
        rng = numpy.random.default_rng(seed)
        own = rng.multivariate_normal(0 * self.means[0], self.cov, n)
        return self.means[rng.choice(len(self.weights), n, p=self.weights)] + own

    def estimates(self, x, abar):
        """E[x_0 | x_t] and E[ε | x_t], differentiable in the Tensor x (n, d): the best of each
        component, and a softmax over these."""

        def constant(array):
            return placed(array.astype(x.dtype))

        factor = numpy.linalg.cholesky(numpy.linalg.inv(self.cov_at(abar)))
        apart = (x[:, None, :] - constant(sqrt(abar) * self.means)) @ constant(factor)
        logits = constant(numpy.log(self.weights)) - 0.5 * (apart * apart).sum(2)
        share = tg.softmax(logits, axis=1)
        pull = (share[:, :, None] * apart).sum(1)
        x0 = share @ constant(self.means) + pull @ constant(sqrt(abar) * factor.T @ self.cov)
        return x0, pull @ constant(sqrt(1 - abar) * factor.T)

    def output(self, model, x, t):
        """What the perfect network says at one time, which may lie between two."""
        x = x if isinstance(x, tg.Tensor) else tg.Tensor(x)
        times = numpy.arange(1, model.schedule.steps + 1)
        log_snr = numpy.interp(on_cpu(t).item(), times, numpy.log(model.schedule.snr[1:]))
        a, s = (float(sqrt(scipy.special.expit(sign * log_snr))) for sign in (1, -1))
        x0, noise = self.estimates(x, a * a)
        u, v = model.target(a, s)
        return u * x0 + v * noise

    def model(self, schedule, **options):
        """A model that knows these data."""
        model = diffusion(schedule.beta[1:], features=self.means.shape[1], **options)

        def network(x, t):
            if len(t) == 1:
                return self.output(model, x, t)
            t = on_cpu(t)[:, None]
            return sum(
                tg.where(placed(t == i), self.output(model, x, i), 0.0) for i in numpy.unique(t)
            )

        model.network = network
        return model


def even(steps, low=-5.0, high=3.0):
    """T levels evenly spaced in λ = ½ log snr, from `high` at t = 1 to `low` at t = T."""
    abar = scipy.special.expit(2 * numpy.linspace(high, low, steps))
    return NoiseSchedule(1 - abar / numpy.append(1.0, abar[:-1]))


GAUSSIAN = Mixture([[MEAN]], STD**2)
TWO = Mixture([[-1.2], [0.8]], 0.09, [0.3, 0.7])
THREE = Mixture([[-2.0, 0.0], [1.0, 1.0], [1.0, -1.5]], 0.09, [0.5, 0.3, 0.2])


def half(a, s):
    """A linear target that is none of the named."""
    return 1, 0.5


any_target = pytest.mark.parametrize("predict", [*TARGETS, half])


# Diffusion: samplers ----------------------------------------------------------------------------


def run(sampler, model, x, pairs, rng=None):
    """The state at the end of these pairs, from x, in x's own precision."""
    step = sampler(model, model.guided(), rng)
    for t, s in pairs:
        x = step(x, t, s)
    return x


@given(betas, st.sampled_from([*TARGETS]))
@many
def test_the_true_variance_recovers_the_law_of_the_data_at_every_time(beta, predict):
    """σ_t² = 1/(α_t/β_t + 1/v_{t-1}): from q(x_T) every x_s has the variance v_s exactly, and
    the last, which takes the mean, that of E[x_0 | x_1]."""
    schedule = NoiseSchedule(beta)
    v = schedule.abar * STD**2 + 1 - schedule.abar
    model = GAUSSIAN.model(schedule, predict=predict)
    model.variance = [0.0, *(1 / (schedule.alpha[1:] / schedule.beta[1:] + 1 / v[:-1])).tolist()]
    mean, variance = sqrt(schedule.abar[-1]) * MEAN, v[-1]
    for t in range(schedule.steps, 0, -1):
        step, ends = model.reverse_step(t), placed(numpy.array([[0.0], [1.0]]))
        moved = kernels.denoise_step(
            namespace_of(ends), ends, model.guided()(ends, t), step._replace(sigma=0.0), None
        )
        shift, one = on_cpu(moved)[:, 0]
        gain = one - shift
        mean, variance = gain * mean + shift, gain**2 * variance + step.sigma**2
        if t > 1:
            assert variance == approx(v[t - 1], rel=1e-9)
            assert mean == approx(sqrt(schedule.abar[t - 1]) * MEAN, rel=1e-9)
    assert mean == approx(MEAN, rel=1e-9) and model.reverse_step(1).sigma == 0
    assert variance == approx(STD**2 - model.variance[1], rel=1e-6, abs=1e-12)


@given(subsets)
@settings(max_examples=25, derandomize=True)
def test_ddim_with_eta_1_is_ddpm_with_the_small_variance(times):
    model = TWO.model(NoiseSchedule(BETAS), predict="velocity")
    found, expected = (
        model.sample(20, sampler=sampler, steps=times, rng=Generator(5))
        for sampler in (ddim(1.0), "ddpm")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_ddim_with_eta_0_and_the_solver_draw_nothing():
    model = TWO.model(NoiseSchedule(BETAS))
    x = placed(normals_on_cpu(5, 1))
    for sampler in (ddim(), ddim(0.0), dpm_solver):
        first = run(sampler, model, x, model.schedule.pairs())  # there is no generator to ask
        np.testing.assert_array_equal(first, run(sampler, model, x, model.schedule.pairs()))


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("jump", [(20, 19), (15, 6), (2, 1)])
def test_ddim_keeps_the_law_of_each_time_for_every_eta(eta, jump):
    """q(x_s | x_0) from q(x_t | x_0), where x_0 is known (Song, Meng & Ermon 2021, eq. 7)."""
    t, s = jump
    model = Mixture([[0.7]], 0.0).model(NoiseSchedule(BETAS))
    (a, noise), (b, after) = (
        (sqrt(model.schedule.abar[i]), sqrt(1 - model.schedule.abar[i])) for i in jump
    )
    n = 40_000
    x = placed(a * 0.7 + noise * normals_on_cpu(n, 1))
    y = on_cpu(run(ddim(eta), model, x, [(t, s)], Generator(1)))
    assert within(y, b * 0.7) and within((y - b * 0.7) ** 2, after**2)
    if eta == 0:
        np.testing.assert_allclose((y - b * 0.7) / after, normals_on_cpu(n, 1), atol=1e-6)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_is_a_share(eta):
    with pytest.raises(ValueError, match=re.escape(f"[0, 1], not {eta}")):
        ddim(eta)


@pytest.mark.parametrize(("sampler", "order"), [(ddim(), 1), (dpm_solver, 2)])
@any_target
def test_the_order_of_the_samplers(sampler, order, predict):
    """On the probability-flow ODE of Gaussian data, which has a closed form at every time, steps
    even in log snr: twice as many halve the error of DDIM, and quarter that of the solver."""
    model = GAUSSIAN.model(even(129, -3.0, 3.0), predict=predict)
    abar = model.schedule.abar
    v = abar * STD**2 + 1 - abar
    x = placed(numpy.array([[-2.0], [0.3], [1.5]]))
    exact = sqrt(abar[1]) * MEAN + sqrt(v[1] / v[129]) * (on_cpu(x) - sqrt(abar[129]) * MEAN)
    errors = []
    for n in (16, 32, 64, 128):
        times = [*range(129, 0, -128 // n)]
        found = on_cpu(run(sampler, model, x, pairwise(times)))
        errors.append(abs(found - exact).max())
    ratios = [a / b for a, b in pairwise(errors)]
    assert all(0.85 * 2**order < r < 1.2 * 2**order for r in ratios), ratios
    assert ratios[-1] == pytest.approx(2**order, rel=0.06), ratios


SAMPLERS_OF_A_MIXTURE = {
    "ddpm": ({"sampler": "ddpm"}, 60),
    "ddim": ({"sampler": "ddim"}, 60),
    "ddim, some noise": ({"sampler": ddim(0.5)}, 60),
    "dpm-solver": ({"sampler": "dpm-solver", "steps": 20}, 60),
}


def check_samples(x, mixture, std=0.1, p=1e-3):
    """Weights, means and spread of the modes, and each coordinate against its own distribution."""
    x = on_cpu(x).astype(float)
    nearest = ((x[:, None] - mixture.means) ** 2).sum(2).argmin(1)
    spread = sqrt(mixture.cov[0, 0])
    for k, (mean, weight) in enumerate(zip(mixture.means, mixture.weights, strict=True)):
        of_mode = x[nearest == k]
        share = len(of_mode) / len(x)
        assert abs(share - weight) <= 4 * sqrt(weight * (1 - weight) / len(x)), (k, share)
        assert abs(of_mode.mean(0) - mean).max() < 5 * spread / sqrt(len(of_mode))
        assert abs((of_mode - of_mode.mean(0)).std() / spread - 1) < std
    for i in range(x.shape[1]):

        def cdf(at, i=i):
            return scipy.stats.norm.cdf(at[:, None], mixture.means[:, i], spread) @ mixture.weights

        assert scipy.stats.kstest(x[:, i], cdf).pvalue > p


@pytest.mark.parametrize(
    ("options", "steps"), SAMPLERS_OF_A_MIXTURE.values(), ids=SAMPLERS_OF_A_MIXTURE
)
@pytest.mark.parametrize("mixture", [TWO, THREE], ids=["line", "plane"])
def test_samplers_reproduce_a_mixture(mixture, options, steps):
    model = mixture.model(even(steps))
    check_samples(model.sample(2000, **options, rng=Generator(7)), mixture)


def test_annealed_langevin_reproduces_a_mixture():
    """With steps of a third of the variance the modes come out a little wide."""
    model = TWO.model(even(40))
    x = annealed_langevin(model, 2000, times=40, steps=8, size=0.3, rng=Generator(2))
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
        (even(40), {"times": 5}),
        (even(40), {"times": [40, 20, 1]}),
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


def test_the_training_set_itself_is_what_its_perfect_model_samples():
    points = Mixture(normals_on_cpu(6, 2, seed=4), 0.0)
    x = on_cpu(points.model(even(40, -5.0, 6.0)).sample(1200, sampler="ddim", rng=Generator(1)))
    distance = numpy.sqrt(((x[:, None] - points.means) ** 2).sum(2))
    assert distance.min(axis=1).max() < 1e-4
    counts = numpy.bincount(distance.argmin(axis=1), minlength=6)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_no_output_has_a_smaller_loss_than_the_posterior_mean_over_the_training_set():
    points = Mixture(normals_on_cpu(6, 2, seed=4), 0.0)
    model = points.model(even(8))
    x = placed(numpy.tile(points.means, (700, 1)).astype(numpy.float32))
    best, network = model.loss(x, Generator(3))["loss"].item(), model.network
    for change in (lambda y: 1.1 * y, lambda y: 0.9 * y, lambda y: y + 0.1, lambda y: y - 0.1):
        model.network = lambda x, t, change=change: change(network(x, t))
        assert model.loss(x, Generator(3))["loss"].item() > best


# Diffusion: weights -----------------------------------------------------------------------------


def mean_errors(schedule):
    """E (x_0 - E[x_0 | x_t])² of the Gaussian data at t = 1..T."""
    abar = schedule.abar[1:]
    return STD**2 * (1 - abar) / (abar * STD**2 + 1 - abar)


LEAST = {  # of the target's squared error, and so of x_0's error times the weight
    ("noise", "simple"): lambda snr, abar: snr,
    ("data", "simple"): lambda snr, abar: 1 + 0 * snr,
    ("velocity", "simple"): lambda snr, abar: 1 / (1 - abar),
    ("noise", "snr"): lambda snr, abar: snr,
    ("velocity", "min-snr"): lambda snr, abar: numpy.minimum(snr, 5),
    ("data", "min-snr"): lambda snr, abar: numpy.minimum(snr, 5),
}


@pytest.mark.parametrize(("predict", "weight"), LEAST)
def test_the_least_loss_of_gaussian_data_for_each_target_and_weight(predict, weight):
    model = GAUSSIAN.model(even(6), predict=predict, weight=weight)
    snr, abar = model.schedule.snr[1:], model.schedule.abar[1:]
    least = (LEAST[predict, weight](snr, abar) * mean_errors(model.schedule)).mean()
    losses = [
        model.loss(placed(GAUSSIAN.samples(3000, seed).astype(numpy.float32)), Generator(seed))
        for seed in range(12)
    ]
    losses = [terms["loss"].item() for terms in losses]
    assert within(losses, least) and numpy.std(losses) < 0.07 * least


@pytest.mark.parametrize("weight", ["snr", "min-snr", lambda snr: 1 / (1 + snr)])
@pytest.mark.parametrize("mixture", [GAUSSIAN, THREE], ids=["Gaussian", "mixture"])
def test_an_error_of_the_network_weighs_alike_whatever_the_target(weight, mixture):
    """Networks that say the same of x_0 have the same loss, unless errors of the target count."""
    x = placed(mixture.samples(200).astype(numpy.float32))

    def losses(weight):
        models = [
            mixture.model(even(8), predict=predict, weight=weight) for predict in (*TARGETS, half)
        ]
        return [model.loss(x, Generator(1))["loss"].item() for model in models]

    assert losses(weight) == pytest.approx([losses(weight)[0]] * 4, rel=1e-4)
    plain = losses("simple")
    assert max(plain) > 1.5 * min(plain)
    if weight == "snr":  # L_simple is that of ε
        assert losses(weight)[0] == pytest.approx(plain[[*TARGETS].index("noise")], rel=1e-5)


def test_models_that_share_a_schedule_have_weights_of_their_own():
    x, schedule = placed(GAUSSIAN.samples(50).astype(numpy.float32)), even(6)

    def losses(*schedules):
        models = [
            DDPM(1, schedule=s, weight=w, predict="noise", width=4, blocks=1, bounded=False)
            for s, w in zip(schedules, ("snr", lambda snr: 1 / (1 + snr)), strict=True)
        ]
        return [model.loss(x, Generator(1))["loss"].item() for model in models]

    assert losses(schedule, schedule) == losses(even(6), even(6))


def test_a_target_that_says_nothing_of_x0_is_refused():
    with pytest.raises(ValueError, match="multiple of x_t"):
        DDPM(1, predict=lambda a, s: (a, s), width=4, blocks=1)
    with pytest.raises(ValueError, match="multiple of x_t"):
        DDPM(1, predict=lambda a, s: (0.0, 0.0), width=4, blocks=1)


# Diffusion: the variational bound ---------------------------------------------------------------

BOUND = {
    1: [1 - 1e-9],
    2: [0.6, 1 - 1e-9],
    3: [0.2, 0.7, 1 - 1e-9],
    5: [0.1, 0.2, 0.4, 0.8, 1 - 1e-9],
}


def true_variance(schedule):
    """Of the reverse steps of the Gaussian data: index 0 stands for nothing."""
    v = schedule.abar * STD**2 + 1 - schedule.abar
    return [0.0, *(1 / (schedule.alpha[1:] / schedule.beta[1:] + 1 / v[:-1])).tolist()]


def bound_of(x, schedule, variance):
    """Prior, steps and decoder of the perfect model at one normalised x, in closed form."""
    abar, t = schedule.abar[1:], numpy.arange(1, schedule.steps + 1)
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
    model = GAUSSIAN.model(schedule)
    model.shift.data[...], model.scale.data[...] = 3.0, 2.0  # of the data's units
    if variance in ("small", "large"):
        model.variance = variance
        used = schedule.variance(variance, numpy.arange(1, steps + 1))
        if variance == "small":
            used[0] = used[1] if steps > 1 else schedule.beta[1]
    else:
        used = numpy.array(true_variance(schedule)) * (2 if variance == "twice" else 1)
        model.variance, used = used.tolist(), used[1:]
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
    model = DDPM(3, steps=4, schedule="cosine", width=4, blocks=1)
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
    model = DDPM(1, steps=3, variance=variance, predict="data", width=4, blocks=1)
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
    model = DDPM(2, steps=3, width=4, blocks=1)
    x = placed((numpy.random.default_rng(0).integers(0, 5, (50, 2)) / 4).astype(np.float32))
    default, fine, five = (
        variational_bound(model, x, levels=n, rng=Generator(0)).decoder for n in (None, 256, 5)
    )
    np.testing.assert_array_equal(default, fine)
    model.prepare(x)
    np.testing.assert_array_equal(variational_bound(model, x, rng=Generator(0)).decoder, five)
    assert not np.array_equal(five, fine)


def test_samples_lie_on_the_levels_of_the_training_data():
    model = DDPM(2, steps=3, width=4, blocks=1)
    x = placed((numpy.random.default_rng(0).integers(0, 5, (50, 2)) / 4).astype(np.float32))
    model.fit(x, steps=2)
    found = on_cpu(model.sample(200, sampler="ddpm")) * 4
    assert numpy.unique(found).tolist() == [0, 1, 2, 3, 4]
    model.fit(rows(50, 2), steps=1)
    assert len(numpy.unique(on_cpu(model.sample(200, sampler="ddpm")))) > 100


def test_a_variance_of_zero_has_no_bound():
    model = DDPM(1, steps=3, variance=[0.0] * 4, width=4, blocks=1)
    assert np.isfinite(model.sample(3)).all()
    with pytest.raises(ValueError, match="above 0"):
        variational_bound(model, rows(2, 1))


@pytest.mark.parametrize(
    "variance", [[0.1] * 3, [0.1, 0.1, -0.1, 0.1], [0.1, float("nan"), 0.1, 0.1], [[0.1] * 4], 3.0]
)
def test_variances_that_do_not_fit_are_refused(variance):
    with pytest.raises(ValueError, match="4 finite numbers from 0"):
        DDPM(1, steps=3, variance=variance, width=4, blocks=1)


def test_the_usual_sampler_is_the_chain_and_for_images_dpm_solver_in_25_steps():
    def draws(model, **options):
        return model.sample(20, rng=Generator(1), **options)

    images = says(0.5, features=3, steps=40)
    images.network.last.weight.data[...] = normals(4, 3)
    usual = draws(images)
    np.testing.assert_array_equal(usual, draws(images, sampler="dpm-solver", steps=25))
    np.testing.assert_array_equal(
        draws(images, steps=7), draws(images, sampler="dpm-solver", steps=7)
    )
    kept = {"known": np.zeros(3), "mask": np.zeros(3, bool), "resample": 2}
    np.testing.assert_array_equal(draws(images, **kept), draws(images, sampler="ddpm", **kept))
    points = GAUSSIAN.model(even(40))
    np.testing.assert_array_equal(draws(points), draws(points, sampler="ddpm"))
    short = DDPM(3, width=4, blocks=1, steps=21)
    np.testing.assert_array_equal(draws(short), draws(short, sampler="dpm-solver"))


def test_given_variances_are_of_single_steps():
    model = DDPM(1, steps=3, variance=[0.1] * 4, width=4, blocks=1)
    with pytest.raises(ValueError, match="a step from 3 to 1"):
        model.sample(2, sampler="ddpm", steps=[3, 1])
    assert model.sample(2, steps=[3, 1], sampler="ddim").shape == (2, 1)


# Diffusion: a learned variance ------------------------------------------------------------------


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
        model.loss(placed(GAUSSIAN.samples(2000, seed).astype(numpy.float32)), Generator(seed))
        for seed in range(30)
    ]
    assert within([each["bound"].item() for each in terms], expected.sum())
    plain = GAUSSIAN.model(schedule)
    x = placed(GAUSSIAN.samples(2000, 0).astype(numpy.float32))
    error = plain.loss(x, Generator(0))["loss"].item()
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
        model.loss(x, rng)["bound"].backward()
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
        m.sample(50, sampler="ddpm", steps=times, rng=Generator(2)) for m in (model, plain)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for sampler in ("ddim", "dpm-solver"):
        found, expected = (
            m.sample(50, sampler=sampler, steps=times, rng=Generator(2)) for m in (model, plain)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_learned_variance_needs_two_steps():
    with pytest.raises(ValueError, match="T = 1"):
        DDPM(1, steps=1, variance="learned", width=4, blocks=1)
    model = DDPM(2, steps=2, variance="learned", width=4, blocks=1)
    history = model.fit(rows(9, 2), steps=3)
    assert set(history) == {"loss", "bound"} and np.isfinite(model.sample(4, sampler="ddpm")).all()
    assert np.isfinite(variational_bound(model, rows(9, 2)).total).all()


# Diffusion: score, Langevin, likelihood ---------------------------------------------------------


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
    model = Mixture([[0.2]], 0.04).model(even(30, -9.0, 2.0))
    inside = DDPM(1, steps=30, predict="noise", bounded=True, width=4, blocks=1)
    model.predict, inside.schedule, inside.network = "noise", model.schedule, model.network
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


# Diffusion: labels and guidance -----------------------------------------------------------------

CLASSES = [Mixture([[-1.0]], 0.06), Mixture([[1.0]], 0.06)]
BOTH = Mixture([[-1.0], [1.0]], 0.06)  # what is known without a label


def knowing_classes(schedule=None, **options):
    """The perfect model of two Gaussian classes: label 2 stands for none."""
    model = BOTH.model(schedule or even(30), classes=2, **options)

    def network(x, t, labels):
        outputs = [of.output(model, x, t) for of in (*CLASSES, BOTH)]
        labels = on_cpu(labels)[:, None]
        return sum(tg.where(placed(labels == i), y, 0.0) for i, y in enumerate(outputs))

    model.network = network
    return model


@targets
@pytest.mark.parametrize("guidance", [0, 1, 0.5, 3.0, -1])
def test_guidance_is_a_line_through_the_two_outputs(guidance, predict):
    """And so is the guided estimate of x_0: here (1 - w) E[x_0 | x_t] + w E[x_0 | x_t, label]."""
    model = knowing_classes(predict=predict)
    x, labels = normals_on_cpu(6, 1), numpy.array([0, 1, 0, 1, 1, 0])
    for t in (1, 15, 30):
        abar = model.schedule.abar[t]
        of_class, of_both = (
            numpy.concatenate(
                [on_cpu(of.estimates(tg.Tensor(placed(x)), abar)[0].data) for of in mixtures],
                axis=1,
            )
            for mixtures in (CLASSES, [BOTH])
        )
        chosen = numpy.take_along_axis(of_class, labels[:, None], 1)
        output = model.guided(placed(labels), guidance)(placed(x), t)
        found = model.estimated(placed(x), output, t)
        np.testing.assert_allclose(
            found, (1 - guidance) * of_both + guidance * chosen, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("labels", "guidance", "asked"),
    [
        (None, 1.0, [[2]]),
        ([0, 1, 1], 0.0, [[2]]),
        ([0, 1, 1], 1.0, [[0, 1, 1]]),
        (1, 1.0, [[1, 1, 1]]),
        ([0, 1, 1], 2.0, [[0, 1, 1], [2]]),
    ],
)
def test_what_the_network_is_asked(labels, guidance, asked):
    """Guidance of 0 and 1 needs one output, any other two."""
    model = knowing_classes()
    network, seen = model.network, []
    model.network = lambda x, t, y: seen.append(on_cpu(y).tolist()) or network(x, t, y)
    model.sample(3, labels=labels, guidance=guidance, steps=[7])
    assert seen == asked


@pytest.mark.parametrize("sampler", ["ddpm", "dpm-solver"])
def test_a_label_is_what_is_sampled(sampler):
    model = knowing_classes(even(60))
    n = 2000
    labels = numpy.arange(n) % 2
    x = on_cpu(model.sample(n, sampler=sampler, labels=placed(labels), rng=Generator(1)))
    for label in (0, 1):
        check_samples(x[labels == label], CLASSES[label])
    check_samples(model.sample(n, sampler=sampler, rng=Generator(2)), BOTH)
    check_samples(model.sample(n, sampler=sampler, labels=1, guidance=0, rng=Generator(2)), BOTH)
    apart = model.sample(n, sampler=sampler, labels=0, guidance=3.0, rng=Generator(3))
    assert apart.mean() < -1.05  # guided further from the other class


def test_scores_bounds_and_likelihoods_are_those_of_the_label():
    model = knowing_classes(NoiseSchedule(BOUND[3]))
    # The true kernels of each class.
    v = model.schedule.abar * 0.06 + 1 - model.schedule.abar
    share = model.schedule.alpha[1:] / model.schedule.beta[1:]
    model.variance = [0.0, *(1 / (share + 1 / v[:-1])).tolist()]
    x = placed(numpy.full((4000, 1), -0.7, np.float32))
    for label, own in enumerate(CLASSES):
        bound = variational_bound(model, x, labels=label, rng=Generator(0)).total
        assert within(bound, -own.log_density(numpy.array([[-0.7]])), rounding=1e-6)
    model = knowing_classes(even(30, -9.0, 2.0))
    x = normals_on_cpu(20, 1)
    for label, own in ((0, CLASSES[0]), (1, CLASSES[1]), (None, BOTH)):
        found = ode_log_likelihood(model, placed(x.astype(np.float32)), labels=label)
        expected = own.log_density(x, noise=sqrt(1 / model.schedule.snr[1]))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
        abar, h = model.schedule.abar[9], 1e-5
        slope = (own.log_density(x + h, abar) - own.log_density(x - h, abar)) / (2 * h)
        np.testing.assert_allclose(
            score(model, placed(x), 9, label)[:, 0], slope, rtol=1e-4, atol=1e-4
        )


def test_guidance_leaves_a_learned_variance_to_the_label():
    model = knowing_classes(variance="learned")
    network = model.network
    model.network = lambda x, t, y: tg.concatenate(
        [network(x, t, y), placed((on_cpu(y)[:, None] + 0 * on_cpu(x)).astype(np.float32))], axis=1
    )
    x = placed(normals_on_cpu(3, 1).astype(np.float32))
    for guidance, shares in ((0, 2.0), (1, 1.0), (4, 1.0)):
        output = model.guided(placed(numpy.array([1, 1, 1])), guidance)(x, 5)
        assert on_cpu(output)[:, 1].tolist() == [shares] * 3


def test_a_tenth_of_the_labels_is_dropped_in_training():
    model, seen = DDPM(2, steps=25, classes=3, width=4, blocks=1), []
    network = model.network
    model.network = lambda x, t, y: seen.append(on_cpu(y)) or network(x, t, y)
    n = 20_000
    labels = numpy.arange(n) % 3
    x = on_cpu(rows(n, 2))
    model.loss(placed(numpy.column_stack([x, labels]).astype(np.float32)), Generator(0))
    dropped = seen[0] == 3
    assert abs(dropped.mean() - 0.1) < 4 * sqrt(0.09 / n)
    np.testing.assert_array_equal(seen[0][~dropped], labels[~dropped])
    counts = numpy.bincount(labels[dropped], minlength=3)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3  # of every class alike
    model.loss(placed(x), Generator(0))  # held-out rows come without
    assert (seen[1] == 3).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "with labels"),
        ([0, 1, 2, 3], "labels 0..3 for 3 classes"),
        ([0, -1, 2, 1], r"labels -1\.\.2"),
        ([0.0, 1.0, 2.0, 1.0], "whole numbers, not float64"),
        ([True, False, True, True], "whole numbers, not bool"),
        ([0, 1, 2], r"labels are 4 whole numbers, not int64 of shape \(3,\)"),
        ([[0, 1, 2, 1]], r"\(1, 4\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, message):
    model = DDPM(2, steps=25, classes=3, width=4, blocks=1)
    with pytest.raises(ValueError, match=message):
        model.fit(rows(4, 2), labels=labels, steps=1)
    if labels is None:
        return
    for call in (
        lambda: model.sample(4, labels=labels),
        lambda: variational_bound(model, rows(4, 2), labels=labels),
        lambda: ode_log_likelihood(model, rows(4, 2), labels=labels),
        lambda: score(model, rows(4, 2), 3, labels),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_labels_and_guidance_where_there_are_none():
    plain, classes = (DDPM(2, steps=25, classes=k, width=4, blocks=1) for k in (0, 3))
    for call in (
        lambda: plain.fit(rows(4, 2), labels=[0, 0, 0, 0], steps=1),
        lambda: plain.sample(4, labels=0),
        lambda: variational_bound(plain, rows(4, 2), labels=0),
    ):
        with pytest.raises(ValueError, match="classes"):
            call()
    for options, message in (
        ({"guidance": 2.0}, "give some"),
        ({"guidance": float("nan"), "labels": 1}, "finite.*nan"),
        ({"guidance": float("inf"), "labels": 1}, "finite.*inf"),
    ):
        with pytest.raises(ValueError, match=message):
            classes.sample(4, **options)
    plain.fit(rows(4, 2), steps=1)  # and a call that failed left nothing behind
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        classes.fit(rows(4, 3), labels=[0, 1, 2, 0], steps=1)
    assert classes.prepare(rows(5, 2)).shape == (5, 2)


def test_a_class_without_rows_is_told():
    model = DDPM(2, steps=25, classes=4, width=4, blocks=1)
    with pytest.warns(UserWarning, match=r"no row to learn the labels \[1, 3\] from"):
        model.fit(rows(4, 2), labels=[0, 2, 2, 0], steps=1)
    assert np.isfinite(model.sample(3, labels=1)).all()
    for classes in (-1, 1.5, "3"):
        with pytest.raises(ValueError, match=f"classes.*{classes}"):
            DDPM(2, steps=25, classes=classes, width=4, blocks=1)


@pytest.mark.cpu_only("many steps: the stand-in takes a millisecond for each kernel")
def test_a_model_learns_its_classes():
    """Trained for a second, it puts each label where its class is."""
    x = numpy.concatenate([of.samples(300, seed=i) for i, of in enumerate(CLASSES)])
    labels = numpy.repeat([0, 1], 300)
    model = DDPM(1, steps=50, classes=2, bounded=False, width=32, blocks=1)
    model.fit(x, labels=labels, steps=400, lr=5e-3, batch=128, ema=0.98)
    for label, sign in ((0, -1), (1, 1)):
        found = model.sample(300, labels=label, rng=Generator(0))
        assert (sign * found > 0).mean() > 0.9 and abs(found.mean() - sign) < 0.3


# Diffusion: inpainting --------------------------------------------------------------------------

RHO = 0.8
CORRELATED = Mixture([[0.0, 0.0]], [[1.0, RHO], [RHO, 1.0]])


def inpainted(schedule, kind, known, resample):
    """Mean and variance of the second coordinate, by the recursion of replaced noised copies."""
    mean, variance = 0.0, 1.0
    for t in range(schedule.steps, 0, -1):
        abar, alpha = schedule.abar[t], schedule.alpha[t]
        on_x0, on_xt = schedule.posterior_mean(t)
        best = sqrt(abar) * CORRELATED.cov @ numpy.linalg.inv(CORRELATED.cov_at(abar))
        of_known, own = on_x0 * best[1] + [0.0, on_xt]
        sigma2 = schedule.variance(kind, t) if t > 1 else 0.0
        for again in range(resample):
            if again:
                mean, variance = sqrt(alpha) * mean, alpha * variance + 1 - alpha
            mean = of_known * sqrt(abar) * known + own * mean
            variance = of_known**2 * (1 - abar) + own**2 * variance + sigma2
    return mean, variance


@pytest.mark.parametrize("resample", [1, 3])
def test_inpainting_has_the_law_of_its_recursion(resample):
    model = CORRELATED.model(even(15), variance="small")
    n, known = 8000, 1.5
    x = on_cpu(
        model.sample(n, known=[known, 0.0], mask=[True, False], resample=resample, rng=Generator(4))
    )
    mean, variance = inpainted(model.schedule, "small", known, resample)
    assert (x[:, 0] == np.float32(known)).all()
    assert within(x[:, 1], mean) and within((x[:, 1] - mean) ** 2, variance)


def test_inpainting_tends_to_the_conditional_law_with_many_small_steps():
    """Not with one each: the mean is then .75, where E[x_2 | x_1 = 1.5] = 1.2."""
    schedule = SCHEDULES["cosine"](200)
    means, variances = zip(
        *(inpainted(schedule, "small", 1.5, r) for r in (1, 10, 100)), strict=True
    )
    assert means[0] == pytest.approx(0.75, abs=0.02)
    assert means[1] == pytest.approx(RHO * 1.5, rel=0.05)
    assert means[2] == pytest.approx(RHO * 1.5, rel=0.01)
    assert abs(variances[1] / (1 - RHO**2) - 1) < 0.1


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver"])
@pytest.mark.parametrize("bounded", [True, False])
def test_what_is_kept_is_exact_and_what_is_not_may_be_anything(bounded, sampler):
    model = DDPM(3, steps=6, width=4, blocks=1, bounded=bounded)
    if not bounded:
        model.shift.data[...], model.scale.data[...] = 0.3, 7.7
    known = on_cpu(rows(5, 3)) + np.float32(0 if bounded else 100)
    known[0, 0], known[1, 0] = 1e-8 if bounded else -1e8, np.nan
    mask = numpy.arange(15).reshape(5, 3) % 2 == 0
    options = {"sampler": sampler, "mask": placed(mask), "rng": Generator(0)}
    x = on_cpu(model.sample(5, known=placed(known), **options))
    numpy.testing.assert_array_equal(x[mask], known[mask])
    assert numpy.isfinite(x).all() and x.dtype == np.float32
    options["rng"], known[~mask] = Generator(0), 1e9
    numpy.testing.assert_array_equal(x, on_cpu(model.sample(5, known=placed(known), **options)))
    everything = {"mask": [True] * 3, "known": [0.25, 0.5, 0.1]}
    assert (on_cpu(model.sample(2, **everything)) == np.float32([0.25, 0.5, 0.1])).all()


def test_a_mask_of_nothing_is_no_condition():
    model = TWO.model(even(60))
    x = model.sample(2000, known=[5.0], mask=[False], resample=1, rng=Generator(1))
    check_samples(x, TWO)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"known": [0.5, 0.5]}, "both"),
        ({"mask": [True, False]}, "both"),
        (
            {"known": [0.5] * 3, "mask": [True, False]},
            r"known of shape \(3,\) for samples \(4, 2\)",
        ),
        ({"known": [0.5] * 2, "mask": [True]}, r"mask of shape \(1,\)"),
        ({"known": [[0.5, 0.5]] * 3, "mask": [True, False]}, r"\(3, 2\)"),
        ({"known": [0.5] * 2, "mask": [1, 0]}, "truth values, not int64"),
        ({"known": [0.5] * 2, "mask": [1.0, float("nan")]}, "truth values, not float64"),
        ({"known": [float("nan"), 0.5], "mask": [True, False]}, r"data\[0, 0\] is nan"),
        ({"known": [1.5, 0.5], "mask": [True, False]}, r"takes \[0, 1\]"),
        ({"known": [0.5] * 2, "mask": [True, False], "resample": 0}, "resample.*0"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        DDPM(2, steps=5, width=4, blocks=1).sample(4, **options)


# Diffusion: files, and the least of everything --------------------------------------------------

OPTIONS = [
    {"predict": "noise", "schedule": "linear", "weight": "snr", "variance": "large"},
    {"predict": "data", "schedule": "sigmoid", "weight": "min-snr", "variance": "learned"},
    {"predict": "velocity", "schedule": "cosine", "classes": 3, "bounded": False},
    {"variance": [0.01] * 31},
    {"variance": numpy.full(31, 0.01), "blocks": 2, "width": 6},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_is_kept_in_a_file_and_through_a_stop(options, tmp_path):
    options = {"steps": 30, "width": 8, "blocks": 1, **options}
    x, labels = rows(20, 3), [0, 1, 2, 1] * 5 if "classes" in options else None
    run = {"labels": labels, "steps": 6, "batch": 8, "warmup": 0, "ema": 0.5}
    whole = DDPM(3, **options)
    history = whole.fit(x, **run)
    stopped = DDPM(3, **options)
    stop_at(stopped, 4)
    with pytest.raises(Interrupted):
        stopped.fit(x, **run, folder=tmp_path, checkpoint_seconds=0.0)
    resumed = DDPM(3, **options, seed=9)  # other initial weights
    assert resumed.fit(x, **run, folder=tmp_path, resume=True) == history
    whole.save(tmp_path / "m.npz")
    for other in (
        resumed,
        load(tmp_path / "m.npz").to(DEVICE),
        load(tmp_path / "checkpoint.npz").to(DEVICE),
    ):
        assert other.config | {"seed": 0} == whole.config
        found, expected = (
            m.sample(4, rng=Generator(1), **({"labels": 1, "guidance": 2.0} if labels else {}))
            for m in (other, whole)
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": NoiseSchedule([0.9, 0.999])},
        {"predict": half},
        {"weight": lambda snr: snr},
    ],
    ids=["schedule", "target", "weight"],
)
def test_parts_of_ones_own_train_and_sample_but_cannot_be_saved(options, tmp_path):
    model = DDPM(2, **{"steps": 25, "width": 4, "blocks": 1, **options})
    model.fit(rows(9, 2), steps=2)
    assert np.isfinite(model.sample(3)).all()
    with pytest.raises(TypeError, match="use parts known by name"):
        model.save(tmp_path / "m.npz")


@pytest.mark.parametrize(
    ("steps", "variance"),
    [*product([1, 2], ["small", "large", "given"]), (2, "learned")],
)
@pytest.mark.parametrize("bounded", [True, False])
def test_the_shortest_chain_of_one_constant_number(steps, variance, bounded):
    """T = 1, one row, one feature: all that a model does is still finite."""
    variance = [0.1] * (steps + 1) if variance == "given" else variance
    model = DDPM(1, steps=steps, variance=variance, bounded=bounded, width=4, blocks=1)
    x = np.full((1, 1), 0.5, np.float32)
    model.fit(x, steps=2)
    for sampler in ("ddpm", "ddim", "dpm-solver"):
        found = model.sample(1, sampler=sampler)
        assert found.shape == (1, 1) and np.isfinite(found).all()
    with pytest.warns(UserWarning, match="cannot follow"):
        assert np.isfinite(annealed_langevin(model, 1, times=1, steps=1)).all()
    assert np.isfinite(variational_bound(model, x).total).all()
    assert np.isfinite(ode_log_likelihood(model, x)).all()
    assert np.isfinite(score(model, x, steps)).all()
    assert (on_cpu(model.sample(1, known=x, mask=[True])) == 0.5).all()


def test_data_with_nan_are_named_wherever_they_enter():
    model = DDPM(2, steps=5, width=4, blocks=1)
    x = rows(3, 2)
    x[1, 0] = np.nan
    for call in (
        model.fit,
        lambda x: variational_bound(model, x),
        lambda x: ode_log_likelihood(model, x),
    ):
        with pytest.raises(ValueError, match=r"data\[1, 0\] is nan"):
            call(x)
