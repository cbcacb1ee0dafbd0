"""The models against exact answers: closed forms, Bayes' rule, linear-Gaussian problems."""

import copy
import pickle
import re
import tracemalloc
from math import log, sqrt

import pytest

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
from tinygen import data
from tinygen.autodiff.transforms import gradients
from tinygen.errors import CheckpointError
from tinygen.models import MODELS, load
from tinygen.models import rows as models_rows
from tinygen.models.autoencoder import (
    CORRUPTIONS,
    Autoencoder,
    DenoisingAutoencoder,
    hutchinson_jacobian_norm,
    jacobian_norm,
)
from tinygen.models.diffusion import (
    DDPM,
    TARGETS,
)
from tinygen.models.gan import GAN, minimax, non_saturating
from tinygen.models.vae import VAE
from tinygen.nn import MLP
from tinygen.random import Generator

MODELS = {name: on_device(model) for name, model in MODELS.items()}
Autoencoder, DenoisingAutoencoder, VAE, GAN, DDPM, MLP = map(
    on_device, (Autoencoder, DenoisingAutoencoder, VAE, GAN, DDPM, MLP)
)
SMALL = {
    "ae": {"hidden": (16,), "latent": 3},
    "dae": {"hidden": (16,), "latent": 3},
    "cae": {"hidden": (8,), "latent": 3},
    "vae": {"hidden": (16,), "latent": 3},
    "gan": {"hidden": (16,), "latent": 3},
    "ddpm": {"width": 16, "blocks": 1, "T": 25},
}
models = pytest.mark.parametrize("name", MODELS)


def unbounded(name):
    return {"likelihood": "gaussian"} if name == "vae" else {"bounded": False}


def small(name, features=4, **options):
    return MODELS[name](features, **{**SMALL[name], **options})


def rows(n, features=4, seed=0):
    """Data in [0, 1], float32."""
    return np.random.default_rng(seed).random((n, features), np.float32)


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def put(layer, weight, bias=0.0):
    """Set the numbers of a linear layer."""
    layer.weight.data[...], layer.bias.data[...] = weight, bias


def within(values, expected, errors=4.0):
    """The mean of independent values is `expected`, to so many standard errors."""
    values = np.asarray(values, float)
    return abs(values.mean() - expected) <= errors * values.std(ddof=1) / sqrt(len(values)) + 1e-9


def states_equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


class Fixed(Generator):
    """Gives the array it was made with."""

    def __init__(self, array):
        super().__init__()
        self.array = array

    def normal(self, shape, mean=0.0, std=1.0, dtype=np.float32, device="cpu"):
        return placed(mean + std * np.broadcast_to(on_cpu(self.array), shape).astype(dtype))


# Autoencoders -----------------------------------------------------------------------------------


def test_the_loss_of_an_autoencoder_is_the_squared_distance():
    model = small("ae", bounded=True)
    x = rows(7)
    y = model.reconstruct(x)
    expected = ((x - y).astype(float) ** 2).sum(axis=1).mean()
    terms = model.loss(x, Generator(0))
    assert list(terms) == ["loss"]
    assert terms["loss"].item() == approx(expected, rel=1e-5)


@pytest.mark.cpu_only("many steps: the stand-in takes a millisecond for each kernel")
def test_a_linear_autoencoder_finds_the_principal_components():
    """The least error is the sum of the discarded eigenvalues (Baldi & Hornik 1989)."""
    x = normals(200, 5) @ np.diag([4.0, 3.0, 1.0, 0.7, 0.5]) @ normals(5, 5, seed=1) + 3
    model = Autoencoder(5, hidden=(), latent=2, bounded=False)
    model.fit(x, steps=1200, batch=200, lr=0.03, warmup=10, clip=100.0)
    discarded = np.linalg.eigvalsh(np.corrcoef(x.T))[:-2].sum()
    error = model.loss(model.check(x), Generator(0))["loss"].item()
    assert discarded * (1 - 1e-4) <= error <= discarded * 1.01


@pytest.mark.parametrize("latent", [1, 3])
def test_codes_are_drawn_from_the_normal_distribution_fitted_to_the_codes_of_the_data(latent):
    model = small("ae", latent=latent, bounded=False)
    x = normals(50, 4).astype(np.float32)
    model.fit(x, steps=3)
    z = model.encode(x).astype(float)
    factor = model.code_factor.data.astype(float)
    np.testing.assert_allclose(model.code_mean.data, z.mean(axis=0), rtol=1e-5, atol=1e-6)
    covariance = np.atleast_2d(np.cov(z.T, bias=True))
    np.testing.assert_allclose(factor @ factor.T, covariance, rtol=1e-4, atol=1e-6)
    draws = (
        placed(Generator(3).normal((6, latent))) @ model.code_factor.data.T + model.code_mean.data
    )
    np.testing.assert_allclose(
        model.sample(6, rng=Generator(3)), model.decode(draws), rtol=1e-5, atol=1e-6
    )


