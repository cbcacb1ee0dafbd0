"""The measures that `evaluate` prints, against what they say they are."""

from __future__ import annotations

import pytest

from tests.support.on_device import approx, np, on_cpu, on_device
from tinygen.data import Dataset
from tinygen.evaluation import evaluate
from tinygen.models import VAE, Autoencoder
from tinygen.random import Generator

Autoencoder, VAE = on_device(Autoencoder), on_device(VAE)
ROWS = np.random.default_rng(0).random((1300, 4)).astype(np.float32)
DATA = Dataset(
    "rows", on_cpu(ROWS[:600]), on_cpu(ROWS[600:])
)  # 700 held out: a batch and a part of one
FEW = {
    "sliced_wasserstein", "wasserstein",
    "memorisation_ratio", "memorisation_closer", "memorisation_copies",
}  # fmt: skip
MANY = FEW | {
    "mmd_squared", "mmd_p_value", "mmd_bandwidth", "precision", "recall", "density", "coverage",
    "c2st_accuracy", "c2st_standard_error",
}  # fmt: skip


def model():
    return VAE(4, hidden=(5,), latent=2)


def test_held_out_terms_are_means_over_all_rows():
    plain = Autoencoder(4, hidden=(5,), latent=2)
    found = evaluate(plain, DATA, ROWS[:9])["held_out"]
    assert found == {"loss": approx(plain.loss(ROWS[600:], Generator(0))["loss"].item(), rel=1e-5)}
    assert evaluate(model(), DATA, ROWS[:9])["held_out"].keys() == {
        "loss", "reconstruction", "kl", "score", "log_likelihood", "log_likelihood_error",
        "effective_samples", "k_hat", "k_hat_above_0.7",
    }  # fmt: skip


@pytest.mark.parametrize(("log_var", "sure"), [(0.0, True), (-5.0, False)])
def test_an_estimate_of_the_likelihood_says_whether_it_is_sure(log_var, sure):
    """A decoder without z: the posterior is the prior, and q has its mean and this log variance."""
    blind = model()
    for p in blind.parameters():
        p.data[...] = 0
    blind.encoder.layers[-1].bias.data[2:] = log_var
    found = evaluate(blind, DATA, ROWS[:9])["held_out"]
    if sure:
        assert found["log_likelihood"] == approx(-4 * np.log(2), rel=1e-5)
        assert found["log_likelihood_error"] == approx(0, abs=1e-6)
        assert found["effective_samples"] == approx(200, rel=1e-5)
        assert found["k_hat"] == found["k_hat_above_0.7"] == 0
    else:
        assert found["log_likelihood"] < -4 * np.log(2) - 10 * found["log_likelihood_error"]
        assert found["effective_samples"] < 60
        assert found["k_hat"] > 0.7 and found["k_hat_above_0.7"] > 0.5


@pytest.mark.parametrize(("count", "names"), [(1, FEW), (49, FEW), (50, MANY)])
def test_neighbours_and_classifiers_want_some_rows(count, names):
    found = evaluate(model(), DATA, ROWS[:count])
    assert found["samples"].keys() == found["floor"].keys() == names
    assert all(np.isfinite(np.array([*v.values()])).all() for v in found.values())


@pytest.mark.parametrize("held_out", [1, 2, 3])
def test_hardly_any_rows_held_out(held_out):
    data = Dataset("rows", DATA.x[:5], DATA.test[:held_out])
    found = evaluate(model(), data, ROWS[:300])
    assert found["samples"].keys() == found["floor"].keys() == FEW


def test_fresh_rows_reach_the_floor():
    """Samples of the law itself; and their floor is what two sets of one law have."""
    samples = np.random.default_rng(1).random((2100, 4)).astype(np.float32)
    found = evaluate(model(), DATA, samples)
    for measures in (found["samples"], found["floor"]):
        assert measures["sliced_wasserstein"] < 0.03 and measures["wasserstein"] < 0.2
        assert measures["mmd_p_value"] > 0.02 and abs(measures["mmd_squared"]) < 0.003
        assert abs(measures["c2st_accuracy"] - 0.5) < 3 * measures["c2st_standard_error"]
        assert measures["c2st_standard_error"] == approx(0.5 / 600**0.5, rel=0.02)
        assert min(measures["precision"], measures["recall"], measures["coverage"]) > 0.9
        assert measures["density"] == approx(1, abs=0.1)
        assert measures["memorisation_ratio"] == approx(1, abs=0.1)
        assert measures["memorisation_closer"] < 0.1 and measures["memorisation_copies"] == 0


def test_copies_of_training_rows_are_seen_beside_the_floor():
    found = evaluate(model(), DATA, ROWS[:600][::-1][:50])
    samples, floor = found["samples"], found["floor"]
    assert samples["memorisation_copies"] == samples["memorisation_closer"] == 1
    assert samples["memorisation_ratio"] == 0
    assert floor["memorisation_copies"] == 0 and floor["memorisation_ratio"] > 0.8


def test_bad_samples_are_seen_beside_the_floor():
    found = evaluate(model(), DATA, 0.5 * ROWS[:600])
    samples, floor = found["samples"], found["floor"]
    assert samples["mmd_p_value"] == 1 / 200
    for name in ("sliced_wasserstein", "wasserstein", "mmd_squared", "c2st_accuracy"):
        assert samples[name] > 1.3 * floor[name]
    for name in ("recall", "coverage"):
        assert samples[name] < 0.5 * floor[name]


def test_held_out_rows_in_any_order_give_a_fair_floor():
    """The first half of MNIST's held-out rows is easier: the floor may not depend on the order."""
    order = np.argsort(ROWS[600:, 0])
    ordered = Dataset(
        "rows", np.repeat(DATA.x, 5, axis=0), np.repeat(DATA.test[on_cpu(order)], 5, axis=0)
    )
    found = evaluate(model(), ordered, ROWS[:300])["floor"]
    assert found["sliced_wasserstein"] < 0.05 and found["memorisation_ratio"] == approx(1, abs=0.2)


@pytest.mark.parametrize("count", [60, 350])
def test_the_floor_is_of_other_rows_and_not_of_the_samples(count):
    found = [evaluate(model(), DATA, start + 0.5 * ROWS[:count]) for start in (0, 0.3)]
    assert found[0]["floor"] == found[1]["floor"] and found[0]["samples"] != found[1]["samples"]
    assert 0.01 < found[0]["floor"]["wasserstein"] < found[0]["samples"]["wasserstein"]


def test_the_same_seed_measures_the_same():
    found = [evaluate(model(), DATA, ROWS[:60], seed) for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]
    assert found[0]["samples"]["mmd_bandwidth"] != found[2]["samples"]["mmd_bandwidth"]
