"""Autoencoders: their losses, the score of denoising, the penalty and its estimates."""

import copy
import inspect
from math import sqrt

import pytest

from tests.support.draws import normals, normals32, rows
from tests.support.on_device import approx, np, on_cpu, on_device, placed, special, stats, tg
from tests.support.small_models import many_steps, put, small
from tinygen.autodiff.transforms import gradients
from tinygen.distributions import Mixture, Normal
from tinygen.models import load
from tinygen.models.autoencoder import (
    CORRUPTIONS,
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    hutchinson_jacobian_norm,
    hutchinson_variance,
    jacobian_norm,
)
from tinygen.models.vae import VAE
from tinygen.nn import MLP
from tinygen.random import Generator

Autoencoder, ContractiveAutoencoder, DenoisingAutoencoder, MLP, VAE = map(
    on_device, (Autoencoder, ContractiveAutoencoder, DenoisingAutoencoder, MLP, VAE)
)


def within(values, expected, errors=4.0):
    """The mean of independent values is `expected`, to so many standard errors."""
    values = np.asarray(values, float)
    return abs(values.mean() - expected) <= errors * values.std(ddof=1) / sqrt(len(values)) + 1e-9


class Fixed(Generator):
    """Gives the array it was made with."""

    def __init__(self, array):
        super().__init__()
        self.array = array

    def normal(self, shape, mean=0.0, std=1.0, dtype=np.float32, device="cpu"):
        return placed(mean + std * np.broadcast_to(on_cpu(self.array), shape).astype(dtype))


# The losses, and what they find -----------------------------------------------------------------


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


# Options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "own"),
    [
        (DenoisingAutoencoder, {"corruption": "masking", "amount": 0.3, "latent": 32}),
        (
            ContractiveAutoencoder,
            {"penalty": 0.1, "estimate": "exact", "latent": 32, "hidden": (128,)},
        ),
    ],
)
def test_the_options_of_every_autoencoder_are_seen_beside_its_own(cls, own, tmp_path):
    plain = {p.name: p.default for p in inspect.signature(Autoencoder.__init__).parameters.values()}
    shown = {p.name: p.default for p in inspect.signature(cls.__init__).parameters.values()}
    assert shown == {**plain, **own}
    model = cls(4, hidden=(5,), bounded=False)
    defaults = {k: v for k, v in shown.items() if k not in ("self", "features")}
    assert model.config == {**defaults, "features": 4, "hidden": (5,), "bounded": False}
    assert model.encoder.layers[-1].weight.shape == (5, 32)
    with pytest.raises(TypeError, match="latnt"):
        cls(4, latnt=3)
    model.save(tmp_path / "m.npz")
    assert "latent" in load(tmp_path / "m.npz").config


# The score --------------------------------------------------------------------------------------


def gaussian_denoiser(features, amount, **options):
    return DenoisingAutoencoder(
        features, corruption="gaussian", amount=amount, bounded=False, **options
    )


@pytest.mark.parametrize("noise", [0.3, 1.5])
def test_the_score_of_gaussian_data_with_the_noise_added(noise):
    """The best r(x) = x s²/(s² + σ²) + m σ²/(s² + σ²) gives (m - x)/(s² + σ²)."""
    model = gaussian_denoiser(1, noise, hidden=(), latent=1)
    model.shift.data[...], model.scale.data[...] = 3.0, 2.0  # s = 1 in normalised units
    model.encoder.layers[0].weight.data[...] = 1
    model.decoder.layers[0].weight.data[...] = 1 / (1 + noise**2)
    x = 3 + 2 * normals32(20, 1)
    expected = (3 - x) / (4 * (1 + noise**2))
    np.testing.assert_allclose(model.score_function(x), expected, rtol=1e-4, atol=1e-5)


WEIGHTS = [0.3, 0.7]
MEANS = np.array([[-1.2, 0.4], [0.9, -0.5]])
STD = 0.45


def smoothed(noise, features):
    """The mixture with noise added, whose score the engine gives."""
    return Mixture(WEIGHTS, Normal(MEANS[:, :features], sqrt(STD**2 + noise**2)))


def score_of(p, x):
    x = tg.tensor(x, requires_grad=True)
    return gradients(tg.sum(p.log_prob(x)), x).data


def best_denoiser(noise, features):
    """E[x|x̃] of the mixture."""

    def denoise(x):
        means = MEANS[:, :features]
        variance = STD**2 + noise**2
        log_p = np.log(np.array(WEIGHTS)) - 0.5 * ((x[:, None] - means) ** 2).sum(-1) / variance
        shares = special.softmax(log_p, axis=1)
        each = (STD**2 * x[:, None] + noise**2 * means) / variance
        return tg.tensor((shares[..., None] * each).sum(axis=1))

    return denoise