def corrupt(kind, x, amount, seed=0):
    before = x.copy()
    y = CORRUPTIONS[kind](x, amount, Generator(seed))
    np.testing.assert_array_equal(x, before)  # the clean input is not touched
    assert y.dtype == np.float32 and y.shape == x.shape
    return y


def test_masking_sets_to_zero_at_its_rate():
    x = 0.25 + rows(400, 100)
    y = corrupt("masking", x, 0.3)
    masked = y == 0
    np.testing.assert_array_equal(y[~masked], x[~masked])
    assert within(masked.reshape(-1), 0.3)
    assert within(masked[:, :50].reshape(-1), 0.3)  # everywhere alike


def test_gaussian_corruption_adds_noise_of_its_standard_deviation():
    x = rows(400, 100)
    noise = (corrupt("gaussian", x, 0.5) - x).astype(float)
    assert within(noise.reshape(-1), 0) and within(noise.reshape(-1) ** 2, 0.25)
    assert stats.kstest(noise.reshape(-1), stats.norm(0, 0.5).cdf).pvalue > 1e-3


def test_salt_and_pepper_are_the_extremes_in_equal_parts():
    x = 1 + rows(400, 100)
    low, high = x.min(), x.max()
    y = corrupt("salt-and-pepper", x, 0.4)
    changed = y != x
    assert set(np.unique(y[changed]).tolist()) == {low.item(), high.item()}
    assert within((y == low).reshape(-1), 0.2 + 0.8 / x.size)
    assert within((y == high).reshape(-1), 0.2 + 0.8 / x.size)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_no_corruption_is_none(kind):
    x = rows(5, 6)
    np.testing.assert_array_equal(corrupt(kind, x, 0.0), x)


@pytest.mark.parametrize("bounded", [True, False])
def test_the_denoising_loss_is_against_the_clean_input(monkeypatch, bounded):
    """The code of the corrupted x decodes to something that is compared with x itself."""
    model = small("dae", bounded=bounded)
    x = rows(6)
    if not bounded:
        model.shift.data[...], model.scale.data[...] = 0.5, 2.0
    clean = model.normalise(x)
    seen = []

    def spoil(x, amount, rng):
        np.testing.assert_array_equal(x, clean)
        assert amount == 0.3
        return x + 1

    monkeypatch.setitem(CORRUPTIONS, "masking", spoil)
    monkeypatch.setattr(model, "encoder", lambda x: seen.append(x) or tg.tensor(x))
    monkeypatch.setattr(model, "decoder", lambda z: z)
    loss = model.loss(x, Generator(0))["loss"]
    np.testing.assert_array_equal(seen[0], clean + 1)
    assert loss.item() == approx(4.0, rel=1e-6)  # ‖(x + 1) - x‖²: 0 against the corrupted


@pytest.mark.cpu_only("many steps: the stand-in takes a millisecond for each kernel")
@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_the_best_denoiser_of_gaussian_data(noise):
    """r(x̃) = (s² x̃ + σ² m) / (s² + σ²), with error s²σ² / (s² + σ²), here s = 1 and m = 0."""
    x = normals(4000, 1)
    model = DenoisingAutoencoder(
        1, corruption="gaussian", amount=noise, hidden=(), latent=1, bounded=False
    )
    best = 1 / (1 + noise**2)
    put(model.encoder.layers[0], 1.0)
    put(model.decoder.layers[0], best)
    (x,) = model.prepare(x)
    losses = [model.loss(x, Generator(s))["loss"].item() for s in range(30)]
    assert within(losses, noise**2 * best)
    model.fit(x, steps=500, batch=500, lr=0.02, warmup=1)
    gain = model.encoder.layers[0].weight.item() * model.decoder.layers[0].weight.item()
    assert gain == approx(best, abs=0.03)
    assert abs(model.reconstruct(np.array([[x.mean()]])) - x.mean()) < 0.03


