"""The network of a diffusion model: a residual MLP that sees x_t and t."""

from __future__ import annotations

from typing import Any

from tinygen import ops
from tinygen.autodiff.tensor import Tensor
from tinygen.nn import Embedding, Linear, Module, TimeEmbedding
from tinygen.random import Generator

__all__ = ["Denoiser"]

TIME_WIDTH = 64


class Denoiser(Module):
    """A residual MLP of (x_t, t) and perhaps a label: every block sees the embedded time.

    h ← h + W_2 silu(W_1 norm(h) + W_t time). The norms need no gain and bias of their own: the
    layers after them have those. classes: 0, or the number of labels; label `classes` itself
    stands for none.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        width: int,
        blocks: int,
        classes: int = 0,
        *,
        rng: Generator,
    ) -> None:
        self.embedding = TimeEmbedding(TIME_WIDTH)
        self.time = Linear(TIME_WIDTH, TIME_WIDTH, "silu", rng=rng)
        if classes:
            self.labels = Embedding(classes + 1, TIME_WIDTH, rng=rng)
        self.first = Linear(features, width, rng=rng)
        self.blocks = [Block(width, rng=rng) for _ in range(blocks)]
        self.last = Linear(width, outputs, rng=rng)
        self.last.weight.data[...] = 0  # starts by predicting 0, the mean of every target

    def __call__(self, x: Any, t: Any, labels: Any = None) -> Tensor:
        """Rows x (n, features) at times t (n,), or (1,) for all rows, to the output (n, outputs)."""
        time = self.time(self.embedding(t))
        if labels is not None:
            time = time + self.labels(labels)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, time)
        return self.last(ops.standardise(h))


class Block(Module):
    """One residual block of the denoiser."""

    def __init__(self, width: int, *, rng: Generator) -> None:
        self.time = Linear(TIME_WIDTH, width, rng=rng)
        self.enter = Linear(width, width, rng=rng)
        self.leave = Linear(width, width, rng=rng)

    def __call__(self, h: Tensor, time: Tensor) -> Tensor:
        inside = ops.linear(
            ops.standardise(h), self.enter.weight, self.enter.bias + self.time(time), "silu"
        )
        return h + self.leave(inside)
