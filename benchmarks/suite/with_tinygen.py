"""tinygen's side: the case that every contender is given, and tinygen as a contender.

What the suite knows of tinygen's models and of their training stands in this file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import tinygen as tg
from benchmarks.engine import applied, leaves
from benchmarks.suite import solving
from benchmarks.suite.contract import Case, Opened, Tick, part
from benchmarks.suite.workloads import RATE, Workload
from tinygen import models
from tinygen.backend import namespace_for, to_device
from tinygen.models.diffusion import ddpm
from tinygen.models.diffusion.targets import solve
from tinygen.random import Generator

__all__ = ["case", "compiles", "made", "opened"]

Array = np.ndarray[Any, Any]
MODELS: dict[str, Callable[..., Any]] = {
    "ddpm": models.DDPM, "vae": models.VAE, "gan": models.GAN,
}  # fmt: skip
ROWS = 4096  # of the data, at least; twice the batch if that is more
ENDLESS = 10**9  # training steps: the suite ends a run
SEED = 0


def compiles() -> bool:
    """Whether this tinygen can compile a step."""
    return hasattr(tg, "compile")


def made(work: Workload) -> Any:
    """The model of a workload."""
    return MODELS[work.model](work.features, **work.options)


# -- the case ------------------------------------------------------------------------------------
def case(work: Workload) -> Case:
    """Weights, data, and the random numbers that tinygen's losses draw, as arrays by path.

    The weights are those that a model starts with, and noise upon them: layers that start at zero
    would hide what lies behind them.
    """
    if work.kind == "solve":
        return solving.case(work.model)
    if work.kind == "chain":
        return dict(zip("xy", leaves(work.batch), strict=True))
    rng = np.random.default_rng(SEED)
    model = made(work)
    rows = (max(ROWS, 2 * work.batch), work.features)
    data = rng.random(rows) if model.bounded else rng.standard_normal(rows)
    data = data.astype(np.float32)
    model.prepare(data)
    for p in model.named_parameters().values():
        p.data[...] += 0.05 * rng.standard_normal(p.shape)
    arrays: Case = {"data": data, "batch": data[: work.batch]}
    arrays |= {
        "clip": np.float32(model.defaults.clip),
        "decay": np.float32(model.defaults.ema_decay),
    }
    arrays |= {f"weights/{name}": array for name, array in model.state_dict().items()}
    arrays |= {f"learned/{name}": np.bool_(True) for name in model.named_parameters()}
    if work.model == "ddpm":
        arrays |= _by_time(model)
    return arrays | _drawn(model, work, arrays["batch"])


def _by_time(model: Any) -> Case:
    """Of a diffusion model: the embedded times, the factors of signal and noise, and the numbers of a
    step of the sampler: the factors of x_t and output in x_0, its limits, those of x_0 and x_t, and σ."""
    schedule, limit = model.schedule, 1.0 if model.bounded else np.inf
    reverse = np.zeros((schedule.T + 1, 7))
    for t in range(1, schedule.T + 1):
        of_x0, _ = solve(model.target, *schedule.at(t))
        sigma = model.variance.sigma(t, t - 1)
        reverse[t] = [*of_x0, -limit, limit, *schedule.posterior_mean(t), sigma]
    embedded = model.network.embedding(np.arange(schedule.T + 1)).numpy()
    tables = dict(signal=schedule.signal, noise=schedule.noise, reverse=reverse)
    constants = {"embedded": embedded, **{n: a.astype(np.float32) for n, a in tables.items()}}
    return {f"constants/{name}": table for name, table in constants.items()}


def _drawn(model: Any, work: Workload, batch: Array) -> Case:
    """What the losses, or steps of the sampler, draw from a generator with the seed SEED."""
    rng, n = Generator(SEED), work.batch
    if work.kind == "sample":
        z = rng.normal((n, work.features))
        return {f"draws/{t}/z": z for t in _times(model)}
    if work.model == "ddpm":
        t = rng.integers(1, model.schedule.T + 1, n)
        return {"draws/loss/t": t, "draws/loss/noise": rng.normal((n, work.features))}
    if work.model == "gan":
        z = rng.normal((n, model.latent))
        return {"draws/discriminator/z": z, "draws/generator/z": z}
    bits = {"draws/loss/bits": rng.bernoulli(batch)} if model.binarise else {}
    many = () if model.k == 1 else (model.k,)
    return {**bits, "draws/loss/noise": rng.normal((*many, n, model.latent))}


def _times(model: Any) -> list[int]:
    """The times at which a step of the sampler is compared: the first, one between, the last."""
    last = model.schedule.T
    return [last, (last + 1) // 2, 1]


# -- the contender -------------------------------------------------------------------------------
def opened(work: Workload, arrays: Case, compiled: bool, device: str = "cpu") -> Opened:
    """A workload, ready to be compared and run."""
    if work.kind == "solve":
        return solving.opened("tinygen", work.model, arrays, compiled)
    if work.kind == "chain":
        return _chain(work, arrays, compiled)
    model = made(work)
    model.prepare(arrays["data"])
    model.load_state_dict(part(arrays, "weights"))
    if device != "cpu":
        model.to(device)
        arrays = {**arrays, **{k: to_device(arrays[k], device) for k in ("data", "batch")}}
    # An older tinygen has no such option.
    way = {"compile": compiled} if compiles() else {}
    if work.kind == "sample":
        return Opened(
            lambda: _reverse(model, arrays, compiled), lambda tick: _sample(model, work, way, tick)
        )
    return Opened(
        lambda: _gradients(model, arrays), lambda tick: _fit(model, work, arrays, way, tick)
    )


def _waiting(model: Any) -> Callable[[], object] | None:
    """What waits for all that was begun; None where nothing is begun that is not done."""
    return None if model.device == "cpu" else namespace_for("gpu").cuda.Device().synchronize


def _gradients(model: Any, arrays: Case) -> Case:
    """Each loss, and its gradient in each of its parameters."""
    found: Case = {}
    paths = {id(p): path for path, p in model.named_parameters().items()}
    for objective in model.objectives():
        loss = next(iter(objective.loss(arrays["batch"], rng=Generator(SEED)).values()))
        found[f"{objective.name}/loss"] = loss.numpy()
        mine = [*objective.parameters.values()]
        for p, g in zip(mine, tg.gradients(loss, mine), strict=True):
            found[f"{objective.name}/{paths[id(p)]}"] = g.numpy()
    return found


def _fit(model: Any, work: Workload, arrays: Case, way: Any, tick: Tick) -> None:
    """`Model.fit` itself, without end: the loop sets the model's `step` before each step."""
    wait = _waiting(model)

    class Paced(type(model)):  # type: ignore[misc]
        step = property(lambda self: 0, lambda self, number: tick(wait))

    model.__class__ = Paced
    settings = replace(model.defaults, steps=ENDLESS, batch=work.batch, lr=RATE)
    model.fit(arrays["data"], settings=settings, **way)