def test_one_sigmoid_layer_has_the_penalty_of_the_paper():
    f = MLP([5, 3], final="sigmoid", rng=Generator(0), dtype=np.float64)
    f.layers[0].bias.data[...] = normals(3)
    x = normals(6, 5)
    h = special.expit(x @ f.layers[0].weight.data + f.layers[0].bias.data)
    expected = ((h * (1 - h)) ** 2 * (f.layers[0].weight.data ** 2).sum(axis=0)).sum(axis=1)
    np.testing.assert_allclose(jacobian_norm(f, x).data, expected, rtol=1e-12)


NETWORKS = [
    ([4, 3], "tanh", None),
    ([4, 6, 3], "tanh", "sigmoid"),
    ([2, 5, 4, 6], "silu", None),
    *(([3, 4, 2], a, a) for a in tg.ACTIVATIONS),
]
networks = pytest.mark.parametrize(("sizes", "activation", "final"), NETWORKS)


def network(sizes, activation, final):
    f = MLP(sizes, activation, final=final, rng=Generator(1), dtype=np.float64)
    for i, layer in enumerate(f.layers):
        layer.bias.data[...] = 0.3 * normals(*layer.bias.shape, seed=i)
    return f


def squared_jacobians(f, x):
    """By tg.jacobian, row by row."""
    return [(tg.jacobian(lambda r: f(tg.reshape(r, (1, -1))))(r).data ** 2).sum() for r in x]


@networks
def test_the_penalty_is_the_squared_norm_of_the_jacobian(sizes, activation, final):
    f, x = network(sizes, activation, final), normals(5, sizes[0], seed=3)
    norm = jacobian_norm(f, x)
    assert norm.shape == (5,)
    np.testing.assert_allclose(norm.data, squared_jacobians(f, x), rtol=1e-10)


def in_terms_of_weights(f, x, norm):
    """norm(f, x) as a function of f's parameters, for gradcheck."""
    layers = f.layers

    def function(*values):
        g = copy.copy(f)
        g.layers = [copy.copy(layer) for layer in layers]
        for layer, weight, bias in zip(g.layers, values[::2], values[1::2], strict=True):
            layer.weight, layer.bias = weight, bias
        return norm(g, x)

    return function, [p.data for p in f.parameters()]


@pytest.mark.parametrize("activation", ["sigmoid", "silu", "tanh", "softplus", "gelu", "elu"])
def test_the_gradient_of_the_penalty_in_the_weights(activation):
    f, x = network([3, 4, 2], activation, "sigmoid"), normals(2, 3, seed=4)
    assert tg.gradcheck(*in_terms_of_weights(f, x, jacobian_norm))
    estimate = lambda f, x: hutchinson_jacobian_norm(f, x, Generator(0))  # noqa: E731
    assert tg.gradcheck(*in_terms_of_weights(f, x, estimate))


def test_hutchinson_over_a_basis_is_exact_and_over_normals_unbiased():
    f = network([4, 6, 3], "tanh", "sigmoid")
    x = normals(5, 4, seed=2)
    exact = jacobian_norm(f, x).data
    basis = np.linalg.qr(normals(3, 3))[0]
    total = sum(hutchinson_jacobian_norm(f, x, Fixed(v)).data for v in placed(basis))
    np.testing.assert_allclose(total, exact, rtol=1e-10)
    many = np.repeat(x, 4000, axis=0)
    draws = hutchinson_jacobian_norm(f, many, Generator(0)).data.reshape(5, -1)
    assert all(within(draw, e) for draw, e in zip(draws, exact, strict=True))


@pytest.mark.parametrize("estimate", ["exact", "hutchinson"])
def test_the_contractive_loss_is_the_error_plus_the_weighted_penalty(estimate):
    model = small("cae", penalty=0.7, estimate=estimate)
    x = rows(6)
    terms = {name: t.item() for name, t in model.loss(x, Generator(0)).items()}
    plain = Autoencoder.loss(model, x, Generator(0))["loss"].item()
    assert terms["reconstruction"] == approx(plain, rel=1e-6)
    if estimate == "exact":
        exact = np.mean(squared_jacobians(model.encoder, x))
    else:
        exact = hutchinson_jacobian_norm(model.encoder, x, Generator(0)).data.mean()
    assert terms["contraction"] == approx(exact, rel=1e-5)
    assert terms["loss"] == approx(plain + 0.7 * exact, rel=1e-5)
    assert next(iter(terms)) == "loss"


@pytest.mark.cpu_only("many steps: the stand-in takes a millisecond for each kernel")
def test_the_penalty_contracts():
    x = rows(64, 6)
    norms = []
    for penalty in (0.0, 5.0):
        model = small("cae", 6, penalty=penalty)
        model.fit(x, steps=100, warmup=5, lr=1e-2)
        norms.append(jacobian_norm(model.encoder, x).data.mean())
    assert norms[1] < 0.3 * norms[0]


