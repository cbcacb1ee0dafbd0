"""Diffusion against exact answers: closed forms, Bayes' rule, perfect networks of known data."""

import re
from math import pi, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_device import approx, np, on_cpu, on_device, placed, stats, tg

from tinygen import kernels
from tinygen.backend import namespace_of
from tinygen.models.diffusion import (
    DDPM,
    TARGETS,
    NoiseSchedule,
    add_noise,
    cosine_schedule,
    linear_schedule,
)
from tinygen.random import Generator

DDPM = on_device(DDPM)


def rows(n, features=4, seed=0):
    """Data in [0, 1], float32."""
    return np.random.default_rng(seed).random((n, features), np.float32)


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def within(values, expected, errors=4.0):
    """The mean of independent values is `expected`, to so many standard errors."""
    values = np.asarray(values, float)
    return abs(values.mean() - expected) <= errors * values.std(ddof=1) / sqrt(len(values)) + 1e-9


# Diffusion: schedules ---------------------------------------------------------------------------

betas = st.lists(st.floats(1e-4, 0.999), min_size=1, max_size=12)
many = settings(max_examples=60, deadline=None, derandomize=True)


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


def diffusion(beta, network=None, **options):
    """A model on one unbounded feature with the given β_t, and a network of (x, t, schedule)."""
    model = DDPM(1, **{"steps": 25, "width": 4, "blocks": 1, "bounded": False, **options})
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


def chain(schedule, kind):
    """(gain, shift, σ) of the reverse steps at t = T..1 with the perfect network, in float64."""
    for t in range(schedule.steps, 0, -1):
        beta, abar = schedule.beta[t], schedule.abar[t]
        alpha, before = 1 - beta, abar / (1 - beta)
        v = abar * STD**2 + 1 - abar
        variance = beta if kind == "large" else (1 - before) / (1 - abar) * beta
        gain = (1 - beta / v) / sqrt(alpha)
        yield gain, beta * sqrt(abar) * MEAN / v / sqrt(alpha), sqrt(variance) * (t > 1)


BETAS = np.linspace(0.02, 0.5, 20).tolist()
kinds = pytest.mark.parametrize("kind", ["small", "large"])
targets = pytest.mark.parametrize("predict", TARGETS)


@kinds
@targets
def test_the_chain_of_gaussian_data_has_the_variance_of_its_recursion(kind, predict):
    """V ← A² V + σ², and the mean likewise exactly, for any schedule."""
    model = diffusion(BETAS, perfect(predict), variance=kind, predict=predict)
    n = 20_000
    x = model.sample(n, rng=Generator(1)).astype(float)
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
    found = model.sample(500, rng=Generator(3))
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

    diffusion([0.1, 0.2, 0.3, 0.4], network).sample(3)
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
    np.testing.assert_allclose(model.sample(5), point, rtol=1e-4)


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
    one, other = model.network(x, np.full(6, 3)).data, model.network(x, np.full(6, 20)).data
    assert not np.allclose(one, other, atol=0.01)
    alone = model.network(x[2:3], np.array([3])).data
    np.testing.assert_allclose(alone, one[2:3], rtol=1e-4, atol=1e-5)


def test_bounded_data_go_to_minus_one_and_one_and_back():
    model = DDPM(4, width=16, blocks=1, steps=25)
    x = rows(5)
    x[0] = np.array([0, 1, 0.5, 0.25])
    np.testing.assert_array_equal(model.normalise(x)[0], [-1, 1, 0, -0.5])
    np.testing.assert_allclose(model.denormalise(model.normalise(x)), x, atol=1e-7)
    model.network.last.bias.data[...] = 1000 * np.array([1, -1, 1, -1])  # a network gone wild
    samples = model.sample(20)
    assert samples.min() >= 0 and samples.max() <= 1
