"""Generative adversarial network (Goodfellow et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from tinygen import ops
from tinygen.autodiff.modes import no_grad
from tinygen.autodiff.tensor import Tensor
from tinygen.errors import whole
from tinygen.models.model import Model, choose, count_of
from tinygen.nn import MLP
from tinygen.optim import Adam, Optimizer
from tinygen.random import Generator, default_generator
from tinygen.training import Objective, Settings

__all__ = ["GAN"]

Array = np.ndarray[Any, Any]


def minimax(logits: Tensor) -> Tensor:
    """E log(1 - D(G(z))), as algorithm 1 prints it: it saturates where D is sure."""
    return -ops.mean(ops.bce_with_logits(logits, 0.0))


def non_saturating(logits: Tensor) -> Tensor:
    """-E log D(G(z)) (§3 of the paper): the same fixed point, gradients where D is sure."""
    return ops.mean(ops.bce_with_logits(logits, 1.0))


GeneratorLoss = Callable[[Tensor], Tensor]

GENERATOR_LOSSES: dict[str, GeneratorLoss] = {
    "non-saturating": non_saturating,
    "minimax": minimax,
}


class GAN(Model):
    """A generator G(z), z ~ N(0, I), against a discriminator D in logits.

    loss: the generator's, 'non-saturating', 'minimax' or a function of D's logits on G(z).
    discriminator_steps: k of algorithm 1, each step with a batch and a z of its own.
    """

    defaults: ClassVar[Settings] = Settings(steps=8000, lr=5e-4, clip=10.0, ema=0.999)

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int] = (256, 256),
        latent: int = 32,
        activation: str = "leaky_relu",
        loss: str | GeneratorLoss = "non-saturating",
        discriminator_steps: int = 1,
        bounded: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(features, bounded)
        self.latent = whole("latent", latent)
        self.generator_loss = choose("loss", loss, GENERATOR_LOSSES)
        self.discriminator_steps = whole("discriminator_steps", discriminator_steps)
        rng = Generator(seed).child("weights")
        final = "sigmoid" if bounded else None
        self.generator = MLP([latent, *hidden, features], activation, final=final, rng=rng)
        self.discriminator = MLP([features, *hidden, 1], activation, rng=rng)

    def objectives(self) -> list[Objective]:
        """k steps of the discriminator, then one of the generator (algorithm 1 of the paper)."""
        d = Objective(
            "discriminator",
            self.discriminator.named_parameters(),
            self.discriminate,
        )
        g = Objective("generator", self.generator.named_parameters(), self.generate)
        return [d] * self.discriminator_steps + [g]

    def optimizer(self, parameters: dict[str, Tensor], lr: Callable[[int], float]) -> Optimizer:
        """Adam with little momentum, as is usual for games (Radford et al. 2016)."""
        return Adam(parameters, lr, betas=(0.5, 0.999))

    def discriminate(self, x: Array, rng: Generator) -> dict[str, Tensor]:
        """-E log D(x) - E log(1 - D(G(z))), in nats."""
        with no_grad():
            fake = self.generator(rng.normal((len(x), self.latent), device=self.device))
        real_logits = self.discriminator(self.normalise(x))
        fake_logits = self.discriminator(fake)
        loss = ops.mean(ops.bce_with_logits(real_logits, 1.0)) + ops.mean(
            ops.bce_with_logits(fake_logits, 0.0)
        )
        return {"discriminator": loss}

    def generate(self, x: Array, rng: Generator) -> dict[str, Tensor]:
        """The generator's loss on as many z as x has rows, in nats."""
        fake = self.generator(rng.normal((len(x), self.latent), device=self.device))
        return {"generator": self.generator_loss(self.discriminator(fake))}

    @no_grad()
    def discriminator_logits(self, x: Any) -> Array:
        """log D(x) / (1 - D(x)) for each row (n,)."""
        return self.discriminator(self.normalise(self.check(x))).data[:, 0]

    @no_grad()
    def decode(self, z: Any) -> Array:
        """G(z): data (n, features) for z (n, latent)."""
        return self.denormalise(self.generator(self.check_codes(z)).data)

    def sample(self, n: int, *, rng: Generator | None = None) -> Array:
        """G(z) (n, features) for z ~ N(0, I)."""
        rng = rng or default_generator()
        return self.decode(rng.normal((count_of(n), self.latent), device=self.device))
