"""The models of the handout, and `load`, which reads a model from a file."""

from __future__ import annotations

from pathlib import Path

from tinygen import checkpoint
from tinygen.errors import CheckpointError
from tinygen.models.autoencoder import Autoencoder, ContractiveAutoencoder, DenoisingAutoencoder
from tinygen.models.diffusion import DDPM
from tinygen.models.gan import GAN
from tinygen.models.model import Model
from tinygen.models.vae import VAE

__all__ = [
    "DDPM", "GAN", "MODELS", "VAE", "Autoencoder", "ContractiveAutoencoder",
    "DenoisingAutoencoder", "Model", "load",
]  # fmt: skip

MODELS: dict[str, type[Model]] = {
    "ae": Autoencoder,
    "dae": DenoisingAutoencoder,
    "cae": ContractiveAutoencoder,
    "vae": VAE,
    "gan": GAN,
    "ddpm": DDPM,
}
"""Model classes by the names that the command line uses."""


def load(path: str | Path) -> Model:
    """The model in a file that `Model.save` or training wrote, ready to use.

    It finds every model class that is defined or imported, your own too, by its name.
    FileNotFoundError: no such file. CheckpointError: not a checkpoint, or of another version.
    """
    meta, arrays = checkpoint.read(path)
    name = meta.get("model")
    if name not in Model.classes_by_name:
        raise CheckpointError(
            f"{path} holds a model {name!r} that is not known here: import its class first"
        )
    return Model.classes_by_name[name].from_file(path, meta, arrays)
