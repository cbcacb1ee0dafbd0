"""Small models of each kind, the rows that they are trained on, and comparisons of runs."""

from __future__ import annotations

from tests.support.on_device import np, on_device, placed
from tinygen import data, models

SMALL = {
    "ae": {"hidden": (8,), "latent": 3},
    "dae": {"hidden": (8,), "latent": 3},
    "cae": {"hidden": (8,), "latent": 3, "estimate": "hutchinson"},
    "vae": {"hidden": (8,), "latent": 3},
    "gan": {"hidden": (8,), "latent": 3, "discriminator_steps": 2},
    "ddpm": {"width": 8, "blocks": 1},
}
X = placed(data.load("digits").x[:50])


def make(name, **changes):
    return on_device(models.MODELS[name])(64, **{**SMALL[name], **changes})


def parameters(model):
    return {name: p.data.copy() for name, p in model.named_parameters().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