# VAE --------------------------------------------------------------------------------------------


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


# GAN --------------------------------------------------------------------------------------------

DISCRETE = {
    "overlapping": ([1, 2, 3, 4], [4, 3, 2, 1]),
    "equal": ([5, 5], [5, 5]),
    "far apart": ([97, 2, 1], [1, 2, 97]),
}


@pytest.mark.parametrize(("p", "q"), DISCRETE.values(), ids=DISCRETE)
def test_the_best_discriminator_has_the_loss_log_4_minus_2_js(p, q):
    """On a discrete problem, with exactly p_i rows of point i as data and q_i as samples."""
    p, q = np.array(p), np.array(q)
    points = np.arange(len(p))
    x = np.repeat(points, p)[:, None].astype(np.float32)
    logits = np.log(p / q)
    model = GAN(1, bounded=False, hidden=(), latent=1, penalty=None)
    model.generator = lambda z: tg.tensor(np.repeat(points, q)[: len(z), None])
    model.discriminator = lambda x: tg.tensor(logits[tg.tensor(x).data.astype(int)])
    n, m = p / p.sum(), q / q.sum()
    middle = (n + m) / 2
    js = 0.5 * (special.rel_entr(n, middle) + special.rel_entr(m, middle)).sum()
    terms = model.discriminate(x, Generator(0))
    assert list(terms) == ["discriminator"]
    assert terms["discriminator"].item() == approx(log(4) - 2 * js, rel=1e-6)
    d = n / (n + m)  # and the losses of the generator there
    fake = model.discriminator(model.generator(np.zeros((p.sum(), 1))))
    assert minimax(fake).item() == approx((m * np.log(1 - d)).sum(), rel=1e-6)
    assert non_saturating(fake).item() == approx(-(m * np.log(d)).sum(), rel=1e-6)
    terms = model.generate(x, Generator(0))
    assert list(terms) == ["generator"]
    assert terms["generator"].item() == approx(-(m * np.log(d)).sum(), rel=1e-6)


def test_any_other_discriminator_has_a_larger_loss():
    p, q = np.array([1, 2, 3, 4]), np.array([4, 3, 2, 1])
    x = np.repeat(np.arange(4), p)[:, None].astype(np.float32)
    model = GAN(1, bounded=False, hidden=(), latent=1, penalty=None)
    model.generator = lambda z: tg.tensor(np.repeat(np.arange(4), q)[:, None])
    table = tg.tensor(np.log(p / q), requires_grad=True)
    model.discriminator = lambda x: table[tg.tensor(x).data.astype(int)]
    loss = model.discriminate(x, Generator(0))["discriminator"]
    np.testing.assert_allclose(gradients(loss, table).data, 0, atol=1e-12)
    hessian = tg.hessian(
        lambda t: (
            (p / 10 * tg.bce_with_logits(t, 1.0)).sum()
            + (q / 10 * tg.bce_with_logits(t, 0.0)).sum()
        )
    )(table.data)
    assert (np.linalg.eigvalsh(hessian.data) > 0).all()


def test_the_two_losses_of_the_generator_pull_alike_and_one_saturates():
    logits = tg.tensor(np.linspace(-30, 30, 61)[:, None], requires_grad=True)
    n = 61
    d = special.expit(logits.data)
    one = gradients(minimax(logits), logits).data * n
    other = gradients(non_saturating(logits), logits).data * n
    np.testing.assert_allclose(one, -d, rtol=1e-12)
    np.testing.assert_allclose(other, -special.expit(-logits.data), rtol=1e-12, atol=1e-14)
    assert (one < 0).all() and (other < 0).all()  # both raise D(G(z))
    ratio = one / other  # D / (1 - D): the minimax gradient dies where D is sure of the fake
    np.testing.assert_allclose(ratio[:36], np.exp(logits.data)[:36], rtol=1e-10)
    assert one[30] == other[30] == -0.5  # the same at D = 1/2


