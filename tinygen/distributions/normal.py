"""The normal distribution with independent elements."""

from __future__ import annotations

from math import e, inf, log, pi
from typing import Any

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor
from tinygen.distributions.base import Described, check, parameters
from tinygen.random import Rng, as_generator

__all__ = ["Normal"]


class Normal(Described):
    """N(mean, std²) with independent elements: a diagonal Gaussian.

    mean, std: Tensors, arrays or numbers that broadcast to `shape`. The attributes are Tensors of
    one `dtype` on one `device`. Everything but `sample` is differentiable in both.
    ValueError: shapes that do not broadcast, a mean that is not finite, a std that is not positive
    and finite. The values of a result that requires a gradient are not
    checked.
    """

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean, self.std = parameters(mean, std)
        self.shape = np.broadcast_shapes(self.mean.shape, self.std.shape)
        self.dtype, self.device = self.mean.dtype, self.mean.device
        check("mean", self.mean, "finite", lambda x: abs(x) < inf)
        check("std", self.std, "positive and finite", lambda x: (x > 0) & (x < inf))

    @property
    def variance(self) -> Tensor:
        """std², elementwise."""
        return ops.square(self.std)

    def log_prob(self, x: Any) -> Tensor:
        """log N(x; mean, std²) in nats, elementwise. x broadcasts with `shape`."""
        z = (x - self.mean) / self.std
        return -0.5 * ops.square(z) - ops.log(self.std) - 0.5 * log(2 * pi)

    def rsample(self, rng: Rng, shape: tuple[int, ...] = ()) -> Tensor:
        """mean + std · ε with ε ~ N(0, 1), shape (*shape, *self.shape).

        It is differentiable in the parameters (the reparameterisation of Kingma & Welling 2013,
        §2.4).
        """
        rng = as_generator(rng)
        noise = rng.normal((*shape, *self.shape), dtype=self.dtype, device=self.device)
        return self.mean + self.std * noise

    def sample(self, rng: Rng, shape: tuple[int, ...] = ()) -> Tensor:
        """The values of `rsample`, as a constant."""
        return self.rsample(rng, shape).detach()

    def entropy(self) -> Tensor:
        """The differential entropy ½ log(2πe std²) in nats, elementwise, of shape `shape`."""
        return ops.broadcast_to(ops.log(self.std) + 0.5 * log(2 * pi * e), self.shape)
