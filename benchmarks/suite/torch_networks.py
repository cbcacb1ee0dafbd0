"""The networks and losses of tinygen's models in PyTorch, as its users write them.

Losses take what they draw as an argument, so that the very functions that are timed can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as f

from benchmarks.suite.workloads import Workload

__all__ = ["Loss", "Tensors", "denoiser", "objectives"]

Tensors = dict[str, Tensor]
Loss = Callable[[Tensors, Tensor, Tensors], Tensor]
"""From parameters and constants by name, a batch, and what is drawn by name."""


# -- networks, on tinygen's parameters by name -----------------------------------------------------
def linear(p: Tensors, name: str, x: Tensor) -> Tensor:
    return torch.addmm(p[f"{name}.bias"], x, p[f"{name}.weight"])


def mlp(p: Tensors, name: str, activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    last = sum(key.startswith(f"{name}.layers.") for key in p) // 2 - 1
    for i in range(last):
        x = activation(linear(p, f"{name}.layers.{i}", x))
    return linear(p, f"{name}.layers.{last}", x)


def denoiser(p: Tensors, x: Tensor, t: Tensor) -> Tensor:
    """The network of DDPM, see `tinygen.models.diffusion.Denoiser`."""
    time = f.silu(linear(p, "network.time", p["embedded"][t]))
    h = linear(p, "network.first", x)
    for i in range(sum(key.endswith("enter.weight") for key in p)):
        name = f"network.blocks.{i}"
        scale, shift = linear(p, f"{name}.time", time).chunk(2, 1)
        inside = torch.addcmul(shift, f.layer_norm(h, h.shape[1:]), 1 + scale)
        inside = f.silu(linear(p, f"{name}.enter", inside))
        h = h + linear(p, f"{name}.leave", inside)
    y = linear(p, "network.last", f.layer_norm(h, h.shape[1:]))
    if "network.skip.weight" not in p:
        return y
    return torch.addcmul(y, linear(p, "network.skip", time), x)


# -- losses ----------------------------------------------------------------------------------------
def ddpm(p: Tensors, x: Tensor, draws: Tensors) -> Tensor:
    bounded = "shift" not in p
    x = 2 * x - 1 if bounded else (x - p["shift"]) / p["scale"]
    t, noise = draws["t"], draws["noise"]
    a, s = p["signal"][t][:, None], p["noise"][t][:, None]
    output = denoiser(p, a * x + s * noise, t)
    if "network.skip.weight" not in p:  # it predicts the velocity
        return f.mse_loss(output, a * noise - s * x)
    if bounded:  # an error counts as that of the output cut to the range of the data
        output = output + (output.clamp(-1, 1) - output).detach()
    return f.mse_loss(output, x)


def vae(activation: Callable[[Tensor], Tensor], p: Tensors, x: Tensor, draws: Tensors) -> Tensor:
    x, noise = draws.get("bits", x), draws["noise"]
    mean, log_var = mlp(p, "encoder", activation, x).chunk(2, 1)
    z = mean + torch.exp(0.5 * log_var) * noise
    many = z.ndim == 3  # importance-weighted
    logits = mlp(p, "decoder", activation, z.flatten(0, -2)) + p["output_shift"]
    target = x.expand(len(z), *x.shape).flatten(0, 1) if many else x
    error = f.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
    if many:
        log_ratio = 0.5 * (log_var + noise**2 - z**2).sum(-1)
        log_weights = log_ratio - error.view(log_ratio.shape)
        return np.log(len(z)) - torch.logsumexp(log_weights, 0).mean()
    kl = 0.5 * (mean**2 + torch.expm1(log_var) - log_var).sum(1)
    return (kl + error).mean()


def generated(p: Tensors, z: Tensor) -> Tensor:
    return torch.sigmoid(mlp(p, "generator", f.leaky_relu, z))


def judged(p: Tensors, x: Tensor) -> Tensor:
    return mlp(p, "discriminator", f.leaky_relu, x)


def bce(logits: Tensor, target: float) -> Tensor:
    return f.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def discriminator(p: Tensors, x: Tensor, draws: Tensors) -> Tensor:
    with torch.no_grad():
        fake = generated(p, draws["z"])
    return bce(judged(p, x), 1.0) + bce(judged(p, fake), 0.0)


def discriminator_r1(p: Tensors, x: Tensor, draws: Tensors) -> Tensor:
    with torch.no_grad():
        fake = generated(p, draws["z"])
    real, slope = judged_with_slope(p, x)
    penalty = 0.5 * slope.square().sum(1).mean()
    return bce(real, 1.0) + bce(judged(p, fake), 0.0) + penalty


def judged_with_slope(p: Tensors, x: Tensor) -> tuple[Tensor, Tensor]:
    """D's output and its gradient in x: in the way that torch.compile takes, or the usual one."""
    if torch.compiler.is_compiling():
        real, pull = torch.func.vjp(partial(judged, p), x)
        return real, pull(torch.ones_like(real))[0]
    x = x.detach().requires_grad_()
    real = judged(p, x)
    return real, torch.autograd.grad(real.sum(), x, create_graph=True)[0]


def generator(p: Tensors, x: Tensor, draws: Tensors) -> Tensor:
    return bce(judged(p, generated(p, draws["z"])), 1.0)


def objectives(work: Workload) -> dict[str, tuple[str, Loss]]:
    """The losses of a workload by name, with the beginning of the names of what they train."""
    if work.model == "ddpm":
        return {"loss": ("", ddpm)}
    if work.model == "vae":
        activation = torch.tanh if work.options.get("activation") == "tanh" else f.silu
        return {"loss": ("", partial(vae, activation))}
    r1 = work.options.get("penalty", "r1")
    return {
        "discriminator": ("discriminator", discriminator_r1 if r1 else discriminator),
        "generator": ("generator", generator),
    }
