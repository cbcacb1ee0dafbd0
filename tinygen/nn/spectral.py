"""Spectral normalisation: a linear layer whose largest singular value is 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor, tensor
from tinygen.backend import namespace_of
from tinygen.nn.layers import Linear
from tinygen.random import Rng, as_generator

__all__ = ["SpectralLinear"]

Array = np.ndarray[Any, Any]


class SpectralLinear(Linear):
    """activation(x @ (weight / σ) + bias) with the largest singular value σ (Miyato et al. 2018).

    With activations of slope at most 1, ‖y - y'‖ ≤ ‖x - x'‖. So a network of such layers is
    1-Lipschitz. σ is estimated by power iteration (algorithm 1 of the paper), with one step for each
    call in training. The vector of the iteration is the buffer `right` (n_out,), which is saved. The
    estimate is never above σ. The gradient flows through it (eq. 12). A weight of zeros stays zeros.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        activation: str | None = None,
        *,
        rng: Rng | None = None,
        bias: bool = True,
        init: str = "glorot",
        dtype: Any = np.float32,
    ) -> None:
        rng = as_generator(rng)
        super().__init__(n_in, n_out, activation, rng=rng, bias=bias, init=init, dtype=dtype)
        self.right = tensor(_unit(rng.normal((n_out,), dtype=dtype), 0.0))

    def __call__(self, x: Any) -> Tensor:
        return ops.linear(x, self.normalised_weight(), self.bias, self.activation)

    def normalised_weight(self) -> Tensor:
        """weight / σ, shape (n_in, n_out). In training it first does a step of power iteration."""
        weight, right = self.weight.data, self.right.data
        left = _unit(weight @ right, 0.0)
        if self.training:
            self.right.data[...] = _unit(left @ weight, right)
        # A copy, because the buffer may change before the backward pass.
        sigma = ops.matmul(left, ops.matmul(self.weight, self.right.data.copy()))
        return self.weight / ops.where(sigma.data > 0, sigma, 1.0)


def _unit(vector: Array, otherwise: Any) -> Array:
    """`vector` divided by its length, or `otherwise` if it is zero."""
    m = namespace_of(vector)
    length = m.sqrt((vector * vector).sum())
    return m.where(length > 0, vector / m.where(length > 0, length, 1.0), otherwise)
