"""The VAE's bounds, estimates of log p(x) and reports, against closed forms of linear models."""

import copy
from math import log, pi, sqrt

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.draws import normals, normals32, rows
from tests.support.interrupted import Interrupted, stop_at
from tests.support.on_device import approx, np, on_cpu, on_device, placed, special, stats, tg
from tests.support.small_models import many_steps, put, small
from tinygen import data
from tinygen.autodiff.transforms import gradients
from tinygen.distributions import Normal
from tinygen.models import likelihood
from tinygen.models import rows as models_rows
from tinygen.models.codes import interpolate, traverse
from tinygen.models.likelihood import LogMean, anneal, inverse_temperatures
from tinygen.models.vae import VAE
from tinygen.random import Generator

VAE = on_device(VAE)


# The bound, and what it finds -------------------------------------------------------------------


def linear_vae(weight, bias, log_std, **options):
    """A VAE with p(x|z) = N(z W + b, σ²) and a posterior that is set by `set_posterior`."""
    latent, features = np.shape(weight)
    model = VAE(features, hidden=(), latent=latent, likelihood="gaussian", **options)
    put(model.decoder.layers[0], weight, bias)
    model.log_std.data[...] = log_std
    return model


def set_posterior(model, weight, bias, variance):
    """q(z|x) = N(x A + a, diag(variance))."""
    latent = len(variance)
    layer = model.encoder.layers[0]
    layer.weight.data[:, :latent], layer.weight.data[:, latent:] = weight, 0
    layer.bias.data[:latent], layer.bias.data[latent:] = bias, np.log(variance)


def true_posterior(w, b, std):
    """Of the linear-Gaussian model whose W has orthogonal rows: (A, a, variances)."""
    variance = 1 / (1 + (w**2).sum(axis=1) / std**2)
    a = w.T / std**2 * variance
    return a, -b @ a, variance


LINEAR = {
    "1-D": (np.array([[1.5]]), np.array([0.4]), 0.6),
    "2-D": (np.array([[1.2, 0.5, -0.3], [0.4, -0.6, 0.6]]), np.array([0.1, -0.2, 0.3]), 0.8),
}
linear = pytest.mark.parametrize(("w", "b", "std"), LINEAR.values(), ids=LINEAR)


def marginal(w, b, std):
    return stats.multivariate_normal(b, w.T @ w + std**2 * np.eye(len(b)))


def repeated_scores(model, x, n=20_000):
    return model.score_samples(np.tile(x, (n, 1)), rng=Generator(7)).astype(float)


@linear
def test_the_bound_is_the_log_density_at_the_true_posterior(w, b, std):
    assert np.allclose(w @ w.T, np.diag((w**2).sum(axis=1)))
    model = linear_vae(w, b, log(std))
    set_posterior(model, *true_posterior(w, b, std))
    for x in marginal(w, b, std).rvs(3, random_state=0).reshape(3, -1):
        assert within(repeated_scores(model, x), marginal(w, b, std).logpdf(x))


@linear
def test_the_gap_of_the_bound_is_the_divergence_to_the_true_posterior(w, b, std):
    a, shift, variance = true_posterior(w, b, std)
    wrong_mean, wrong_variance = 0.7, 2.5
    model = linear_vae(w, b, log(std))
    set_posterior(model, a, shift + wrong_mean, wrong_variance * variance)
    x = np.reshape(marginal(w, b, std).rvs(random_state=1), -1)
    gap = 0.5 * (wrong_variance - 1 - log(wrong_variance) + wrong_mean**2 / variance).sum()
    scores = repeated_scores(model, x)
    assert within(scores, marginal(w, b, std).logpdf(x) - gap)
    assert scores.mean() < marginal(w, b, std).logpdf(x) - 0.8 * gap


@linear
def test_each_term_of_the_bound(w, b, std):
    """Every row, with the very noise that the model draws."""
    model = linear_vae(w, b, log(std))
    a, shift, variance = normals(*w.T.shape, seed=1), np.array([0.3, -0.4])[: len(w)], None
    variance = np.array([0.5, 1.7])[: len(w)]
    set_posterior(model, a, shift, variance)
    x = normals(50, len(b), seed=2).astype(np.float32)
    log_likelihood, kl = model.elbo(x, Generator(4))
    mean = x @ a + shift
    z = mean + np.sqrt(variance) * placed(Generator(4).normal(mean.shape))
    expected = stats.norm(z @ w + b, std).logpdf(x).sum(axis=1)
    np.testing.assert_allclose(log_likelihood.data, expected, rtol=1e-4, atol=1e-4)
    expected_kl = 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(axis=1)
    np.testing.assert_allclose(kl.data, expected_kl, rtol=1e-4)
    assert (kl.data >= 0).all()


def test_the_kl_is_zero_only_at_the_prior():
    model = linear_vae(np.ones((1, 1)), np.zeros(1), 0.0)
    set_posterior(model, np.zeros((1, 1)), np.zeros(1), np.ones(1))
    assert (model.elbo(np.ones((3, 1), np.float32), Generator(0))[1].data == 0).all()


def test_the_bernoulli_likelihood_is_that_of_scipy():
    model = VAE(5, hidden=(), latent=2)
    w, b = 2 * normals(2, 5), normals(5, seed=1)
    put(model.decoder.layers[0], w, b)
    layer = model.encoder.layers[0]
    x = np.random.default_rng(0).integers(0, 2, (40, 5)).astype(np.float32)
    mean, log_var = np.split(x @ layer.weight.data + layer.bias.data, 2, axis=1)
    z = mean + np.exp(log_var / 2) * placed(Generator(3).normal(mean.shape))
    expected = stats.bernoulli(special.expit(z @ w + b)).logpmf(x).sum(axis=1)
    log_likelihood, kl = model.elbo(x, Generator(3))
    np.testing.assert_allclose(log_likelihood.data, expected, rtol=1e-4)
    scores = model.score_samples(x, rng=Generator(3))
    np.testing.assert_allclose(scores, expected - kl.data, rtol=1e-4)
    assert (scores <= 0).all()  # a bound on the log-probability of bits


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_beta_weighs_the_kl_alone(beta, likelihood):
    model = small("vae", beta=beta, likelihood=likelihood)
    x = rows(9)
    log_likelihood, kl = (t.data.mean() for t in model.elbo(x, Generator(1)))
    terms = {name: t.item() for name, t in model.loss(x, Generator(1)).items()}
    assert list(terms) == ["loss", "reconstruction", "kl"]
    assert terms["loss"] == approx(beta * kl - log_likelihood, rel=1e-5)
    assert terms["reconstruction"] == approx(-log_likelihood, rel=1e-5)
    assert terms["kl"] == approx(kl, rel=1e-5) and kl > 0


