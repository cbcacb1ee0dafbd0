"""Mixtures against sums of their components, and Monte Carlo estimates, which are all they have."""

from math import inf, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from tests.support.on_device import approx, np, special, stats, tg
from tinygen.distributions import (
    Bernoulli,
    Categorical,
    DiscretisedNormal,
    Mixture,
    MultivariateNormal,
    Normal,
    js_divergence,
    kl_divergence,
    monte_carlo_js,
    monte_carlo_kl,
)
from tinygen.random import Generator

rng = np.random.default_rng(44)

WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS, STDS = np.array([-3.0, 0.5, 4.0]), np.array([0.5, 1.0, 2.0])
LINE = Mixture(WEIGHTS, Normal(MEANS, STDS))
ROWS, LOGITS = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
FACTORS = rng.normal(size=(3, 2, 2)) + np.eye(2)
COVARIANCES = FACTORS @ FACTORS.swapaxes(-1, -2)
POINTS = rng.normal(size=(7, 2))

# components, points, and the log-probability of each point by each component: (n, 3)
CASES = {
    "normal numbers": (Normal(MEANS, STDS), POINTS[:, 0],
                       stats.norm(MEANS, STDS).logpdf(POINTS[:, :1])),
    "normal vectors": (Normal(ROWS, np.array([0.5, 2.0])), POINTS,
                       stats.norm(ROWS, [0.5, 2.0]).logpdf(POINTS[:, None]).sum(-1)),
    "multivariate": (MultivariateNormal(ROWS, COVARIANCES), POINTS, np.stack(
        [stats.multivariate_normal(ROWS[k], COVARIANCES[k]).logpdf(POINTS) for k in range(3)], -1)),
    "bernoulli vectors": (Bernoulli(LOGITS), (POINTS > 0).astype(float), stats.bernoulli(
        special.expit(LOGITS)).logpmf((POINTS > 0)[:, None]).sum(-1)),
    "categories": (Categorical(LOGITS), np.array([0, 1, 1]),
                   special.log_softmax(LOGITS, -1).T[np.array([0, 1, 1])]),
}  # fmt: skip
every_case = pytest.mark.parametrize(("components", "x", "logs"), CASES.values(), ids=CASES)


@every_case
def test_log_prob_is_that_of_the_sum(components, x, logs):
    p = Mixture(WEIGHTS, components)
    expected = special.logsumexp(logs + np.log(WEIGHTS), -1)
    np.testing.assert_allclose(p.log_prob(x).data, expected, rtol=1e-11)
    assert p.log_prob(x[0]).item() == approx(float(expected[0]), rel=1e-11)
    assert p.shape == x.shape[1:] == p.sample(Generator()).shape
    assert p.sample(Generator(), (2, 5)).shape == (2, 5, *p.shape)
    assert p.sample(Generator(), (4,)).dtype == components.sample(Generator()).dtype


@every_case
def test_degenerate_mixtures(components, x, logs):
    """A weight of one is its component, a weight of zero is none, equal components are one."""
    for k in range(3):
        p = Mixture(np.eye(3)[k], components)
        np.testing.assert_allclose(p.log_prob(x).data, logs[:, k], rtol=1e-11)
    expected = special.logsumexp(logs[:, :2] + log(0.5), -1)
    np.testing.assert_allclose(Mixture([0.5, 0.5, 0.0], components).log_prob(x).data, expected)
    p = Mixture([[0.1, 0.9]], Normal(np.full((1, 2), 0.4), 2.0))
    np.testing.assert_allclose(
        p.log_prob(0.7).data, Normal(np.array([0.4]), 2.0).log_prob(0.7).data
    )


