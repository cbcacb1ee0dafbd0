"""What a file of a model must describe, and what it may ask for."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tinygen import checkpoint, nn
from tinygen.errors import CheckpointError, NonFiniteError
from tinygen.models import DDPM, GAN, MODELS, VAE, load
from tinygen.random import Generator

pytestmark = pytest.mark.cpu_only("files")

SMALL = {
    **{name: {"hidden": (16,), "latent": 3} for name in ("ae", "dae", "cae", "vae", "gan")},
    "ddpm": {"width": 16, "blocks": 1, "T": 25},
}
models = pytest.mark.parametrize("name", MODELS)


def small(name, **options):
    return MODELS[name](4, **{**SMALL[name], **options})


def states_equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ae", {"latent": 10**9}),
        ("ae", {"features": 10**12}),
        ("dae", {"hidden": [10**6, 10**6]}),
        ("cae", {"hidden": [10**9]}),
        ("vae", {"hidden": [20_000] * 4}),
        ("gan", {"latent": 10**10}),
        ("gan", {"features": 2.5}),
        ("gan", {"hidden": "many"}),
        ("gan", {"hidden": [-8]}),
        ("ddpm", {"width": 10**6}),
        ("ddpm", {"blocks": 10**9}),
        ("ddpm", {"classes": 10**9}),
        ("ddpm", {"T": 10**9}),
        ("vae", {"beta": "much"}),
        ("ae", {"activation": ["silu"]}),
    ],
)
def test_a_config_is_held_against_the_arrays_before_it_takes_memory(name, changes, tmp_path):
    small(name).save(tmp_path / "m.npz")
    meta, arrays = checkpoint.read(tmp_path / "m.npz")
    checkpoint.write(tmp_path / "m.npz", meta | {"config": meta["config"] | changes}, arrays)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"^[^\n]{10,300}$"):
        load(tmp_path / "m.npz")
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


@models
def test_what_a_config_asks_for_at_least_is_in_the_file(name):
    for options in ({}, {"hidden": ()} if name != "ddpm" else {"classes": 3, "blocks": 1}):
        model = small(name, **options)
        assert (
            0
            < type(model).weights(model.config)
            <= sum(a.size for a in model.state_dict().values())
        )


class Net(nn.MLP):
    """A network of the user's own."""


class Wide(VAE):
    """A VAE with an encoder of the user's own, and an option."""

    def __init__(self, features, *, width=7, **options):
        super().__init__(features, **options)
        self.encoder = Net([features, width, 2 * self.latent], rng=Generator(1))


class Loud(DDPM):
    """Hands everything on."""

    def __init__(self, features, **options):
        super().__init__(features, **options)


class Fixed(GAN):
    """Has none of the options."""

    def __init__(self, features):
        super().__init__(features, hidden=(5,), penalty="wgan-gp")


def test_a_model_that_a_file_cannot_describe_is_not_saved(tmp_path):
    path = tmp_path / "m.npz"
    swapped, dropped, spoiled = small("vae"), small("vae"), small("vae")
    swapped.encoder = nn.MLP([4, 3, 2 * swapped.latent], rng=Generator(0))
    dropped.encoder.layers.insert(1, nn.Dropout(0.5, rng=Generator(0)))
    for model in (swapped, dropped):
        with pytest.raises(ValueError, match=r"not as VAE makes it.*subclass.*MyVAE\.load"):
            model.save(path)
    spoiled.encoder.layers[0].weight.data[0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"encoder\.layers\.0\.weight"):
        spoiled.save(path)
    assert not path.exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Wide(4, width=5, latent=2, hidden=[6]),
        lambda: Loud(4, width=8, blocks=1),
        lambda: Loud(4, variance=[0.1] * 11, T=10, schedule="log-normal"),
        lambda: Fixed(4),
    ],
)
def test_a_subclass_is_saved_and_loaded_by_its_name(make, tmp_path):
    model, path = make(), tmp_path / "m.npz"
    model.save(path)
    for again in (load(path), type(model).load(path)):
        assert type(again) is type(model) and again.config == model.config
        assert states_equal(again, model)


def test_a_subclass_by_the_name_of_another_is_told(tmp_path):
    def with_more(self, features, mine=3, *args):
        VAE.__init__(self, features)

    other = type("VAE", (VAE,), {"__init__": with_more})
    with pytest.raises(ValueError, match=r"a file names the class VAE.*'mine'"):
        other(4).save(tmp_path / "m.npz")
    small("vae").save(tmp_path / "m.npz")
    assert type(load(tmp_path / "m.npz")) is VAE
    first, second = (type("Anew", (VAE,), {}) for _ in range(2))  # as in a notebook
    second(4).save(tmp_path / "m.npz")
    assert type(load(tmp_path / "m.npz")) is second is not first


def test_a_diffusion_model_of_version_0_1_is_refused_by_the_name_that_changed(tmp_path):
    model, path = small("ddpm"), tmp_path / "m.npz"
    model.save(path)
    meta, arrays = checkpoint.read(path)
    meta["config"]["steps"] = meta["config"].pop("T")
    checkpoint.write(path, meta, arrays)
    with pytest.raises(
        CheckpointError, match=r"m\.npz cannot.*'steps' is called 'T' since .* 0\.2"
    ):
        load(path)


def test_a_class_that_is_not_known_is_to_be_imported(tmp_path):
    checkpoint.write(tmp_path / "m.npz", {"model": "Elsewhere", "config": {}}, {})
    with pytest.raises(CheckpointError, match=r"'Elsewhere'.*import its class"):
        load(tmp_path / "m.npz")