def test_the_reparameterised_gradient_is_that_of_the_expected_bound():
    """In mean μ and log variance ρ of q: (w (x - b - w μ)/σ² - μ, ½ (1 - e^ρ (1 + w²/σ²)))."""
    w, b, std, x = 1.3, 0.2, 0.7, 0.9
    mu, variance, n = 0.5, 0.4, 40_000
    model = linear_vae(np.array([[w]]), np.array([b]), log(std))
    set_posterior(model, np.zeros((1, 1)), np.array([mu]), np.array([variance]))
    grads = []
    for seed in range(20):
        loss = model.loss(np.full((n // 20, 1), x, np.float32), Generator(seed))["loss"]
        grads.append(-gradients(loss, model.encoder.layers[0].bias).data)
    grads = np.array(grads, float)
    assert within(grads[:, 0], w * (x - b - w * mu) / std**2 - mu)
    assert within(grads[:, 1], 0.5 * (1 - variance * (1 + w**2 / std**2)))
    set_posterior(model, *true_posterior(np.array([[w]]), np.array([b]), std))
    layer = model.encoder.layers[0]
    batch = np.full((n, 1), x, np.float32)
    at_optimum = gradients(model.loss(batch, Generator(0))["loss"], layer.bias).data
    assert (abs(at_optimum) < 0.05).all()  # the true posterior is stationary


def test_scores_are_densities_in_the_units_of_the_data():
    w, b, std = LINEAR["2-D"]
    shift, scale = np.array([10.0, -5.0, 0.5]), np.array([3.0, 0.2, 7.0])
    model = linear_vae(w, b, log(std))
    set_posterior(model, *true_posterior(w, b, std))
    normalised = marginal(w, b, std).rvs(random_state=5)
    plain = model.score_samples(normalised[None], rng=Generator(0))
    model.shift.data[...], model.scale.data[...] = shift, scale
    x = shift + scale * normalised
    np.testing.assert_allclose(
        model.score_samples(x[None], rng=Generator(0)), plain - np.log(scale).sum(), rtol=1e-4
    )
    covariance = (w.T @ w + std**2 * np.eye(3)) * np.outer(scale, scale)
    density = stats.multivariate_normal(shift + scale * b, covariance).logpdf(x)
    assert within(repeated_scores(model, x), density)


@pytest.mark.cpu_only("many steps: the stand-in takes a millisecond for each kernel")
def test_a_linear_vae_finds_the_log_likelihood_of_its_data():
    """At its optimum the bound is tight: probabilistic PCA (Tipping & Bishop 1999)."""
    x = normals(300, 1) @ np.array([[2.0, -1.0, 0.5]]) + 0.5 * normals(300, 3, seed=1)
    model = VAE(3, hidden=(), latent=1, likelihood="gaussian")
    model.fit(x, steps=1500, batch=300, lr=0.02, warmup=10)
    w = model.decoder.layers[0].weight.data.astype(float)
    std = np.exp(model.log_std.data.astype(float))
    normalised = model.normalise(model.check(x))
    optimum = stats.multivariate_normal(np.zeros(3), np.cov(normalised.T, bias=True))
    own = stats.multivariate_normal(
        model.decoder.layers[0].bias.data, w.T @ w + np.diag(std**2)
    ).logpdf(normalised)
    scores = np.mean([model.score_samples(x, rng=Generator(s)).mean() for s in range(50)])
    scores += np.log(model.scale.data).sum()
    assert scores <= own.mean() + 0.02
    assert scores == approx(own.mean(), abs=0.05)
    assert own.mean() == approx(optimum.logpdf(normalised).mean(), abs=0.05)


def test_what_a_vae_decodes_encodes_and_samples():
    w, b, std = LINEAR["2-D"]
    model = linear_vae(w, b, log(std))
    a, shift, variance = true_posterior(w, b, std)
    set_posterior(model, a, shift, variance)
    model.shift.data[...], model.scale.data[...] = 3.0, 2.0
    x = normals(5, 3)
    z = ((x - 3) / 2) @ a + shift
    np.testing.assert_allclose(model.encode(x), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.decode(z), 3 + 2 * (z @ w + b), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.reconstruct(x), 3 + 2 * (z @ w + b), rtol=1e-4, atol=1e-5)
    rng = Generator(9)
    z, noise = placed(
        (rng.normal((4, 2)), rng.normal((4, 3)))
    )  # a draw from p(x | z), not its mean
    np.testing.assert_allclose(
        model.sample(4, rng=Generator(9)),
        3 + 2 * (z @ w + b + std * noise),
        rtol=1e-4,
        atol=1e-5,
    )
    bits = VAE(3, hidden=(), latent=2)
    put(bits.decoder.layers[0], w, b)
    np.testing.assert_allclose(bits.decode(z), special.expit(z @ w + b), rtol=1e-5)


def bits(n, features=4, seed=0):
    return (rows(n, features, seed) < 0.4).astype(np.float32)


def within(values, expected, errors=4.0):
    """The mean of independent values is `expected`, to so many standard errors."""
    values = np.asarray(values, float)
    return abs(values.mean() - expected) <= errors * values.std(ddof=1) / sqrt(len(values))


class Linear:
    """p(x|z) = N(z W + b, σ² I), z ~ N(0, I), with orthogonal rows of W: all is closed."""

    def __init__(self, w, b, std):
        self.w, self.b, self.std = np.array(w), np.array(b), std
        self.law = stats.multivariate_normal(
            self.b, self.w.T @ self.w + std**2 * np.eye(len(self.b))
        )
        self.variance = 1 / (1 + (self.w**2).sum(axis=1) / std**2)  # of the posterior
        self.slope = self.w.T / std**2 * self.variance  # of its mean

    def vae(self, shift=0.0, widen=1.0, **options):
        """As a VAE; q is the posterior, with its mean moved and its variance scaled."""
        latent, features = self.w.shape
        model = VAE(features, hidden=(), latent=latent, likelihood="gaussian", **options)
        decoder, encoder = model.decoder.layers[0], model.encoder.layers[0]
        decoder.weight.data[...], decoder.bias.data[...] = self.w, self.b
        model.log_std.data[...] = log(self.std)
        encoder.weight.data[:, :latent], encoder.weight.data[:, latent:] = self.slope, 0
        encoder.bias.data[:latent] = shift - self.b @ self.slope
        encoder.bias.data[latent:] = np.log(widen * self.variance)
        return model

    def draw(self, n, seed=0):
        return np.reshape(self.law.rvs(n, random_state=seed), (n, -1)).astype(np.float32)


ONE = Linear([[1.5]], [0.4], 0.6)
TWO = Linear([[1.2, 0.5, -0.3], [0.4, -0.6, 0.6]], [0.1, -0.2, 0.3], 0.8)
truths = pytest.mark.parametrize("truth", [ONE, TWO], ids=["1-D", "2-D"])

# The importance-weighted bound ------------------------------------------------------------------


def weights_by_scipy(model, x, noise):
    """log p(x, z)/q(z|x) (k, n), in float64."""
    h = (x @ model.encoder.layers[0].weight.data + model.encoder.layers[0].bias.data).astype(float)
    mean, log_var = np.split(h, 2, axis=1)
    std = np.exp(log_var / 2)
    z = mean + std * noise
    y = z @ model.decoder.layers[0].weight.data + model.decoder.layers[0].bias.data
    log_p = stats.norm(y, np.exp(model.log_std.data)).logpdf(x).sum(axis=-1)
    log_ratio = (stats.norm(0, 1).logpdf(z) - stats.norm(mean, std).logpdf(z)).sum(axis=-1)
    return log_p, log_ratio


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_loss_with_k_samples_is_that_of_the_paper(beta):
    model, x = TWO.vae(0.3, 1.7, k=5, beta=beta), TWO.draw(7)
    terms = {name: t.item() for name, t in model.loss(x, Generator(3)).items()}
    noise = placed(Generator(3).normal((7, 5, 2)).swapaxes(0, 1))
    log_p, log_ratio = weights_by_scipy(model, x, noise)
    bound = special.logsumexp(log_p + beta * log_ratio, axis=0) - log(5)
    assert list(terms) == ["loss", "reconstruction", "kl"]
    assert terms["loss"] == approx(-bound.mean(), rel=1e-5)
    assert terms["reconstruction"] == approx(-log_p.mean(), rel=1e-5)
    mean, log_var = model.posterior(x)
    kl = 0.5 * (mean.data**2 + np.exp(log_var.data) - 1 - log_var.data).sum(axis=1).mean()
    assert terms["kl"] == approx(kl, rel=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_the_gradient_of_the_loss_in_every_parameter(k):
    model, x = TWO.vae(0.3, 1.7, k=k), TWO.draw(4).astype(np.float64)
    layers = [model.encoder.layers[0], model.decoder.layers[0]]
    start = [p.data.astype(np.float64) for l in layers for p in (l.weight, l.bias)]

    def loss(*values):
        m = copy.copy(model)
        m.encoder, m.decoder = copy.copy(model.encoder), copy.copy(model.decoder)
        for mlp, l, w, b in zip((m.encoder, m.decoder), layers, values[::2], values[1:4:2]):  # noqa: B905
            layer = copy.copy(l)
            layer.weight, layer.bias = w, b
            mlp.layers = [layer]
        m.log_std = values[4]
        return m.loss(x, Generator(1))["loss"]

    assert tg.gradcheck(loss, [*start, model.log_std.data.astype(np.float64)])


def moments_of_weights(truth, shift, widen, x):
    """Log p(x), and the relative variance of a weight, by quadrature over q; 1-D."""
    t, w = np.polynomial.hermite_e.hermegauss(200)
    w = w / sqrt(2 * pi)
    sd = np.sqrt(widen * truth.variance)
    z = (x - truth.b) @ truth.slope + shift + sd * t
    log_w = (
        stats.norm(z * truth.w[0, 0] + truth.b, truth.std).logpdf(x)
        + stats.norm(0, 1).logpdf(z)
        - stats.norm(0, 1).logpdf(t)
        + np.log(sd)
    )
    p = (w * np.exp(log_w)).sum()
    return np.log(p), (w * np.exp(2 * log_w)).sum() / p**2 - 1, (w * log_w).sum()


def test_the_bound_rises_with_k_to_the_log_density_and_its_bias_is_that_of_the_delta_method():
    """Bias -v/2k and variance v/k, v the relative variance of a weight (Nowozin 2018, eq. 8)."""
    shift, widen = 0.25, 1.6
    model, x = ONE.vae(shift, widen), ONE.draw(1, seed=3)
    log_p, v, elbo = (q.item() for q in moments_of_weights(ONE, shift, widen, x[0]))
    assert log_p == approx(ONE.law.logpdf(x[0]), rel=1e-9)
    many = np.tile(x, (4000, 1))
    bounds = {
        k: model.score_samples(many, k=k, rng=Generator(k)).astype(float) for k in (1, 2, 4, 16, 64)
    }
    means = [b.mean() for b in bounds.values()]
    assert (np.diff(means) > 0).all() and means[-1] < log_p + 1e-3
    assert within(bounds[1], elbo)
    assert within(64 * (bounds[64] - log_p), -v / 2, errors=4.5)
    assert 64 * bounds[64].var() == approx(v, rel=0.12)
    assert means[0] < log_p - 0.8 * (log_p - elbo)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=12), st.floats(-1e4, 1e4))
@settings(max_examples=60, derandomize=True)
def test_the_log_of_a_mean_and_its_error(values, shift):
    """By NumPy on the weights themselves; a factor of all weights only shifts the logarithm."""
    total = LogMean(len(values))
    for v in values:
        total.add(np.array([v + shift]))
    log_mean, error = total.estimate()
    w = np.exp(np.array(values) - max(values))
    assert log_mean[0] - shift - max(values) == approx(np.log(w.mean()), abs=1e-8)
    k = len(w)
    assert error[0] == approx(w.std(ddof=1) / w.mean() / sqrt(k), rel=1e-5, abs=1e-5)


# Importance sampling ----------------------------------------------------------------------------


@truths
def test_the_log_likelihood_is_the_closed_form_within_its_error(truth):
    model, x = truth.vae(0.2, 1.5), truth.draw(600)
    log_p, error = model.log_likelihood(x, k=200, rng=Generator(2))
    score = (log_p - truth.law.logpdf(x)) / error
    assert log_p.dtype == error.dtype == np.float64 and log_p.shape == error.shape == (600,)
    assert (abs(score) < 5).all()
    assert abs(score.mean()) < 4 / sqrt(600) + error.mean()  # its bias is half of the error
    assert score.std() == approx(1, abs=0.15)  # the errors are calibrated


@truths
def test_with_the_true_posterior_every_weight_is_the_density(truth):
    model, x = truth.vae(), truth.draw(5)
    log_p, error = model.log_likelihood(x, k=3, rng=Generator(0))
    np.testing.assert_allclose(log_p, truth.law.logpdf(x), atol=1e-5)
    assert (error < 1e-5).all()


def test_densities_are_per_unit_of_the_data():
    model = TWO.vae()
    scale = np.array([3.0, 0.2, 7.0])
    model.shift.data[...], model.scale.data[...] = 5.0, scale
    x = TWO.draw(4)
    expected = TWO.law.logpdf(x) - np.log(scale).sum()
    for estimate in (
        model.log_likelihood(5 + x * scale, k=2),
        model.annealed_log_likelihood(5 + x * scale, temperatures=50, chains=50),
    ):
        np.testing.assert_allclose(estimate.log_p, expected, atol=1e-3 + 5 * estimate.error.max())
    np.testing.assert_allclose(model.score_samples(5 + x * scale, k=2), expected, atol=1e-3)


def elementwise(model):
    """The model with a decoder without matrix products, whose rounding depends on the shape."""
    model.decoder = lambda z: z * np.float32(1.3) + np.float32(0.2)
    return model


ESTIMATES = {
    "importance": lambda model, x: model.log_likelihood(x, k=6, rng=Generator(5)),
    "annealed": lambda model, x: model.annealed_log_likelihood(
        x, temperatures=3, chains=3, rng=Generator(5)
    ),
}
estimates = pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)


@estimates
def test_blocks_change_no_bit_of_an_estimate(estimate, monkeypatch):
    model, x = elementwise(ONE.vae(0.2, 1.5)), ONE.draw(11)
    whole = estimate(model, x)
    some = estimate(model, x[:5])
    for block in (1, 4, 11):
        monkeypatch.setattr(models_rows, "BLOCK", block)
        for a, b in zip(whole, estimate(model, x), strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(whole, some, strict=True):
        np.testing.assert_array_equal(a[:5], b)  # nor do the rows that come after


@estimates
def test_blocks_of_a_network_are_the_same_up_to_rounding(estimate, monkeypatch):
    model, x = VAE(9, hidden=(8,), latent=2), bits(23, 9)
    whole = estimate(model, x)
    monkeypatch.setattr(models_rows, "BLOCK", 7)
    np.testing.assert_allclose(estimate(model, x).log_p, whole.log_p, rtol=1e-5)


def test_what_is_in_memory_does_not_grow_with_k(monkeypatch):
    model, x = VAE(9, hidden=(8,), latent=2), bits(30, 9)
    monkeypatch.setattr(models_rows, "BLOCK", 8)
    sizes = []
    decoder = model.decoder
    monkeypatch.setattr(model, "decoder", lambda z: sizes.append(len(z)) or decoder(z))
    model.log_likelihood(x, k=40)
    assert max(sizes) == 8 and sum(sizes) == 40 * 30


def test_one_sample_has_no_error():
    estimate = ONE.vae().log_likelihood(ONE.draw(3), k=1)
    assert np.isfinite(estimate.log_p).all() and np.isnan(estimate.error).all()
    assert (estimate.ess == 1).all() and np.isnan(estimate.k_hat).all()


def log_mean(log_weights):
    """The estimate for rows of log weights (k, rows)."""
    total = LogMean(len(log_weights))
    for log_weight in log_weights:
        total.add(log_weight)
    return total.estimate()


def test_the_effective_sample_size_is_the_number_of_equal_weights():
    """n for n equal ones, 1 if one has all the weight, m if m of them share it."""
    for scale in (-3000.0, 0.0, 3000.0):
        log_w = np.full((40, 3), scale)
        log_w[1:, 1] -= 2000
        log_w[8:, 2] -= 2000
        np.testing.assert_allclose(log_mean(log_w).ess, [40, 1, 8], rtol=1e-9)
    w = np.random.default_rng(0).exponential(size=(60, 5))
    np.testing.assert_allclose(log_mean(np.log(w)).ess, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-9)


def pareto(k, shape, seed=0):
    """Draws of a generalised Pareto distribution with scale 1."""
    u = np.random.default_rng(seed).random(shape)
    return -np.log(u) if k == 0 else (u**-k - 1) / k


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.4, 0.7, 1.0, 1.5])
def test_the_shape_of_pareto_tails_is_found_in_spite_of_scale_and_body(k):
    """Of 3000 weights the largest 3 √3000, with as much as ten more that say 0.5."""
    tail = 165
    w = 1 + pareto(k, (3000, 300))
    found = log_mean(np.log(w) + 5000.0).k_hat
    assert found.dtype == np.float64
    assert found.mean() == approx((tail * k + 5) / (tail + 10), abs=0.06)
    assert found.std() < 1.2 * (1 + abs(k)) / sqrt(tail)
    w[w < np.quantile(w, 0.9, axis=0)] = 0.5  # what is below the tail does not count
    np.testing.assert_allclose(log_mean(np.log(w)).k_hat, found, atol=1e-6)


