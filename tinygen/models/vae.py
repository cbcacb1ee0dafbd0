"""Variational autoencoder (Kingma & Welling 2013), its bounds, and estimates of log p(x).

Density estimation, generation and representation, the three tasks of the handout, through one
model: `score_samples` (a bound) and `log_likelihood` (an estimate), `sample`, `encode`.

The evidence lower bound is E_q log p(x given z) - KL(q(z given x) ‖ p(z)). The handout calls the
second term 'matching posteriors': it matches q to the *prior*. It is the gap of the bound,
log p(x) - ELBO = KL(q(z given x) ‖ p(z given x)), that measures the match to the posterior. (Of its
derivation, the dz after the expectation is stray, and the support of q must cover that of the
posterior p(z given x), which that of the prior contains.)
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
from tinygen.models.likelihood import Estimate, LogMean, anneal, temperatures
from tinygen.models.model import Model, choose, count_of
from tinygen.models.rows import blocks, by_blocks, moments
from tinygen.nn import MLP
from tinygen.random import Generator, Rng, as_generator
from tinygen.training import Settings

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
"""p(x given z) by name, from the VAE and the output y (n, features) of its decoder."""

OF_IMAGES = ("bernoulli", "discretised-gaussian")  # of data in [0, 1]


class Units(NamedTuple):
    """What each unit of a code carries, arrays (latent,): the report on posterior collapse.

    kl: the mean over the data of its KL(q(z_j given x) ‖ N(0, 1)), in nats; 0 where it is collapsed.
    variance: Var_x E_q[z_j given x], by which a unit is active or not.
    active: variance > 0.01 (Burda et al. 2016, §5.2); `active.sum()` counts them.
    """

    kl: Array
    variance: Array
    active: Array


class VAE(Model):
    """z ~ N(0, I), x ~ p(x given z); trained on a lower bound with a Gaussian q(z given x).

    likelihood: 'bernoulli' for data in [0, 1] (greys count as probabilities); 'gaussian' for any,
        with one learned standard deviation for each feature; 'discretised-gaussian', the same
        rounded to grey levels in [0, 1], which gives them probabilities; or a function of
        (output, log_std) that gives a distribution of standardised data.
    levels: of grey, for the last: 256 for a byte.
    binarise: every use of data draws bits anew, grey values being their probabilities (Burda et
        al. 2016); data that are bits already stay as they are. Only `encode` takes greys as such.
    k: samples in the importance-weighted bound log (1/k) Σ p(x, z_i)/q(z_i given x) (Burda et al.
        2016, eq. 8); with one it is the evidence lower bound, whose KL is then exact.
    beta: weight of log p(z)/q(z given x), for k = 1 of the KL term; 1 is the bound itself (Higgins
        et al. 2017 for others).
    kl_warmup: steps over which the weight rises to beta from 0, linearly (Bowman et al. 2016).
    free_bits: for each unit of the code, a mean KL over the batch of up to so many nats costs as
        much as that (Kingma et al. 2016, eq. 15, each unit its own group). Only for k = 1.
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
            raise ValueError(f"free_bits bound a KL term, which the bound with k = {k} has not")
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

    def prepare(self, x: Any) -> Array:
        """As every model; and for images, let the untrained decoder put out the mean of each pixel.

        For bits that is its logit, as in Burda et al. (2016); the discretised Gaussian has the
        standard deviation of each pixel as well.
        """
        x = super().prepare(x)
        if self.bounded:
            m = namespace_of(x)
            mean, std = moments(x)
            probs = m.clip(mean, 1e-3, 1 - 1e-3)
            of_bits = self.likelihood == "bernoulli"
            self.output_shift.data[...] = m.log(probs / (1 - probs)) if of_bits else mean
            self.output_scale.data[...] = 1.0 if of_bits else m.maximum(std, 1 / self.levels)
        return x

    # -- the model -------------------------------------------------------------------------------
    def posterior(self, x: Any) -> tuple[Tensor, Tensor]:
        """Mean and log variance (n, latent) of q(z given x), for normalised x."""
        mean, log_var = ops.split(self.encoder(x), 2, axis=-1)
        return mean, log_var

    def output(self, z: Any) -> Any:
        """The distribution p(x given z) of normalised x."""
        return self._of_output(self.decoder(z))

    def _of_output(self, y: Any) -> Any:
        if isinstance(self.likelihood, str):
            return LIKELIHOODS[self.likelihood](self, y)
        return self.likelihood(y, self.log_std)

    def log_prob(self, x: Array, z: Any) -> Tensor:
        """log p(x given z) (n,) in nats, of normalised x (n, features)."""
        return ops.sum(self.output(z).log_prob(x), axis=-1)

    # -- bounds ----------------------------------------------------------------------------------
    def elbo(self, x: Array, rng: Rng) -> tuple[Tensor, Tensor]:
        """The two terms of the bound for each row, in nats: E_q log p(x given z), KL(q ‖ N(0, I)).

        The bound is their difference. The first is estimated with one reparameterised sample
        z = mean + std · ε (Kingma & Welling 2013, eq. 7); the KL matches q to the prior and is
        exact. Rows are in the data's units; densities are per unit of normalised data.
        """
        log_likelihood, kl = self._terms(self.normalise(x), rng)
        return log_likelihood, ops.sum(kl, axis=-1)

    def _terms(self, x: Array, rng: Rng) -> tuple[Tensor, Tensor]:
        """log p(x given z) (n,) at a draw of z, and KL(q ‖ N(0, I)) of each unit (n, latent)."""
        z, kl = ops.reparameterise(self.encoder(x), rng)
        return self.log_prob(x, z), kl

    def log_weights(
        self, x: Array, posterior: tuple[Any, Any], noise: Array
    ) -> tuple[Tensor, Tensor]:
        """log p(x given z) and log p(z)/q(z given x), both (k, n), at z = mean + std · noise.

        x is normalised, and noise (k, n, latent) from N(0, I): their sum is the logarithm of an
        importance weight (Burda et al. 2016, eq. 8). Its gradient is the total one, through z.
        """
        mean, log_var = posterior
        k, n, latent = noise.shape
        z = mean + ops.exp(0.5 * log_var) * noise
        log_ratio = 0.5 * ops.sum(log_var + noise**2 - ops.square(z), axis=-1)
        copies = x if k == 1 else namespace_of(x).tile(x, (k, 1))
        log_likelihood = self.log_prob(copies, ops.reshape(z, (k * n, latent)))
        return ops.reshape(log_likelihood, (k, n)), log_ratio

    def loss(self, x: Array, rng: Rng) -> dict[str, Tensor]:
        """The loss, -E_q log p(x given z) and KL(q ‖ N(0, I)), in nats; means over examples.

        The loss is minus the bound, with its weight in training and its free bits. For k > 1 it is
        below the sum of the other two terms, as the importance-weighted bound is above the ELBO.
        """
        rng = as_generator(rng)
        x = self.normalise(self.bits(x, rng))
        weight = varying(lambda: self.kl_weight)
        if self.k == 1:
            log_likelihood, kl = self._terms(x, rng)
            per_unit = ops.mean(kl, axis=0)
            reconstruction = -ops.mean(log_likelihood)
            cost = ops.maximum(per_unit, self.free_bits) if self.free_bits else per_unit
            loss = reconstruction + weight * ops.sum(cost)
        else:
            mean, log_var = self.posterior(x)
            noise = rng.normal((self.k, len(x), self.latent), device=self.device)
            log_likelihood, log_ratio = self.log_weights(x, (mean, log_var), noise)
            bound = ops.logsumexp(log_likelihood + weight * log_ratio, axis=0) - np.log(self.k)
            loss = -ops.mean(bound)
            reconstruction = -ops.mean(log_likelihood)
            per_unit = ops.mean(ops.gaussian_kl(mean, log_var), axis=0)
        return {"loss": loss, "reconstruction": reconstruction, "kl": ops.sum(per_unit)}

    @property
    def kl_weight(self) -> float:
        """The weight of the KL term: beta, but rising to it during the warm-up of a training run."""
        if not (self.training and self.kl_warmup):
            return self.beta
        return self.beta * min(self.step / self.kl_warmup, 1.0)

    def bits(self, x: Array, rng: Rng) -> Array:
        """x itself, or bits drawn with its values as probabilities if the model binarises."""
        return as_generator(rng).bernoulli(x) if self.binarise else x

    # -- density estimation ----------------------------------------------------------------------
    @no_grad()
    def score_samples(self, x: Any, *, k: int = 1, rng: Rng | None = None) -> Array:
        """An estimate of a lower bound on log p(x) of each row (n,), in nats.

        Of the ELBO, from one sample (the KL is exact), or of the importance-weighted bound with k.
        """
        if whole("k", k) > 1:
            return self.log_likelihood(x, k=k, rng=rng).log_p
        rng = as_generator(rng)
        x = self.bits(self.check(x), rng)
        log_likelihood, kl = self.elbo(x, rng)
        return self._per_unit((log_likelihood - kl).data)

    @no_grad()
    def log_likelihood(self, x: Any, *, k: int = 5000, rng: Rng | None = None) -> Estimate:
        """log p(x) of each row by importance sampling from q: log (1/k) Σ p(x, z_i)/q(z_i given x).

        The estimate is the importance-weighted bound with k samples: in expectation below log p(x),
        above the bound with fewer, and the closer the larger k (Burda et al. 2016, theorem 1).
        Where the error is not small against 1, or `k_hat` is above 0.7, neither value nor error is to
        be trusted: the posterior is wider than q. `Estimate` says more. Warns where `k_hat` is above
        0.7 for more than a tenth of the rows: it is uncertain, and for a few that is chance.
        Memory is that of 4096 rows, the codes, and the 6 √k largest weights of each row.
        """
        rng = as_generator(rng)
        whole("k", k)
        x, (mean, log_var) = self._encoded(x, rng)
        m, total = namespace_of(x), LogMean(k)
        for _ in range(k):
            # Drawn for all rows at once: what a row gets does not depend on the blocks.
            noise = rng.normal((1, *mean.shape), device=m.device)
            terms = (
                self.log_weights(x[rows], (mean[rows], log_var[rows]), noise[:, rows])
                for rows in blocks(len(x))
            )
            total.add(m.concatenate([(a + b).data[0] for a, b in terms]))
        estimate = self._estimate(total)
        if (unsure := int((estimate.k_hat > 0.7).sum())) > 0.1 * len(x):
            warnings.warn(
                f"k_hat is above 0.7 for {unsure} of {len(x)} rows, at most "
                f"{float(estimate.k_hat.max()):.2g}: their log p(x) is surer than it may be, for q "
                "misses much of the posterior; annealed_log_likelihood needs no q",
                stacklevel=3,
            )
        return estimate

    def annealed_log_likelihood(
        self, x: Any, *, steps: int = 500, chains: int = 16, rng: Rng | None = None
    ) -> Estimate:
        """log p(x) of each row by annealed importance sampling from the prior (Wu et al. 2017).

        It needs no q, and so judges it. `chains` of `steps` temperatures each, 10 leapfrog steps at
        each; a chain before them finds the step sizes. In expectation a lower bound. One step is
        the plain Monte Carlo estimate log (1/chains) Σ p(x given z_i), z_i from the prior.
        """
        rng = as_generator(rng)
        x = self.normalise(self.bits(self.check(x), rng))
        betas, sizes = self._anneal_sizes(x, steps, rng)
        return self._estimate(self._annealed(x, None, betas, sizes, whole("chains", chains), rng))

    def bracketed_log_likelihood(
        self, n: int, *, steps: int = 500, chains: int = 16, rng: Rng | None = None
    ) -> tuple[Array, Array]:
        """Bounds (n,) from below and above, in expectation, on log p(x) of n rows that it simulates.

        Annealing forwards from the prior, and backwards from the z that made x, which is an exact
        draw of the posterior (bidirectional Monte Carlo, Grosse et al. 2015). The distance between
        their means bounds the error of `annealed_log_likelihood` with these steps and chains.
        """
        rng = as_generator(rng)
        with no_grad():
            z = rng.normal((count_of(n), self.latent), device=self.device)
            x = self.output(z).sample(rng).data
        betas, sizes = self._anneal_sizes(x, steps, rng)
        lower = self._annealed(x, None, betas, sizes, whole("chains", chains), rng)
        above = self._annealed(x, z, betas[::-1], sizes[::-1], chains, rng)
        return self._estimate(lower).log_p, self._per_unit(-above.estimate().log_p)

    def _anneal_sizes(self, x: Array, steps: int, rng: Generator) -> tuple[Array, list[Array]]:
        """The temperatures, and step sizes for them by a run of one chain for each row."""
        betas = temperatures(steps)
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
        row = m.arange(n).repeat(chains)  # of x, for each chain
        start = rng.normal((n * chains, self.latent), device=m.device) if z is None else z[row]
        log_weights, _ = anneal(
            lambda z, chain: self.log_prob(x[row[chain]], z), start, betas, rng, step_sizes=sizes
        )
        total = LogMean(chains)
        for log_weight in log_weights.reshape(n, chains).T:
            total.add(log_weight)
        return total

    def _encoded(self, x: Any, rng: Generator) -> tuple[Array, tuple[Array, Array]]:
        """Normalised x, as bits if the model binarises, and the posterior's parameters."""
        x = self.normalise(self.bits(self.check(x), rng))
        h = by_blocks(lambda x: self.encoder(x).data, x)
        mean, log_var = namespace_of(x).split(h, 2, axis=-1)
        return x, (mean, log_var)

    def _estimate(self, total: LogMean) -> Estimate:
        estimate = total.estimate()
        return replace(estimate, log_p=self._per_unit(estimate.log_p))

    def _per_unit(self, log_p: Array) -> Array:
        """Log-densities of normalised data as those of the data."""
        return log_p if self.bounded else log_p - namespace_of(log_p).log(self.scale.data).sum()

    # -- representation and generation -----------------------------------------------------------
    @no_grad()
    def units(self, x: Any, *, rng: Rng | None = None) -> Units:
        """What each unit of the code tells about rows x (n, features), n ≥ 2; see `Units`."""
        x, (mean, log_var) = self._encoded(x, as_generator(rng))
        if len(x) < 2:
            raise ValueError("whether a unit is active shows over several rows, not one")
        kl = ops.gaussian_kl(mean, log_var).data.mean(axis=0, dtype=np.float64)
        variance = mean.var(axis=0, dtype=np.float64)
        return Units(kl, variance, variance > 0.01)

    def code(self, x: Any) -> Tensor:
        """`encode` of normalised x, differentiable."""
        return self.posterior(x)[0]

    @no_grad()
    def encode(self, x: Any) -> Array:
        """The means (n, latent) of q(z given x)."""
        return self.code(self.normalise(self.check(x))).data

    @no_grad()
    def decode(self, z: Any) -> Array:
        """The means (n, features) of p(x given z) for codes (n, latent)."""
        return self.denormalise(_mean(self._decoded(self.check_codes(z))))

    def reconstruct(self, x: Any) -> Array:
        """The mean of p(x given z) at the mean of q(z given x)."""
        return self.decode(self.encode(x))

    @no_grad()
    def sample(self, n: int, *, rng: Rng | None = None) -> Array:
        """Draws from p(x given z) (n, features) for z ~ N(0, I); a Bernoulli's mean, as greys."""
        rng = as_generator(rng)
        p = self._decoded(rng.normal((count_of(n), self.latent), device=self.device))
        return self.denormalise(_mean(p) if isinstance(p, Bernoulli) else p.sample(rng).data)

    def _decoded(self, z: Array) -> Any:
        """`output`, whose distribution is whole, so that a row of a draw does not see the blocks."""
        return self._of_output(tensor(by_blocks(lambda z: self.decoder(z).data, z)))


def _mean(p: Any) -> Array:
    """The mean of p(x given z); that of a discretised Gaussian before it is rounded."""
    return p.loc.data.clip(0.0, 1.0) if isinstance(p, DiscretisedNormal) else p.mean.data
