"""The network of a diffusion model: a residual MLP that sees x_t and t."""

from __future__ import annotations

from typing import Any

from tinygen import ops
from tinygen.autodiff.engine import Tensor
from tinygen.nn import Embedding, Linear, Module, TimeEmbedding
from tinygen.random import Generator, Rng, as_generator

__all__ = ["ResidualMLP"]

TIME_WIDTH = 64


class ResidualMLP(Module):
    """A residual MLP of (x_t, t) and perhaps a label. Every block sees the embedded time.

    h ← h + W_2 silu(W_1 ((1 + scale) norm(h) + shift)), where scale and shift are linear in the
    embedded time (Perez et al. 2018). outputs: a multiple of the features. classes: 0, or the number of
    labels; the label `classes` itself means none.
    skip: whether the output has a multiple of x_t added, one for each part of the output. The network
        learns it from the time and the label, where Karras et al. (2022, eq. 7) give a formula. An output
        x_0 needs it: at low noise it is nearly x_t, which a network narrower than x_t cannot pass on.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        width: int,
        blocks: int,
        classes: int = 0,
        skip: bool = False,
        *,
        rng: Rng,
    ) -> None:
        rng = as_generator(rng)
        self.embedding = TimeEmbedding(TIME_WIDTH)
        self.time = Linear(TIME_WIDTH, TIME_WIDTH, "silu", rng=rng)
        if classes:
            self.labels = Embedding(classes + 1, TIME_WIDTH, rng=rng)
        self.first = Linear(features, width, rng=rng)
        self.blocks = [Block(width, rng=rng) for _ in range(blocks)]
        self.last = Linear(width, outputs, rng=rng)
        self.last.weight.data[...] = 0  # starts by predicting 0, the mean of every target
        self.skip = Linear(TIME_WIDTH, outputs // features, rng=rng) if skip else None
        if self.skip is not None:
            self.skip.weight.data[...] = 0

    def __call__(self, x: Any, t: Any, labels: Any = None) -> Tensor:
        """Rows x (n, features) at times t (n,), or (1,) for all rows, to the output (n, outputs)."""
        return self.given(x, self.conditions(t, labels))

    def conditions(self, t: Any, labels: Any = None) -> list[Tensor]:
        """What depends on times t (n,) and labels alone: scale and shift of each block, the shares of x_t.

        They are rows (n, ·). A sampler computes those of all its times at once.
        """
        time = self.time(self.embedding(t))
        if labels is not None:
            time = time + self.labels(labels)
        shares = [] if self.skip is None else [self.skip(time)]
        return [block.time(time) for block in self.blocks] + shares

    def given(self, x: Any, conditions: list[Any]) -> Tensor:
        """The output (n, outputs) at rows x with their `conditions`, or with one row of them for all."""
        h = self.first(x)
        for block, scale_and_shift in zip(self.blocks, conditions, strict=False):
            h = block(h, scale_and_shift)
        y = self.last(ops.standardise(h))
        if self.skip is None:
            return y
        share = ops.expand_dims(conditions[-1], -1)
        return y + ops.reshape(share * ops.expand_dims(x, 1), y.shape)


class Block(Module):
    """One residual block."""

    def __init__(self, width: int, *, rng: Generator) -> None:
        self.time = Linear(TIME_WIDTH, 2 * width, rng=rng)
        self.time.weight.data[...] = 0  # starts as a plain norm
        self.enter = Linear(width, width, "silu", rng=rng)
        self.leave = Linear(width, width, rng=rng)

    def __call__(self, h: Tensor, scale_and_shift: Any) -> Tensor:
        return h + self.leave(self.enter(ops.modulate(h, scale_and_shift)))