@pytest.mark.parametrize("loss", ["minimax", "non-saturating"])
def test_both_losses_have_no_gradient_in_a_generator_that_is_not_told_apart(loss):
    """The fixed point: D is 1/2 everywhere."""
    model = small("gan", loss=loss)
    model.discriminator.layers[-1].weight.data[...] = 0
    objective = model.objectives()[-1]
    terms = objective.loss(rows(8), rng=Generator(0))["generator"]
    for g in gradients(terms, list(objective.parameters.values())):
        assert (g.data == 0).all()
    value = {"minimax": -log(2), "non-saturating": log(2)}[loss]
    assert terms.item() == approx(value, rel=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_k_steps_of_the_discriminator_then_one_of_the_generator(k):
    model = small("gan", discriminator_steps=k)
    assert [o.name for o in model.objectives()] == ["discriminator"] * k + ["generator"]
    seen = []
    for name in ("discriminate", "generate"):
        whole = getattr(model, name)

        def watched(x, rng, name=name, whole=whole):
            seen.append((name, x.copy(), rng.state))
            return whole(x, rng)

        setattr(model, name, watched)
    history = model.fit(rows(64), steps=2, batch=8)
    assert [name for name, _, _ in seen] == (["discriminate"] * k + ["generate"]) * 2
    batches = [x.tobytes() for name, x, _ in seen if name == "discriminate"]
    assert len(set(batches)) == len(batches)  # each its own batch
    assert len({state for _, _, state in seen}) == len(seen)  # and its own z
    assert len(history["discriminator"]) == 2 * k and len(history["generator"]) == 2


@pytest.mark.parametrize("trained", [0, 1])
def test_each_player_moves_alone(trained, monkeypatch):
    model = small("gan")
    objective = model.objectives()[-trained]
    own, other = (model.discriminator, model.generator)[:: 1 - 2 * trained]
    assert [id(p) for p in objective.parameters.values()] == [id(p) for p in own.parameters()]
    before = [[p.data.copy() for p in part.parameters()] for part in (own, other)]
    monkeypatch.setattr(model, "objectives", lambda: [objective])
    model.fit(rows(32), steps=2, warmup=0, ema_decay=0)
    moved, still = (
        [not np.array_equal(p.data, b) for p, b in zip(part.parameters(), old, strict=True)]
        for part, old in zip((own, other), before, strict=True)
    )
    assert all(moved) and not any(still)
    assert all(p.grad is None for p in other.parameters())
    if objective.name == "discriminator":  # the generator is not even in the graph
        loss = objective.loss(rows(4), rng=Generator(0))["discriminator"]
        assert all((g.data == 0).all() for g in gradients(loss, other.parameters()))


def test_the_discriminator_sees_normalised_data_and_so_do_samples_leave():
    model = small("gan", bounded=False)
    model.shift.data[...], model.scale.data[...] = 5.0, 2.0
    x = normals(6, 4).astype(np.float32)
    z = placed(Generator(2).normal((6, 3)))
    np.testing.assert_allclose(
        model.discriminator_logits(x), model.discriminator((x - 5) / 2).data[:, 0], rtol=1e-5
    )
    expected = model.generator(z).data * 2 + 5
    np.testing.assert_allclose(model.sample(6, rng=Generator(2)), expected, rtol=1e-6)


# All models -------------------------------------------------------------------------------------


@models
def test_unbounded_data_are_measured_and_samples_come_back_in_their_units(name):
    model = small(name, **unbounded(name))
    factors, shifts = np.array([1, 10, 100, 0]), np.array([0, 5, -1000, 3])
    x = (normals(60, 4) * factors + shifts).astype(np.float32)
    model.prepare(x)
    np.testing.assert_allclose(model.shift.data, x.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.scale.data, [*x.std(axis=0)[:3].tolist(), 1], rtol=1e-5)
    y = model.normalise(x)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=0), [1, 1, 1, 0], atol=1e-4)
    np.testing.assert_allclose(model.denormalise(y), x, rtol=1e-4, atol=1e-4)
    assert y.dtype == np.float32


BAD_DATA = {
    "width": (np.zeros((3, 5)), r"\(3, 5\); the model takes \(n, 4\)"),
    "one row as a vector": (np.zeros(4), r"\(4,\); the model takes \(n, 4\)"),
    "empty": (np.zeros((0, 4)), "empty"),
    "nan": (np.where(np.arange(12).reshape(3, 4) == 6, np.nan, 0), r"data\[1, 2\] is nan; remove"),
    "inf": (np.where(np.arange(12).reshape(3, 4) == 11, -np.inf, 0), r"data\[2, 3\] is -inf"),
}


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize(("x", "message"), BAD_DATA.values(), ids=BAD_DATA)
@models
def test_data_that_a_model_cannot_take_are_named(name, x, message, bounded):
    model = small(name, **({} if bounded else unbounded(name)))
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        model.fit(x, steps=1)
    for method in ("encode", "reconstruct", "score_samples", "discriminator_logits"):
        if hasattr(model, method):
            with pytest.raises(ValueError, match=message):
                getattr(model, method)(x)
    assert states_equal(model, before)


