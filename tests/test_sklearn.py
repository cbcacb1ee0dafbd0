"""The models as estimators of scikit-learn: its own checks, and what only we can know."""

from __future__ import annotations

import inspect
import runpy
import sys
from math import log
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from tinygen import models, sklearn
from tinygen.sklearn import DDPM, GAN, VAE, Autoencoder

pytestmark = pytest.mark.cpu_only("scikit-learn's arrays are NumPy's")

SMALL = {
    Autoencoder: {"hidden": (8,), "latent": 2},
    VAE: {"hidden": (8,), "latent": 2},
    DDPM: {"T": 5, "width": 8, "blocks": 1},
    GAN: {"hidden": (8,), "latent": 2},
}
X = np.random.default_rng(0).normal([1.0, -3.0, 0.0], [0.5, 2.0, 1.0], (120, 3)).astype("f4")
X[:, 2] += 2 * X[:, 0]


def small(kind, **parameters):
    return kind(**{**SMALL[kind], "steps": 20, "random_state": 0, **parameters})


@pytest.mark.parametrize("kind", SMALL)
def test_it_passes_the_checks_of_scikit_learn(kind):
    results = check_estimator(kind(**SMALL[kind], steps=20), on_skip=None)
    assert len(results) > 40
    assert {r["status"] for r in results} <= {"passed", "skipped"}
    assert sum(r["status"] == "skipped" for r in results) <= 5  # what is not installed


# -- parameters ----------------------------------------------------------------------------------
OTHERS = {
    Autoencoder: {"hidden": (7,), "latent": 1, "activation": "tanh", "bounded": True},
    VAE: {
        "hidden": (7,), "latent": 1, "activation": "tanh", "likelihood": "discretised-gaussian",
        "levels": 9, "k": 2, "beta": 0.5, "kl_warmup": 3,
    },
    DDPM: {
        "T": 7, "schedule": "sigmoid", "prediction": "noise", "weight": "snr", "variance": "large",
        "width": 9, "blocks": 2, "bounded": True,
    },
    GAN: {
        "hidden": (7,), "latent": 1, "activation": "tanh", "loss": "minimax", "penalty": "wgan-gp",
        "penalty_weight": 3.0, "spectral": True, "discriminator_steps": 2, "bounded": True,
    },
}  # fmt: skip
SETTINGS = {"steps": 3, "batch": 5, "lr": 0.01, "warmup": 2, "clip": 0.5, "ema_decay": 0.5}


@pytest.mark.parametrize("kind", OTHERS)
def test_every_option_of_the_model_and_every_setting_reaches_it(kind, monkeypatch):
    seen = []
    fit = models.Model.fit

    def spy(model, x, **settings):
        seen.append((model.config, settings))
        return fit(model, x, **settings)

    monkeypatch.setattr(models.Model, "fit", spy)
    estimator = kind(**OTHERS[kind], **SETTINGS, random_state=1)
    rows = (X - X.min(axis=0)) / np.ptp(X, axis=0)
    estimator.fit(np.clip(rows, 0, 1))
    ((config, settings),) = seen
    given = {("predict" if k == "prediction" else k): v for k, v in OTHERS[kind].items()}
    left = {"binarise": False, "free_bits": 0.0} if kind is VAE else {}  # exclude others of these
    left |= {"classes": 0} if kind is DDPM else {}
    assert config.pop("seed") == settings.pop("seed")
    assert config == {"features": 3, **given, **left}
    assert settings == SETTINGS and len(estimator.history_[min(estimator.history_)]) in (3, 6)


@pytest.mark.parametrize("kind", SMALL)
def test_a_wrong_parameter_is_refused_by_its_name(kind):
    with pytest.raises(TypeError, match="layers"):
        kind(layers=3)
    with pytest.raises(ValueError, match="steps is a whole number from 0, not -1"):
        small(kind, steps=-1).fit(X)
    assert not {"self", "features", "seed", "predict"} & inspect.signature(kind).parameters.keys()


