"""Autoencoders: the score of denoising, the penalty's estimates, what codes tell a classifier."""

import inspect
from math import sqrt

import pytest

from tests.support.on_device import DEVICE, approx, np, on_cpu, on_device, special, stats, tg
from tinygen.autodiff.transforms import gradients
from tinygen.data import Dataset
from tinygen.distributions import Mixture, Normal
from tinygen.models import VAE, load
from tinygen.models.autoencoder import (
    CORRUPTIONS,
    Autoencoder,
    ContractiveAutoencoder,
    DenoisingAutoencoder,
    hutchinson_variance,
)
from tinygen.models.codes import class_count, fine_tune, linear_probe
from tinygen.nn import MLP
from tinygen.random import Generator
from tinygen.training import Settings

Autoencoder, ContractiveAutoencoder, DenoisingAutoencoder, MLP, VAE = map(
    on_device, (Autoencoder, ContractiveAutoencoder, DenoisingAutoencoder, MLP, VAE)
)

many_steps = pytest.mark.cpu_only("many steps: the short ones run on either device")


def rows(n, features=4, seed=0):
    """Data in [0, 1], float32."""
    return np.random.default_rng(seed).random((n, features), np.float32)


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


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
    x = 3 + 2 * normals(20, 1)
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
    x = 1.5 * normals(40, features).astype(np.float64)
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
    x = normals(4, 5, seed=2).astype(np.float64)
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


# Classification ---------------------------------------------------------------------------------


class Identity:
    """A model whose codes are the data."""

    device = DEVICE

    def encode(self, x):
        return x


def labelled(x, y):
    """A data set, whose arrays are on the CPU on either device, with every second row held out."""
    x, y = on_cpu((x.astype(np.float32), y.astype(np.int64)))
    return Dataset("labelled", x[::2], x[1::2], y[::2], y[1::2])


def two_classes(n, distance, features=2):
    y = np.arange(n) // 2 % 2
    x = normals(n, features)
    x[:, 0] += distance * (2 * y - 1)
    return labelled(x, y)


@many_steps
def test_a_probe_has_the_error_of_the_best_classifier_of_two_gaussians():
    """Φ(-d) for means at ±d and unit variance."""
    found = linear_probe(Identity(), two_classes(8000, 1.0))
    best = stats.norm.cdf(-1.0)
    assert found.standard_error == approx(sqrt(found.rate * (1 - found.rate) / 4000), rel=1e-9)
    assert abs(found.rate - best) < 4 * found.standard_error


@many_steps
def test_a_probe_of_labels_by_chance_errs_by_chance():
    y = np.random.default_rng(3).integers(0, 4, 4000)
    found = linear_probe(Identity(), labelled(normals(4000, 3), y))
    assert abs(found.rate - 0.75) < 4 * found.standard_error


@many_steps
def test_a_probe_separates_what_is_separate_and_a_class_without_rows_is_never_guessed():
    y = np.array([0, 2, 4])[np.arange(600) // 2 % 3]
    x = 0.1 * normals(600, 2)
    x[:, 0] += np.where(y == 2, 3, 0)
    x[:, 1] += np.where(y == 4, 3, 0)
    assert linear_probe(Identity(), labelled(x, y)) == (0.0, 0.0)
    assert class_count(labelled(x, y)) == 5


@many_steps
def test_constant_codes_err_like_the_largest_class():
    y = (np.arange(400) // 2 % 4 == 0).astype(int)
    assert linear_probe(Identity(), labelled(np.full((400, 2), 0.25), y)).rate == 0.25


def exclusive_or(n):
    """Four clouds at the corners of a square, opposite ones of one class: no line parts them."""
    corner = np.random.default_rng(1).integers(0, 2, (n, 2))
    x = 0.25 + 0.5 * corner + 0.05 * normals(n, 2)
    return labelled(np.clip(x, 0, 1), (corner[:, 0] != corner[:, 1]).astype(int))


@many_steps
@pytest.mark.parametrize("cls", [Autoencoder, VAE], ids=["ae", "vae"])
def test_fine_tuning_learns_what_a_probe_of_the_code_cannot_read(cls):
    data = exclusive_or(1600)
    model = cls(2, hidden=(16,), latent=2, activation="tanh")
    short = Settings(steps=500, batch=128, lr=1e-2)
    assert linear_probe(model, data, short).rate > 0.2
    assert fine_tune(model, data, short).rate < 0.01


@pytest.mark.parametrize("cls", [Autoencoder, VAE], ids=["ae", "vae"])
def test_measuring_a_representation_leaves_the_model_as_it_is_and_is_decided_by_the_seed(cls):
    data = exclusive_or(60)
    model = cls(2, hidden=(4,), latent=2)
    before = model.state_dict()
    for measure in (linear_probe, fine_tune):
        few = Settings(steps=3, warmup=0, lr=0.1)
        found = measure(model, data, few)
        assert 0 <= found.rate <= 1
        assert measure(model, data, few) == found
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("y", "y_test", "message"),
    [
        (None, None, "no labels"),
        ([0, 1, -1], [0, 1], "label -1 is out of range"),
        ([0, 1, 1], [0, 2], r"label 2 is out of range: the training rows have 0\.\.1"),
        ([0.0, 1.0, 1.0], [0, 1], "whole numbers"),
        ([0, 1], [0, 1], r"whole numbers \(3,\)"),
    ],
)
@pytest.mark.parametrize("measure", [linear_probe, fine_tune])
def test_labels_that_cannot_be_are_refused(measure, y, y_test, message):
    x = on_cpu(rows(5, 2))
    y, y_test = (None if v is None else on_cpu(np.array(v)) for v in (y, y_test))
    data = Dataset("five", x[:3], x[3:], y, y_test)
    with pytest.raises(ValueError, match=message):
        measure(Autoencoder(2, hidden=(), latent=1), data)


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
