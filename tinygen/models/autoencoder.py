"""Autoencoders: plain, denoising (Vincent et al. 2008), contractive (Rifai et al. 2011)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypedDict

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor, tensor
from tinygen.autodiff.modes import no_grad
from tinygen.autodiff.transforms import gradients, vjp
from tinygen.backend import namespace_of, to_device
from tinygen.errors import unknown, whole
from tinygen.models.model import Model, choose, count_of, with_options_of
from tinygen.models.rows import by_blocks
from tinygen.nn import MLP
from tinygen.parallel import batch_max
from tinygen.random import Generator, Rng, as_generator
from tinygen.training import Settings

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "CORRUPTIONS", "Autoencoder", "ContractiveAutoencoder", "DenoisingAutoencoder",
    "HutchinsonVariance", "hutchinson_jacobian_norm", "hutchinson_variance", "jacobian_norm",
]  # fmt: skip

Array = np.ndarray[Any, Any]


class Options(TypedDict, total=False):
    """The options of every autoencoder, for type checkers. `Autoencoder` explains them."""

    hidden: Sequence[int]
    latent: int
    activation: str
    bounded: bool
    seed: int


class Autoencoder(Model):
    """A code z = f(x) of `latent` numbers and a reconstruction g(z) ≈ x, trained by squared error.

    hidden: the widths of the encoder's hidden layers. The decoder has them in reverse order.
    bounded, seed: see `Model`; the seed of the initial weights.
    An autoencoder does not define a distribution. So `sample` decodes draws from a normal
    distribution that is fitted to the codes of the training data (Ghosh et al. 2020, §4).
    """

    defaults: ClassVar[Settings] = Settings(steps=6000)
    final: ClassVar[str | None] = None  # the activation of the code

    def __init__(
        self,
        features: int,
        *,
        hidden: Sequence[int] = (256, 128),
        latent: int = 16,
        activation: str = "silu",
        bounded: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(features, bounded)
        rng = Generator(seed).child("weights")
        sizes = [features, *hidden, latent]
        self.encoder = MLP(sizes, activation, final=self.final, rng=rng)
        self.decoder = MLP(sizes[::-1], activation, final="sigmoid" if bounded else None, rng=rng)
        self.code_mean = tensor(np.zeros(latent, np.float32))
        self.code_factor = tensor(np.eye(latent, dtype=np.float32))

    @classmethod
    def weights(cls, config: Mapping[str, Any]) -> int:
        """See `Model.weights`. The covariance of the codes counts too."""
        return super().weights(config) + config["latent"] ** 2

    def loss(self, x: Array, rng: Rng) -> dict[str, Tensor]:
        """The mean over examples of ‖x - g(f(x))‖², in normalised units."""
        x = self.normalise(x)
        return {"loss": squared_error(self.decoder(self.encoder(x)), x)}

    def finish(self, x: Array) -> None:
        """Fit a normal distribution to the codes of x."""
        blocks = [self.encode(x[i : i + 4096]) for i in range(0, len(x), 4096)]
        # On the CPU: the codes are small, and this is not in a training step.
        codes = np.concatenate([to_device(b, "cpu") for b in blocks]).astype(np.float64)
        self.code_mean.data[...] = to_device(codes.mean(axis=0), self.device)
        covariance = np.atleast_2d(np.cov(codes.T, bias=True))
        values, vectors = np.linalg.eigh(covariance)  # gives a factor of a singular matrix too
        factor = vectors * np.sqrt(np.maximum(values, 0))
        self.code_factor.data[...] = to_device(factor, self.device)

    def code(self, x: Any) -> Tensor:
        """As `encode`, but for normalised x, and differentiable."""
        return self.encoder(x)

    @no_grad()
    def encode(self, x: Any) -> Array:
        """The codes (n, latent) of data (n, features)."""
        return self.code(self.normalise(self.check(x))).data

    @no_grad()
    def decode(self, z: Any) -> Array:
        """The data (n, features) for codes (n, latent)."""
        z = self.check_codes(z)
        return self.denormalise(by_blocks(lambda z: self.decoder(z).data, z))

    def reconstruct(self, x: Any) -> Array:
        """g(f(x)), with the shape and in the units of x."""
        return self.decode(self.encode(x))

    def sample(self, n: int, *, rng: Rng | None = None, seed: int | None = None) -> Array:
        """Decoded draws (n, features) from the normal distribution fitted to the codes."""
        rng = as_generator(rng, seed)
        z = rng.normal((count_of(n), len(self.code_mean)), device=self.device)
        return self.decode(z @ self.code_factor.data.T + self.code_mean.data)


def squared_error(y: Tensor, x: Any) -> Tensor:
    """The mean over the rows i of ‖y_i - x_i‖²."""
    return ops.mse(y, x) * float(x.shape[-1])


# -- denoising -----------------------------------------------------------------------------------
def mask(x: Array, amount: float, rng: Rng) -> Array:
    """x with each element set to 0 with probability `amount` (Vincent et al. 2008)."""
    rng = as_generator(rng)
    return x * rng.bernoulli(1.0 - amount, x.shape, device=namespace_of(x).device)


def add_gaussian(x: Array, amount: float, rng: Rng) -> Array:
    """x plus normal noise of standard deviation `amount`."""
    rng = as_generator(rng)
    return x + rng.normal(x.shape, 0.0, amount, device=namespace_of(x).device)


def salt_and_pepper(x: Array, amount: float, rng: Rng) -> Array:
    """x with each element set, with probability `amount`, to the minimum or maximum of the batch."""
    rng = as_generator(rng)
    m = namespace_of(x)
    u = rng.uniform(x.shape, device=m.device)
    low, high = -batch_max(-x.min(), rng), batch_max(x.max(), rng)
    return m.where(u < amount / 2, low, m.where(u < amount, high, x))


Corruption = Callable[[Array, float, Generator], Array]

CORRUPTIONS: dict[str, Corruption] = {
    "masking": mask,
    "gaussian": add_gaussian,
    "salt-and-pepper": salt_and_pepper,
}
"""Corruptions by name: functions of (x, amount, rng)."""


class DenoisingAutoencoder(Autoencoder):
    """An autoencoder that reconstructs the clean x from a corrupted x̃: ‖x - g(f(x̃))‖².

    The handout writes g(f(x)) ≈ x. In the paper (Vincent et al. 2008) the encoder sees x̃, and the
    error is measured against x.
    corruption: 'masking', 'gaussian', 'salt-and-pepper', or a function of (x, amount, rng).
    amount: the probability, or the standard deviation of the noise in normalised units.
    ValueError: an unknown corruption, or an amount out of its range.
    """

    @with_options_of(Autoencoder.__init__, latent=32)
    def __init__(
        self,
        features: int,
        *,
        corruption: str | Corruption = "masking",
        amount: float = 0.3,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(features, **options)
        choose("corruption", corruption, CORRUPTIONS)  # ValueError if there is none
        top = 1.0 if corruption in ("masking", "salt-and-pepper") else np.inf
        if not 0 <= amount <= top:
            raise ValueError(
                f"the amount of {corruption} corruption is in [0, {top:g}], not {amount}"
            )
        self.corruption, self.amount = corruption, amount

    def corrupt(self, x: Array, rng: Rng) -> Array:
        """x (n, features) in normalised units, corrupted as in training."""
        return choose("corruption", self.corruption, CORRUPTIONS)(
            self.normalise(x), self.amount, rng
        )

    def loss(self, x: Array, rng: Rng) -> dict[str, Tensor]:
        """The mean over examples of ‖x - g(f(x̃))‖², in normalised units."""
        return {
            "loss": squared_error(
                self.decoder(self.encoder(self.corrupt(x, rng))), self.normalise(x)
            )
        }

    @no_grad()
    def score_function(self, x: Any) -> Array:
        """An estimate (n, features) of the score ∇ log p: (r(x) - x)/σ², per unit of the data.

        r is the reconstruction, σ the `amount`. For the best r this is exactly the score of the
        data with the noise added (Vincent 2011). For small σ it is close to the score of the data
        (Alain & Bengio 2014, theorem 1).
        ValueError: a corruption other than 'gaussian', an amount of 0, or x that `check` refuses.
        """
        if self.corruption != "gaussian" or not self.amount:
            raise ValueError(
                "the score takes corruption='gaussian' with an amount above 0, not "
                f"{self.amount} of {self.corruption!r}"
            )
        x = self.normalise(self.check(x))
        score = (self.decoder(self.encoder(x)).data - x) / self.amount**2
        return score if self.bounded else score / self.scale.data


# -- contractive ---------------------------------------------------------------------------------
def jacobian_norm(mlp: MLP, x: Any) -> Tensor:
    """‖∂f/∂x‖²_F of an MLP f at each row of x, shape (n,). It is exact and differentiable.

    The Jacobian is W_1 D_1 W_2 D_2 ..., where D_l holds the derivatives of layer l's activation.
    The product starts at the code, because the code is narrow. For one sigmoid layer the norm is
    Σ_i (h_i (1 - h_i))² Σ_j W_ij² (Rifai et al. 2011).
    """
    slopes, h = [], x
    for layer in mlp.layers:
        z = ops.linear(h, layer.weight, layer.bias)
        slopes.append(None if layer.activation is None else _slope(layer.activation, z))
        h = z if layer.activation is None else ops.ACTIVATIONS[layer.activation](z)
    rows = ops.expand_dims(mlp.layers[-1].weight.T, 0)  # (n or 1, code, layer's input)
    if slopes[-1] is not None:
        rows = rows * ops.expand_dims(slopes[-1], -1)
    for layer, slope in zip(mlp.layers[-2::-1], slopes[-2::-1], strict=True):
        if slope is not None:
            rows = rows * ops.expand_dims(slope, 1)
        rows = ops.matmul(rows, layer.weight.T)
    norm = ops.sum(ops.square(rows), axis=(1, 2))
    return ops.broadcast_to(norm, (len(x),))  # a linear f has the same Jacobian for all rows


def _slope(activation: str, z: Tensor) -> Tensor:
    """The derivative of an activation at z, as a differentiable Tensor."""
    y, pull = vjp(ops.ACTIVATIONS[activation], z)
    return pull(ops.ones_like(y))[0]


def hutchinson_jacobian_norm(f: Callable[[Tensor], Tensor], x: Any, rng: Rng) -> Tensor:
    """An unbiased estimate of ‖∂f/∂x‖²_F at each row: ‖vᵀ ∂f/∂x‖² with v ~ N(0, I), shape (n,).

    f may be any function that maps each row to a row. The estimate takes one backward pass
    (Hutchinson 1990). The exact norm takes one for each number of the code.
    """
    rng = as_generator(rng)
    x = tensor(x, requires_grad=True)
    y = f(x)
    v = rng.normal(y.shape, dtype=y.dtype, device=y.device)
    row = gradients(y, x, v, create_graph=True)
    return ops.sum(ops.square(row), axis=-1)


class HutchinsonVariance(NamedTuple):
    """The exact ‖∂f/∂x‖²_F of each row, and the mean and variance of its estimates, all (n,)."""

    exact: Array
    mean: Array
    variance: Array


def hutchinson_variance(f: MLP, x: Any, rng: Rng, probes: int = 100) -> HutchinsonVariance:
    """The variance of estimates with one v each, measured on `probes` ≥ 2 of them.

    In theory the variance of ‖vᵀ J‖² is 2 ‖J Jᵀ‖²_F. The worst case is a J of rank one: there the
    variance is 2 ‖J‖⁴_F. If J has r equal singular values, it is 1/r of that.
    """
    rng = as_generator(rng)
    whole("probes", probes, 2)
    draws = [hutchinson_jacobian_norm(f, x, rng).data for _ in range(probes)]
    values = namespace_of(draws[0]).stack(draws).astype(np.float64)
    return HutchinsonVariance(jacobian_norm(f, x).data, values.mean(axis=0), values.var(0, ddof=1))


class ContractiveAutoencoder(Autoencoder):
    """An autoencoder whose code changes little with x: ‖x - g(f(x))‖² + penalty · ‖∂f/∂x‖²_F.

    The handout leaves the penalty out. Without it this is a plain autoencoder.
    penalty: the weight λ of Rifai et al. (2011).
    estimate: 'exact', or 'hutchinson' for one random projection.
    The last layer of the encoder is a sigmoid, as in the paper. A linear encoder could make the
    penalty small by small codes, which the decoder would scale up again.
    """

    defaults: ClassVar[Settings] = Settings(steps=4000)
    final = "sigmoid"

    @with_options_of(Autoencoder.__init__, hidden=(128,), latent=32)
    def __init__(
        self,
        features: int,
        *,
        penalty: float = 0.1,
        estimate: str = "exact",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(features, **options)
        if estimate not in ("exact", "hutchinson"):
            raise unknown("estimate", estimate, ("exact", "hutchinson"))
        if not penalty >= 0:
            raise ValueError(f"the penalty's weight is at least 0, not {penalty}")
        self.penalty, self.estimate = penalty, estimate

    def loss(self, x: Array, rng: Rng) -> dict[str, Tensor]:
        """The sum of the error and the weighted penalty, then both terms: means over the examples."""
        x = self.normalise(x)
        error = squared_error(self.decoder(self.encoder(x)), x)
        if self.estimate == "exact":
            contraction = ops.mean(jacobian_norm(self.encoder, x))
        else:
            contraction = ops.mean(hutchinson_jacobian_norm(self.encoder, x, rng))
        return {
            "loss": error + self.penalty * contraction,
            "reconstruction": error,
            "contraction": contraction,
        }
