"""Small models of each kind, and what their tests have in common."""

import pytest

from tests.support.on_device import on_device
from tinygen.models import MODELS

MODELS = {name: on_device(model) for name, model in MODELS.items()}
SMALL = {
    "ae": {"hidden": (16,), "latent": 3},
    "dae": {"hidden": (16,), "latent": 3},
    "cae": {"hidden": (8,), "latent": 3},
    "vae": {"hidden": (16,), "latent": 3},
    "gan": {"hidden": (16,), "latent": 3},
    "ddpm": {"width": 16, "blocks": 1, "T": 25},
}
models = pytest.mark.parametrize("name", MODELS)
many_steps = pytest.mark.cpu_only("many steps: the short ones run on either device")


def unbounded(name):
    return {"likelihood": "gaussian"} if name == "vae" else {"bounded": False}


def small(name, features=4, **options):
    return MODELS[name](features, **{**SMALL[name], **options})


def put(layer, weight, bias=0.0):
    """Set the numbers of a linear layer."""
    layer.weight.data[...], layer.bias.data[...] = weight, bias