def test_a_mixture_for_each_row():
    weights = special.softmax(rng.normal(size=(4, 3)), -1)
    means, x = rng.normal(size=(4, 3, 2)), rng.normal(size=(5, 4, 2))
    p = Mixture(weights, Normal(means, 0.7))
    assert p.shape == (4, 2) == p.mean.shape == p.variance.shape
    assert p.sample(Generator(), (6,)).shape == (6, 4, 2)
    for row in range(4):
        alone = Mixture(weights[row], Normal(means[row], 0.7))
        np.testing.assert_allclose(p.log_prob(x).data[:, row], alone.log_prob(x[:, row]).data)
        np.testing.assert_allclose(p.mean.data[row], alone.mean.data)
        np.testing.assert_allclose(p.variance.data[row], alone.variance.data)


def test_a_mixture_of_mixtures():
    inner = Mixture(
        np.array([[0.5, 0.5], [0.1, 0.9]]), Normal(np.array([[0.0, 1.0], [2.0, 3.0]]), 1.0)
    )
    flat = Mixture([0.2, 0.2, 0.06, 0.54], Normal(np.arange(4.0), 1.0))
    p = Mixture([0.4, 0.6], inner)
    np.testing.assert_allclose(p.log_prob(POINTS).data, flat.log_prob(POINTS).data)
    assert p.mean.item() == approx(flat.mean.item())
    assert p.variance.item() == approx(flat.variance.item())


def test_integrates_to_one():
    total = integrate.quad(lambda x: np.exp(LINE.log_prob(x).item()), -30, 40, points=[-3, 0, 4])[0]
    assert total == approx(1, abs=1e-9)
    p = Mixture(WEIGHTS, Categorical(rng.normal(size=(3, 6))))
    assert float(np.exp(p.log_prob(np.arange(6)).data).sum()) == approx(1, abs=1e-14)
    p = Mixture(WEIGHTS, Bernoulli(LOGITS))
    corners = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert float(np.exp(p.log_prob(corners).data).sum()) == approx(1, abs=1e-14)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_far_in_the_tails_the_nearest_component_decides(dtype):
    p = Mixture(WEIGHTS, Normal(MEANS.astype(dtype), 1.0))
    assert p.dtype == dtype
    for x, k in ((-1e3, 0), (1e3, 2), (-1e6, 0), (1e6, 2)):
        leaf = tg.tensor(np.array(x, dtype), requires_grad=True)
        y = p.log_prob(leaf)
        assert y.dtype == dtype
        expected = -0.5 * (x - float(MEANS[k])) ** 2 - 0.5 * log(2 * np.pi) + log(WEIGHTS[k])
        assert y.item() == approx(expected, rel=1e-6)
        assert tg.gradients(y, leaf).item() == approx(float(MEANS[k]) - x, rel=1e-6)


def test_derivatives():
    x = POINTS[:4]
    tg.gradgradcheck(lambda w, m, s, x: Mixture(tg.softmax(w), Normal(m, tg.exp(s))).log_prob(x),
                     [np.log(WEIGHTS), MEANS, np.log(STDS), x[:, 0]], rtol=1e-5)  # fmt: skip
    tg.gradcheck(
        lambda w, m, a, x: Mixture(
            tg.softmax(w), MultivariateNormal(m, a @ a.swapaxes(-1, -2) + 0.1 * 1.0)
        ).log_prob(x),
        [WEIGHTS, ROWS, FACTORS, x], rtol=1e-5,
    )  # fmt: skip
    tg.gradcheck(lambda w, m: Mixture(tg.softmax(w), Normal(m, 1.0)).variance, [WEIGHTS, ROWS])


def test_the_gradient_by_the_means_holds_the_posterior():
    """∂ log p(x)/∂μ_k = p(k|x) (x - μ_k)/σ_k²."""
    means = tg.tensor(MEANS, requires_grad=True)
    p = Mixture(WEIGHTS, Normal(means, STDS))
    posterior = special.softmax(stats.norm(MEANS, STDS).logpdf(1.3) + np.log(WEIGHTS))
    found = tg.gradients(p.log_prob(1.3), means).data
    np.testing.assert_allclose(found, posterior * (1.3 - MEANS) / STDS**2, rtol=1e-12)