def _reverse(model: Any, arrays: Case, compiled: bool) -> Case:
    """A step of the sampler from the same x_t at several times."""
    found: Case = {}
    denoiser = model.denoiser(compiled=True) if compiled else model.denoiser()
    with tg.no_grad():
        for t in _times(model):
            x = arrays["batch"].copy()
            y = ddpm(denoiser, x, [(t, t - 1)], Generator(SEED))
            found[f"x/{t}"] = to_device(y, "cpu")
    return found


def _sample(model: Any, work: Workload, way: Any, tick: Tick) -> None:
    while True:
        tick(_waiting(model))
        model.sample(work.batch, sampler="ddpm", rng=SEED, **way)


def _chain(work: Workload, arrays: Case, compiled: bool) -> Opened:
    x, y = (tg.tensor(arrays[name], requires_grad=True) for name in "xy")
    seed = np.ones(work.batch, np.float32)

    def both(x: Any, y: Any) -> Any:
        z = applied(tg, work.model, x, y)
        return z, *tg.gradients(z, [x, y], seed)

    step = tg.compile(both) if compiled else both

    def run(tick: Tick) -> None:
        while True:
            tick()
            step(x, y)

    names = ("value", "of x", "of y")
    return Opened(lambda: {n: a.numpy() for n, a in zip(names, step(x, y), strict=True)}, run)
