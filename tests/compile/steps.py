"""Training steps of the models as functions: what the training loop does, without the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import tinygen as tg
from tinygen import nn, ops
from tinygen.models import DDPM, GAN, VAE, Autoencoder
from tinygen.optim import EMA, SGD, Adam, AdamW, RMSprop, clip_global_norm
from tinygen.random import Generator


class Run(NamedTuple):
    """A step, and what it changes: arrays by name, and the counters."""

    step: Callable[..., Any]
    arrays: Callable[[], dict[str, np.ndarray]]
    counters: Callable[[], list[Any]]
    model: Any = None


def of_model(model: Any, device: str = "cpu", clip: float = 1.0, decay: float = 0.99) -> Run:
    """One step of each objective of a model, as in `tinygen.training`."""
    model.to(device).train()
    rng = Generator(3).child("noise")
    objectives = model.objectives()
    optimizers = {
        o.name: model.optimizer(o.parameters, lambda s: 1e-3 / (1 + s)) for o in objectives
    }
    averages = {name: EMA(o.parameters, decay) for name, o in optimizers.items()}

    def step(x: Any) -> dict[str, Any]:
        terms = {}
        for o in objectives:
            found = o.loss(x, rng=rng)
            parameters = list(o.parameters.values())
            loss = next(iter(found.values()))
            for p, g in zip(parameters, tg.gradients(loss, parameters), strict=True):
                p.grad = g
            norm = clip_global_norm(parameters, clip)
            optimizers[o.name].step(averages[o.name])
            terms |= found | {f"norm of {o.name}": norm}
        return terms

    def arrays() -> dict[str, np.ndarray]:
        found = dict(model.state_dict())
        for name in optimizers:
            found |= {f"{name}/{k}": v for k, v in optimizers[name].state_dict().items()}
            found |= {f"{name}/{k}": v for k, v in averages[name].state_dict().items()}
        return found

    return Run(step, arrays, lambda: [rng.state, *(o.steps for o in optimizers.values())], model)


def by_hand(optimizer: str = "Adam", dtype: Any = np.float32, device: str = "cpu") -> Run:
    """A small regression with noise, written with the public functions alone."""
    net = nn.MLP([5, 16, 16, 3], "tanh", rng=0, dtype=dtype).to(device)
    ps = net.named_parameters()
    make = {
        "SGD": lambda: SGD(ps, 0.1), "momentum": lambda: SGD(ps, 0.1, momentum=0.9, nesterov=True),
        "Adam": lambda: Adam(ps, 1e-2), "AdamW": lambda: AdamW(ps, lambda s: 1e-2 / (1 + s)),
        "RMSprop": lambda: RMSprop(ps),
    }[optimizer]  # fmt: skip
    opt, ema, rng = make(), EMA(ps, 0.9), Generator(1)

    def step(x: Any, y: Any) -> Any:
        opt.zero_grad()
        noisy = x + 0.1 * rng.normal(x.shape, dtype=dtype, device=device)
        loss = ops.mse(net(noisy), y)
        loss.backward()
        opt.step(ema)
        return loss

    def arrays() -> dict[str, np.ndarray]:
        return {**net.state_dict(), **opt.state_dict(), **ema.state_dict()}

    return Run(step, arrays, lambda: [rng.state, opt.steps, ema.updates])


def digits(n: int, features: int = 64) -> np.ndarray:
    """Rows in [0, 1], the same at every call."""
    return Generator(5).uniform((n, features))


_MAKERS: dict[str, Callable[[], Any]] = {
    "autoencoder": lambda: Autoencoder(64, hidden=(32,), latent=4),
    "vae": lambda: VAE(64, hidden=(32,), latent=4, kl_warmup=10),
    "vae discretised": lambda: VAE(64, hidden=(32,), latent=4, likelihood="discretised-gaussian"),
    "iwae": lambda: VAE(64, hidden=(32,), latent=4, k=5, binarise=True),
    "ddpm": lambda: DDPM(64, width=32, T=50),
    "ddpm learned": lambda: DDPM(64, width=32, T=50, variance="learned", weight="min-snr"),
    "ddpm data": lambda: DDPM(300, width=32, T=50),
    "gan r1": lambda: GAN(64, hidden=(32, 32), latent=8),
    "gan wgan-gp": lambda: GAN(64, hidden=(32, 32), latent=8, loss="wasserstein", penalty="wgan-gp"),
    "gan spectral": lambda: GAN(64, hidden=(32, 32), latent=8, penalty=None, spectral=True),
}  # fmt: skip
MODELS: dict[str, Callable[..., Run]] = {
    name: lambda device="cpu", make=make: of_model(make(), device) for name, make in _MAKERS.items()
}
FEATURES = {"ddpm data": 300}