@pytest.mark.parametrize("features", [1, 2])
def test_the_best_denoiser_of_a_mixture_is_its_score(features, monkeypatch):
    """Exactly of the mixture with noise added, and as σ falls of the mixture, by σ² (Alain 2014)."""
    x = 1.5 * normals32(40, features).astype(np.float64)
    clean = score_of(smoothed(0.0, features), x)
    distances = []
    for noise in (0.4, 0.2, 0.1):
        model = gaussian_denoiser(features, noise, hidden=(), latent=1)
        denoise = best_denoiser(noise, features)
        monkeypatch.setattr(model, "encoder", lambda x: x.astype(np.float64))
        monkeypatch.setattr(model, "decoder", lambda z, denoise=denoise: denoise(z))
        score = model.score_function(x)
        np.testing.assert_allclose(score, score_of(smoothed(noise, features), x), atol=2e-4)
        distances.append(np.linalg.norm(score - clean))
    assert distances[0] > 2.5 * distances[1] > 6 * distances[2]


@many_steps
def test_a_trained_denoiser_has_the_score_of_a_mixture():
    rng = np.random.default_rng(0)
    which = rng.random(4000) < WEIGHTS[1]
    x = np.where(which, MEANS[1, 0], MEANS[0, 0]) + STD * rng.normal(size=4000)
    x = ((x - x.mean()) / x.std())[:, None].astype(np.float32)
    model = gaussian_denoiser(1, 0.5, hidden=(64,), latent=8, activation="tanh")
    model.fit(x, steps=1500, batch=256, lr=5e-3)
    # The law of the standardised sample, up to sampling.
    mean = sum(w * m for w, m in zip(WEIGHTS, MEANS[:, 0].tolist(), strict=True))
    scale = sqrt(
        STD**2
        + sum(w * (m - mean) ** 2 for w, m in zip(WEIGHTS, MEANS[:, 0].tolist(), strict=True))
    )
    law = Mixture(WEIGHTS, Normal((MEANS[:, :1] - mean) / scale, sqrt((STD / scale) ** 2 + 0.5**2)))
    grid = np.linspace(-1.8, 1.8, 37)[:, None]
    expected = score_of(law, grid)
    found = model.score_function(grid)
    assert sqrt(((found - expected) ** 2).mean()) < 0.12 * expected.std()


@pytest.mark.parametrize("options", [{}, {"corruption": "gaussian", "amount": 0.0}])
def test_other_corruptions_have_no_score(options):
    with pytest.raises(ValueError, match=r"gaussian.*amount above 0"):
        DenoisingAutoencoder(3, hidden=(), latent=1, **options).score_function(rows(2, 3))


# The contractive penalty ------------------------------------------------------------------------


@many_steps
@pytest.mark.parametrize("latent", [1, 3])
def test_the_measured_variance_of_hutchinson_is_the_theoretical_one(latent):
    """2 ‖J Jᵀ‖²_F for normal probes, about a mean that is the exact penalty."""
    f = MLP([5, 6, latent], "tanh", final="sigmoid", rng=Generator(0), dtype=np.float64)
    x = normals32(4, 5, seed=2).astype(np.float64)
    probes = 4000
    exact, mean, variance = hutchinson_variance(f, x, Generator(1), probes)
    jacobians = [tg.jacobian(lambda r: f(tg.reshape(r, (1, -1))))(row).data for row in x]
    squares = [j.reshape(latent, 5) @ j.reshape(latent, 5).T for j in jacobians]
    np.testing.assert_allclose(exact, [np.trace(s) for s in squares], rtol=1e-9)
    theory = np.array([2 * (s**2).sum() for s in squares])
    assert (abs(mean - exact) < 4.5 * np.sqrt(theory / probes)).all()
    np.testing.assert_allclose(variance, theory, rtol=0.3)
    assert (variance <= 2.6 * exact**2).all()


def test_a_variance_takes_two_probes():
    f = MLP([2, 2], rng=Generator(0))
    with pytest.raises(ValueError, match="probes is a whole number from 2"):
        hutchinson_variance(f, rows(2, 2), Generator(0), 1)


# Bad and extreme input --------------------------------------------------------------------------


@pytest.mark.parametrize("x", [
    np.full((6, 3), 0.5, np.float32), rows(1, 3), rows(5, 1),
], ids=["constant", "one row", "one feature"])  # fmt: skip
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("corruption", [*CORRUPTIONS, None])
def test_constant_or_little_data_are_modelled(x, bounded, corruption):
    options = {"hidden": (4,), "latent": 2, "bounded": bounded}
    if corruption is None:
        model = ContractiveAutoencoder(x.shape[1], **options)
    else:
        model = DenoisingAutoencoder(x.shape[1], corruption=corruption, **options)
    history = model.fit(x, steps=5)
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(model.sample(4)).all()
    assert model.reconstruct(x).shape == x.shape


@pytest.mark.parametrize("cls", [Autoencoder, DenoisingAutoencoder, ContractiveAutoencoder])
def test_data_that_are_not_numbers_are_refused(cls):
    x = rows(4, 3)
    x[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"data\[2, 1\] is nan"):
        cls(3, hidden=(), latent=1).fit(x, steps=1)
