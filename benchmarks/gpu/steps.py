"""Training steps a second: tinygen's models, and the same networks in PyTorch as it is.

PyTorch's step does what tinygen's does: a batch from shuffled rows, noise, loss, gradient, clipping
by the global norm, Adam, and the average of the parameters where the model has one. It does not
read the loss, which tinygen's loop records.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.bandwidth import Save, Scale
from benchmarks.gpu.peers import Torch
from tinygen import models
from tinygen.backend import to_device

__all__ = ["MODELS", "TWINS", "measure", "twin"]

ROWS, FEATURES = 4096, 784
WARM = 20  # steps before the time counts: CuPy still compiles
MODELS: dict[str, Callable[[], Any]] = {
    "ddpm": lambda: models.DDPM(FEATURES, predict="data"),
    "vae": lambda: models.VAE(FEATURES),
    "gan": lambda: models.GAN(FEATURES, penalty=None),  # whose gradient the twin has not
}


def measure(scale: Scale, save: Save, torch: Callable[[], Torch] = Torch) -> None:
    """Steps a second of every model."""
    x = np.random.default_rng(0).random((ROWS, FEATURES), np.float32)
    for name, make in MODELS.items():
        model, on_gpu = make().to("gpu"), to_device(x, "gpu")
        model.fit(on_gpu, steps=min(WARM, scale.steps), batch=scale.batch)
        start = time.perf_counter()
        model.fit(on_gpu, steps=scale.steps, batch=scale.batch)
        save({name: {"tinygen": scale.steps / (time.perf_counter() - start)}})
    for name, make in MODELS.items():
        try:
            save({name: {"torch": _rate(torch(), name, make(), x, scale)}})
        except Exception as error:  # not installed, or no such device
            save({name: {"torch": f"{type(error).__name__}: {error}"[:400]}})


def _rate(peer: Torch, name: str, model: Any, x: np.ndarray[Any, Any], scale: Scale) -> float:
    """Steps a second of PyTorch."""
    step, start = twin(peer, name, model), 0.0
    data = peer.torch.tensor(x, device=peer.device)
    for steps in (min(WARM, scale.steps), scale.steps):
        peer.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            rows = peer.torch.randint(len(data), (scale.batch,), device=peer.device)
            step(data[rows])
        peer.synchronize()
    return scale.steps / (time.perf_counter() - start)


# -- the networks, on tinygen's parameters by name -------------------------------------------------
Parameters = dict[str, Any]


def _linear(torch: Any, p: Parameters, name: str, x: Any) -> Any:
    return torch.addmm(p[f"{name}.bias"], x, p[f"{name}.weight"])


def _mlp(torch: Any, p: Parameters, name: str, activation: Callable[[Any], Any], x: Any) -> Any:
    last = max(int(key.split(".")[2]) for key in p if key.startswith(f"{name}.layers."))
    for i in range(last):
        x = activation(_linear(torch, p, f"{name}.layers.{i}", x))
    return _linear(torch, p, f"{name}.layers.{last}", x)


def denoiser(torch: Any, p: Parameters, x: Any, t: Any, blocks: int) -> Any:
    """The network of DDPM, see `tinygen.models.diffusion.Denoiser`."""
    f = torch.nn.functional
    angles = t[:, None] * p["network.embedding.frequencies"]
    embedded = torch.cat([torch.sin(angles), torch.cos(angles)], 1).float()
    time = f.silu(_linear(torch, p, "network.time", embedded))
    h = _linear(torch, p, "network.first", x)
    for i in range(blocks):
        name = f"network.blocks.{i}"
        scale, shift = _linear(torch, p, f"{name}.time", time).chunk(2, 1)
        inside = torch.addcmul(shift, f.layer_norm(h, h.shape[1:]), 1 + scale)
        inside = f.silu(_linear(torch, p, f"{name}.enter", inside))
        h = h + _linear(torch, p, f"{name}.leave", inside)
    y = _linear(torch, p, "network.last", f.layer_norm(h, h.shape[1:]))
    return torch.addcmul(y, _linear(torch, p, "network.skip", time), x)


# -- losses: from (torch, model, parameters, batch) ------------------------------------------------
def _ddpm(torch: Any, model: Any, p: Parameters, x: Any) -> Any:
    x = 2 * x - 1
    t = torch.randint(1, model.schedule.T + 1, (len(x),), device=x.device)
    a, s = p["signal"][t][:, None], p["noise"][t][:, None]
    noise = torch.randn_like(x)
    output = denoiser(torch, p, a * x + s * noise, t, len(model.network.blocks))
    output = output + (output.clamp(-1, 1) - output).detach()
    return torch.nn.functional.mse_loss(output, x)


def _vae(torch: Any, model: Any, p: Parameters, x: Any) -> Any:
    f = torch.nn.functional
    mean, log_var = _mlp(torch, p, "encoder", f.silu, x).chunk(2, 1)
    z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
    logits = _mlp(torch, p, "decoder", f.silu, z)
    kl = 0.5 * (mean**2 + torch.expm1(log_var) - log_var).sum(1)
    error = f.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
    return (kl + error).mean()


def _discriminator(torch: Any, model: Any, p: Parameters, x: Any) -> Any:
    with torch.no_grad():
        fake = _generated(torch, model, p, x)
    real = _judged(torch, p, x)
    return _bce(torch, real, 1.0) + _bce(torch, _judged(torch, p, fake), 0.0)


def _generator(torch: Any, model: Any, p: Parameters, x: Any) -> Any:
    return _bce(torch, _judged(torch, p, _generated(torch, model, p, x)), 1.0)


def _generated(torch: Any, model: Any, p: Parameters, x: Any) -> Any:
    z = torch.randn(len(x), model.latent, device=x.device)
    return torch.sigmoid(_mlp(torch, p, "generator", torch.nn.functional.leaky_relu, z))


def _judged(torch: Any, p: Parameters, x: Any) -> Any:
    return _mlp(torch, p, "discriminator", torch.nn.functional.leaky_relu, x)


def _bce(torch: Any, logits: Any, target: float) -> Any:
    targets = torch.full_like(logits, target)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)


TWINS: dict[str, dict[str, Callable[..., Any]]] = {
    "ddpm": {"network": _ddpm},
    "vae": {"": _vae},
    "gan": {"discriminator": _discriminator, "generator": _generator},
}
"""For each model the losses, by the beginning of the names of the parameters that they train."""


def twin(peer: Torch, name: str, model: Any) -> Callable[[Any], list[Any]]:
    """step(batch) of a model in PyTorch, which returns the losses."""
    torch, settings = peer.torch, model.defaults
    p = parameters(peer, model)
    updates = []
    for start, loss in TWINS[name].items():
        mine = [v for key, v in p.items() if key.startswith(start) and v.requires_grad]
        betas = (0.5, 0.999) if name == "gan" else (0.9, 0.999)
        optimizer = torch.optim.Adam(mine, lr=settings.lr, betas=betas)
        average = [v.detach().clone() for v in mine] if settings.ema_decay else []
        updates.append((loss, mine, optimizer, average))

    def step(batch: Any) -> list[Any]:
        losses = []
        for loss, mine, optimizer, average in updates:
            value = loss(torch, model, p, batch)
            for v, g in zip(mine, torch.autograd.grad(value, mine), strict=True):
                v.grad = g
            torch.nn.utils.clip_grad_norm_(mine, settings.clip)
            optimizer.step()
            if average:
                torch._foreach_lerp_(average, [v.detach() for v in mine], 1 - settings.ema_decay)
            losses.append(value.detach())
        return losses

    return step


def parameters(peer: Torch, model: Any) -> Parameters:
    """A model's parameters and constants as PyTorch's tensors, by name."""
    learned = model.named_parameters()
    p = {
        name: peer.torch.tensor(array, device=peer.device).requires_grad_(name in learned)
        for name, array in model.state_dict().items()
    }
    if hasattr(model, "schedule"):
        for name in ("signal", "noise"):
            by_time = getattr(model.schedule, name).astype(np.float32)
            p[name] = peer.torch.tensor(by_time, device=peer.device)
    return p
