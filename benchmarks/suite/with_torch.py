"""PyTorch as a contender: as it is, or with its losses through torch.compile.

A step does what tinygen's does: a batch from shuffled rows, noise, loss, gradient, clipping by the
global norm, Adam (fused, which is the faster), and the average of the parameters where the model has
one. It does not read the loss, which tinygen's loop records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.engine import applied
from benchmarks.suite.contract import Case, Opened, Tick, part, threads
from benchmarks.suite.torch_networks import OBJECTIVES, Tensors, denoiser, objectives
from benchmarks.suite.workloads import RATE, Workload

__all__ = ["opened"]


def opened(work: Workload, arrays: Case, compiled: bool) -> Opened:
    """A workload, ready to be compared and run."""
    torch.set_num_threads(threads())
    if work.kind == "chain":
        return chain(work, arrays, compiled)
    p = parameters(arrays)
    if work.kind == "sample":
        return sampling(work, arrays, p, compiled)
    return training(work, arrays, p, compiled)


def parameters(arrays: Case) -> Tensors:
    """The case's weights and constants by name."""
    p = {name: torch.tensor(array) for name, array in part(arrays, "weights").items()}
    for name in part(arrays, "learned"):
        p[name].requires_grad_()
    return p | {name: torch.tensor(a) for name, a in part(arrays, "constants").items()}


def drawing(work: Workload, arrays: Case) -> Callable[[Tensor], dict[str, Tensors]]:
    """A function of a batch: what each loss draws, in the shapes that the case has."""
    shapes = {
        o: {name: a.shape for name, a in part(arrays, f"draws/{o}").items()}
        for o in OBJECTIVES[work.model]
    }
    end = len(arrays["constants/signal"]) if work.model == "ddpm" else 0

    def one(name: str, shape: tuple[int, ...], x: Tensor) -> Tensor:
        if name == "t":
            return torch.randint(1, end, shape)
        return torch.bernoulli(x) if name == "bits" else torch.randn(shape)

    def draw(x: Tensor) -> dict[str, Tensors]:
        return {o: {k: one(k, shape, x) for k, shape in of.items()} for o, of in shapes.items()}

    return draw


def batches(data: Tensor, size: int) -> Iterator[Tensor]:
    """Rows in an order that is shuffled anew for every pass over the data, without end."""
    while True:
        for rows in torch.randperm(len(data)).split(size)[: len(data) // size]:
            yield data[rows]


def training(work: Workload, arrays: Case, p: Tensors, compiled: bool) -> Opened:
    clip, decay = float(arrays["clip"]), float(arrays["decay"])
    betas = (0.5, 0.999) if work.model == "gan" else (0.9, 0.999)
    updates = []
    for name, (start, loss) in objectives(work).items():
        mine = {k: v for k, v in p.items() if k.startswith(start) and v.requires_grad}
        adam = torch.optim.Adam(mine.values(), lr=RATE, betas=betas, fused=True)
        average = [v.detach().clone() for v in mine.values()] if decay else []
        updates.append((name, torch.compile(loss) if compiled else loss, mine, adam, average))
    draw = drawing(work, arrays)

    def results() -> Case:
        found: Case = {}
        for name, loss, mine, _, _ in updates:
            draws = {k: torch.tensor(a) for k, a in part(arrays, f"draws/{name}").items()}
            value = loss(p, torch.tensor(arrays["batch"]), draws)
            gradients = torch.autograd.grad(value, mine.values())
            found[f"{name}/loss"] = value.detach().numpy()
            found |= {f"{name}/{k}": g.numpy() for k, g in zip(mine, gradients, strict=True)}
        return found

    def step(x: Tensor) -> None:
        draws = draw(x)
        for name, loss, mine, adam, average in updates:
            weights = [*mine.values()]
            adam.zero_grad()
            loss(p, x, draws[name]).backward(inputs=weights)
            torch.nn.utils.clip_grad_norm_(weights, clip)
            adam.step()
            if average:
                torch._foreach_lerp_(average, weights, 1 - decay)

    def run(tick: Tick) -> None:
        rows = batches(torch.tensor(arrays["data"]), work.batch)
        while True:
            tick()
            step(next(rows))

    return Opened(results, run)


def sampling(work: Workload, arrays: Case, p: Tensors, compiled: bool) -> Opened:
    last, bounded = len(arrays["constants/signal"]) - 1, "shift" not in p

    def reverse(p: Tensors, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """x_{t-1} from x_t: t (1,), z standard normals."""
        from_x, from_output, low, high, on_x0, on_x, sigma = p["reverse"][t].unbind(1)
        x0 = (from_x * x + from_output * denoiser(p, x, t)).clamp(low, high)
        return on_x0 * x0 + on_x * x + sigma * z

    one = torch.compile(reverse) if compiled else reverse

    @torch.inference_mode()
    def results() -> Case:
        times = sorted({int(name.split("/")[0]) for name in part(arrays, "draws")}, reverse=True)
        x = torch.tensor(arrays["batch"])
        z = {t: torch.tensor(arrays[f"draws/{t}/z"]) for t in times}
        return {f"x/{t}": one(p, x, torch.tensor([t]), z[t]).numpy() for t in times}

    @torch.inference_mode()
    def sample() -> Tensor:
        x = torch.randn(work.batch, work.features)
        for t in torch.arange(last, 0, -1).split(1):
            x = one(p, x, t, torch.randn_like(x))
        return 0.5 * (x + 1) if bounded else x * p["scale"] + p["shift"]

    def run(tick: Tick) -> None:
        while True:
            tick()
            sample()

    return Opened(results, run)


def chain(work: Workload, arrays: Case, compiled: bool) -> Opened:
    x, y = (torch.tensor(arrays[name], requires_grad=True) for name in "xy")
    seed = torch.ones_like(x)
    one = partial(applied, torch, work.model)
    forward = torch.compile(one) if compiled else one

    def step() -> tuple[Tensor, Tensor, Tensor]:
        z = forward(x, y)
        return z, *torch.autograd.grad(z, (x, y), seed)

    def results() -> Case:
        z, of_x, of_y = step()
        return {"value": z.detach().numpy(), "of x": of_x.numpy(), "of y": of_y.numpy()}

    def run(tick: Tick) -> None:
        while True:
            tick()
            step()

    return Opened(results, run)
