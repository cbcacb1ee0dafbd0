"""Samplers against closed forms, recursions and the data of perfect networks."""

import re
from itertools import pairwise
from math import sqrt

import numpy
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.diffusion import (
    BETAS,
    BOTH,
    CLASSES,
    DDPM,
    GAUSSIAN,
    MEAN,
    STD,
    THREE,
    TWO,
    Mixture,
    any_target,
    betas,
    check_samples,
    diffusion,
    even,
    knowing_classes,
    many,
    normals_on_cpu,
    output,
    perfect,
    rows,
    targets,
    true_variance,
    within,
)
from tests.support.on_device import (
    approx,
    np,
    on_cpu,
    placed,
    stats,
)
from tinygen.models.diffusion import (
    TARGETS,
    NoiseSchedule,
    ddim,
    ddpm,
    dpm_solver,
)
from tinygen.random import Generator

STANDARD = Generator(0).normal((1, 1), dtype=np.float64).item()  # the first draw


def reverse(model, x, t, rng):
    """x_{t-1} from x_t."""
    return ddpm(model.denoiser(), x.copy(), [(t, t - 1)], rng)


@given(betas, st.floats(-3, 3), st.floats(-3, 3))
@many
def test_the_reverse_step_written_with_the_noise(beta, x, noise):
    """(x_t - (1 - α_t)/sqrt(1 - abar_t) ε)/sqrt(α_t) (Ho et al. 2020, algorithm 2)."""
    model = diffusion(beta, lambda x, t, s: np.full(x.shape, noise), predict="noise")
    for t in range(1, len(beta) + 1):
        alpha, abar = 1 - beta[t - 1], np.prod(1 - np.array(beta[:t]))
        expected = (x - (1 - alpha) / sqrt(1 - abar) * noise) / sqrt(alpha)
        z = model.variance.sigma(t, t - 1) * STANDARD
        found = reverse(model, np.array([[x]]), t, Generator(0)).item()
        assert found - z == approx(expected, rel=1e-6, abs=1e-6)


def test_the_reverse_step_is_not_the_one_that_the_handout_prints():
    """abar in the place of α: the same at t = 1 alone."""
    beta, x, noise = [0.1, 0.2, 0.3], 0.8, -0.5
    model = diffusion(beta, lambda x, t, s: np.full(x.shape, noise), predict="noise")
    for t in (1, 2, 3):
        abar = model.schedule.abar[t]
        printed = (x - (1 - abar) / sqrt(1 - abar) * noise) / sqrt(abar)
        z = model.variance.sigma(t, t - 1) * STANDARD
        found = reverse(model, np.array([[x]]), t, Generator(0)).item()
        assert (found - z == approx(printed, rel=1e-9)) == (t == 1)


@pytest.mark.parametrize("kind", ["small", "large"])
def test_the_noise_of_a_reverse_step(kind):
    model = diffusion([0.1, 0.2, 0.3], lambda x, t, s: 0 * x, variance=kind)
    x = np.array([[0.3]])
    for t in (1, 2, 3):
        found = reverse(model, x, t, Generator(0)).item()
        moved = found - model.denoiser().step(x, t, *model.schedule.posterior_mean(t)).item()
        variance = model.schedule.variance(kind, t) if t > 1 else 0.0
        assert (moved / STANDARD) ** 2 == approx(variance, rel=1e-5)
    # At t = 1 nothing is drawn: there is no generator to ask.
    assert np.isfinite(reverse(model, x, 1, None))


def chain(schedule, kind, times=None):
    """(gain, shift, σ) of the reverse steps from x_T, or through some times, to x_0 with the perfect
    network, in float64: each is one step of a shorter schedule."""
    times = [*(times or range(schedule.T, 0, -1)), 0]
    for t, s in pairwise(times):
        abar, before = schedule.abar[t], schedule.abar[s]
        alpha = abar / before
        beta = 1 - alpha
        v = abar * STD**2 + 1 - abar
        variance = beta if kind == "large" else (1 - before) / (1 - abar) * beta
        gain = (1 - beta / v) / sqrt(alpha)
        yield gain, beta * sqrt(abar) * MEAN / v / sqrt(alpha), sqrt(variance) * (s > 0)


