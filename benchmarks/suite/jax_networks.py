"""The networks and losses of tinygen's models in JAX."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax, nn
from jax import numpy as jnp

from benchmarks.suite.workloads import Workload

__all__ = ["Arrays", "Loss", "denoiser", "objectives"]

Arrays = dict[str, Any]
Loss = Callable[[Arrays, Arrays, Any, Arrays], Any]
"""From what is trained and what is not, both by name, a batch, and what is drawn by name."""


# -- networks, on tinygen's parameters by name -----------------------------------------------------
def linear(p: Arrays, name: str, x: Any) -> Any:
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def mlp(p: Arrays, name: str, activation: Callable[[Any], Any], x: Any) -> Any:
    last = sum(key.startswith(f"{name}.layers.") for key in p) // 2 - 1
    for i in range(last):
        x = activation(linear(p, f"{name}.layers.{i}", x))
    return linear(p, f"{name}.layers.{last}", x)


def norm(x: Any) -> Any:
    return nn.standardize(x, axis=-1, epsilon=1e-5)


def denoiser(p: Arrays, x: Any, t: Any) -> Any:
    """The network of DDPM, see `tinygen.models.diffusion.Denoiser`."""
    time = nn.silu(linear(p, "network.time", p["embedded"][t]))
    h = linear(p, "network.first", x)
    for i in range(sum(key.endswith("enter.weight") for key in p)):
        name = f"network.blocks.{i}"
        scale, shift = jnp.split(linear(p, f"{name}.time", time), 2, axis=1)
        inside = nn.silu(linear(p, f"{name}.enter", norm(h) * (1 + scale) + shift))
        h = h + linear(p, f"{name}.leave", inside)
    y = linear(p, "network.last", norm(h))
    if "network.skip.weight" not in p:
        return y
    return y + linear(p, "network.skip", time) * x


# -- losses ----------------------------------------------------------------------------------------
def ddpm(p: Arrays, rest: Arrays, x: Any, draws: Arrays) -> Any:
    p, bounded = {**rest, **p}, "shift" not in rest
    x = 2 * x - 1 if bounded else (x - p["shift"]) / p["scale"]
    t, noise = draws["t"], draws["noise"]
    a, s = p["signal"][t][:, None], p["noise"][t][:, None]
    output = denoiser(p, a * x + s * noise, t)
    if "network.skip.weight" not in p:  # it predicts the velocity
        return jnp.mean((output - (a * noise - s * x)) ** 2)
    if bounded:  # an error counts as that of the output cut to the range of the data
        output = output + lax.stop_gradient(jnp.clip(output, -1, 1) - output)
    return jnp.mean((output - x) ** 2)


def vae(activation: Callable[[Any], Any], p: Arrays, rest: Arrays, x: Any, draws: Arrays) -> Any:
    x, noise = draws.get("bits", x), draws["noise"]
    mean, log_var = jnp.split(mlp(p, "encoder", activation, x), 2, axis=1)
    z = mean + jnp.exp(0.5 * log_var) * noise
    logits = mlp(p, "decoder", activation, z) + rest["output_shift"]
    error = jnp.sum(bce(logits, x), axis=-1)
    if z.ndim == 3:  # importance-weighted
        log_weights = 0.5 * jnp.sum(log_var + noise**2 - z**2, axis=-1) - error
        return jnp.log(len(z)) - jnp.mean(nn.logsumexp(log_weights, axis=0))
    kl = 0.5 * jnp.sum(mean**2 + jnp.expm1(log_var) - log_var, axis=1)
    return jnp.mean(kl + error)


def bce(logits: Any, target: Any) -> Any:
    return jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def generated(p: Arrays, z: Any) -> Any:
    return nn.sigmoid(mlp(p, "generator", nn.leaky_relu, z))


def judged(p: Arrays, x: Any) -> Any:
    return mlp(p, "discriminator", nn.leaky_relu, x)


def discriminator(r1: bool, p: Arrays, rest: Arrays, x: Any, draws: Arrays) -> Any:
    real, pull = jax.vjp(partial(judged, p), x)
    fake = judged(p, generated(rest, draws["z"]))
    loss = jnp.mean(bce(real, 1.0)) + jnp.mean(bce(fake, 0.0))
    if not r1:
        return loss
    (slope,) = pull(jnp.ones_like(real))
    return loss + 0.5 * jnp.mean(jnp.sum(slope**2, axis=1))


def generator(p: Arrays, rest: Arrays, x: Any, draws: Arrays) -> Any:
    return jnp.mean(bce(judged(rest, generated(p, draws["z"])), 1.0))


def objectives(work: Workload) -> dict[str, tuple[str, Loss]]:
    """The losses of a workload by name, with the beginning of the names of what they train."""
    if work.model == "ddpm":
        return {"loss": ("", ddpm)}
    if work.model == "vae":
        activation = jnp.tanh if work.options.get("activation") == "tanh" else nn.silu
        return {"loss": ("", partial(vae, activation))}
    r1 = bool(work.options.get("penalty", "r1"))
    return {
        "discriminator": ("discriminator", partial(discriminator, r1)),
        "generator": ("generator", generator),
    }