def shape_by_quadrature(x):
    """Zhang & Stephens (2009), in their own sign k = -ξ, with the integral over θ done finely."""
    x = numpy.sort(x)
    u = (numpy.arange(20_000) + 0.5) / 20_000
    theta = 1 / x[-1] + (1 - u**-0.5) / (3 * x[int(len(x) / 4 + 0.5) - 1])
    k = numpy.array([-numpy.log1p(-t * x).mean() for t in theta])
    profile = len(x) * (numpy.log(theta / k) + k - 1)
    likelihood = numpy.exp(profile - profile.max())
    mean = (theta * likelihood).sum() / likelihood.sum()
    return (len(x) * numpy.log1p(-mean * x).mean() + 5) / (len(x) + 10)


@pytest.mark.parametrize("k", [0.0, 0.5, 1.2])
def test_the_shape_is_the_posterior_mean_of_zhang_and_stephens(k):
    w = 1 + pareto(k, (400, 4), seed=3)
    found = on_cpu(log_mean(np.log(w)).k_hat)  # of 60 exceedances
    w = numpy.sort(on_cpu(w), axis=0)
    expected = [shape_by_quadrature(column[-60:] - column[-61]) for column in w.T]
    numpy.testing.assert_allclose(found, expected, atol=0.01)


def test_weights_without_a_tail_and_with_nothing_else():
    rounding = 1e-6 * np.random.default_rng(0).normal(size=(100, 1))
    alone = np.append(np.arange(99.0), 1e4)[:, None]
    found = log_mean(np.concatenate([0 * rounding, rounding, alone], axis=1)).k_hat
    assert found.tolist() == [0, 0, np.inf]


