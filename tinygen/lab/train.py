"""A training run that stops now and then to be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from time import perf_counter
from typing import Any

import numpy as np

from tinygen.backend import keep_freed_memory
from tinygen.models import Model
from tinygen.training import Settings
from tinygen.training.loop import Loop
from tinygen.training.run import worthwhile

__all__ = ["watched"]


def watched(
    model: Model, x: Any, settings: Settings, stops: Sequence[int]
) -> Iterator[tuple[int, float]]:
    """Train `model` on rows x as `fit` does; at each of the rising `stops` yield the number of
    steps and the seconds that they took, compiling included.

    Meanwhile the model is as it would be after a training of so many steps: averaged, with what it
    measures at the end. NonFiniteStep: a loss or a gradient is NaN or infinite.
    """
    keep_freed_memory()
    data, seconds = model.prepare(x), 0.0
    loop = Loop(model, data, settings, worthwhile(model, data, settings))
    for stop in stops:
        began = perf_counter()
        model.train()
        with np.errstate(all="ignore"):  # the loop's own check says more than NumPy's warning
            while loop.step < stop:
                loop.advance()
        seconds += perf_counter() - began
        model.eval()
        with ExitStack() as averages:
            for average in loop.averages.values():
                averages.enter_context(average.applied())
            model.finish(data[0])
            yield loop.step, seconds