def test_no_gradient_is_lost_in_impossible_components():
    weights = tg.tensor(np.array([0.0, 1.0]), requires_grad=True)
    x = tg.tensor(0.3, requires_grad=True)
    y = Mixture(weights, Normal(np.array([0.0, 1.0]), 1.0)).log_prob(x)
    by_weights, by_x = tg.gradients(y, [weights, x])
    np.testing.assert_allclose(by_weights.data, [0.0, 1.0])
    assert by_x.item() == approx(0.7)


# Samples and moments ----------------------------------------------------------------------------


def test_samples_follow_the_law():
    n = 20_000
    x = LINE.sample(Generator(2), (n,)).data
    assert not LINE.sample(Generator(2)).requires_grad
    quantile = stats.norm(MEANS, STDS).cdf(x[:, None]) @ WEIGHTS
    assert stats.kstest(quantile, "uniform").pvalue > 0.001
    mean, variance = LINE.mean.item(), LINE.variance.item()
    assert mean == approx(float(WEIGHTS @ MEANS))
    assert variance == approx(float(WEIGHTS @ (STDS**2 + MEANS**2)) - mean**2)
    assert abs(float(x.mean()) - mean) < 4 * (variance / n) ** 0.5
    assert abs(float(x.var()) - variance) < 0.04 * variance


def test_a_sample_comes_from_one_component_as_a_whole():
    """Two far modes on the diagonal: nothing off it. And by their weights."""
    n, corner = 4000, np.array([[-9.0, -9.0], [9.0, 9.0]])
    for components in (Normal(corner, 1.0), MultivariateNormal(corner, np.eye(2))):
        x = Mixture([0.25, 0.75], components).sample(Generator(1), (n,)).data
        assert (x[:, 0] * x[:, 1] > 0).all()
        assert abs(float((x[:, 0] > 0).mean()) - 0.75) < 4 * (0.75 * 0.25 / n) ** 0.5
        z = x - 9 * np.sign(x)
        assert stats.kstest(z.ravel(), "norm").pvalue > 0.001
        assert abs(float(np.corrcoef(z.T)[0, 1])) < 4 / n**0.5


def test_no_sample_comes_from_a_component_without_weight():
    x = Mixture([0.0, 1.0, 0.0], Normal(np.array([-99.0, 0.0, 99.0]), 1.0)).sample(
        Generator(), (999,)
    )
    assert (np.abs(x.data) < 9).all()


def test_moments_far_from_zero_do_not_cancel():
    p = Mixture([0.5, 0.5], Normal(np.array([1e8, 1e8 + 2]), 1e-3))
    assert p.mean.item() == 1e8 + 1
    assert p.variance.item() == approx(1 + 1e-6, rel=1e-9)


def test_entropy_has_no_closed_form():
    with pytest.raises(
        NotImplementedError, match=r"-p.log_prob\(p.sample\(rng, \(n,\)\)\).mean\(\)"
    ):
        LINE.entropy()


# Estimates --------------------------------------------------------------------------------------


def quadrature(f, points):
    return integrate.quad(f, -40, 40, points=points, limit=400, epsabs=1e-11)[0]


OTHER = Mixture([0.6, 0.4], Normal(np.array([-2.0, 3.0]), np.array([1.5, 3.0])))


def integral(f, p=LINE, q=OTHER):
    return quadrature(lambda x: f(p.log_prob(x).item(), q.log_prob(x).item()), [-3, 0.5, 4])


def test_monte_carlo_agrees_with_quadrature():
    kl = integral(lambda a, b: np.exp(a) * (a - b))

    def js_of_densities(a, b):
        m = np.logaddexp(a, b) - log(2)
        return 0.5 * (np.exp(a) * (a - m) + np.exp(b) * (b - m))

    js = integral(js_of_densities)
    for seed in range(3):
        for estimator, truth in ((monte_carlo_kl, kl), (monte_carlo_js, js)):
            estimate, error = estimator(LINE, OTHER, Generator(seed), 4000)
            assert abs(estimate - truth) < 4 * error < 0.5 * truth
    assert monte_carlo_kl(LINE, LINE, Generator(), 10) == (0, 0)


