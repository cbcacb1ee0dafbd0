"""The measures that `evaluate` prints, against what they say they are."""

from __future__ import annotations

from on_device import approx, np, on_cpu, on_device

from tinygen.data import Dataset
from tinygen.evaluation import evaluate
from tinygen.metrics import nearest_distance
from tinygen.models import VAE, Autoencoder
from tinygen.random import Generator

Autoencoder, VAE = on_device(Autoencoder), on_device(VAE)
ROWS = np.random.default_rng(0).random((1300, 4)).astype(np.float32)
DATA = Dataset(
    "rows", on_cpu(ROWS[:600]), on_cpu(ROWS[600:])
)  # 700 held out: a batch and a part of one


def test_held_out_terms_are_means_over_all_rows():
    model = Autoencoder(4, hidden=(5,), latent=2)
    found = evaluate(model, DATA, ROWS[:9])["held_out"]
    assert found == {"loss": approx(model.loss(ROWS[600:], Generator(0))["loss"].item())}


def test_copies_of_training_rows_are_seen_beside_the_floor():
    model = VAE(4, hidden=(5,), latent=2)
    found = evaluate(model, DATA, ROWS[:600][::-1][:50])
    assert found["samples"]["nearest_training_row"] == 0.0
    floor = found["floor"]["nearest_training_row"]
    assert floor == approx(nearest_distance(DATA.test[:50], DATA.x)) and floor > 0.01
    assert found["held_out"].keys() == {"loss", "reconstruction", "kl", "score"}


def test_the_same_seed_measures_the_same():
    model = VAE(4, hidden=(5,), latent=2)
    assert evaluate(model, DATA, ROWS[:9], 3) == evaluate(model, DATA, ROWS[:9], 3)
