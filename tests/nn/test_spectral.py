"""Spectral normalisation against the singular value decomposition."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.draws import normals
from tests.support.on_device import approx, np, on_device
from tinygen.autodiff.transforms import gradients
from tinygen.models import gan as gans
from tinygen.nn import MLP, SpectralLinear
from tinygen.random import Generator

MLP, SpectralLinear = map(on_device, (MLP, SpectralLinear))

many = settings(max_examples=40, derandomize=True)

SIZES = [(7, 4), (3, 9), (5, 5), (1, 6), (6, 1), (1, 1)]


def spectral(n_in, n_out, seed=0, **options):
    return SpectralLinear(n_in, n_out, rng=Generator(seed), dtype=np.float64, **options)


def largest(matrix):
    return np.linalg.svd(matrix)[1][0].item()


@pytest.mark.parametrize("size", SIZES)
def test_the_largest_singular_value_becomes_one(size):
    layer = spectral(*size)
    for _ in range(400):
        weight = layer.normalised_weight()
    assert largest(weight.data) == approx(1.0, rel=1e-6)
    np.testing.assert_allclose(
        weight.data * largest(layer.weight.data), layer.weight.data, rtol=1e-6
    )
    x = normals(3, size[0])
    np.testing.assert_allclose(layer(x).data, x @ weight.data, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_one_step_of_power_iteration_for_each_call_in_training_and_none_in_evaluation(size):
    layer, x = spectral(*size), normals(2, size[0])
    w, v = layer.weight.data, layer.right.data.copy()
    assert np.linalg.norm(v).item() == approx(1.0)
    u = w @ v / np.linalg.norm(w @ v)
    after = u @ w / np.linalg.norm(u @ w)
    np.testing.assert_allclose(layer(x).data, x @ w / (u @ w @ after), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(layer.right.data, after, rtol=1e-12)
    layer.eval()
    found = layer(x).data
    np.testing.assert_array_equal(layer.right.data, layer.eval().right.data)
    np.testing.assert_allclose(layer.right.data, after, rtol=1e-12)
    np.testing.assert_allclose(found, x @ w / np.linalg.norm(w @ after), rtol=1e-10, atol=1e-12)


@many
@given(seed=st.integers(0, 10**6), calls=st.integers(1, 4))
def test_the_estimate_is_never_above_the_singular_value(seed, calls):
    layer = spectral(4, 3, seed)
    for _ in range(calls):
        weight = layer.normalised_weight()
    assert largest(weight.data) >= 1 - 1e-12


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_flows_through_the_singular_value(size):
    """(G - <G, W/σ> u vᵀ)/σ with G the gradient in W/σ (Miyato et al. 2018, eq. 12)."""
    layer, g = spectral(*size), normals(*size, seed=2)
    layer.normalised_weight()
    w = layer.weight.data
    u = w @ layer.right.data / np.linalg.norm(w @ layer.right.data)
    weight = layer.normalised_weight()
    found = gradients((weight * g).sum(), layer.weight).data
    v = layer.right.data
    sigma = u @ w @ v
    expected = (g - (g * weight.data).sum() * np.outer(u, v)) / sigma
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
    assert (found * w).sum().item() == approx(0, abs=1e-10)  # W/σ does not see the length of W


def test_a_later_call_does_not_change_the_gradient_of_an_earlier_one():
    def gradient(again):
        layer = spectral(4, 3)
        y = layer(normals(2, 4)).sum()
        if again:
            layer(normals(2, 4))
        return gradients(y, layer.weight).data

    np.testing.assert_array_equal(gradient(False), gradient(True))


def test_a_network_of_normalised_layers_has_slope_one_at_most():
    network = MLP(
        [5, 16, 16, 3], "relu", rng=Generator(1), layer=gans.gan.SpectralLinear, init="he"
    )
    x, y = (normals(300, 5, seed=s, scale=3).astype(np.float32) for s in (0, 1))
    for _ in range(300):
        network(x[:1])
    distances = [
        np.linalg.norm(a - b, axis=1) for a, b in ((network(x).data, network(y).data), (x, y))
    ]
    assert (distances[0] <= distances[1] * (1 + 1e-4)).all()
    assert (distances[0] / distances[1]).max() > 0.1  # and is not simply 0


def test_a_weight_of_zeros_stays_zeros():
    layer = spectral(3, 2)
    layer.weight.data[...] = 0
    y = layer(normals(4, 3))
    assert (y.data == 0).all()
    assert np.isfinite(gradients(y.sum(), layer.weight).data).all()
    layer.weight.data[...] = normals(3, 2)  # from where it goes on
    for _ in range(200):
        weight = layer.normalised_weight()
    assert largest(weight.data) == approx(1.0, rel=1e-6)
