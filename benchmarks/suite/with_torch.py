"""PyTorch as a contender: as it is, or with its losses through torch.compile (on a GPU with
`mode="max-autotune"`, which replays CUDA graphs).

A step does what tinygen's does: a batch from shuffled rows, noise, loss, gradient, clipping by the
global norm, Adam (fused, which is the faster), and the average of the parameters where the model has
one. It does not read the loss, which tinygen's loop records.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.engine import applied
from benchmarks.suite import solving
from benchmarks.suite.contract import Case, Opened, Tick, part, threads
from benchmarks.suite.torch_networks import Tensors, denoiser, objectives
from benchmarks.suite.workloads import RATE, Workload

__all__ = ["Trainer", "batches", "opened", "parameters"]


def opened(work: Workload, arrays: Case, compiled: bool, device: str = "cpu") -> Opened:
    """A workload, ready to be compared and run."""
    torch.set_num_threads(threads())
    if work.kind == "solve":
        return solving.opened("torch", work.model, arrays, compiled)
    if work.kind == "chain":
        return chain(work, arrays, compiled)
    p = parameters(arrays, device)
    if work.kind == "sample":
        return sampling(work, arrays, p, compiled)
    return training(work, arrays, p, compiled)


def parameters(arrays: Case, device: str = "cpu") -> Tensors:
    """The case's weights and constants by name."""
    named = part(arrays, "weights") | part(arrays, "constants")
    p = {name: torch.tensor(array, device=device) for name, array in named.items()}
    for name in part(arrays, "learned"):
        p[name].requires_grad_()
    return p


def batches(data: Tensor, size: int) -> Iterator[Tensor]:
    """Rows in an order that is shuffled anew for every pass over the data, without end."""
    while True:
        order = torch.randperm(len(data), device=data.device)
        for rows in order.split(size)[: len(data) // size]:
            yield data[rows]


def compile_on(device: Any, function: Any) -> Any:
    """The function through torch.compile."""
    return torch.compile(function, mode=None if device.type == "cpu" else "max-autotune")


def waiting(device: Any) -> Any:
    """What waits for all that was begun; None where nothing is begun that is not done."""
    return None if device.type == "cpu" else partial(torch.cuda.synchronize, device)


class Trainer:
    """The losses of a workload, and what updates the parameters of each."""

    def __init__(self, work: Workload, arrays: Case, p: Tensors, compiled: bool) -> None:
        self.arrays, self.p = arrays, p
        self.device = next(iter(p.values())).device
        self.clip, self.decay = float(arrays["clip"]), float(arrays["decay"])
        betas = (0.5, 0.999) if work.model == "gan" else (0.9, 0.999)
        self.updates = []
        for name, (start, loss) in objectives(work).items():
            mine = {k: v for k, v in p.items() if k.startswith(start) and v.requires_grad}
            adam = torch.optim.Adam(mine.values(), lr=RATE, betas=betas, fused=True)
            average = [v.detach().clone() for v in mine.values()] if self.decay else []
            loss = compile_on(self.device, loss) if compiled else loss
            self.updates.append((name, loss, mine, adam, average))

    def results(self) -> Case:
        """See `Opened`."""
        found: Case = {}
        for name, loss, mine, _, _ in self.updates:
            given = part(self.arrays, f"draws/{name}") | {"": self.arrays["batch"]}
            draws = {k: torch.tensor(a, device=self.device) for k, a in given.items()}
            value = loss(self.p, draws.pop(""), draws)
            gradients = torch.autograd.grad(value, mine.values())
            found[f"{name}/loss"] = value.detach().cpu().numpy()
            found |= {f"{name}/{k}": g.cpu().numpy() for k, g in zip(mine, gradients, strict=True)}
        return found

    def step(self, x: Tensor) -> None:
        """One on a batch."""
        for name, loss, mine, adam, average in self.updates:
            weights = [*mine.values()]
            adam.zero_grad()
            loss(self.p, x, self.drawn(name, x)).backward(inputs=weights)
            torch.nn.utils.clip_grad_norm_(weights, self.clip)
            adam.step()
            if average:
                torch._foreach_lerp_(average, weights, 1 - self.decay)

    def drawn(self, name: str, x: Tensor) -> Tensors:
        """What a loss draws for a batch: in the shapes that the case has, but anew."""

        def draw(what: str, shape: tuple[int, ...]) -> Tensor:
            if what == "t":
                return torch.randint(1, len(self.p["signal"]), shape, device=x.device)
            return torch.bernoulli(x) if what == "bits" else torch.randn(shape, device=x.device)

        drawn = part(self.arrays, f"draws/{name}")
        return {what: draw(what, array.shape) for what, array in drawn.items()}


def training(work: Workload, arrays: Case, p: Tensors, compiled: bool) -> Opened:
    trainer = Trainer(work, arrays, p, compiled)

    def run(tick: Tick) -> None:
        rows = batches(torch.tensor(arrays["data"], device=trainer.device), work.batch)
        while True:
            tick(waiting(trainer.device))
            trainer.step(next(rows))

    return Opened(trainer.results, run)


def sampling(work: Workload, arrays: Case, p: Tensors, compiled: bool) -> Opened:
    last, bounded = len(arrays["constants/signal"]) - 1, "shift" not in p
    device = p["signal"].device

    def reverse(p: Tensors, x: Tensor, t: Tensor, z: Tensor, numbers: Any) -> Tensor:
        """x_{t-1} from x_t: t (1,), z standard normals."""
        from_x, from_output, low, high, on_x0, on_x, sigma = numbers
        x0 = (from_x * x + from_output * denoiser(p, x, t)).clamp(low, high)
        return on_x0 * x0 + on_x * x + sigma * z

    one = compile_on(device, reverse) if compiled else reverse
    # As Python's numbers, which are faster, but each of which would be compiled for anew.
    numbers = p["reverse"] if compiled else p["reverse"].tolist()

    times = torch.arange(last + 1, device=device)[:, None]

    @torch.inference_mode()
    def results() -> Case:
        x, found = torch.tensor(arrays["batch"], device=device), {}
        for name, z in part(arrays, "draws").items():
            t = int(name.split("/")[0])
            y = one(p, x, times[t], torch.tensor(z, device=device), numbers[t])
            found[f"x/{t}"] = y.cpu().numpy()
        return found

    @torch.inference_mode()
    def sample() -> Tensor:
        x = torch.randn(work.batch, work.features, device=device)
        for t in range(last, 0, -1):
            x = one(p, x, times[t], torch.randn_like(x), numbers[t])
        return 0.5 * (x + 1) if bounded else x * p["scale"] + p["shift"]

    def run(tick: Tick) -> None:
        while True:
            tick(waiting(device))
            sample()

    return Opened(results, run)


def chain(work: Workload, arrays: Case, compiled: bool) -> Opened:
    x, y = (torch.tensor(arrays[name], requires_grad=True) for name in "xy")
    seed = torch.ones_like(x)
    one = partial(applied, torch, work.model)
    forward = torch.compile(one) if compiled else one

    def step() -> tuple[Tensor, Tensor, Tensor]:
        z = forward(x, y)
        return z, *torch.autograd.grad(z, (x, y), seed, allow_unused=True, materialize_grads=True)

    def results() -> Case:
        z, of_x, of_y = step()
        return {"value": z.detach().numpy(), "of x": of_x.numpy(), "of y": of_y.numpy()}

    def run(tick: Tick) -> None:
        while True:
            tick()
            step()

    return Opened(results, run)
