"""The normal distribution with a full covariance."""

from __future__ import annotations

from math import e, inf, log, pi, prod
from typing import Any

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor
from tinygen.backend import namespace_of
from tinygen.distributions.base import Described, check, is_given, parameters
from tinygen.ops.linalg import not_positive_definite
from tinygen.random import Rng, as_generator

__all__ = ["MultivariateNormal", "whiten"]


class MultivariateNormal(Described):
    """N(mean, covariance) of vectors of d numbers. Vectors along leading axes are independent.

    mean (..., d) and covariance (..., d, d): Tensors, arrays or numbers that broadcast to `shape`
    (..., d). The attributes are Tensors of one `dtype` on one `device`. `factor` is the lower
    Cholesky factor of the covariance. Everything but `sample` is differentiable in both.
    ValueError: shapes that do not fit; parameters that are not finite; a covariance that is not
    symmetric to 1e-6 of its largest element; one that is not positive definite (the message has its
    smallest eigenvalue). Of a result that requires a gradient, only the
    shapes and, on the CPU, positive definiteness are checked.
    """

    def __init__(self, mean: Any, covariance: Any) -> None:
        self.mean, self.covariance = parameters(mean, covariance)
        d = self.covariance.shape[-1:]
        fits = (
            self.covariance.shape[-2:] == 2 * d
            and d > (0,)
            and self.mean.shape[-1:] in ((), (1,), d)
        )
        if not fits:
            raise ValueError(
                f"mean (..., d) and covariance (..., d, d) are needed, d > 0, got shapes "
                f"{self.mean.shape} and {self.covariance.shape}"
            )
        self.shape = np.broadcast_shapes(self.mean.shape, self.covariance.shape[:-1])
        self.dtype, self.device = self.mean.dtype, self.mean.device
        check("mean", self.mean, "finite", lambda x: abs(x) < inf)
        check("covariance", self.covariance, "finite", lambda x: abs(x) < inf)
        if is_given(self.covariance):
            _check_symmetric(self.covariance.data)
        self.factor = ops.cholesky(self.covariance)
        # On the GPU a covariance that is not positive definite raises no error.
        factor = self.factor.data
        if is_given(self.covariance) and not namespace_of(factor).isfinite(factor).all():
            raise not_positive_definite(self.covariance.data)

    @property
    def variance(self) -> Tensor:
        """The variance of each element: the diagonal of the covariance, shape `shape`."""
        return ops.broadcast_to(ops.diagonal(self.covariance, 0, -2, -1), self.shape)

    @property
    def log_std(self) -> Tensor:
        """The logarithm of the factor's diagonal, (..., d). Its sum is half the log-determinant."""
        return ops.log(ops.diagonal(self.factor, 0, -2, -1))

    def log_prob(self, x: Any) -> Tensor:
        """log N(x; mean, covariance) in nats for each vector. x (..., d) broadcasts with `shape`."""
        z = whiten(self.factor, ops.broadcast_to(self.mean, self.shape), x)
        constant = 0.5 * self.shape[-1] * log(2 * pi)
        return -0.5 * ops.square(z).sum(-1) - self.log_std.sum(-1) - constant

    def rsample(self, rng: Rng, shape: tuple[int, ...] = ()) -> Tensor:
        """mean + factor · ε with ε ~ N(0, I), shape (*shape, *self.shape).

        It is differentiable in the parameters, as for `Normal`.
        """
        rng = as_generator(rng)
        noise = rng.normal((*shape, *self.shape), dtype=self.dtype, device=self.device)
        rows = ops.matmul(noise[..., None, :], ops.swapaxes(self.factor, -1, -2))
        return self.mean + rows[..., 0, :]

    def sample(self, rng: Rng, shape: tuple[int, ...] = ()) -> Tensor:
        """The values of `rsample`, as a constant."""
        return self.rsample(rng, shape).detach()

    def entropy(self) -> Tensor:
        """The differential entropy ½ log det(2πe covariance) in nats, for each vector."""
        entropy = self.log_std.sum(-1) + 0.5 * self.shape[-1] * log(2 * pi * e)
        return ops.broadcast_to(entropy, self.shape[:-1])


def _check_symmetric(covariance: Any) -> None:
    transposed = covariance.swapaxes(-1, -2)
    wrong = abs(covariance - transposed) > 1e-6 * abs(covariance).max()
    if wrong.any():
        pair = covariance[wrong][0], transposed[wrong][0]
        raise ValueError(f"covariance must be symmetric, got {pair[0]} opposite {pair[1]}")


def whiten(factor: Tensor, mean: Tensor, x: Any) -> Tensor:
    """L⁻¹ (x - mean) for the factor L (..., d, d), mean (..., d) and x (..., d), which broadcast.

    Samples along axes that only x has are the columns of one system of equations.
    """
    y = x - mean
    samples = max(y.ndim - factor.ndim + 1, 0)
    columns = ops.moveaxis(ops.reshape(y, (prod(y.shape[:samples]), *y.shape[samples:])), 0, -1)
    z = ops.moveaxis(ops.solve(factor, columns), -1, 0)
    return ops.reshape(z, (*y.shape[:samples], *z.shape[1:]))
