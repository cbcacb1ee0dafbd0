"""Normals: samples with a gradient, and numbers that are not looked at."""

import pytest

from tests.support.distributions import MEAN, STD
from tests.support.on_device import np, tg
from tinygen.distributions import Normal
from tinygen.random import Generator


def test_rsample_is_the_sample_with_a_gradient():
    mean, std = tg.tensor(MEAN, requires_grad=True), tg.tensor(STD, requires_grad=True)
    p = Normal(mean, std)
    x = p.rsample(Generator(7), (5,))
    constant = p.sample(Generator(7), (5,))
    assert not constant.requires_grad
    np.testing.assert_array_equal(x.data, constant.data)
    x.sum().backward()
    np.testing.assert_allclose(mean.grad.data, np.full_like(MEAN, 5))
    np.testing.assert_allclose(std.grad.data, ((x.data - MEAN) / STD).sum((0, 1)), rtol=1e-9)


def test_what_a_network_computed_is_not_looked_at():
    leaf = tg.tensor([-1.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"got -1\.0"):
        Normal(0.0, leaf)
    Normal(0.0, leaf + 0.0)