# -- randomness ----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", SMALL)
def test_random_state_decides_weights_training_and_samples(kind):
    def weights(random_state):
        return small(kind, random_state=random_state).fit(X).model_.state_dict()

    def same(a, b):
        return all(np.array_equal(a[name], b[name]) for name in a)

    one = weights(1)
    assert same(one, weights(1)) and not same(one, weights(2))
    np.random.seed(1)  # noqa: NPY002
    drawn = weights(None)
    assert not same(drawn, weights(None))  # NumPy's own generator goes on
    np.random.seed(1)  # noqa: NPY002
    assert same(drawn, weights(None))

    estimator = small(kind).fit(X)
    sample = estimator.sample(4, random_state=3)
    assert sample.shape == (4, 3) and estimator.sample().shape == (1, 3)
    np.testing.assert_array_equal(sample, estimator.sample(4, random_state=3))
    assert not np.array_equal(sample, estimator.sample(4, random_state=4))


# -- scores --------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", SMALL)
def test_a_search_in_a_pipeline_prefers_the_trained_model(kind):
    pipeline = make_pipeline(StandardScaler(), small(kind, warmup=1, lr=0.01))
    name = f"{kind.__name__.lower()}__steps"
    search = GridSearchCV(pipeline, {name: [1, 300]}, cv=2, error_score="raise").fit(X)
    assert search.best_params_ == {name: 300}
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])


@pytest.mark.parametrize("kind", [VAE, DDPM])
def test_a_density_follows_the_units_of_the_data(kind):
    """Of 4x it is that of x, divided by 4³: exactly the same training, since 4 is a power of 2."""
    score = small(kind).fit(X).score(X)
    assert small(kind).fit(4 * X).score(4 * X) == pytest.approx(score - 3 * log(4), abs=1e-4)


def test_the_score_of_a_vae_is_its_importance_weighted_bound():
    """In expectation that of the model with as many draws; below log p(x), above the ELBO."""
    estimator = small(VAE, steps=300).fit(X)
    model, scores = estimator.model_, estimator.score_samples(X)
    repeated = [model.score_samples(X, k=sklearn.DRAWS, rng=i).mean() for i in range(30)]
    assert scores.mean() == pytest.approx(np.mean(repeated), abs=5 * np.std(repeated))
    elbo = np.mean([model.score_samples(X, rng=i).mean() for i in range(30)])
    assert elbo < scores.mean() < model.log_likelihood(X, k=2000, rng=0).log_p.mean() + 0.02


def test_a_row_of_a_large_set_has_the_score_that_it_has_alone():
    estimator = small(VAE).fit(X)
    many = np.tile(X, (50, 1))  # 6000 rows: more than one block
    scores = estimator.score_samples(many)
    np.testing.assert_allclose(scores, np.tile(estimator.score_samples(X), 50), rtol=1e-5)


def test_scores_of_models_without_a_density_are_what_they_say():
    autoencoder = small(Autoencoder).fit(X)
    again = autoencoder.model_.reconstruct(X)
    assert autoencoder.score(X) == pytest.approx(-np.mean((again - X) ** 2), rel=1e-5)
    np.testing.assert_array_equal(autoencoder.inverse_transform(autoencoder.transform(X)), again)
    gan = small(GAN).fit(X)
    own = gan.model_.sample(120, rng=0)  # the very samples: distance 0
    assert gan.score(own) == pytest.approx(0, abs=1e-6)
    # Moved by v, the squared distance along a direction u is (u·v)²: on average |v|²/3.
    assert gan.score(own + np.float32([3.0, 0.0, 0.0])) == pytest.approx(-np.sqrt(3.0), rel=0.1)


# -- the rest ------------------------------------------------------------------------------------
def test_codes_have_names():
    estimator = small(VAE).fit(X)
    assert list(estimator.get_feature_names_out()) == ["vae0", "vae1"]
    assert estimator.transform(X).dtype == np.float32


def test_without_scikit_learn_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "tinygen.sklearn")
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        import tinygen.sklearn  # noqa: F401


@pytest.mark.slow
def test_the_example_of_a_pipeline(capsys, monkeypatch):
    """It runs as it stands, with fewer steps, and the codes tell the digits apart."""
    fit = models.Model.fit
    monkeypatch.setattr(models.Model, "fit", lambda m, x, **o: fit(m, x, **{**o, "steps": 100}))
    path = Path(__file__).parents[1] / "examples/importers/pipeline_vae.py"
    found = runpy.run_path(str(path), run_name="__main__")
    assert found["search"].score(found["digits"].test, found["digits"].y_test) > 0.6
    assert "new digits: (10, 64)" in capsys.readouterr().out
