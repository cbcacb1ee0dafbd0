"""The Bernoulli distribution: independent truth values."""

from __future__ import annotations

from math import inf
from typing import Any

from tinygen import ops
from tinygen.autodiff.tensor import Tensor
from tinygen.distributions.base import Described, check, parameters
from tinygen.random import Generator

__all__ = ["Bernoulli"]


class Bernoulli(Described):
    """1 with probability sigmoid(logits), else 0, every element on its own.

    logits: a Tensor, array or number of shape `shape`; the attribute is a Tensor. `dtype` and
    `device` are those of the logits. Differentiable in them. ValueError: logits that are not finite
    (unless an operation under recording made them).
    """

    def __init__(self, logits: Any) -> None:
        (self.logits,) = parameters(logits)
        self.shape = self.logits.shape
        self.dtype, self.device = self.logits.dtype, self.logits.device
        check("logits", self.logits, "finite", lambda x: abs(x) < inf)

    @property
    def probs(self) -> Tensor:
        """The probability of 1, elementwise."""
        return ops.sigmoid(self.logits)

    @property
    def mean(self) -> Tensor:
        """The same as `probs`."""
        return self.probs

    @property
    def variance(self) -> Tensor:
        """p (1 - p), elementwise; accurate also where p is nearly 1."""
        return ops.sigmoid(self.logits) * ops.sigmoid(-self.logits)

    def log_prob(self, x: Any) -> Tensor:
        """x log p + (1 - x) log(1 - p) in nats, elementwise: x broadcast with `shape`.

        For x strictly between 0 and 1, such as a grey value, this is a negative cross-entropy and
        no log-probability.
        """
        return -ops.bce_with_logits(self.logits, x)

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """Zeros and ones in the dtype of the logits, shape (*shape, *self.shape); a constant."""
        probs = self.probs.data
        return Tensor(rng.bernoulli(probs, (*shape, *self.shape), self.dtype))

    def entropy(self) -> Tensor:
        """-p log p - (1 - p) log(1 - p) in nats, elementwise: shape `shape`."""
        # -log p = softplus(-logits) and -log(1 - p) = softplus(logits): exact in both tails.
        a = self.logits
        return ops.sigmoid(a) * ops.softplus(-a) + ops.sigmoid(-a) * ops.softplus(a)
