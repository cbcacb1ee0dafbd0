"""The same steps without fused kernels: in CuPy, in PyTorch as it is, and by torch.compile.

Times are by the same events: CuPy's and PyTorch's default stream is one and the same. PyTorch's
rate counts the bytes that tinygen's kernel moves, so that rates compare as speeds do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.gpu.bandwidth import (
    COLUMNS,
    Save,
    Scale,
    Stopwatch,
    forget,
    fused,
    host_time,
    random_arrays,
    rotating,
    time_call,
)
from benchmarks.gpu.table import ADAM, BY_NAME, LEARNING_RATE, TARGETS, Kernel, inputs
from tinygen.backend import namespace_for

__all__ = ["MORE", "Torch", "measure"]

MORE = ("fill_normal_f32", "bias_gelu", "reparameterise")
"""Kernels that are compared beside the targets."""

Way = tuple[Callable[[], Any], Callable[[Any], Any]]
"""What makes a set of inputs, and the call with one."""


class Torch:
    """PyTorch on a device, and how it is asked for: on the CPU the tests run these lines too."""

    def __init__(self, device: str = "cuda", compiler: str = "inductor") -> None:
        self.torch = import_module("torch")
        self.device, self.compiler = device, compiler
        self.torch.zeros(1, device=device)  # raises here if there is no such device

    def synchronize(self) -> None:
        """Wait until the GPU is done."""
        if self.device != "cpu":
            self.torch.cuda.synchronize()

    def inputs(self, kernel: Kernel, n: int) -> Any:
        """Random inputs of n elements."""
        columns = min(n, COLUMNS)
        return inputs(kernel, self.normal, self.uniform, n // columns, columns)

    def normal(self, *shape: int) -> Any:
        return self.torch.randn(shape, device=self.device)

    def uniform(self, *shape: int) -> Any:
        return self.torch.rand(shape, device=self.device)

    def plain(self, kernel: Kernel, x: Any) -> Any:
        """The table's own expression, which no one differentiates."""
        assert kernel.plain is not None
        return kernel.plain(self.torch, x, lambda shape: self.normal(*shape))

    def ways(self, kernel: Kernel, n: int) -> dict[str, Way]:
        """How a user of PyTorch computes the kernel's step."""
        make = partial(self.inputs, kernel, n)
        if kernel.name == "adam":
            return {
                f"torch {name}": (partial(self.optimiser, make, name), lambda x: x.step())
                for name in ("foreach", "fused")
            }
        if kernel.name == "squared_error":
            return {"torch eager": (partial(self.with_noise, make), self.mse)}
        if kernel.name == "bias_gelu":
            return {"torch eager": (make, lambda x: self.torch.nn.functional.gelu(x.x + x.b))}
        return {"torch eager": (make, partial(self.plain, kernel))}

    def compiled(self, kernel: Kernel, n: int) -> dict[str, Way]:
        """The table's expression through torch.compile; an error if it is not one graph."""
        self.torch.compiler.reset()
        step = self.torch.compile(
            lambda x: self.plain(kernel, x), backend=self.compiler, fullgraph=True, dynamic=False
        )
        return {"torch.compile": (partial(self.inputs, kernel, n), step)}

    def with_noise(self, make: Callable[[], Any]) -> Any:
        """A user of PyTorch has kept the noise of the noise step: it is not drawn again."""
        x = make()
        return SimpleNamespace(
            output=x.output.requires_grad_(), noise=self.torch.randn_like(x.output)
        )

    def mse(self, x: Any) -> Any:
        loss = self.torch.nn.functional.mse_loss(x.output, x.noise)
        return loss.detach(), *self.torch.autograd.grad(loss, x.output)

    def optimiser(self, make: Callable[[], Any], name: str) -> Any:
        """PyTorch's Adam with one parameter and its gradient."""
        x = make()
        p = self.torch.nn.Parameter(x.p)
        p.grad = x.g
        betas = ADAM.beta1, ADAM.beta2
        return self.torch.optim.Adam([p], lr=LEARNING_RATE, betas=betas, **{name: True})


def _here(m: Any, kernel: Kernel, n: int) -> dict[str, Way]:
    """tinygen's kernel, and CuPy without it."""
    plain, make = kernel.plain, partial(random_arrays, kernel, m, n)
    assert plain is not None

    def noise(shape: tuple[int, ...]) -> Any:
        return m.random.standard_normal(shape, dtype=np.float32)

    return {"tinygen": (make, fused(kernel, m)), "CuPy": (make, lambda x: plain(m, x, noise))}


def measure(scale: Scale, save: Save, torch: Callable[[], Torch] = Torch) -> None:
    """Each way to compute each step, at large sizes and at a small one.

    What fails says why in its place; compilation, which takes longest, comes last.
    """
    m = namespace_for("gpu")
    watch = Stopwatch(m, scale)
    peer = None
    try:
        peer = torch()
    except Exception as error:  # not installed, or without CUDA, or another CUDA
        save({"without torch": str(error)})
    large = [n for n in scale.sizes if 4 * n >= scale.large]
    for names, sizes in [
        (TARGETS, large),
        (TARGETS, [scale.small]),
        (MORE, [*large[:1], scale.small]),
    ]:
        for kernel, n in product(map(BY_NAME.get, names), sizes):
            ways = {**_here(m, kernel, n), **(peer.ways(kernel, n) if peer else {})}
            _time(watch, kernel, n, ways, save)
    if peer:
        names = (*TARGETS, *MORE)
        for n, kernel in product((*large[:1], scale.small), map(BY_NAME.get, names)):
            _time(watch, kernel, n, peer.compiled(kernel, n), save)


def _time(watch: Stopwatch, kernel: Kernel, n: int, ways: dict[str, Way], save: Save) -> None:
    """Large arrays by events, the queue being full; small ones as the host sees it."""
    for name, (make, call) in ways.items():
        try:
            moved = float(kernel.bytes * n)
            if 4 * n >= watch.scale.large:
                found = time_call(watch, moved, rotating(watch.scale, moved, make), call)
            else:
                found = {"us": 1e6 * host_time(watch, partial(call, make()))}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"[:400]}
        save({kernel.name: {str(n): {name: found}}})
        forget(watch.m)
