"""Penalties on the gradient of D with respect to its input. They keep the training from diverging.

The gradient is a function of D's parameters, so the gradient of a penalty takes second derivatives.
The engine computes them with `create_graph=True`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygen import ops
from tinygen.autodiff.engine import Tensor, tensor
from tinygen.autodiff.transforms import gradients
from tinygen.backend import namespace_of
from tinygen.random import Generator, Rng, as_generator

__all__ = ["PENALTIES", "Penalty", "interpolate", "r1", "slopes", "wgan_gp"]

Array = np.ndarray[Any, Any]
Network = Callable[[Any], Tensor]
Penalty = Callable[[Network, Array, Array, Generator], Tensor]


def slopes(network: Network, x: Any) -> Tensor:
    """∂D/∂x at each row of x (n, features), differentiable in D's parameters.

    D must treat each row independently of the others.
    """
    x = tensor(x, requires_grad=True)
    return gradients(ops.sum(network(x)), x, create_graph=True)


def r1(network: Network, real: Array, fake: Array, rng: Rng) -> Tensor:
    """½ E ‖∂D/∂x‖² at the data (Mescheder et al. 2018, eq. 9). It is 0 at the equilibrium."""
    return 0.5 * ops.mean(ops.sum(ops.square(slopes(network, real)), axis=1))


def wgan_gp(network: Network, real: Array, fake: Array, rng: Rng) -> Tensor:
    """E (‖∂D/∂x‖ - 1)² at random points between data and samples (Gulrajani et al. 2017, eq. 3).

    The optimal critic has a gradient of norm 1 almost everywhere between them (proposition 1).
    """
    norms = ops.norm(slopes(network, interpolate(real, fake, rng)), axis=1)
    return ops.mean(ops.square(norms - 1.0))


def interpolate(real: Array, fake: Array, rng: Rng) -> Array:
    """For each pair of rows, a uniform random point on the segment between them: (n, features)."""
    rng = as_generator(rng)
    t = rng.uniform((len(real), 1), dtype=real.dtype, device=namespace_of(real).device)
    return fake + t * (real - fake)


PENALTIES: dict[str, Penalty] = {"r1": r1, "wgan-gp": wgan_gp}
"""Penalties by name: functions of (D, data, samples, rng), with rows in normalised units."""
