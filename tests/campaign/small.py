"""Small models of every kind."""

from __future__ import annotations

SMALL = {"hidden": (8,), "latent": 2}
OPTIONS = {
    "ae": SMALL, "dae": SMALL, "cae": SMALL, "vae": SMALL, "gan": SMALL,
    "ddpm": {"width": 8, "blocks": 1, "T": 10},
}  # fmt: skip


def model(name: str, features: int):
    from tinygen.models import MODELS

    return MODELS[name](features, **OPTIONS[name])
