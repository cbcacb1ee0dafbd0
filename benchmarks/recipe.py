"""What each part of the diffusion model for 28×28 images is worth: the defaults, and without each.

    python -m benchmarks recipe [VARIANT ...] [--steps 8000] [--data-dir FOLDER]

Every variant is trained on MNIST with the same batches and noise (seed 0) for as many steps, and
judged by 2000 samples of DPM-Solver++ in 25 steps beside 2000 held-out images: the accuracy of three
classifiers (mean), precision, recall, density, coverage and the sliced Wasserstein distance; one run
each, so that differences of .01 mean nothing. Run two at once with OPENBLAS_NUM_THREADS=1, or one
with all threads: the figures then differ as those of two seeds do.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tinygen import data, ops
from tinygen.autodiff.engine import Tensor
from tinygen.metrics import c2st, prdc, sliced_wasserstein
from tinygen.models import DDPM
from tinygen.models.diffusion.network import TIME_WIDTH, Block
from tinygen.nn import Linear
from tinygen.random import Generator

SAMPLES = 2000
Change = Callable[[DDPM], None]


# -- other blocks for the network -----------------------------------------------------------------
class NoResidual(Block):
    """The block without its residual connection."""

    def __call__(self, h: Tensor, time: Tensor) -> Tensor:
        return super().__call__(h, time) - h


class NoNorm(Block):
    """The block without its normalisation, but with scale and shift."""

    def __call__(self, h: Tensor, time: Tensor) -> Tensor:
        scale, shift = ops.split(self.time(time), 2, axis=-1)
        return h + self.leave(self.enter(h * (1.0 + scale) + shift))


class NoTime(Block):
    """A block that does not see the time."""

    def __call__(self, h: Tensor, time: Tensor) -> Tensor:
        return h + self.leave(self.enter(ops.standardise(h)))


class TimeAsBias(Block):
    """A block whose normalisation does not depend on the time, but the bias after it."""

    def __init__(self, width: int, *, rng: Generator) -> None:
        super().__init__(width, rng=rng)
        self.time = Linear(TIME_WIDTH, width, rng=rng)

    def __call__(self, h: Tensor, time: Tensor) -> Tensor:
        bias = self.enter.bias + self.time(time)
        return h + self.leave(
            ops.linear(ops.standardise(h), self.enter.weight, bias, self.enter.activation)
        )


# -- what differs from the defaults ---------------------------------------------------------------
def with_blocks(block: type[Block]) -> Change:
    """Other blocks in the network."""

    def change(model: DDPM) -> None:
        rng, network = Generator(0).child("blocks"), model.network
        width = network.last.weight.shape[0]
        network.blocks = [block(width, rng=rng) for _ in network.blocks]

    return change


def without_cut(model: DDPM) -> None:
    """Outputs beyond the range of the data count as they are."""
    model.cuts = False


def without_skip(model: DDPM) -> None:
    """No multiple of x_t is added to the output."""
    model.network.skip = None


class Variant(NamedTuple):
    """Options of the model, a change of it before the training, the decay of the average."""

    options: Mapping[str, Any] = MappingProxyType({})
    change: Change = lambda model: None
    ema_decay: float = 0.999


VARIANTS = {
    "defaults": Variant(),
    "predict=velocity": Variant({"predict": "velocity"}),
    "predict=noise": Variant({"predict": "noise", "schedule": "linear"}),
    "no multiple of x_t": Variant(change=without_skip),
    "no cut in the loss": Variant(change=without_cut),
    "blocks without residual": Variant(change=with_blocks(NoResidual)),
    "blocks without norm": Variant(change=with_blocks(NoNorm)),
    "blocks without time": Variant(change=with_blocks(NoTime)),
    "time as a bias": Variant(change=with_blocks(TimeAsBias)),
    "weight=min-snr": Variant({"weight": "min-snr"}),
    "schedule=cosine": Variant({"schedule": "cosine"}),
    "no average": Variant(ema_decay=0.0),
    "width=256": Variant({"width": 256}),
}


def trained(variant: Variant, x: np.ndarray, steps: int) -> DDPM:
    """The model after so many steps."""
    model = DDPM(x.shape[1], **variant.options)
    variant.change(model)
    model.fit(x, steps=steps, ema_decay=variant.ema_decay, show_progress=True)
    return model


def row(model: DDPM, test: np.ndarray) -> str:
    """The measures of samples of the model."""
    x = model.sample(SAMPLES, rng=Generator(1))
    real = test[Generator(3).permutation(len(test))[:SAMPLES]]
    accuracy = np.mean([c2st(x, real, Generator(seed)).accuracy for seed in range(3)])
    numbers = (accuracy, *prdc(x, real), sliced_wasserstein(x, real, Generator(1)))
    return "".join(f"{number:8.3f}" for number in numbers)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks recipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--data-dir")
    args = parser.parse_args(arguments)
    if unknown := set(args.variants) - set(VARIANTS):
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    mnist = data.load("mnist", args.data_dir)
    print(f"MNIST, {args.steps} steps")
    print(f"{'':24}{'seconds':>8}{'C2ST':>8}{'P':>8}{'R':>8}{'D':>8}{'C':>8}{'SW':>8}")
    for name in args.variants or VARIANTS:
        began = time.monotonic()
        model = trained(VARIANTS[name], mnist.x, args.steps)
        print(f"{name:24}{time.monotonic() - began:8.0f}{row(model, mnist.test)}")
        sys.stdout.flush()
