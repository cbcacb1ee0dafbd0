"""Training steps and samplings on the GPU: tinygen beside PyTorch and JAX, each at its best and as it is.

The workloads and the contenders are those of `benchmarks.suite`. Before it is timed each contender shows
that it computes what tinygen does on the CPU: the losses and gradients of one batch with the same draws,
or steps of the sampler. One that differs is named, and its times are told all the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from itertools import count
from statistics import median, quantiles
from typing import Any, NamedTuple

import numpy as np

from benchmarks.gpu.bandwidth import Save, Scale, Stopwatch
from benchmarks.suite import with_tinygen
from benchmarks.suite.contract import Case, Opened, part
from benchmarks.suite.equality import differs
from benchmarks.suite.workloads import WORKLOADS, Workload
from tinygen.backend import namespace_for

__all__ = ["CONTENDERS", "NAMES", "Contender", "Rounds", "flops", "matrix_peak", "measure"]

NAMES = ("ddpm-784", "vae-784", "gan-784", "ddpm-2", "sample-784")
"""Workloads, the most wanted first."""
SECONDS = 0.75  # that a measurement lasts; a whole sampling may last longer
ROUNDS = 5


class Contender(NamedTuple):
    """The module of `benchmarks.suite`, whether it compiles, and what it calls the GPU."""

    module: str
    compiled: bool
    device: str | None


CONTENDERS = {
    "tinygen": Contender("with_tinygen", True, "gpu"),
    "tinygen eager": Contender("with_tinygen", False, "gpu"),
    "torch eager": Contender("with_torch", False, "cuda"),
    "jax": Contender("with_jax", True, None),
    "torch compiled": Contender("with_torch", True, "cuda"),
}


def measure(name: str, scale: Scale, save: Save, contender: Contender | None = None) -> None:
    """One contender on every workload: µs of a step, the spread of the rounds, kernels launched, the share
    of the matrix peak; and whether it computes the same."""
    who = contender or CONTENDERS[name]
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # float32, as the others
    if name == "tinygen":
        save({"matrix peak": matrix_peak(scale)})
    for work in map(_scaled(scale), NAMES):
        try:
            module = import_module(f"benchmarks.suite.{who.module}")
            arrays = with_tinygen.case(work)
            where = [] if who.device is None else [who.device]
            opened = module.opened(work, arrays, who.compiled, *where)
            ours = with_tinygen.opened(work, arrays, False).results()
            found = {"differs": differs(work, arrays, ours, opened.results())}
            save({work.name: {**found, "flops": flops(work, arrays)}})
            save({work.name: timed(opened, scale, work)})
        except Exception as error:  # not installed, no such device, not enough memory
            save({work.name: {"error": f"{type(error).__name__}: {error}"[:400]}})


def _scaled(scale: Scale) -> Callable[[str], Workload]:
    """A workload by its name; tiny, where only the benchmark itself is looked at."""

    def scaled(name: str) -> Workload:
        work = WORKLOADS[name]
        if scale.steps >= 100:
            return work
        options = {**work.options, **({"T": 3} if work.kind == "sample" else {})}
        return Workload(
            work.name, work.title, work.group, work.kind, work.model, options,
            min(work.features, 8), scale.batch,
        )  # fmt: skip

    return scaled


class Enough(BaseException):
    """The measurement is over."""


class Rounds:
    """The tick of a run. The first steps, in which functions are compiled, are a round that does not
    count; the next step alone tells how many make a round; then come ROUNDS rounds."""

    def __init__(self, first: int, seconds: float) -> None:
        self.first, self.each = first, seconds / ROUNDS
        self.seconds: list[float] = []  # of a step, by round
        self.size = self.left = 0
        self.begun = 0.0

    def __call__(self, wait: Callable[[], object] | None = None) -> None:
        if self.left:
            self.left -= 1
            return
        if wait:
            wait()
        if self.size:
            self.seconds.append((time.perf_counter() - self.begun) / self.size)
        done = len(self.seconds)
        if done == ROUNDS + 2:
            raise Enough
        sizes = [self.first, 1]
        self.size = sizes[done] if done < 2 else max(1, int(self.each / self.seconds[1]))
        self.left = self.size - 1
        self.begun = time.perf_counter()


def timed(opened: Opened, scale: Scale, work: Workload) -> dict[str, Any]:
    """µs of a step or of a whole sampling: the median of the rounds, and the spread of their middle
    half; and what was on the GPU in one."""
    first = 1 if work.kind == "sample" else min(20, scale.steps)
    rounds = Rounds(first, SECONDS if scale.steps >= 100 else 0.0)
    with suppress(Enough):
        opened.run(rounds)
    low, middle, high = quantiles(rounds.seconds[2:], n=4)
    return {"us": 1e6 * middle, "spread": (high - low) / middle, "launches": launched(opened)}


def launched(opened: Opened) -> int | None:
    """How many kernels, copies and fills the GPU did in one step, whoever launched them, as PyTorch's
    profiler saw it; None without it."""
    try:
        torch = import_module("torch")
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    ticks = count()

    def tick(wait: Callable[[], object] | None = None) -> None:
        number = next(ticks)
        if number >= 2 and wait:
            wait()
        if number == 2:
            profiler.start()
        elif number == 3:
            profiler.stop()
            raise Enough

    with suppress(Enough):
        opened.run(tick)
    on_gpu = torch.autograd.DeviceType.CUDA
    return sum(event.device_type == on_gpu for event in profiler.events())


def flops(work: Workload, arrays: Case) -> float | None:
    """Of the matrix products of a step: forward, and twice backward but for the data; or of a sampling,
    whose layers of times are computed at once. None for a GAN, whose networks run on several batches."""
    if work.model == "gan":
        return None
    shapes = {name: a.shape for name, a in part(arrays, "weights").items() if a.ndim == 2}
    own = {name: n * k for name, (n, k) in shapes.items() if name.endswith("weight")}
    if work.kind == "sample":
        steps = len(arrays["constants/signal"]) - 1
        return 2.0 * work.batch * steps * sum(n for name, n in own.items() if "time" not in name)
    of_data = next(iter(own.values())) if work.model == "vae" else own["network.first.weight"]
    return 2.0 * work.batch * (3 * sum(own.values()) - of_data)


def matrix_peak(scale: Scale) -> float:
    """Floating-point operations a second of large products in float32, as cuBLAS computes them."""
    m, n = namespace_for("gpu"), 8192 if scale.steps >= 100 else 32
    a = m.full((n, n), 0.5, np.float32)
    watch = Stopwatch(m, scale._replace(samples=3, calls=2))
    return 2.0 * n**3 / median(watch.samples(lambda k: a @ a))
