"""Generative adversarial networks: the model, its losses, its penalties, and a watch on training."""

from tinygen.models.gan.gan import GAN
from tinygen.models.gan.losses import LOSSES, Loss, cross_entropy, minimax, non_saturating
from tinygen.models.gan.optimum import JSBound, best_value, js_bound, value
from tinygen.models.gan.penalties import PENALTIES, Penalty, interpolate, r1, slopes, wgan_gp
from tinygen.models.gan.watch import Signs, Watch, look

__all__ = [
    "GAN", "LOSSES", "PENALTIES", "JSBound", "Loss", "Penalty", "Signs", "Watch", "best_value",
    "cross_entropy", "interpolate", "js_bound", "look", "minimax", "non_saturating", "r1", "slopes",
    "value", "wgan_gp",
]  # fmt: skip
