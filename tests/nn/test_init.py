"""Initial weights: their laws, and the stream that they come from."""

import pytest

from tests.support.on_device import np, stats, tg
from tinygen.nn.init import initial
from tinygen.random import Generator

nn = tg.nn

SHAPE = (150, 400)
N = SHAPE[0] * SHAPE[1]


def test_glorot_is_uniform_up_to_its_limit():
    w = nn.glorot(Generator(0), SHAPE, np.float64)
    limit = np.sqrt(6 / 550)
    assert abs(w).max() <= limit and abs(w).max() > limit * (1 - 1e-3)
    assert abs(w.mean()) < 4 * np.sqrt(2 / 550 / N)
    # the variance of the sample variance of a uniform is that of 0.8 · var² / n
    assert abs(w.var() / (2 / 550) - 1) < 4 * np.sqrt(0.8 / N)
    assert stats.kstest(w.reshape(-1), stats.uniform(-limit, 2 * limit).cdf).pvalue > 1e-3


def test_he_is_normal_with_the_variance_of_its_inputs():
    w = nn.he(Generator(0), SHAPE, np.float64)
    assert abs(w.mean()) < 4 * np.sqrt(2 / 150 / N)
    assert abs(w.var() / (2 / 150) - 1) < 4 * np.sqrt(2 / N)
    assert stats.kstest(w.reshape(-1), stats.norm(0, np.sqrt(2 / 150)).cdf).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (25, 25), (1, 4), (4, 1)])
def test_orthogonal_has_orthonormal_rows_or_columns(shape):
    for dtype in (np.float32, np.float64):
        w = nn.orthogonal(Generator(2), shape, dtype)
        assert w.shape == shape and w.dtype == dtype and w.flags.c_contiguous
        w = w.astype(np.float64)
        gram = w.T @ w if shape[0] >= shape[1] else w @ w.T
        np.testing.assert_allclose(gram, np.eye(min(shape)), atol=1e-6)


def test_orthogonal_has_no_preferred_sign():
    """The trace of a uniformly distributed orthogonal matrix has mean 0 and variance 1."""
    traces = [np.trace(nn.orthogonal(Generator(s), (4, 4), np.float64)) for s in range(400)]
    assert abs(np.mean(traces)) < 4 / np.sqrt(400)
    assert abs(np.var(traces) - 1) < 0.4


@pytest.mark.parametrize("name", ["glorot", "he", "orthogonal"])
def test_initial_weights_are_a_function_of_the_generator(name):
    first = initial(name, Generator(5), (6, 4))
    np.testing.assert_array_equal(first, initial(name, Generator(5), (6, 4)))
    assert not np.array_equal(first, initial(name, Generator(6), (6, 4)))
    assert first.dtype == np.float32 and first.shape == (6, 4)
    layer = nn.Linear(6, 4, init=name, rng=Generator(5))
    np.testing.assert_array_equal(layer.weight.data, first)


def test_layers_take_their_numbers_from_one_stream():
    rng = Generator(9)
    mlp = nn.MLP([3, 4, 5], rng=rng)
    again = Generator(9)
    for layer in mlp.layers:
        np.testing.assert_array_equal(layer.weight.data, nn.glorot(again, layer.weight.shape))
    assert rng.state == again.state
