"""Variational autoencoder (Kingma & Welling 2013)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from tinygen import ops
from tinygen.autodiff.modes import no_grad
from tinygen.autodiff.tensor import Tensor, tensor
from tinygen.backend import namespace_of
from tinygen.distributions import Bernoulli, Normal
from tinygen.errors import whole
from tinygen.models.model import Model, choose, count_of
from tinygen.nn import MLP
from tinygen.random import Generator, default_generator
from tinygen.training import Settings

__all__ = ["VAE"]

Array = np.ndarray[Any, Any]

Likelihood = Callable[[Tensor, Tensor], Bernoulli | Normal]

LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": lambda output, log_std: Bernoulli(output),
    "gaussian": lambda output, log_std: Normal(output, ops.exp(log_std)),
}
"""p(x given z) by name, from the decoder's output (n, features) and the learned log std."""


class VAE(Model):
    """z ~ N(0, I), x ~ p(x given z); trained on the evidence lower bound with a Gaussian q(z given x).

    likelihood: 'bernoulli' for data in [0, 1] (greys count as probabilities), 'gaussian' for any,
        with one learned standard deviation for each feature; or a function of (output, log_std)
        that gives a distribution of standardised data.
    beta: weight of the KL term; 1 is the bound itself (Higgins et al. 2017 for others).
    """

    defaults: ClassVar[Settings] = Settings(steps=6000)
    unbounded = "likelihood='gaussian'"

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int] = (256, 256),
        latent: int = 12,
        activation: str = "silu",
        likelihood: str | Likelihood = "bernoulli",
        beta: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not beta >= 0:
            raise ValueError(f"beta is at least 0, not {beta}")
        super().__init__(features, bounded=likelihood == "bernoulli")
        choose("likelihood", likelihood, LIKELIHOODS)  # ValueError if there is none
        self.latent, self.likelihood, self.beta = whole("latent", latent), likelihood, beta
        rng = Generator(seed).child("weights")
        self.encoder = MLP([features, *hidden, 2 * latent], activation, rng=rng)
        self.decoder = MLP([latent, *hidden[::-1], features], activation, rng=rng)
        self.log_std = tensor(np.zeros(features, np.float32), requires_grad=not self.bounded)

    def posterior(self, x: Any) -> tuple[Tensor, Tensor]:
        """Mean and log variance (n, latent) of q(z given x), for normalised x."""
        mean, log_var = ops.split(self.encoder(x), 2, axis=-1)
        return mean, log_var

    def output(self, z: Any) -> Bernoulli | Normal:
        """The distribution p(x given z) of normalised x."""
        return choose("likelihood", self.likelihood, LIKELIHOODS)(self.decoder(z), self.log_std)

    def elbo(self, x: Array, rng: Generator) -> tuple[Tensor, Tensor]:
        """The two terms of the bound for each row, in nats: E_q log p(x given z), KL(q ‖ N(0, I)).

        The bound is their difference. The first is estimated with one reparameterised sample
        z = mean + std · ε (Kingma & Welling 2013, eq. 7); the KL matches q to the prior and is
        exact. Rows are in the data's units; densities are per unit of normalised data.
        """
        x = self.normalise(x)
        z, kl = ops.reparameterise(self.encoder(x), rng)
        log_likelihood = ops.sum(self.output(z).log_prob(x), axis=-1)
        return log_likelihood, ops.sum(kl, axis=-1)

    def loss(self, x: Array, rng: Generator) -> dict[str, Tensor]:
        """-ELBO in nats (with beta), and its two terms; means over examples."""
        log_likelihood, kl = (ops.mean(term) for term in self.elbo(x, rng))
        return {
            "loss": self.beta * kl - log_likelihood,
            "reconstruction": -log_likelihood,
            "kl": kl,
        }

    @no_grad()
    def score_samples(self, x: Any, *, rng: Generator | None = None) -> Array:
        """A one-sample estimate of the ELBO of each row (n,), in nats: a bound on log p(x)."""
        x = self.check(x)
        log_likelihood, kl = self.elbo(x, (rng or default_generator()))
        bound = (log_likelihood - kl).data
        return bound if self.bounded else bound - namespace_of(bound).log(self.scale.data).sum()

    @no_grad()
    def encode(self, x: Any) -> Array:
        """The means (n, latent) of q(z given x)."""
        return self.posterior(self.normalise(self.check(x)))[0].data

    @no_grad()
    def decode(self, z: Any) -> Array:
        """The means (n, features) of p(x given z) for codes (n, latent)."""
        p = self.output(self.check_codes(z))
        mean = p.probs if isinstance(p, Bernoulli) else p.mean
        return self.denormalise(mean.data)

    def reconstruct(self, x: Any) -> Array:
        """The mean of p(x given z) at the mean of q(z given x)."""
        return self.decode(self.encode(x))

    @no_grad()
    def sample(self, n: int, *, rng: Generator | None = None) -> Array:
        """Draws from p(x given z) (n, features) for z ~ N(0, I); a Bernoulli's mean, as greys."""
        rng = rng or default_generator()
        p = self.output(rng.normal((count_of(n), self.latent), device=self.device))
        return self.denormalise((p.probs if isinstance(p, Bernoulli) else p.sample(rng)).data)
