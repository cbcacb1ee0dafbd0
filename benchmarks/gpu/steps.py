"""Training steps a second: tinygen's models, and the same networks in PyTorch as it is.

PyTorch's steps are those of `benchmarks.suite.with_torch`, which the tests hold to tinygen's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.gpu.bandwidth import Save, Scale
from benchmarks.gpu.peers import Torch
from benchmarks.suite import with_tinygen
from benchmarks.suite.workloads import Workload
from tinygen.backend import to_device

__all__ = ["MODELS", "measure"]

ROWS, FEATURES = 4096, 784
WARM = 20  # steps before the time counts: CuPy still compiles
MODELS: dict[str, Mapping[str, Any]] = {
    "ddpm": {"predict": "data"},
    "vae": {},
    "gan": {"penalty": None},
}
"""Models with their options."""


def measure(scale: Scale, save: Save, torch: Callable[[], Torch] = Torch) -> None:
    """Steps a second of every model."""
    x = np.random.default_rng(0).random((ROWS, FEATURES), np.float32)
    works = [
        Workload(name, name, "steps", "step", name, options, FEATURES, scale.batch)
        for name, options in MODELS.items()
    ]
    for work in works:
        model, on_gpu = with_tinygen.made(work).to("gpu"), to_device(x, "gpu")
        model.fit(on_gpu, steps=min(WARM, scale.steps), batch=scale.batch)
        start = time.perf_counter()
        model.fit(on_gpu, steps=scale.steps, batch=scale.batch)
        save({work.name: {"tinygen": scale.steps / (time.perf_counter() - start)}})
    for work in works:
        try:
            save({work.name: {"torch": _rate(torch(), work, x, scale.steps)}})
        except Exception as error:  # not installed, or no such device
            save({work.name: {"torch": f"{type(error).__name__}: {error}"[:400]}})


def _rate(peer: Torch, work: Workload, x: np.ndarray[Any, Any], count: int) -> float:
    """Steps a second of PyTorch."""
    suite, start = import_module("benchmarks.suite.with_torch"), 0.0
    case = with_tinygen.case(work)
    trainer = suite.Trainer(work, case, suite.parameters(case, peer.device), False)
    rows = suite.batches(peer.torch.tensor(x, device=peer.device), work.batch)
    for steps in (min(WARM, count), count):
        peer.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            trainer.step(next(rows))
        peer.synchronize()
    return count / (time.perf_counter() - start)
