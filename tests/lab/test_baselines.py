"""The plain estimates: densities that integrate to one, and EM that only rises."""

from __future__ import annotations

import numpy as np
import pytest

from tinygen.data.toys import TOYS
from tinygen.lab.baselines import gaussian_mixture, kernel_density
from tinygen.random import Generator

pytestmark = pytest.mark.cpu_only("the laboratory computes on the CPU")


def rows(name="two-moons", n=400):
    return TOYS[name](n, Generator(3))[0]


@pytest.mark.parametrize("ridge", [0.0, 0.01])
@pytest.mark.parametrize("name", TOYS)
def test_em_never_lowers_what_it_raises(name, ridge):
    objective = gaussian_mixture(rows(name), ridge=ridge, steps=40).objective
    assert (np.diff(objective) >= -1e-6 * abs(objective[0])).all()
    assert objective[-1] > objective[0] + 10


def test_without_a_ridge_em_raises_the_likelihood():
    """The law after k steps is the one whose objective stands before step k + 1."""
    x = rows()
    before, after = (gaussian_mixture(x, ridge=0.0, steps=k) for k in (5, 6))
    assert after.objective[5] == pytest.approx(before.log_density(x).sum(), rel=1e-9)


def test_the_ridge_is_a_prior_on_the_covariances():
    x = rows()
    before, after = (gaussian_mixture(x, ridge=0.5, steps=k) for k in (5, 6))
    covariances = before.law.components.covariance.data
    prior = 0.25 * x.var(axis=0).mean() * sum(np.trace(np.linalg.inv(s)) for s in covariances)
    assert after.objective[5] == pytest.approx(before.log_density(x).sum() - prior, rel=1e-9)


def test_one_gaussian_is_the_mean_and_the_covariance_of_prior_and_rows():
    x = rows()
    r = 0.7 * x.var(axis=0).mean()
    law = gaussian_mixture(x, k=1, ridge=0.7, steps=2).law
    assert law.components.mean.data[0] == pytest.approx(x.mean(axis=0))
    expected = np.cov(x.T, bias=True) + r / len(x) * np.eye(2)
    assert law.components.covariance.data[0] == pytest.approx(expected, rel=1e-6)


def test_em_finds_the_mixture_that_the_rows_come_from():
    rng = np.random.default_rng(0)
    which = rng.random(4000) < 0.25
    x = np.where(
        which[:, None], rng.normal([-3, 0], 0.5, (4000, 2)), rng.normal([2, 1], 1.0, (4000, 2))
    )
    law = gaussian_mixture(x, k=2, ridge=0.0).law
    order = np.argsort(law.components.mean.data[:, 0])
    # Five standard errors: 0.5 / sqrt(1000), 1 / sqrt(3000), sqrt(.25 · .75 / 4000).
    assert law.components.mean.data[order] == pytest.approx(np.array([[-3, 0], [2, 1]]), abs=0.1)
    assert law.weights.data[order] == pytest.approx([0.25, 0.75], abs=0.035)
    assert law.components.covariance.data[order[0]] == pytest.approx(0.25 * np.eye(2), abs=0.07)


@pytest.mark.parametrize("fit", [gaussian_mixture, kernel_density])
@pytest.mark.parametrize("name", TOYS)
def test_densities_integrate_to_one(fit, name):
    axis = np.linspace(-5, 5, 200)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = np.exp(fit(rows(name)).log_density(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("fit", [gaussian_mixture, kernel_density])
def test_samples_follow_the_density(fit):
    """The mean of 1/p over samples from p is the area where p > 0: here of a square it covers."""
    law = fit(rows())
    x = law.sample(40_000, 1)
    inside = (np.abs(x) < 0.6).all(axis=1)
    density = np.exp(law.log_density(x[inside]))
    area = (1 / density).sum() / len(x)
    error = (1 / density).std() * len(density) ** 0.5 / len(x)
    assert error < 0.2 and area == pytest.approx(1.44, abs=5 * error + 0.02)


def test_the_width_of_the_kernels_falls_with_the_number_of_rows():
    few, many = (kernel_density(rows(n=n)).width for n in (60, 2400))
    assert few > many


def test_rows_that_are_all_equal_have_densities():
    x = np.zeros((60, 2))
    for law in (gaussian_mixture(x), kernel_density(x)):
        assert np.isfinite(law.log_density(x)).all() and np.isfinite(law.sample(5, 0)).all()


def test_fewer_rows_than_gaussians():
    with pytest.raises(ValueError, match="8 Gaussians need at least as many rows, got 5"):
        gaussian_mixture(np.zeros((5, 2)))
