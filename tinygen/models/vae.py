"""Variational autoencoder (Kingma & Welling 2013), its bounds, and estimates of log p(x).

The model does the three tasks of the handout: density estimation (`score_samples` gives a bound,
`log_likelihood` an estimate), generation (`sample`) and representation (`encode`).

The evidence lower bound (ELBO) is E_q log p(x|z) - KL(q(z|x) ‖ p(z)). The handout calls the second
term 'matching posteriors', but it matches q to the *prior*. The gap of the bound,
log p(x) - ELBO = KL(q(z|x) ‖ p(z|x)), measures how well q matches the posterior.
Two more corrections of the handout: the dz after the expectation does not belong there, and the
support of q need only cover the support of the posterior p(z|x), which is part of the prior's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor, tensor
from tinygen.autodiff.modes import no_grad
from tinygen.backend import namespace_of, varying
from tinygen.distributions import Bernoulli, DiscretisedNormal, Normal
from tinygen.errors import whole
from tinygen.models.likelihood import Estimate, LogMean, anneal, inverse_temperatures
from tinygen.models.model import Model, choose, count_of
from tinygen.models.rows import blocks, by_blocks, moments
from tinygen.nn import MLP
from tinygen.parallel import batch_mean
from tinygen.random import Generator, Rng, as_generator
from tinygen.training import Data, Settings

__all__ = ["VAE", "Units"]

Array = np.ndarray[Any, Any]

Likelihood = Callable[[Tensor, Tensor], Any]

LIKELIHOODS: dict[str, Callable[[Any, Tensor], Any]] = {
    "bernoulli": lambda vae, y: Bernoulli(y + vae.output_shift),
    "gaussian": lambda vae, y: Normal(y, ops.exp(vae.log_std)),
    "discretised-gaussian": lambda vae, y: DiscretisedNormal(
        vae.output_shift + vae.output_scale * y,
        vae.output_scale * ops.exp(vae.log_std),
        0.0, 1.0, vae.levels,
    ),
}  # fmt: skip
"""Functions by name that make p(x|z) from the VAE and its decoder's output y (n, features)."""

OF_IMAGES = ("bernoulli", "discretised-gaussian")  # the likelihoods of data in [0, 1]


class Units(NamedTuple):
    """How much each unit of the code is used, as arrays (latent,). It shows posterior collapse.

    kl: the mean over the data of KL(q(z_j|x) ‖ N(0, 1)), in nats. It is 0 for a collapsed unit.
    variance: Var_x E_q[z_j|x], the variance over the data of the posterior mean.
    active: variance > 0.01 (Burda et al. 2016, §5.2). `active.sum()` counts the active units.
    """

    kl: Array
    variance: Array
    active: Array