@many_steps
@pytest.mark.parametrize("widen", [0.0225, 0.1])
def test_too_narrow_a_q_is_seen_in_the_weights_and_not_in_the_error(widen):
    """With q of so many times the posterior's variance the tail has the shape 1 - widen: the error
    is small and wrong in most rows, and k_hat says so."""
    model, x = ONE.vae(widen=widen), ONE.draw(300)
    with pytest.warns(
        UserWarning, match=r"k_hat is above 0\.7 for \d+ of 300 rows \(the largest is 1\."
    ) as w:
        estimate = model.log_likelihood(x, k=500, rng=Generator(2))
    assert w[0].filename == __file__
    sure = estimate.error < 0.1
    wrong = abs(estimate.log_p - ONE.law.logpdf(x)) > 2 * estimate.error
    assert sure.mean() > 0.2 and wrong[sure].mean() > 0.8
    assert np.median(estimate.k_hat) > 0.7 and estimate.ess.mean() < 100


@many_steps
@pytest.mark.parametrize(
    ("widen", "low", "high"), [(0.5, 0.4, 0.6), (0.8, 0.1, 0.35), (1.2, -2, 0)]
)
def test_the_tail_of_the_weights_is_as_heavy_as_q_is_narrow(widen, low, high):
    """exp(c z²/2) for a normal z has a tail of the shape c, here 1 - widen; wider, it is bounded."""
    log_w = 0.5 * (1 - widen) * np.random.default_rng(1).normal(size=(5000, 100)) ** 2
    assert low < log_mean(log_w).k_hat.mean() <= high


