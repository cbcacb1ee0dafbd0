"""Mixtures: each sample comes from one component, which is drawn by its weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.promotion import array_on
from tinygen.backend import namespace_of
from tinygen.distributions.base import Described, check, is_given, log_of
from tinygen.distributions.categorical import Categorical
from tinygen.random import Rng, as_generator

__all__ = ["Mixture"]


class Mixture(Described):
    """Σ_k w_k p_k with k components of one family. `components` is one distribution with k parts.

        Mixture([0.3, 0.7], Normal([-1.0, 2.0], 0.5))                          # of numbers
        Mixture([0.3, 0.7], Normal(np.array([[-1.0, 0.0], [2.0, 1.0]]), 0.5))  # of vectors
        Mixture(ops.softmax(logits), Normal(means, stds))     # one for each pixel: all (rows, k)

    weights (..., k): a Tensor, array or list. Zeros are allowed.
    components: a distribution whose `shape` begins with the shape of the weights. Its further axes
        belong to one sample: all elements of a sample come from the same component.
    `shape` is the shape of the components without the axis k. `dtype` and `device` are those of the
    components. `log_prob` is differentiable in the components' parameters and in weights above 0.
    ValueError: no components; weights of a shape that does not fit them; weights that are negative or
    NaN, or whose sum differs from 1 by more than 1e-6. The values of a result that requires a
    gradient are not checked.
    """

    def __init__(self, weights: Any, components: Any) -> None:
        self.components = components
        self.dtype, self.device = components.dtype, components.device
        array = array_on(self.device, weights, "weights", "components")
        weights = weights if isinstance(weights, Tensor) else Tensor(array)
        n = array.ndim
        if not n or not array.shape[-1] or components.shape[:n] != array.shape:
            raise ValueError(
                f"weights (..., k), k > 0, must begin the shape of the components, "
                f"got shapes {array.shape} and {components.shape}"
            )
        check("weights", weights, "at least 0", lambda w: w >= 0)
        if is_given(weights):
            tolerance = max(1e-6, 100 * float(np.finfo(self.dtype).eps))
            sums = Tensor(array.sum(-1))
            check("the sum of weights", sums, "1", lambda s: abs(s - 1) <= tolerance)
        self.weights = weights if weights.dtype == self.dtype else weights.astype(self.dtype)
        self.shape = (*array.shape[:-1], *components.shape[n:])
        self._sample_axes = len(components.shape) - n

    @property
    def mean(self) -> Tensor:
        """Σ w_k mean_k, of shape `shape`. AttributeError: the components have no mean."""
        return self._expectation(self.components.mean)

    @property
    def variance(self) -> Tensor:
        """The variance of each element, Σ w_k (variance_k + (mean_k - mean)²), of shape `shape`."""
        deviation = ops.expand_dims(self.mean, -1 - self._sample_axes) - self.components.mean
        return self._expectation(self.components.variance + ops.square(deviation))

    def log_prob(self, x: Any) -> Tensor:
        """log Σ w_k p_k(x) in nats, one number for each sample. x broadcasts with `shape`."""
        x = x if isinstance(x, Tensor) else Tensor(array_on(self.device, x, "x", "the parameters"))
        x = ops.broadcast_to(x, np.broadcast_shapes(x.shape, self.shape))
        samples = x.shape[: x.ndim - len(self.shape)]
        x = ops.expand_dims(x, -1 - self._sample_axes)
        log_p = self.components.log_prob(ops.broadcast_to(x, (*samples, *self.components.shape)))
        # A Normal gives one number for each element of a sample; their sum is that of the sample.
        log_p = log_p.sum(tuple(range(len(samples) + self.weights.ndim, log_p.ndim)))
        return ops.logsumexp(log_of(self.weights) + log_p, axis=-1)

    def sample(self, rng: Rng, shape: tuple[int, ...] = ()) -> Tensor:
        """Independent samples of shape (*shape, *self.shape), as a constant."""
        rng = as_generator(rng)
        axis = -1 - self._sample_axes
        chosen = Categorical(log_of(self.weights.detach())).sample(rng, shape).data
        chosen = chosen.reshape(*chosen.shape, *[1] * (1 + self._sample_axes))
        drawn = self.components.sample(rng, shape).data  # one from each component; one is taken
        return Tensor(namespace_of(drawn).take_along_axis(drawn, chosen, axis).squeeze(axis))

    def entropy(self) -> Tensor:
        """NotImplementedError, because there is no closed form."""
        raise NotImplementedError(
            "the entropy of a mixture has no closed form; "
            "-p.log_prob(p.sample(rng, (n,))).mean() estimates it"
        )

    def _expectation(self, values: Tensor) -> Tensor:
        weights = ops.reshape(self.weights, (*self.weights.shape, *[1] * self._sample_axes))
        values = ops.broadcast_to(values, self.components.shape)
        return (weights * values).sum(-1 - self._sample_axes)