class VAE(Model):
    """z ~ N(0, I), x ~ p(x|z), trained on a lower bound of log p(x) with a Gaussian q(z|x).

    likelihood: 'bernoulli' for data in [0, 1] (greys count as probabilities); 'gaussian' for any
        data, with one learned standard deviation for each feature; 'discretised-gaussian' for grey
        levels in [0, 1], which get the probabilities of a rounded Gaussian; or a function of
        (output, log_std) that returns a distribution of standardised data.
    levels: the number of grey levels of 'discretised-gaussian', 256 for bytes.
    binarise: each use of the data draws new bits, with the grey values as probabilities (Burda et
        al. 2016). Data that are bits already stay as they are. `encode` alone takes the greys.
    k: samples in the importance-weighted bound log (1/k) Σ p(x, z_i)/q(z_i|x) (Burda et al.
        2016, eq. 8). With k = 1 it is the ELBO, with the exact KL.
    beta: the weight of the KL term, for k > 1 of log p(z)/q(z|x). With 1 the loss is minus the
        bound (Higgins et al. 2017 use others).
    kl_warmup: the number of steps in which this weight rises linearly from 0 to beta (Bowman et al.
        2016).
    free_bits: a number λ of nats. A unit whose mean KL over the batch is below λ costs λ (Kingma et
        al. 2016, eq. 15, with one unit in a group). Only for k = 1.
    ValueError: an unknown likelihood, a number out of its range, or options that exclude each other.
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
        levels: int = 256,
        binarise: bool = False,
        k: int = 1,
        beta: float = 1.0,
        kl_warmup: int = 0,
        free_bits: float = 0.0,
        seed: int = 0,
    ) -> None:
        for name, value in {"beta": beta, "free_bits": free_bits}.items():
            if not value >= 0:
                raise ValueError(f"{name} is at least 0, not {value}")
        super().__init__(features, bounded=likelihood in OF_IMAGES)
        choose("likelihood", likelihood, LIKELIHOODS)  # ValueError if there is none
        if binarise and likelihood != "bernoulli":
            raise ValueError("binarise draws bits: it goes with likelihood='bernoulli'")
        if free_bits and k != 1:
            raise ValueError(f"free_bits needs k = 1, not k = {k}: that bound has no KL term")
        self.latent, self.likelihood, self.binarise = whole("latent", latent), likelihood, binarise
        self.levels = whole("levels", levels, 2)
        self.k, self.beta, self.free_bits = whole("k", k), beta, free_bits
        self.kl_warmup = whole("kl_warmup", kl_warmup, 0)
        rng = Generator(seed).child("weights")
        self.encoder = MLP([features, *hidden, 2 * latent], activation, rng=rng)
        self.decoder = MLP([latent, *hidden[::-1], features], activation, rng=rng)
        learned = likelihood != "bernoulli"
        self.log_std = tensor(np.zeros(features, np.float32), requires_grad=learned)
        if self.bounded:
            self.output_shift = tensor(np.zeros(features, np.float32))
            self.output_scale = tensor(np.ones(features, np.float32))

    def prepare(self, x: Any) -> Data:
        """As every model; and for images, let the untrained decoder put out the mean of each pixel.

        For 'bernoulli' the decoder starts at the logit of the mean, as in Burda et al. (2016). For
        'discretised-gaussian' it starts with the standard deviation of each pixel as well.
        """
        (x,) = super().prepare(x)
        if self.bounded:
            m = namespace_of(x)
            mean, std = moments(x)
            probs = m.clip(mean, 1e-3, 1 - 1e-3)
            of_bits = self.likelihood == "bernoulli"
            self.output_shift.data[...] = m.log(probs / (1 - probs)) if of_bits else mean
            self.output_scale.data[...] = 1.0 if of_bits else m.maximum(std, 1 / self.levels)
        return (x,)

    # -- the model -------------------------------------------------------------------------------
    def posterior(self, x: Any) -> tuple[Tensor, Tensor]:
        """The mean and the log variance of q(z|x), both (n, latent), for normalised x."""
        mean, log_var = ops.split(self.encoder(x), 2, axis=-1)
        return mean, log_var

    def output(self, z: Any) -> Any:
        """The distribution p(x|z) of normalised x."""
        return self._of_output(self.decoder(z))

    def _of_output(self, y: Any) -> Any:
        if isinstance(self.likelihood, str):
            return LIKELIHOODS[self.likelihood](self, y)
        return self.likelihood(y, self.log_std)

    def log_prob(self, x: Array, z: Any) -> Tensor:
        """log p(x|z) in nats, shape (n,), for normalised x (n, features)."""
        return ops.sum(self.output(z).log_prob(x), axis=-1)

    # -- bounds ----------------------------------------------------------------------------------
    def elbo(self, x: Array, rng: Rng) -> tuple[Tensor, Tensor]:
        """The two terms of the ELBO for each row, in nats: E_q log p(x|z) and KL(q ‖ N(0, I)).

        The ELBO is their difference. The first term is estimated with one reparameterised sample
        z = mean + std · ε (Kingma & Welling 2013, eq. 7). The KL is exact.
        x is in the units of the data. Densities are those of normalised data.
        """
        log_likelihood, kl = self._terms(self.normalise(x), rng)
        return log_likelihood, ops.sum(kl, axis=-1)

    def _terms(self, x: Array, rng: Rng) -> tuple[Tensor, Tensor]:
        """log p(x|z) (n,) at a draw of z, and KL(q ‖ N(0, I)) of each unit (n, latent)."""
        z, kl = ops.reparameterise(self.encoder(x), rng)
        return self.log_prob(x, z), kl

    def log_weights(
        self, x: Array, posterior: tuple[Any, Any], noise: Array
    ) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(z)/q(z|x), both (k, n), at z = mean + std · noise.

        x is normalised, and noise (k, n, latent) comes from N(0, I). The sum of the two is the
        logarithm of an importance weight (Burda et al. 2016, eq. 8). Gradients flow through z too.
        """
        mean, log_var = posterior
        k, n, latent = noise.shape
        z = mean + ops.exp(0.5 * log_var) * noise
        log_ratio = 0.5 * ops.sum(log_var + noise**2 - ops.square(z), axis=-1)
        copies = x if k == 1 else namespace_of(x).tile(x, (k, 1))
        log_likelihood = self.log_prob(copies, ops.reshape(z, (k * n, latent)))
        return ops.reshape(log_likelihood, (k, n)), log_ratio

    def loss(self, x: Array, rng: Rng) -> dict[str, Tensor]:
        """The loss, -E_q log p(x|z) and KL(q ‖ N(0, I)): means over the examples, in nats.

        The loss is minus the bound, with `kl_weight` and `free_bits`. For k > 1 it is below the sum
        of the other two terms, because the importance-weighted bound is above the ELBO.
        """
        rng = as_generator(rng)
        x = self.normalise(self.bits(x, rng))
        weight = varying(lambda: self.kl_weight)
        if self.k == 1:
            log_likelihood, kl = self._terms(x, rng)
            per_unit = ops.mean(kl, axis=0)
            reconstruction = -ops.mean(log_likelihood)
            cost = per_unit
            if self.free_bits:
                cost = ops.maximum(batch_mean(per_unit, rng), self.free_bits)
            loss = reconstruction + weight * ops.sum(cost)
        else:
            mean, log_var = self.posterior(x)
            noise = rng.normal((len(x), self.k, self.latent), device=self.device)
            noise = namespace_of(noise).transpose(noise, (1, 0, 2))
            log_likelihood, log_ratio = self.log_weights(x, (mean, log_var), noise)
            bound = ops.logsumexp(log_likelihood + weight * log_ratio, axis=0) - np.log(self.k)
            loss = -ops.mean(bound)
            reconstruction = -ops.mean(log_likelihood)
            per_unit = ops.mean(ops.gaussian_kl(mean, log_var), axis=0)
        return {"loss": loss, "reconstruction": reconstruction, "kl": ops.sum(per_unit)}

    @property
    def kl_weight(self) -> float:
        """The weight of the KL term: beta. During the warm-up of a training run it rises to beta."""
        if not (self.training and self.kl_warmup):
            return self.beta
        return self.beta * min(self.step / self.kl_warmup, 1.0)

    def bits(self, x: Array, rng: Rng) -> Array:
        """x itself; if the model binarises, bits that are 1 with the values of x as probabilities."""
        return as_generator(rng).bernoulli(x) if self.binarise else x

    # -- density estimation ----------------------------------------------------------------------
    @no_grad()
    def score_samples(self, x: Any, *, k: int = 1, rng: Rng | None = None) -> Array:
        """An estimate of a lower bound on log p(x) for each row, shape (n,), in nats.

        For k = 1 the bound is the ELBO: one sample of z estimates its first term, the KL is exact.
        For k > 1 it is the importance-weighted bound with k samples.
        """
        if whole("k", k) > 1:
            return self.log_likelihood(x, k=k, rng=rng).log_p
        rng = as_generator(rng)
        x = self.bits(self.check(x), rng)
        log_likelihood, kl = self.elbo(x, rng)
        return self._per_unit((log_likelihood - kl).data)

    @no_grad()
    def log_likelihood(self, x: Any, *, k: int = 5000, rng: Rng | None = None) -> Estimate:
        """log p(x) of each row by importance sampling from q: log (1/k) Σ p(x, z_i)/q(z_i|x).

        The estimate is the importance-weighted bound with k samples. Its expectation is below
        log p(x) and comes closer as k grows (Burda et al. 2016, theorem 1).
        Do not trust a value or its error where the error is not small against 1, or where `k_hat` is
        above 0.7: there the posterior is wider than q. `Estimate` says more. There is a warning if
        `k_hat` is above 0.7 for more than a tenth of the rows. For a few rows this may be chance.
        Needs memory for 4096 rows in the networks, the codes, and 6 √k weights of each row.
        """
        rng = as_generator(rng)
        whole("k", k)
        x, (mean, log_var) = self._encoded(x, rng)
        m, total = namespace_of(x), LogMean(k)
        for _ in range(k):
            # Drawn for all rows at once, so that the noise of a row does not depend on the blocks.
            noise = rng.normal(mean.shape, device=m.device)[None]
            terms = (
                self.log_weights(x[rows], (mean[rows], log_var[rows]), noise[:, rows])
                for rows in blocks(len(x))
            )
            total.add(m.concatenate([(a + b).data[0] for a, b in terms]))
        estimate = self._estimate(total)
        if (unsure := int((estimate.k_hat > 0.7).sum())) > 0.1 * len(x):
            warnings.warn(
                f"k_hat is above 0.7 for {unsure} of {len(x)} rows (the largest is "
                f"{float(estimate.k_hat.max()):.2g}): do not trust their log p(x) and its error, "
                "because q misses much of the posterior; annealed_log_likelihood needs no q",
                stacklevel=3,
            )
        return estimate

    def annealed_log_likelihood(
        self, x: Any, *, temperatures: int = 500, chains: int = 16, rng: Rng | None = None
    ) -> Estimate:
        """log p(x) of each row by annealed importance sampling from the prior (Wu et al. 2017).

        It does not use q, so it can check the estimates that do. Each row has `chains` chains. A
        chain goes through the `temperatures`, with 10 leapfrog steps at each. One more chain, run
        first, finds the step sizes. The expectation of the estimate is a lower bound. With one
        temperature this is plain Monte Carlo: log (1/chains) Σ p(x|z_i), z_i from the prior.
        """
        rng = as_generator(rng)
        x = self.normalise(self.bits(self.check(x), rng))
        betas, sizes = self._anneal_sizes(x, temperatures, rng)
        return self._estimate(self._annealed(x, None, betas, sizes, whole("chains", chains), rng))

    def bracketed_log_likelihood(
        self, n: int, *, temperatures: int = 500, chains: int = 16, rng: Rng | None = None
    ) -> tuple[Array, Array]:
        """A lower and an upper bound (n,), in expectation, on log p(x) of n rows drawn from the model.

        The lower bound anneals forwards from the prior. The upper bound anneals backwards from the z
        that made x, which is an exact draw of the posterior (bidirectional Monte Carlo, Grosse et
        al. 2015). The distance between the two means bounds the error of `annealed_log_likelihood`
        with as many temperatures and chains.
        """
        rng = as_generator(rng)
        with no_grad():
            z = rng.normal((count_of(n), self.latent), device=self.device)
            x = self.output(z).sample(rng).data
        betas, sizes = self._anneal_sizes(x, temperatures, rng)
        lower = self._annealed(x, None, betas, sizes, whole("chains", chains), rng)
        above = self._annealed(x, z, betas[::-1], sizes[::-1], chains, rng)
        return self._estimate(lower).log_p, self._per_unit(-above.estimate().log_p)

    def _anneal_sizes(
        self, x: Array, temperatures: int, rng: Generator
    ) -> tuple[Array, list[Array]]:
        """The inverse temperatures, and the step sizes that a run of one chain a row found for them."""
        betas = inverse_temperatures(temperatures)
        z = rng.normal((len(x), self.latent), device=self.device)
        return betas, anneal(lambda z, rows: self.log_prob(x[rows], z), z, betas, rng)[1]

    def _annealed(
        self,
        x: Array,
        z: Array | None,
        betas: Array,
        sizes: list[Array],
        chains: int,
        rng: Generator,
    ) -> LogMean:
        """The mean of the weights of several chains for each row of normalised x."""
        m, n = namespace_of(x), len(x)
        row = m.arange(n).repeat(chains)  # the row of x that a chain belongs to
        start = z[row] if z is not None else rng.normal((n, chains * self.latent), device=m.device)
        start = start.reshape(n * chains, self.latent)
        log_weights, _ = anneal(
            lambda z, chain: self.log_prob(x[row[chain]], z), start, betas, rng, step_sizes=sizes
        )
        total = LogMean(chains)
        for log_weight in log_weights.reshape(n, chains).T:
            total.add(log_weight)
        return total

    def _encoded(self, x: Any, rng: Generator) -> tuple[Array, tuple[Array, Array]]:
        """Normalised x (as bits if the model binarises), and the mean and log variance of q(z|x)."""
        x = self.normalise(self.bits(self.check(x), rng))
        h = by_blocks(lambda x: self.encoder(x).data, x)
        mean, log_var = namespace_of(x).split(h, 2, axis=-1)
        return x, (mean, log_var)

    def _estimate(self, total: LogMean) -> Estimate:
        estimate = total.estimate()
        return replace(estimate, log_p=self._per_unit(estimate.log_p))

    def _per_unit(self, log_p: Array) -> Array:
        """Log-densities of the data, from log-densities of normalised data."""
        return log_p if self.bounded else log_p - namespace_of(log_p).log(self.scale.data).sum()

    # -- representation and generation -----------------------------------------------------------
    @no_grad()
    def units(self, x: Any, *, rng: Rng | None = None) -> Units:
        """How much each unit of the code is used for rows x (n, features), n ≥ 2; see `Units`."""
        x, (mean, log_var) = self._encoded(x, as_generator(rng))
        if len(x) < 2:
            raise ValueError("units needs at least 2 rows, to see whether a unit is active")
        kl = ops.gaussian_kl(mean, log_var).data.mean(axis=0, dtype=np.float64)
        variance = mean.var(axis=0, dtype=np.float64)
        return Units(kl, variance, variance > 0.01)

    def code(self, x: Any) -> Tensor:
        """As `encode`, but for normalised x, and differentiable."""
        return self.posterior(x)[0]

    @no_grad()
    def encode(self, x: Any) -> Array:
        """The means (n, latent) of q(z|x)."""
        return self.code(self.normalise(self.check(x))).data

    @no_grad()
    def decode(self, z: Any) -> Array:
        """The means (n, features) of p(x|z) for codes (n, latent)."""
        return self.denormalise(_mean(self._decoded(self.check_codes(z))))

    def reconstruct(self, x: Any) -> Array:
        """The mean of p(x|z) at the mean of q(z|x)."""
        return self.decode(self.encode(x))

    @no_grad()
    def sample(self, n: int, *, rng: Rng | None = None, seed: int | None = None) -> Array:
        """Draws from p(x|z) with z ~ N(0, I), shape (n, features). For bits, their probabilities."""
        rng = as_generator(rng, seed)
        p = self._decoded(rng.normal((count_of(n), self.latent), device=self.device))
        return self.denormalise(_mean(p) if isinstance(p, Bernoulli) else p.sample(rng).data)

    def _decoded(self, z: Array) -> Any:
        """`output` for all rows as one distribution: a draw from it does not depend on the blocks."""
        return self._of_output(tensor(by_blocks(lambda z: self.decoder(z).data, z)))


def _mean(p: Any) -> Array:
    """The mean of p(x|z). For a discretised Gaussian it is the mean before rounding."""
    return p.loc.data.clip(0.0, 1.0) if isinstance(p, DiscretisedNormal) else p.mean.data