@pytest.mark.parametrize("estimator", [monte_carlo_kl, monte_carlo_js])
def test_standard_errors_are_calibrated(estimator):
    """Over repetitions, (estimate - truth)/error has mean 0 and standard deviation 1."""
    p, q = Normal(0.0, 1.0), Normal(0.8, 1.3)
    exact = {monte_carlo_kl: kl_divergence, monte_carlo_js: js_divergence}[estimator](p, q).item()
    found = np.array([estimator(p, q, Generator(s), 500) for s in range(400)])
    z = (found[:, 0] - exact) / found[:, 1]
    assert abs(float(z.mean())) < 4 / 400**0.5
    assert float(z.std()) == approx(1, abs=4 / 800**0.5)
    assert float(found[:, 0].std()) == approx(float(found[:, 1].mean()), rel=4 / 800**0.5)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_mixing_makes_no_divergence(seed):
    """KL is convex: KL(Σ w p_k ‖ Σ w q_k) ≤ Σ w KL(p_k ‖ q_k), here of categories, in exact sums."""
    draw = np.random.default_rng(seed)
    weights, a, b = draw.dirichlet(np.ones(3)), draw.normal(size=(3, 5)), draw.normal(size=(3, 5))
    x = np.arange(5)
    p, q = (Mixture(weights, Categorical(v)).log_prob(x) for v in (a, b))
    parts = float((weights * kl_divergence(Categorical(a), Categorical(b)).data).sum())
    assert 0 <= kl_divergence(Categorical(p), Categorical(q)).item() <= parts * (1 + 1e-12)


# Errors -----------------------------------------------------------------------------------------

TWO = Normal(np.array([0.0, 1.0]), 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mixture([0.5, 0.4], TWO), "the sum of weights must be 1, got 0.9"),
        (lambda: Mixture([0.5, 0.5 + 1.9e-6], TWO), "the sum of weights must be 1, got 1.000001"),
        (lambda: Mixture([1.2, -0.2], TWO), "weights must be at least 0, got -0.2"),
        (lambda: Mixture([np.nan, 1.0], TWO), "weights must be at least 0, got nan"),
        (lambda: Mixture([inf, 1.0], TWO), "the sum of weights must be 1, got inf"),
        (lambda: Mixture([], Normal(np.zeros(0), 1.0)), r"shapes \(0,\) and \(0,\)"),
        (lambda: Mixture([0.5, 0.25, 0.25], TWO), r"shapes \(3,\) and \(2,\)"),
        (lambda: Mixture(1.0, TWO), r"shapes \(\) and \(2,\)"),
        (lambda: Mixture([1.0], Normal(0.0, 1.0)), r"shapes \(1,\) and \(\)"),
        (lambda: Mixture([0.5, 0.5], TWO).log_prob(np.zeros(3)).item(), "one element"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_errors_of_type():
    with pytest.raises(TypeError, match=r"KL of \(Mixture, Normal\).*monte_carlo_kl estimates it"):
        kl_divergence(LINE, Normal(0.0, 1.0))
    with pytest.raises(AttributeError, match="mean"):
        _ = Mixture(WEIGHTS, Categorical(LOGITS)).mean
    with pytest.raises(AttributeError, match="rsample"):
        LINE.rsample(Generator())


def test_rounding_of_float32_weights_is_no_error():
    weights = special.softmax(rng.normal(size=(300, 50)), -1).astype(np.float32)
    Mixture(weights, Normal(np.zeros((300, 50), np.float32), 1.0))
    assert Mixture([1 / 3] * 3, DiscretisedNormal(np.zeros(3, np.float32), 1.0)).dtype == np.float32


def test_what_a_network_computed_is_not_looked_at():
    leaf = tg.tensor(np.array([0.5, 0.6]), requires_grad=True)
    with pytest.raises(ValueError, match=r"got 1\.1"):
        Mixture(leaf, TWO)
    Mixture(leaf * 1.0, TWO)