kinds = pytest.mark.parametrize("kind", ["small", "large"])


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
    np.testing.assert_allclose(model.sample(5), model.denoiser()(placed(x), 1), rtol=1e-6)
    trained = DDPM(2, T=1, width=4, blocks=1)
    trained.fit(rows(10, 2), steps=2)
    assert trained.sample(3).shape == (3, 2)


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
    assert model.loss(x, rng=Generator(0))["loss"].item() < 1e-9
    np.testing.assert_allclose(model.sample(5, sampler="ddpm"), point, rtol=1e-4)


subsets = st.lists(st.integers(1, 20), min_size=1, max_size=20, unique=True).map(
    lambda times: sorted(times, reverse=True)
)


@given(subsets, st.sampled_from(["small", "large"]))
@settings(max_examples=25, derandomize=True)
def test_the_chain_through_any_times_has_the_law_of_its_recursion(times, kind):
    model = diffusion(BETAS, perfect("noise"), variance=kind, predict="noise")
    found = model.sample(40, sampler="ddpm", sampling_steps=times, rng=Generator(3))
    rng = Generator(3)
    x = rng.normal((40, 1)).astype(float)
    for gain, shift, sigma in chain(model.schedule, kind, times):
        x = gain * x + shift + (sigma * rng.normal((40, 1)) if sigma else 0)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-4)


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
        model.sample(2, sampler=sampler, sampling_steps=times)


def run(sampler, model, x, pairs, rng=None):
    """The state at the end of these pairs, from x, in x's own precision."""
    return sampler(model.denoiser(), x.copy(), pairs, rng)


@given(betas, st.sampled_from([*TARGETS]))
@many
def test_the_true_variance_recovers_the_law_of_the_data_at_every_time(beta, predict):
    """σ_t² = 1/(α_t/β_t + 1/v_{t-1}): from q(x_T) every x_s has the variance v_s exactly, and
    the last, which takes the mean, that of E[x_0 | x_1]."""
    schedule = NoiseSchedule(beta)
    v = schedule.abar * STD**2 + 1 - schedule.abar
    variance = true_variance(schedule)
    model = GAUSSIAN.model(schedule, predict=predict, variance=variance)
    denoiser, last = model.denoiser(), variance[1]
    mean, variance = sqrt(schedule.abar[-1]) * MEAN, v[-1]
    for t in range(schedule.T, 0, -1):
        ends = placed(numpy.array([[0.0], [1.0]]))
        moved = denoiser.step(ends, t, *schedule.posterior_mean(t))
        shift, one = on_cpu(moved)[:, 0]
        gain = one - shift
        mean, variance = (
            gain * mean + shift,
            gain**2 * variance + model.variance.sigma(t, t - 1) ** 2,
        )
        if t > 1:
            assert variance == approx(v[t - 1], rel=1e-9)
            assert mean == approx(sqrt(schedule.abar[t - 1]) * MEAN, rel=1e-9)
    assert mean == approx(MEAN, rel=1e-9) and model.variance.sigma(1, 0) == 0
    assert variance == approx(STD**2 - last, rel=1e-6, abs=1e-12)


@given(subsets)
@settings(max_examples=25, derandomize=True)
def test_ddim_with_eta_1_is_ddpm_with_the_small_variance(times):
    model = TWO.model(NoiseSchedule(BETAS), predict="velocity")
    found, expected = (
        model.sample(20, sampler=sampler, sampling_steps=times, rng=Generator(5))
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
    "dpm-solver": ({"sampler": "dpm-solver", "sampling_steps": 20}, 60),
}


@pytest.mark.parametrize(
    ("options", "steps"), SAMPLERS_OF_A_MIXTURE.values(), ids=SAMPLERS_OF_A_MIXTURE
)
@pytest.mark.parametrize("mixture", [TWO, THREE], ids=["line", "plane"])
def test_samplers_reproduce_a_mixture(mixture, options, steps):
    model = mixture.model(even(steps))
    check_samples(model.sample(2000, **options, rng=Generator(7)), mixture)


def test_the_training_set_itself_is_what_its_perfect_model_samples():
    points = Mixture(normals_on_cpu(6, 2, seed=4), 0.0)
    x = on_cpu(points.model(even(40, -5.0, 6.0)).sample(1200, sampler="ddim", rng=Generator(1)))
    distance = numpy.sqrt(((x[:, None] - points.means) ** 2).sum(2))
    assert distance.min(axis=1).max() < 1e-4
    counts = numpy.bincount(distance.argmin(axis=1), minlength=6)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


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
