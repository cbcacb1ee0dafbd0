"""The losses of the two players of a GAN, in pairs. They are functions of D's outputs.

All pairs have the same fixed point, where samples and data have the same distribution. Their
gradients on the way to it differ. D's outputs are logits, log D/(1 - D), for the cross-entropies of
Goodfellow et al. (2014). They are D itself for least squares, and a score on no fixed scale for the
Wasserstein distance.

The penalties on D's gradient are in `penalties.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tinygen import ops
from tinygen.autodiff.engine import Tensor

__all__ = [
    "LOSSES", "Loss", "cross_entropy", "minimax", "non_saturating",
]  # fmt: skip


class Loss(NamedTuple):
    """The losses of both players: functions of D's outputs (n, 1) that return one number.

    discriminator: takes D's outputs on data and on samples. generator: takes those on samples.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


# -- Goodfellow et al. 2014, in nats -------------------------------------------------------------
def cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """-V(D, G) = -E log D(x) - E log(1 - D(G(z))) of logits (eq. 1)."""
    return ops.mean(ops.bce_with_logits(real, 1.0)) + ops.mean(ops.bce_with_logits(fake, 0.0))


def minimax(fake: Tensor) -> Tensor:
    """E log(1 - D(G(z))), the loss in algorithm 1. Its gradient vanishes where D is certain."""
    return -ops.mean(ops.bce_with_logits(fake, 0.0))


def non_saturating(fake: Tensor) -> Tensor:
    """-E log D(G(z)) (§3 of the paper): the same fixed point, and a gradient where D is certain."""
    return ops.mean(ops.bce_with_logits(fake, 1.0))


# -- Mao et al. 2017, eq. 9: D itself is 1 on data, 0 on samples, and G wants 1 ------------------
def _to_one_and_zero(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (ops.mean(ops.square(real - 1.0)) + ops.mean(ops.square(fake)))


def _to_one(fake: Tensor) -> Tensor:
    return 0.5 * ops.mean(ops.square(fake - 1.0))


# -- Arjovsky et al. 2017, eq. 2: D is a score of slope at most 1 --------------------------------
def _score_difference(real: Tensor, fake: Tensor) -> Tensor:
    return ops.mean(fake) - ops.mean(real)


def _score(fake: Tensor) -> Tensor:
    return -ops.mean(fake)


LOSSES: dict[str, Loss] = {
    "non-saturating": Loss(cross_entropy, non_saturating),
    "minimax": Loss(cross_entropy, minimax),
    "least-squares": Loss(_to_one_and_zero, _to_one),
    "wasserstein": Loss(_score_difference, _score),
}
"""Pairs of losses by name."""