@models
def test_data_outside_the_bounds_say_what_to_do(name):
    advice = "likelihood='gaussian'" if name == "vae" else "bounded=False"
    for x, message in (
        (np.array([[0, 0.5, 1, 255]]), rf"from 0 to 255; .*\[0, 1\].*rescale.*with {advice}"),
        (np.array([[0, -0.5, 1, 1]]), "from -0.5 to 1;"),
    ):
        with pytest.raises(ValueError, match=message):
            small(name).fit(x, steps=1)
        small(name, **unbounded(name)).fit(x, steps=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small("ae", activation="siul"), "activation 'siul'; did you mean 'silu'"),
        (lambda: small("ae", activation="rellu", hidden=()), "did you mean 'relu'"),
        (lambda: small("dae", corruption="mask"), "corruption 'mask'; did you mean 'masking'"),
        (lambda: small("dae", corruption="x"), "known: gaussian, masking, salt-and-pepper"),
        (lambda: small("dae", amount=1.5), r"masking corruption is in \[0, 1\], not 1.5"),
        (lambda: small("dae", corruption="gaussian", amount=-1), r"in \[0, inf\], not -1"),
        (lambda: small("cae", estimate="hutchison"), "did you mean 'hutchinson'"),
        (lambda: small("cae", penalty=-1), "penalty.*not -1"),
        (lambda: small("vae", likelihood="bernouli"), "did you mean 'bernoulli'"),
        (lambda: small("vae", beta=float("nan")), "beta.*nan"),
        (lambda: small("gan", loss="nonsaturating"), "did you mean 'non-saturating'"),
        (lambda: small("gan", discriminator_steps=0), "discriminator_steps.*0"),
        (lambda: small("gan", discriminator_steps=10**9), "discriminator_steps is at most 1000"),
        (lambda: small("ddpm", T=10**9), "T is at most 100000, not 1000000000"),
        (lambda: small("ddpm", schedule="cosin"), "schedule 'cosin'; did you mean 'cosine'"),
        (lambda: small("ddpm", predict="v"), "prediction 'v'; known: data, noise, velocity"),
        (lambda: small("ddpm", predict="nois"), "did you mean 'noise'"),
        (lambda: small("ddpm", variance="big"), "variance 'big'; known: large, learned, small"),
        (lambda: small("ddpm", T=0), "T is a whole number from 1, not 0"),
        (lambda: small("ae").fit(rows(3), step=3), "training setting 'step'; did you mean 'steps'"),
        (lambda: small("ae").fit(rows(3), steps=-3), "steps.*-3"),
    ],
)
def test_wrong_names_and_numbers_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@models
def test_a_number_of_features_is_a_whole_number(name):
    for features in (0, -2, 2.0, "4", None):
        with pytest.raises(ValueError, match=f"features.*{re.escape(repr(features))}"):
            MODELS[name](features)


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3"])
@models
def test_a_number_of_samples_is_a_whole_number(name, n):
    with pytest.raises(ValueError, match=f"samples.*{re.escape(repr(n))}"):
        small(name).sample(n)


@pytest.mark.cpu_only("memory is measured on the CPU")
@pytest.mark.parametrize(("name", "classes"), [*((name, 0) for name in MODELS), ("ddpm", 2)])
def test_samples_take_the_memory_of_the_samples(name, classes):
    """Not that of the hidden layers, which is 3 kB a row and more."""
    model = MODELS[name](
        2, **unbounded(name), **({"T": 2, "classes": classes} if name == "ddpm" else {})
    )

    def peak(n):
        options = {"labels": np.arange(n) % 2, "guidance": 2.0} if classes else {}
        tracemalloc.start()
        model.sample(n, rng=0, **options)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    rows = 2 * models_rows.BLOCK
    assert (peak(2 * rows) - peak(rows)) / rows < 500  # bytes


@pytest.mark.parametrize("name", MODELS)
def test_blocks_of_rows_have_the_same_draws(name, monkeypatch):
    model = small(name)
    for p in model.parameters():
        p.data[...] = placed(Generator(5).normal(p.shape, 0.0, 0.5))
    whole = model.sample(23, rng=3)
    monkeypatch.setattr(models_rows, "BLOCK", 5)
    np.testing.assert_allclose(model.sample(23, rng=3), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.sample(9, rng=3), whole[:9], rtol=1e-4, atol=1e-5)