# Annealing --------------------------------------------------------------------------------------


def test_inverse_temperatures_are_a_sigmoid_from_0_to_1():
    betas = inverse_temperatures(10)
    assert betas[0] == 0 and betas[-1] == 1 and len(betas) == 11
    s = special.expit(np.linspace(-4, 4, 11))
    np.testing.assert_allclose(placed(betas), (s - s[0]) / (s[-1] - s[0]), atol=1e-12)
    assert inverse_temperatures(1).tolist() == [0, 1]


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_hamiltonian_dynamics_leaves_the_tempered_posterior_as_it_is(beta):
    n, w, std, x = 4000, 1.5, 0.6, 0.9
    variance = 1 / (1 + beta * w**2 / std**2)
    mean = variance * beta * w * x / std**2

    def log_likelihood(z, chains):
        return Normal(z[:, 0] * w, std).log_prob(x)

    z = placed(mean + sqrt(variance) * Generator(0).normal((n, 1))).astype(np.float32)
    rng = Generator(1)
    state = likelihood._State.at(log_likelihood, z, slice(0, n))
    for _ in range(3):
        momentum, u = placed((rng.normal((n, 1)), rng.uniform((n,))))
        size = np.full(n, 0.45, np.float32)
        state, accepted = likelihood._transition(
            log_likelihood, state, slice(0, n), momentum, u, size, beta, 5
        )
    assert 0.3 < accepted.mean() < 0.995
    assert (state.z != z).mean() > 0.5
    values = state.z[:, 0].astype(float)
    assert stats.kstest(values, stats.norm(mean, sqrt(variance)).cdf).pvalue > 1e-3
    assert within(values, mean) and within((values - mean) ** 2, variance)
    expected = stats.norm(values * w, std).logpdf(x)
    np.testing.assert_allclose(state.log_likelihood, expected, rtol=1e-4, atol=1e-4)


def test_small_steps_keep_the_energy():
    """A wrong force would be made good by acceptance, at the cost of it."""
    w, n = np.array([[1.2, 0.5], [-0.4, 0.9]]), 200

    def log_likelihood(z, chains):
        return tg.sum(Normal(z @ w.astype(np.float32), 0.6).log_prob(0.9), axis=-1)

    z, momentum = normals32(n, 2), normals32(n, 2, seed=1)
    state = likelihood._State.at(log_likelihood, z, slice(0, n))
    size, u = np.full(n, 0.02, np.float32), np.zeros(n, np.float32)
    moved, acceptance = likelihood._transition(
        log_likelihood, state, slice(0, n), momentum, u, size, 0.7, 40
    )
    assert (1 - acceptance).max() < 4e-3
    assert (abs(moved.z - z).max(axis=1) > 0.05).all()


