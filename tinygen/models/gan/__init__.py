"""Generative adversarial networks: the model, its losses and penalties."""

from tinygen.models.gan.gan import GAN
from tinygen.models.gan.losses import LOSSES, Loss, cross_entropy, minimax, non_saturating
from tinygen.models.gan.penalties import PENALTIES, Penalty, interpolate, r1, slopes, wgan_gp

__all__ = [
    "GAN", "LOSSES", "PENALTIES", "Loss", "Penalty", "cross_entropy", "interpolate", "minimax",
    "non_saturating", "r1", "slopes", "wgan_gp",
]  # fmt: skip
