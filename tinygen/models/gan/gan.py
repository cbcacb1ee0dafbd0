"""Generative adversarial network (Goodfellow et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, ClassVar

import numpy as np

from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.modes import no_grad
from tinygen.backend import to_device
from tinygen.errors import whole
from tinygen.models.gan.losses import LOSSES, Loss, cross_entropy
from tinygen.models.gan.optimum import JSBound, js_bound
from tinygen.models.gan.penalties import PENALTIES, Penalty, r1, wgan_gp
from tinygen.models.gan.watch import LEAST_ROWS, Watch, look
from tinygen.models.model import Model, choose, count_of
from tinygen.models.rows import by_blocks
from tinygen.nn import MLP, Linear, SpectralLinear
from tinygen.optim import Adam, Optimizer
from tinygen.random import Generator, Rng, as_generator
from tinygen.training import WATCH_STEPS, Objective, Settings

__all__ = ["GAN"]

Array = np.ndarray[Any, Any]
WATCHED = 256  # the number of data rows and of samples that the watch looks at


class GAN(Model):
    """A generator G(z) with z ~ N(0, I), trained against a discriminator D.

    The handout differs from the paper (Goodfellow et al. 2014) in three points, and this model
    follows the paper. The handout takes log D of a D: R^d → R. Here the network gives the logit
    log D/(1 - D), so D is in (0, 1). The handout's algorithm uses one x and one z for both players.
    Here D has k steps, and each step of D and of G draws a new x and a new z. The handout trains G on
    log(1 - D(G(z))), whose gradient vanishes where D is certain. Here G minimises -log D(G(z)), and
    loss='minimax' gives the other.

    loss: 'non-saturating', 'minimax', 'least-squares', 'wasserstein', or a `Loss`.
    penalty: on D's gradient: 'r1', 'wgan-gp', or a function like these. None is no penalty, as in
        the paper. Then D comes closest to log p_data/p_model and `js_bound` is tightest, but the
        training may diverge, as it does on MNIST.
    penalty_weight: γ of R1 or λ of WGAN-GP. None is 10 for 'wgan-gp', as in its paper, else 1 (the
        paper of R1 has 10, with which samples of digits vary less).
    spectral: whether D's layers are divided by their largest singular value (Miyato et al. 2018,
        who use no penalty with it).
    discriminator_steps: k of algorithm 1. 'wasserstein' and spectral=True need about 5.
    ValueError: unknown names, or 'wasserstein' without 'wgan-gp' and without `spectral`.

    A line is logged if the training diverges or the samples collapse; see `watch.py`.
    """

    defaults: ClassVar[Settings] = Settings(steps=8000, lr=5e-4, clip=10.0, ema_decay=0.999)

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int] = (256, 256),
        latent: int = 32,
        activation: str = "leaky_relu",
        loss: str | Loss = "non-saturating",
        penalty: str | Penalty | None = "r1",
        penalty_weight: float | None = None,
        spectral: bool = False,
        discriminator_steps: int = 1,
        bounded: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(features, bounded)
        self.latent = whole("latent", latent)
        self.discriminator_loss, self.generator_loss = _losses(loss)
        self.penalty = None if penalty is None else choose("penalty", penalty, PENALTIES)
        if penalty_weight is None:
            penalty_weight = 10.0 if self.penalty is wgan_gp else 1.0
            self.chosen("penalty_weight", penalty_weight)
        if not (penalty_weight >= 0 and isfinite(penalty_weight)):
            raise ValueError(f"penalty_weight is a number from 0, not {penalty_weight!r}")
        if loss == "wasserstein" and self.penalty in (None, r1) and not spectral:
            raise ValueError(
                "the Wasserstein loss needs a D of bounded slope, else it has no minimum: "
                "penalty='wgan-gp' or spectral=True"
            )
        self.penalty_weight = float(penalty_weight)
        self.discriminator_steps = whole("discriminator_steps", discriminator_steps, 1, 1000)
        rng = Generator(seed).child("weights")
        final = "sigmoid" if bounded else None
        layer = SpectralLinear if spectral else Linear
        self.generator = MLP([latent, *hidden, features], activation, final=final, rng=rng)
        self.discriminator = MLP([features, *hidden, 1], activation, rng=rng, layer=layer)

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

    def discriminate(self, x: Array, rng: Rng) -> dict[str, Tensor]:
        """D's loss on x and as many G(z), with the weighted penalty. Then the weighted penalty alone."""
        rng = as_generator(rng)
        x = self.normalise(x)
        with no_grad():
            fake = self.generator(rng.normal((len(x), self.latent), device=self.device))
        loss = self.discriminator_loss(self.discriminator(x), self.discriminator(fake))
        if self.penalty is None:
            return {"discriminator": loss}
        penalty = self.penalty_weight * self.penalty(self.discriminator, x, fake.data, rng)
        return {"discriminator": loss + penalty, "penalty": penalty}

    def generate(self, x: Array, rng: Rng) -> dict[str, Tensor]:
        """G's loss on as many z as x has rows."""
        rng = as_generator(rng)
        fake = self.generator(rng.normal((len(x), self.latent), device=self.device))
        return {"generator": self.generator_loss(self.discriminator(fake))}

    def watch(self, x: Array, settings: Settings) -> Callable[[], str | None]:
        """See `Model.watch` and `watch.py`. Every look uses the same data rows and the same z."""
        if len(x) < LEAST_ROWS:
            return lambda: None
        rng = Generator(0).child("watch")  # its own stream: the watch does not change the run
        real = self.normalise(x[to_device(rng.permutation(len(x))[:WATCHED], self.device)])
        z = rng.normal((WATCHED, self.latent), device=self.device)
        watch = Watch(grace=max(10, settings.steps // (5 * WATCH_STEPS)))

        @no_grad()
        def remark() -> str | None:
            self.eval()
            fake = self.generator(z).data
            outs = (self.discriminator(rows).data[:, 0] for rows in (real, fake))
            seen = [to_device(a, "cpu") for a in (*outs, real, fake)]
            self.train()
            if not all(np.isfinite(a).all() for a in seen):
                return None  # the next step of the run fails, and its error names the cause
            return watch(look(*seen, logits=self.has_logits))

        return remark

    @property
    def has_logits(self) -> bool:
        """Whether D's outputs are logits. They are if D's loss is the cross-entropy."""
        return self.discriminator_loss is cross_entropy

    def js_bound(self, x: Any, *, rng: Rng | None = None) -> JSBound:
        """An estimate of a lower bound on JS(data, samples), in nats.

        x: held-out rows (n, features). They are compared with n samples. See
        `tinygen.models.gan.js_bound`. ValueError: D's outputs are not logits, fewer than 2 rows.
        """
        if not self.has_logits:
            raise ValueError("js_bound needs a D of logits: loss='non-saturating' or 'minimax'")
        real, fake = x, self.sample(len(x), rng=rng)
        return js_bound(*(self.discriminator_logits(rows) for rows in (real, fake)))

    @no_grad()
    def discriminator_logits(self, x: Any) -> Array:
        """D's output for each row, shape (n,): log D(x)/(1 - D(x)) if `has_logits`."""
        return self.discriminator(self.normalise(self.check(x))).data[:, 0]

    @no_grad()
    def decode(self, z: Any) -> Array:
        """G(z), shape (n, features), for z (n, latent), in the units of the data."""
        z = self.check_codes(z)
        return self.denormalise(by_blocks(lambda z: self.generator(z).data, z))

    def sample(self, n: int, *, rng: Rng | None = None, seed: int | None = None) -> Array:
        """G(z) (n, features) for z ~ N(0, I)."""
        rng = as_generator(rng, seed)
        return self.decode(rng.normal((count_of(n), self.latent), device=self.device))


def _losses(loss: str | Loss) -> Loss:
    chosen = choose("loss", loss, LOSSES)
    if not isinstance(chosen, Loss):
        raise TypeError(
            f"a loss is a name or a Loss(discriminator, generator), not a {type(chosen).__name__}"
        )
    return chosen