@many_steps
@truths
def test_annealing_finds_the_log_density_within_its_error_without_the_encoder(truth):
    x = truth.draw(150)
    true = truth.law.logpdf(x)
    model = truth.vae(shift=7.0, widen=0.01)  # a posterior of no use
    log_p, error = model.annealed_log_likelihood(x, temperatures=40, chains=24, rng=Generator(4))
    score = (log_p - true) / error
    assert error.mean() < 0.2
    assert abs(score.mean()) < 4 / sqrt(150) + error.mean()
    assert score.std() == approx(1, abs=0.25)
    again = truth.vae().annealed_log_likelihood(x, temperatures=40, chains=24, rng=Generator(4))
    np.testing.assert_array_equal(log_p, again.log_p)


def test_one_temperature_is_the_mean_over_draws_of_the_prior():
    """log (1/n) Σ p(x|z_i): what the handout means by its Monte Carlo approximation."""
    model, x = TWO.vae(), TWO.draw(6)
    log_p, error = model.annealed_log_likelihood(x, temperatures=1, chains=500, rng=Generator(1))
    rng = Generator(1)
    rng.next_draw()  # the chain that looks for step sizes
    z = placed(rng.normal((6 * 500, 2))).reshape(6, 500, 2)
    each = stats.norm(z @ TWO.w + TWO.b, TWO.std).logpdf(x[:, None]).sum(axis=-1)
    np.testing.assert_allclose(log_p, special.logsumexp(each, axis=1) - log(500), rtol=1e-5)
    p = np.exp(each)
    np.testing.assert_allclose(error, p.std(axis=1, ddof=1) / p.mean(axis=1) / sqrt(500), rtol=1e-3)


@many_steps
def test_simulated_data_are_bracketed_and_more_temperatures_close_the_bracket():
    model = TWO.vae()
    entropy = TWO.law.entropy()
    gaps = []
    for n in (2, 60):
        lower, upper = model.bracketed_log_likelihood(
            400, temperatures=n, chains=4, rng=Generator(2)
        )
        assert lower.shape == upper.shape == (400,)
        gap = (upper - lower).astype(float)
        gaps.append(gap.mean())
        assert gap.mean() > -4 * gap.std() / sqrt(400)
        assert lower.mean() < -entropy + 4 * lower.std() / sqrt(400)
        assert upper.mean() > -entropy - 4 * upper.std() / sqrt(400)
    assert gaps[0] > 0.3 and abs(gaps[1]) < 0.2 * gaps[0]


def test_weights_backwards_are_the_inverse_density():
    """E[weight] = 1/p(x) from exact draws of the posterior, at fixed step sizes."""
    n, w, std, x = 6000, 1.5, 0.6, 0.9
    variance = 1 / (1 + w**2 / std**2)
    z = variance * w * x / std**2 + sqrt(variance) * Generator(0).normal((n, 1))
    z = placed(z.astype(np.float32))
    log_w, _ = anneal(
        lambda z, chains: Normal(z[:, 0] * w, std).log_prob(x),
        z, inverse_temperatures(8)[::-1], Generator(1), step_sizes=[np.full(1, 0.3, np.float32)] * 7,
    )  # fmt: skip
    assert within(np.exp(log_w), 1 / stats.norm(0, sqrt(w**2 + std**2)).pdf(x))


# The weight of the KL term ----------------------------------------------------------------------


def kl_of_units(model, x):
    mean, log_var = (t.data.astype(float) for t in model.posterior(x))
    return (0.5 * (mean**2 + np.exp(log_var) - 1 - log_var)).mean(axis=0)


def test_free_bits_are_the_largest_of_the_allowance_and_the_mean_of_each_unit():
    model, x = VAE(5, hidden=(), latent=3, beta=0.7), rows(40, 5)
    kl = kl_of_units(model, x)
    allowance = float(np.sort(kl)[1]) * 1.01  # of three units, two cost no more than it
    free = VAE(5, hidden=(), latent=3, beta=0.7, free_bits=allowance)
    terms = {name: t.item() for name, t in free.loss(x, Generator(1)).items()}
    expected = terms["reconstruction"] + 0.7 * np.maximum(kl, allowance).sum()
    assert terms["loss"] == approx(expected, rel=1e-5)
    assert terms["kl"] == approx(kl.sum(), rel=1e-5)  # the true one is shown
    plain, with_free = (
        gradients(m.loss(x, Generator(1))["loss"], m.encoder.layers[0].bias).data
        for m in (model, free)
    )
    of_kl = 0.7 * np.concatenate([m.data.mean(axis=0) for m in _kl_gradient(model, x)])
    charged = np.tile(kl > allowance, 2)
    np.testing.assert_allclose(plain - with_free, np.where(charged, 0, of_kl), atol=1e-5)


def _kl_gradient(model, x):
    """Of the KL of each row, in the mean and in the log variance."""
    mean, log_var = model.posterior(x)
    return mean, 0.5 * tg.expm1(log_var)


@pytest.mark.parametrize("k", [1, 2])
def test_the_kl_weight_rises_in_a_run_and_goes_on_rising_in_a_resumed_one(tmp_path, k):
    options = {"hidden": (6,), "latent": 2, "beta": 0.8, "kl_warmup": 6, "k": k}
    x = rows(32)

    model = VAE(4, **options)
    whole = model.fit(x, steps=9, batch=8)
    stopped = VAE(4, **options)
    stop_at(stopped, 4)
    with pytest.raises(Interrupted):
        stopped.fit(x, steps=9, batch=8, folder=tmp_path, checkpoint_seconds=0.0)
    assert VAE(4, **options).fit(x, steps=9, batch=8, folder=tmp_path, resume=True) == whole
    weights = [0.8 * min(s / 6, 1) for s in range(9)]
    if k == 1:
        for s, weight in enumerate(weights):
            charged = whole["loss"][s] - whole["reconstruction"][s]
            assert charged == approx(weight * whole["kl"][s], rel=1e-4, abs=1e-6)
    model.step = 3
    assert model.kl_weight == 0.8  # whoever evaluates it afterwards sees the whole
    model.train()
    assert model.kl_weight == approx(0.4)


