"""Parzen windows against SciPy and closed forms."""

from __future__ import annotations

import tracemalloc
from math import log, pi, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gaussian_kde, multivariate_normal

from tests.support.on_device import approx, np, on_cpu
from tinygen.metrics import _points
from tinygen.metrics.parzen import parzen, parzen_log_density

many = settings(max_examples=40, derandomize=True)
widths = st.floats(0.05, 5)


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@many
@given(d=st.integers(1, 5), sigma=widths)
def test_one_sample_is_one_normal(d, sigma):
    x, sample = normals(6, d), normals(1, d, seed=1)
    squared = ((x - sample) ** 2).sum(axis=1)
    expected = -squared / (2 * sigma**2) - d / 2 * log(2 * pi * sigma**2)
    np.testing.assert_allclose(parzen_log_density(x, sample, sigma), on_cpu(expected), rtol=1e-10)


@many
@given(n=st.integers(2, 30), sigma=widths)
def test_on_the_line_it_is_scipys(n, sigma):
    samples, x = normals(n), normals(9, seed=1)
    theirs = gaussian_kde(on_cpu(samples), sigma / np.std(samples, ddof=1).item()).logpdf(on_cpu(x))
    ours = parzen_log_density(x[:, None], samples[:, None], sigma)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_kernels_add_up_in_many_dimensions():
    samples, x, sigma = normals(7, 4), normals(5, 4, seed=1), 0.6
    kernels = [multivariate_normal.pdf(on_cpu(x), on_cpu(s), sigma**2) for s in samples]
    expected = np.log(sum(kernels) / 7)
    np.testing.assert_allclose(parzen_log_density(x, samples, sigma), on_cpu(expected), rtol=1e-10)


def test_it_is_a_density():
    grid = np.linspace(-12, 12, 4001)
    p = np.exp(parzen_log_density(grid[:, None], normals(20, 1), 0.4))
    assert p.sum().item() * 24 / 4000 == approx(1.0, abs=1e-9)


def test_far_rows_have_a_finite_density():
    found = parzen_log_density(np.array([[1e4]]), np.array([[0.0], [1.0]]), 0.1)
    assert found[0] == approx(-((1e4 - 1) ** 2) / 0.02 - log(2) - 0.5 * log(2 * pi * 0.01))


def test_blocks_change_nothing(monkeypatch):
    samples, validation, test = normals(50, 3), normals(31, 3, seed=1), normals(40, 3, seed=2)
    whole = parzen(samples, validation, test, [0.2, 0.4])
    monkeypatch.setattr(_points, "_ENTRIES", 170)  # three rows at a time, and a rest
    assert parzen(samples, validation, test, [0.2, 0.4]) == approx(whole, rel=1e-12)


def test_distances_are_never_in_memory_all_at_once():
    """6000 x 6000 are 288 MB in float64, and the exponents as many."""
    samples, x = on_cpu(normals(6000, 2)), on_cpu(normals(6000, 2, seed=1))
    tracemalloc.start()
    parzen_log_density(x, samples, 0.3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 270e6


def test_the_width_is_that_of_the_likeliest_validation_rows():
    samples, validation, test = normals(300, 2), normals(200, 2, seed=1), normals(100, 2, seed=2)
    sigmas = [0.01, 0.1, 0.3, 0.5, 2.0]
    means = {s: parzen_log_density(validation, samples, s).mean() for s in sigmas}
    found = parzen(samples, validation, test, sigmas)
    assert found.sigma == max(means, key=means.get) and found.sigma in (0.3, 0.5)
    scores = parzen_log_density(test, samples, found.sigma)
    assert found.log_likelihood == approx(scores.mean())
    assert found.error == approx(scores.std(ddof=1) / sqrt(100))
    assert parzen(samples, validation, test, on_cpu(np.array(sigmas))) == approx(found)


def test_the_error_is_the_spread_over_test_sets():
    samples = normals(100, 2)
    found = [parzen(samples, samples, normals(50, 2, seed=i), [0.8]) for i in range(1, 401)]
    spread = np.std(np.array([f.log_likelihood for f in found])).item()
    errors = np.array([f.error for f in found])
    assert spread == approx(sqrt((errors**2).mean().item()), rel=0.12)


@many
@given(sigma=widths, shift=st.floats(-50, 50))
def test_moving_and_scaling_everything_is_a_change_of_units(sigma, shift):
    samples, x = normals(20, 3), normals(5, 3, seed=1)
    one = parzen_log_density(x, samples, sigma)
    np.testing.assert_allclose(
        parzen_log_density(x + shift, samples + shift, sigma), one, rtol=1e-8, atol=1e-8
    )
    np.testing.assert_allclose(
        parzen_log_density(2 * x, 2 * samples, 2 * sigma), one - 3 * log(2), rtol=1e-8, atol=1e-8
    )


GOOD = {"samples": normals(5, 2), "validation": normals(5, 2), "test": normals(5, 2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            ({"sigmas": s}, "numbers above 0")
            for s in ([], [0.0], [-1.0], [0.1, float("nan")], 0.2)
        ),
        ({"sigmas": [float("inf")]}, "numbers above 0"),
        ({"samples": np.zeros((0, 2))}, "samples must be rows of numbers"),
        ({"validation": np.zeros((0, 2))}, "validation must be"),
        ({"test": np.zeros((0, 2))}, "test must be"),
        ({"test": np.zeros((1, 2))}, "standard error needs at least 2 rows"),
        ({"test": np.zeros((3, 1))}, "rows of 2 numbers, test of 1"),
        ({"samples": np.array([[0.0, float("nan")]])}, "samples must be finite"),
    ],
)
def test_bad_input_is_told(change, message):
    with pytest.raises(ValueError, match=message):
        parzen(**{**GOOD, "sigmas": [0.2], **change})


def test_constant_rows_are_as_good_as_others():
    x = np.ones((4, 3))
    found = parzen(x, x, x, [0.5])
    assert found == approx((-1.5 * log(2 * pi * 0.25), 0.0, 0.5))
