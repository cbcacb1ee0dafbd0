"""The network of a diffusion model."""

import numpy
import pytest

from tests.support.diffusion import DDPM, normals, rows
from tests.support.on_device import (
    np,
    on_cpu,
    placed,
)


def test_a_new_denoiser_says_zero_and_tells_times_apart_once_trained():
    model = DDPM(4, width=16, blocks=1, T=25)
    x = rows(6)
    assert (model.network(x, np.arange(1, 7)).data == 0).all()
    model.network.last.weight.data[...] = normals(16, 4)
    model.network.blocks[0].time.weight.data[...] = normals(64, 32)
    one, other = model.network(x, np.full(6, 3)).data, model.network(x, np.full(6, 20)).data
    assert not np.allclose(one, other, atol=0.01)
    alone = model.network(x[2:3], np.array([3])).data
    np.testing.assert_allclose(alone, one[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variance", ["small", "learned"])
def test_the_output_has_a_multiple_of_x_t_that_depends_on_the_time(variance):
    model = DDPM(3, width=8, blocks=1, T=25, predict="data", variance=variance)
    network, x, parts = model.network, rows(5, 3), 1 + (variance == "learned")
    network.skip.bias.data[...] = np.array([2.0, -1.0])[:parts]
    t = placed(numpy.array([1, 7, 7, 12, 25]))
    found = on_cpu(network(x, t).data).reshape(5, parts, 3)
    numpy.testing.assert_allclose(found[:, 0], 2 * on_cpu(x), rtol=1e-6)
    if parts == 2:
        numpy.testing.assert_allclose(found[:, 1], -on_cpu(x), rtol=1e-6)
    network.skip.weight.data[...] = normals(64, parts)
    shares = on_cpu(network(x, t).data).reshape(5, parts, 3) / on_cpu(x)[:, None]
    numpy.testing.assert_allclose(shares, shares[:, :, :1].repeat(3, axis=2), rtol=1e-4)
    numpy.testing.assert_allclose(shares[1], shares[2], rtol=1e-4)
    assert (numpy.abs(shares[0] - shares[1]) > 0.01).all()
    alone = network(x[1:3], placed(numpy.array([7]))).data  # one time for all rows
    numpy.testing.assert_allclose(on_cpu(alone), on_cpu(network(x, t).data)[1:3], rtol=1e-4)