# What is decoded --------------------------------------------------------------------------------


def test_binarised_images_are_drawn_anew_for_every_batch_with_the_greys_as_probabilities():
    x = np.tile(np.array([[0.0, 0.25, 0.7, 1.0]], np.float32), (2000, 1))
    model = VAE(4, hidden=(5,), latent=2, binarise=True)
    seen = []
    plain = model.encoder
    model.encoder = lambda x: seen.append(x) or plain(x)
    rng = Generator(0)
    model.loss(x, rng)
    model.loss(x, rng)
    model.score_samples(x, rng=rng)
    for drawn in seen:
        assert set(np.unique(drawn).tolist()) == {0.0, 1.0} and drawn.dtype == np.float32
        assert (drawn[:, 0] == 0).all() and (drawn[:, 3] == 1).all()
        assert within(drawn[:, 1], 0.25) and within(drawn[:, 2], 0.7)
    assert len({s.tobytes() for s in seen}) == 3


def test_bits_stay_as_they_are():
    x = bits(20)
    plain, binarising = (VAE(4, hidden=(5,), latent=2, binarise=b) for b in (False, True))
    rng = Generator(1)
    rng.next_draw()  # which the other spends on the bits
    expected = plain.log_likelihood(x, k=4, rng=rng)
    found = binarising.log_likelihood(x, k=4, rng=Generator(1))
    np.testing.assert_array_equal(found.log_p, expected.log_p)


def grey_model(**options):
    model = VAE(3, hidden=(), latent=2, likelihood="discretised-gaussian", **options)
    model.decoder.layers[0].weight.data[...] = 0.2 * normals32(2, 3)
    model.log_std.data[...] = log(0.1)
    return model


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_grey_levels_have_probabilities_that_sum_to_one(levels):
    model = grey_model(levels=levels)
    every = np.tile(np.linspace(0, 1, levels, dtype=np.float32)[:, None], (1, 3))
    p = model.output(np.tile(normals32(1, 2), (levels, 1)))
    total = np.exp(p.log_prob(every).data.astype(float)).sum(axis=0)
    np.testing.assert_allclose(total, 1, rtol=1e-5)
    scores = model.score_samples(every, rng=Generator(0))
    assert (scores < 0).all()
    if levels == 256:  # of narrow bins, the density times the width
        z = normals32(1, 2)
        loc = z @ model.decoder.layers[0].weight.data
        at = np.array([[0.4, 0.5, 0.6]], np.float32)
        at = np.round(at * 255) / 255
        expected = stats.norm(loc, 0.1).logpdf(at) - log(255)
        found = model.output(z).log_prob(at).data
        np.testing.assert_allclose(found, expected, rtol=2e-4)
    greys = model.sample(50) * (levels - 1)
    np.testing.assert_allclose(greys, np.round(greys), atol=1e-4)
    decoded = model.decode(100 * normals32(9, 2))
    assert decoded.min() == 0 and decoded.max() == 1


@pytest.mark.parametrize("name", ["bernoulli", "discretised-gaussian"])
def test_an_untrained_decoder_puts_out_the_mean_of_each_pixel(name):
    x = placed(data.load("digits").x[:300])
    model = VAE(64, hidden=(5,), latent=2, likelihood=name, levels=17)
    model.decoder.layers[-1].weight.data[...] = 0
    model.prepare(x)
    mean = x.mean(axis=0)
    np.testing.assert_allclose(model.decode(normals32(2, 2))[0], np.clip(mean, 1e-3, 1), atol=2e-3)
    if name != "bernoulli":
        scale = model.output(normals32(1, 2)).scale.data
        np.testing.assert_allclose(scale, np.maximum(x.std(axis=0), 1 / 17), rtol=1e-5)


@many_steps
def test_grey_digits_are_learnt_as_levels():
    x = placed(data.load("digits").x[:400])
    model = VAE(64, hidden=(32,), latent=4, likelihood="discretised-gaussian", levels=17)
    history = model.fit(x, steps=150, lr=5e-3, warmup=10)
    assert np.mean(history["loss"][-20:]) < 0.92 * np.mean(history["loss"][:3])
    assert 0 < np.mean(history["loss"][-20:]) < 64 * log(17)  # better than any level alike


# The optimum of the linear model: probabilistic PCA ---------------------------------------------


def isotropic(std):
    return lambda output, log_std: Normal(output, std)


def correlated(n=1000):
    """Data of four features, and the eigenvalues of their correlation, falling."""
    x = normals32(n, 2) @ np.array([[2.0, -2.0, 0.4, 0.3], [0.3, 0.4, 1.0, -1.2]], np.float32)
    x = x + 0.6 * normals32(n, 4, seed=1)
    return x, np.linalg.eigvalsh(np.corrcoef(x.T).astype(float))[::-1]


