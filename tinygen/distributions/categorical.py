"""The categorical distribution: one of k classes."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.promotion import array_on
from tinygen.backend import namespace_of
from tinygen.distributions.base import Described, check, parameters
from tinygen.random import Rng, as_generator

__all__ = ["Categorical"]


class Categorical(Described):
    """A class 0..k-1 with probabilities softmax(logits) over the last axis. Rows are independent.

    logits: a Tensor or array of shape (*shape, k). They need not be normalised; -inf makes a class
    impossible. The attribute is a Tensor. `dtype` and `device` are those of the logits. Samples are
    whole numbers. Everything but the samples is differentiable in the logits.
    ValueError: no last axis or an empty one; NaN, +inf, or a row with -inf alone. The values of a
    result that requires a gradient are not checked.
    """

    def __init__(self, logits: Any) -> None:
        (self.logits,) = parameters(logits)
        if not self.logits.ndim or not self.logits.shape[-1]:
            raise ValueError(f"logits need classes along the last axis, got {self.logits.shape}")
        self.shape = self.logits.shape[:-1]
        self.dtype, self.device = self.logits.dtype, self.logits.device
        check(
            "logits", self.logits, "below +inf, and not all -inf in a row",
            lambda x: (x < inf) & (x.max(-1, keepdims=True) != -inf),
        )  # fmt: skip

    @property
    def log_probs(self) -> Tensor:
        """The normalised logits, shape (*shape, k)."""
        return ops.log_softmax(self.logits)

    @property
    def probs(self) -> Tensor:
        """The probability of each class, shape (*shape, k)."""
        return ops.softmax(self.logits)

    def log_prob(self, x: Any) -> Tensor:
        """log softmax(logits)[x] in nats for each row. The classes x broadcast with `shape`.

        ValueError: a class is not a whole number in 0..k-1.
        """
        x = array_on(self.device, x, "classes", "the logits")
        return -ops.softmax_cross_entropy(self.logits, x)

    def sample(self, rng: Rng, shape: tuple[int, ...] = ()) -> Tensor:
        """Classes of shape (*shape, *self.shape), int64, as a constant."""
        rng = as_generator(rng)
        # Each class has a part of [0, 1), and a uniform number picks the class. Division by the
        # total makes the last bound exactly 1, so that every number picks a class.
        m = namespace_of(self.logits.data)
        bounds = m.cumsum(self.probs.data, axis=-1, dtype=np.float64)
        bounds /= bounds[..., -1:]
        u = rng.uniform((*shape, *self.shape, 1), dtype=np.float64, device=self.device)
        return Tensor(m.asarray((u >= bounds).sum(-1)))

    def entropy(self) -> Tensor:
        """-Σ p log p in nats for each row, with 0 log 0 = 0, of shape `shape`."""
        p = self.probs
        return -(p * ops.where(p > 0, self.log_probs, 0.0)).sum(-1)
