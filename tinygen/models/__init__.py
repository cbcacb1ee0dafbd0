"""The models of the handout, by the names that the command line uses, and loading from a file."""

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
"""Model classes by name."""


def load(path: str | Path) -> Model:
    """The model in a file written by `Model.save` or by training, ready to use.

    FileNotFoundError; CheckpointError: not such a file, or not of this version.
    """
    meta, arrays = checkpoint.read(path)
    classes = {c.__name__: c for c in MODELS.values()}
    if meta.get("model") not in classes:
        raise CheckpointError(f"{path} holds a model {meta.get('model')!r} that is not known here")
    return classes[meta["model"]].from_file(meta, arrays)
