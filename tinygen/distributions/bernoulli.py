"""The Bernoulli distribution: independent zeros and ones."""

from __future__ import annotations

from math import inf
from typing import Any

from tinygen import ops
from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.promotion import array_on
from tinygen.distributions.base import Described, check, log_of, parameters
from tinygen.random import Rng, as_generator

__all__ = ["Bernoulli"]


class Bernoulli(Described):
    """1 with probability sigmoid(logits), or `probs`, else 0. Elements are independent.

    logits, or probs in [0, 1]: a Tensor, array or number of shape `shape`. Pass one of the two;
    `dtype` and `device` are its own, and everything but the samples is differentiable in it. The
    attribute `logits` is a Tensor, infinite for the probabilities 0 and 1.
    ValueError: logits that are not finite, probs outside [0, 1]. The values of a result that
    requires a gradient are not checked. TypeError: both are given, or neither.
    """

    def __init__(self, logits: Any = None, *, probs: Any = None) -> None:
        if (logits is None) == (probs is None):
            raise TypeError("a Bernoulli takes logits, or probs=..., and not both")
        self.given: Tensor | None = None  # the given probabilities, which may be 0 and 1
        if probs is None:
            (self.logits,) = parameters(logits)
            check("logits", self.logits, "finite", lambda x: abs(x) < inf)
        else:
            (self.given,) = parameters(probs)
            check("probs", self.given, "in [0, 1]", lambda x: (x >= 0) & (x <= 1))
            self.logits = log_of(self.given) - log_of(1.0 - self.given)
        self.shape = self.logits.shape
        self.dtype, self.device = self.logits.dtype, self.logits.device

    @property
    def log_probs(self) -> Tensor:
        """The log-probabilities of 0 and 1, shape (*shape, 2)."""
        # -log p = softplus(-logits) and -log(1 - p) = softplus(logits): exact in both tails.
        return ops.stack([-ops.softplus(self.logits), -ops.softplus(-self.logits)], -1)

    @property
    def probs(self) -> Tensor:
        """The probability of 1, elementwise."""
        return ops.sigmoid(self.logits) if self.given is None else self.given

    @property
    def mean(self) -> Tensor:
        """The same as `probs`."""
        return self.probs

    @property
    def variance(self) -> Tensor:
        """p (1 - p), elementwise. It is accurate even if p is nearly 1."""
        return ops.sigmoid(self.logits) * ops.sigmoid(-self.logits)

    def log_prob(self, x: Any) -> Tensor:
        """x log p + (1 - x) log(1 - p) in nats, elementwise. x broadcasts with `shape`.

        For x strictly between 0 and 1, such as a grey value, this is a negative cross-entropy, not a
        log-probability.
        """
        if self.given is None:
            return -ops.bce_with_logits(self.logits, x)
        # With infinite logits the formula by logits would give NaN; here 0 log 0 = 0.
        zero, one = ops.split(self.log_probs, 2, -1)
        values = array_on(self.device, x, "x", "the parameters")
        one, zero = (
            ops.where(values != other, log_p[..., 0], 0.0) for log_p, other in ((one, 0), (zero, 1))
        )
        return x * one + (1 - x) * zero

    def sample(self, rng: Rng, shape: tuple[int, ...] = ()) -> Tensor:
        """Zeros and ones in the dtype of the logits, shape (*shape, *self.shape), as a constant."""
        rng = as_generator(rng)
        probs = self.probs.data
        return Tensor(rng.bernoulli(probs, (*shape, *self.shape), self.dtype))

    def entropy(self) -> Tensor:
        """-p log p - (1 - p) log(1 - p) in nats, elementwise, of shape `shape`."""
        log_p = self.log_probs
        p = ops.exp(log_p)
        return -(p * ops.where(p > 0, log_p, 0.0)).sum(-1)
