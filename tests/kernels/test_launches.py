"""How many kernels an eager training step launches on the GPU, as the stand-in for CuPy counts them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cuda_on_cpu import COMPILER
from tests.support.launches import counted
from tests.support.strict_cupy import installed
from tinygen import backend
from tinygen.backend import to_device
from tinygen.models import MODELS
from tinygen.training.loop import Loop, Settings

pytestmark = [
    pytest.mark.cpu_only("counts on the stand-in"),
    pytest.mark.skipif(COMPILER is None, reason="no g++ to compile the kernels with"),
    pytest.mark.skipif(
        np.__version__.startswith("1."), reason="NumPy 1 casts some arrays without axes anew"
    ),
]

# Of these 26, 12, 6 and 7 are the copies that the engine makes of the gradients of leaves. Without kernels
# of rows and of many arrays: DDPM 239, VAE 88, GAN 91, with R1 124. More of them is
# slower: say why before writing larger numbers here.
LAUNCHES = {
    "ddpm": ("ddpm", {}, 101),
    "vae": ("vae", {}, 57),
    "gan": ("gan", {"penalty": None}, 80),
    "gan r1": ("gan", {}, 115),
}


@pytest.fixture(autouse=True)
def stand_in():
    with installed():
        yield


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_step_on_784_features_launches_no_more_kernels_than_it_did(name):
    kind, options, number = LAUNCHES[name]
    model = MODELS[kind](784, **options).to("gpu")
    x = np.random.default_rng(0).random((128, 784), dtype=np.float32)
    data = model.prepare(to_device(x, "gpu"))
    loop = Loop(model, data, Settings(steps=4, batch=64, warmup=0))
    loop.advance()  # copies the tables of a schedule
    batch = loop.next_batch()
    with counted() as launches:
        loop._update(loop.objectives[0], *batch)
    assert sum(launches.values()) == number, +launches


def test_every_kind_of_launch_is_counted():
    m = backend.namespace_for("gpu")
    x = m.ones((3, 4), np.float32)
    with counted() as launches:
        y = (x + 1.0).reshape(4, 3).T
        m.exp(y, out=y)
        y[0] = 2.0
        y *= 3.0
        y.mean(axis=-1)
        m.concatenate([x, x])
        y.astype(np.float64)
        m.empty_like(x)[1:].reshape(-1)
    assert +launches == {
        "add": 1, "exp": 1, "setitem": 1, "imul": 1, "mean": 2, "concatenate": 2, "astype": 1,
    }  # fmt: skip
