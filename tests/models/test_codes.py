"""Codes: paths through them, and what they tell a classifier."""

from math import sqrt

import pytest

from tests.support.draws import normals32, rows
from tests.support.on_device import DEVICE, approx, np, on_cpu, on_device, stats
from tests.support.small_models import many_steps
from tinygen.data import Dataset
from tinygen.models import VAE
from tinygen.models.autoencoder import Autoencoder
from tinygen.models.codes import class_count, fine_tune, interpolate, linear_probe, traverse
from tinygen.training import Settings

Autoencoder, VAE = map(on_device, (Autoencoder, VAE))


# Paths through codes ----------------------------------------------------------------------------


def test_a_spherical_path_keeps_the_norm_and_grows_the_angle_evenly():
    a, b = normals32(12), normals32(12, seed=1)
    b = b * (np.linalg.norm(a) / np.linalg.norm(b))
    path = interpolate(a, b, 7)
    assert path.shape == (7, 12) and path.dtype == np.float32
    np.testing.assert_allclose(path[0], a, atol=1e-5)
    np.testing.assert_allclose(path[-1], b, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), np.linalg.norm(a), rtol=1e-5)
    cosines = (path[1:] * path[:-1]).sum(axis=1) / np.linalg.norm(a) ** 2
    np.testing.assert_allclose(cosines, cosines[0], rtol=1e-4)
    straight = interpolate(a, b, 3, path="straight")
    np.testing.assert_allclose(straight[1], (a + b) / 2, rtol=1e-5)
    assert np.linalg.norm(straight[1]) < 0.95 * np.linalg.norm(a)


@pytest.mark.parametrize("end", [[1.0, 2.0], [2.0, 4.0], [0.0, 0.0], [-1.0, -2.0]])
def test_a_path_between_parallel_codes_is_straight(end):
    a, b = np.array([1.0, 2.0], np.float32), np.array(end, np.float32)
    path = interpolate(a, b, 3)
    np.testing.assert_allclose(path, np.stack([a, (a + b) / 2, b]), atol=1e-5)


def test_a_traversal_moves_one_unit_at_a_time():
    code = normals32(3)
    codes = traverse(code, n=5, span=2.0)
    assert codes.shape == (15, 3) and codes.dtype == np.float32
    table = codes.reshape(3, 5, 3)
    for unit in range(3):
        np.testing.assert_allclose(table[unit, :, unit], [-2, -1, 0, 1, 2], atol=1e-6)
        for other in {0, 1, 2} - {unit}:
            assert (table[unit, :, other] == code[other]).all()
    assert VAE(4, hidden=(), latent=3).decode(codes).shape == (15, 4)


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
    x = normals32(n, features)
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
    found = linear_probe(Identity(), labelled(normals32(4000, 3), y))
    assert abs(found.rate - 0.75) < 4 * found.standard_error


@many_steps
def test_a_probe_separates_what_is_separate_and_a_class_without_rows_is_never_guessed():
    y = np.array([0, 2, 4])[np.arange(600) // 2 % 3]
    x = 0.1 * normals32(600, 2)
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
    x = 0.25 + 0.5 * corner + 0.05 * normals32(n, 2)
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