@pytest.mark.cpu_only("memory is measured on the CPU")
@pytest.mark.parametrize(
    ("name", "options"),
    [("vae", {}), ("vae", {"likelihood": "gaussian"}), ("ddpm", {"bounded": False}), ("gan", {})],
)
def test_data_are_prepared_in_little_memory(name, options):
    x = rows(400_000, 20)
    model = MODELS[name](20, **options)
    tracemalloc.start()
    model.prepare(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * x.nbytes


@pytest.mark.cpu_only("memory is measured on the CPU")
def test_moments_of_wide_rows_take_a_few_megabytes():
    x = rows(4096, 784)
    tracemalloc.start()
    models_rows.moments(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * models_rows.BYTES


@pytest.mark.parametrize(
    ("n", "copies"),
    [*((n, 1) for n in (1, 2, 4095, 4096, 4097, 10_000)), (1000, 300), (3, 100_000)],
)
def test_moments_in_blocks_are_those_of_all_rows(n, copies):
    """Also where the mean is large beside the deviation, and exactly for what is constant.

    Of many columns, or very many, fewer rows make a block."""
    x = np.stack([rows(n, 1)[:, 0], 1e4 + rows(n, 1, seed=1)[:, 0], np.full(n, 0.1)], axis=1)
    x = np.tile(x.astype(np.float32), copies)
    mean, std = models_rows.moments(x)
    assert mean.dtype == std.dtype == np.float64
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(std, x.std(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-12)
    assert mean[2] == np.float32(0.1) and std[2] == 0


def test_the_largest_numbers_are_finite():
    largest = np.finfo(np.float32).max
    x = np.array([[largest, -largest], [-largest, largest]])
    np.testing.assert_array_equal(small("ae", 2, bounded=False).check(x), x)


@pytest.mark.parametrize("bounded", [True, False])
@models
def test_samples_are_rows_of_float32_and_a_function_of_the_generator(name, bounded):
    model = small(name, **({} if bounded else unbounded(name)))
    model.fit(rows(20), steps=3)
    x = model.sample(6)
    assert x.shape == (6, 4) and x.dtype == np.float32 and np.isfinite(x).all()
    assert not np.array_equal(x, model.sample(6))  # the default generator goes on
    tg.manual_seed(0)
    np.testing.assert_array_equal(x, model.sample(6))
    np.testing.assert_array_equal(x, model.sample(6, rng=Generator(0)))
    assert not np.array_equal(x, model.sample(6, rng=Generator(1)))
    rng = Generator(0)
    assert not np.array_equal(model.sample(6, rng=rng), model.sample(6, rng=rng))
    if bounded:
        assert x.min() >= 0 and x.max() <= 1


@models
def test_parameters_and_losses_are_float32(name):
    model = small(name)
    assert all(p.dtype == np.float32 for p in model.parameters())
    for objective in model.objectives():
        terms = objective.loss(rows(5), rng=Generator(0))
        assert all(t.dtype == np.float32 and t.size == 1 for t in terms.values())
        own = list(objective.parameters.values())
        assert all(g.dtype == np.float32 for g in gradients(next(iter(terms.values())), own))


@pytest.mark.parametrize("bounded", [True, False])
@models
def test_a_saved_model_is_the_same_model(name, bounded, tmp_path):
    model = small(name, seed=5, **({} if bounded else unbounded(name)))
    model.fit(rows(20), steps=3)
    path = tmp_path / "model.npz"
    model.save(path)
    again = load(path).to(DEVICE)
    assert type(again).__name__ == type(model).__name__ and again.features == 4
    assert states_equal(again, model)
    np.testing.assert_array_equal(
        again.sample(5, rng=Generator(0)), model.sample(5, rng=Generator(0))
    )
    for method in ("reconstruct", "score_samples", "discriminator_logits"):
        if hasattr(model, method):
            found = []
            for m in (again, model):
                tg.manual_seed(0)
                found.append(getattr(m, method)(rows(5)))
            np.testing.assert_array_equal(*found)
    assert not again.training
    again.fit(rows(20), steps=1)  # and can be trained


def test_every_option_is_kept_in_the_file(tmp_path):
    model = DDPM(3, T=30, schedule="linear", predict="noise", variance="large", width=8, blocks=2)
    model.save(tmp_path / "m.npz")
    again = load(tmp_path / "m.npz")
    assert (again.target, again.variance.choice) == (TARGETS["noise"], "large")
    np.testing.assert_array_equal(again.schedule.beta, model.schedule.beta)
    gan = GAN(3, hidden=(5,), loss="minimax", discriminator_steps=2, activation="tanh")
    gan.save(tmp_path / "g.npz")
    again = load(tmp_path / "g.npz")
    assert len(again.objectives()) == 3 and again.generator_loss is minimax
    assert again.generator.layers[0].activation == "tanh"


@models
def test_a_file_that_does_not_fit_is_refused(name, tmp_path):
    from tinygen import checkpoint

    model = small(name)
    model.save(tmp_path / "m.npz")
    meta, arrays = checkpoint.read(tmp_path / "m.npz")
    path = next(iter(arrays))
    for changed in (
        ({**meta, "config": {**meta["config"], "features": 5}}, arrays),
        ({**meta, "config": {**meta["config"], "nonsense": 1}}, arrays),
        ({**meta, "model": "Nonsense"}, arrays),
        (meta, {k: v for k, v in arrays.items() if k != path}),
        (meta, arrays | {"model/extra": on_cpu(np.zeros(1))}),
    ):
        checkpoint.write(tmp_path / "bad.npz", *changed)
        with pytest.raises(CheckpointError):
            load(tmp_path / "bad.npz")


def trained(name, seed, run_seed, **options):
    model = small(name, seed=seed, **options)
    model.fit(rows(40), steps=5, batch=8, warmup=0, seed=run_seed)
    return model


@models
def test_a_run_is_a_function_of_its_seeds(name):
    model = trained(name, 1, 2)
    assert states_equal(model, trained(name, 1, 2))
    assert not states_equal(model, trained(name, 2, 2))  # other initial weights
    assert not states_equal(model, trained(name, 1, 3))  # other batches and noise


@models
def test_training_leaves_the_data_as_they_are(name):
    x = rows(20)
    before = x.copy()
    for options in ({}, unbounded(name)):
        small(name, **options).fit(x, steps=2)
        np.testing.assert_array_equal(x, before)


@models
def test_sixty_steps_on_digits_help(name):
    x = placed(data.load("digits").x)
    model = small(name, x.shape[1])

    def distance():
        return np.linalg.norm(model.sample(200).mean(axis=0) - x.mean(axis=0))

    before = distance()
    history = model.fit(x, steps=60, batch=64, lr=5e-3, warmup=5, ema_decay=0.0)
    if name == "gan":  # its losses are a game's: they need not fall
        assert distance() < 0.85 * before
        return
    loss = history["loss"]
    share = 0.99 if name == "vae" else 0.8  # its output starts at the mean of each pixel
    assert len(loss) == 60 and np.mean(loss[-10:]) < share * np.mean(loss[:3])


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("bounded", [True, False])
@models
def test_the_smallest_data(name, n, features, bounded):
    model = small(name, features, **({} if bounded else unbounded(name)))
    x = rows(n, features)
    history = model.fit(x, steps=2, batch=7)
    assert all(np.isfinite(values).all() for values in history.values())
    assert model.sample(1).shape == (1, features) and np.isfinite(model.sample(1)).all()
    if hasattr(model, "reconstruct"):
        assert model.reconstruct(x).shape == x.shape
    if hasattr(model, "score_samples"):
        assert model.score_samples(x).shape == (n,)
    if hasattr(model, "discriminator_logits"):
        assert model.discriminator_logits(x).shape == (n,)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@models
def test_a_copy_of_a_model_is_equal_and_its_own(name, copied, tmp_path):
    model = trained(name, 1, 2, **unbounded(name))
    other = copied(model)
    assert type(other) is type(model) and states_equal(other, model)
    assert other.config == model.config
    np.testing.assert_array_equal(
        other.sample(4, rng=Generator(0)), model.sample(4, rng=Generator(0))
    )
    before = copy.deepcopy(model)
    other.fit(rows(20, seed=9), steps=2, warmup=0)
    assert states_equal(model, before) and not states_equal(other, model)
    other.save(tmp_path / "m.npz")
    np.testing.assert_array_equal(
        load(tmp_path / "m.npz").to(DEVICE).sample(4, rng=Generator(0)),
        other.sample(4, rng=Generator(0)),
    )


@models
def test_a_model_whose_numbers_are_numpys_can_be_saved(name, tmp_path):
    model = small(name, np.int64(4))
    assert type(model.features) is int
    model.save(tmp_path / "m.npz")
    assert load(tmp_path / "m.npz").features == 4


@pytest.mark.parametrize("name", MODELS)
def test_the_checkpoint_of_a_finished_run_is_the_model(name, tmp_path):
    model = small(name)
    model.fit(rows(40), steps=5, warmup=0, folder=tmp_path)
    again = load(tmp_path / "checkpoint.npz").to(DEVICE)
    np.testing.assert_array_equal(
        again.sample(5, rng=Generator(0)), model.sample(5, rng=Generator(0))
    )