@many_steps
@pytest.mark.parametrize(("beta", "found"), [(1.0, 2), (5.2, 1)])
def test_a_linear_vae_finds_the_principal_components_above_its_noise(beta, found):
    """w² = λ - βσ², posterior variance βσ²/λ, KL = ½ ln(λ/βσ²), active iff λ > βσ² (Lucas et al.
    2019, Tipping & Bishop 1999); and for β = 1 the bound is log p."""
    x, values = correlated()
    variance = 0.35
    noise = beta * variance
    active = values > noise
    assert active.sum() == found and abs(values - noise).min() > 0.1
    model = VAE(4, hidden=(), latent=3, likelihood=isotropic(sqrt(variance)), beta=beta)
    model.fit(x, steps=900, batch=1000, lr=0.03, warmup=10, clip=100.0)
    w = model.decoder.layers[0].weight.data.astype(float)
    power = np.linalg.svd(w, compute_uv=False) ** 2
    expected = np.where(active, values - noise, 0)[:3]
    np.testing.assert_allclose(power, expected, atol=0.03)
    np.testing.assert_allclose(np.sort((w**2).sum(axis=1))[::-1], expected, atol=0.03)
    report = model.units(x)
    order = np.argsort(-report.kl)
    lambdas = values[active]
    np.testing.assert_allclose(report.kl[order][:found], 0.5 * np.log(lambdas / noise), atol=0.03)
    assert (report.kl[order][found:] < 0.01).all()
    np.testing.assert_allclose(report.variance[order][:found], 1 - noise / lambdas, atol=0.03)
    assert report.active.sum() == found
    assert (report.active == (report.kl > 0.01)).all()
    _, log_var = model.posterior(model.normalise(x))
    np.testing.assert_allclose(
        np.exp(log_var.data.mean(axis=0))[order][:found], noise / lambdas, atol=0.03
    )
    if beta == 1:
        normalised = model.normalise(x)
        law = stats.multivariate_normal(np.zeros(4), w.T @ w + noise * np.eye(4))
        bound = np.mean([model.score_samples(x, rng=Generator(s)).mean() for s in range(20)])
        own = law.logpdf(normalised).mean() - np.log(model.scale.data).sum()
        assert bound == approx(own, abs=0.02)


@many_steps
def test_the_learnt_noise_is_the_mean_of_the_eigenvalues_left_over():
    """Tipping & Bishop 1999, eq. 8."""
    x, values = correlated()

    def learnt(output, log_std):
        return Normal(output, tg.exp(tg.mean(log_std)))

    model = VAE(4, hidden=(), latent=2, likelihood=learnt)
    model.fit(x, steps=900, batch=1000, lr=0.03, warmup=10, clip=100.0)
    noise = values[2:].mean()
    assert np.exp(2 * model.log_std.data.mean()) == approx(noise, rel=0.05)
    w = model.decoder.layers[0].weight.data
    np.testing.assert_allclose(
        np.linalg.svd(w, compute_uv=False) ** 2, values[:2] - noise, atol=0.04
    )


def test_the_report_on_units_counts_those_above_the_noise():
    """At the optimum itself: orthogonal features of variance λ, one unit to each."""
    values = np.array([3.0, 1.5, 1.02, 0.99, 0.5])
    kept = np.maximum(values - 1, 0)
    x = normals32(4000, 5)
    x = placed(np.linalg.qr(x - x.mean(axis=0))[0]) * np.sqrt(4000 * values)
    model = VAE(5, hidden=(), latent=5, likelihood=isotropic(1.0))
    layer = model.encoder.layers[0]
    layer.weight.data[...] = 0
    layer.weight.data[:, :5] = np.diag(np.sqrt(kept) / (kept + 1))
    layer.bias.data[5:] = np.log(1 / (kept + 1))
    kl, variance, active = model.units(x.astype(np.float32))
    np.testing.assert_allclose(kl, np.where(kept > 0, 0.5 * np.log(values), 0), atol=1e-5)
    np.testing.assert_allclose(variance, np.where(kept > 0, 1 - 1 / values, 0), atol=1e-4)
    np.testing.assert_array_equal(active, values > 1)


# Bad and extreme input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAE(4, k=0), "k is a whole number from 1, not 0"),
        (lambda: VAE(4, k=2, free_bits=0.1), "free_bits.*k = 2"),
        (lambda: VAE(4, free_bits=-1), "free_bits is at least 0"),
        (lambda: VAE(4, kl_warmup=-1), "kl_warmup"),
        (lambda: VAE(4, levels=1), "levels is a whole number from 2"),
        (lambda: VAE(4, likelihood="gaussian", binarise=True), "binarise.*bernoulli"),
        (lambda: VAE(4, hidden=(), latent=2).score_samples(bits(2), k=0), "k is a whole number"),
        (lambda: VAE(4, hidden=(), latent=2).log_likelihood(bits(2), k=0), "k is a whole number"),
        (
            lambda: VAE(4, hidden=(), latent=2).annealed_log_likelihood(bits(2), temperatures=0),
            "temperatures is a whole",
        ),
        (
            lambda: VAE(4, hidden=(), latent=2).annealed_log_likelihood(
                bits(2), chains=0, temperatures=2
            ),
            "chains is a whole",
        ),
        (lambda: VAE(4, hidden=(), latent=2).bracketed_log_likelihood(0), "number of samples"),
        (lambda: VAE(4, hidden=(), latent=2).units(bits(1)), "at least 2 rows"),
        (lambda: VAE(4).log_likelihood(rows(2) * np.nan, k=2), r"data\[0, 0\] is nan"),
        (lambda: VAE(4).units(np.zeros((0, 4))), "empty"),
        (lambda: interpolate(normals32(3), normals32(4)), "two codes"),
        (lambda: interpolate(normals32(3), normals32(3), 1), "n is a whole number from 2"),
        (
            lambda: interpolate(normals32(3), normals32(3), path="sphere"),
            "did you mean 'spherical'",
        ),
        (lambda: traverse(normals32(3, 2)), "one code"),
    ],
)
def test_what_cannot_be_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("options", [
    {"likelihood": "gaussian"}, {"likelihood": "bernoulli", "binarise": True, "k": 3},
    {"likelihood": "discretised-gaussian", "free_bits": 0.1},
])  # fmt: skip
@pytest.mark.parametrize("x", [
    np.full((6, 3), 0.5, np.float32), np.zeros((6, 3), np.float32), rows(1, 3), rows(5, 1),
], ids=["constant", "zero", "one row", "one feature"])  # fmt: skip
def test_constant_or_little_data_are_modelled(x, options):
    model = VAE(x.shape[1], hidden=(4,), latent=1, **options)
    model.fit(x, steps=4, warmup=0, lr=0.02)
    log_p, error = model.log_likelihood(x, k=5)
    assert np.isfinite(log_p).all() and np.isfinite(error).all()
    assert np.isfinite(model.annealed_log_likelihood(x, temperatures=3, chains=2).log_p).all()
    assert np.isfinite(model.sample(3)).all()
    assert all(np.isfinite(q).all() for q in model.units(np.tile(x, (2, 1))))
