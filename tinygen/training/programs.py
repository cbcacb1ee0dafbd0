"""Updates as programs: what a training step does for an objective, by `tinygen.compile`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import isfinite
from typing import Any

from tinygen.autodiff.engine import Tensor
from tinygen.backend import namespace_of, recorder
from tinygen.compile.step import Step
from tinygen.errors import NonFiniteError
from tinygen.kernels import dispatch
from tinygen.nn import Module
from tinygen.optim import EMA, Optimizer
from tinygen.random import Generator

__all__ = ["Compiled", "Update", "finite", "records"]

Update = Callable[..., "dict[str, Tensor] | None"]
"""Of a batch: the terms of the loss; None, and nothing is updated, if it or the gradient is not finite."""

_log = logging.getLogger("tinygen")


class Compiled:
    """An update that runs as a program.

    What cannot be recorded is told once, and runs eagerly from then on. A program that did not
    finish has changed no parameter: the same is computed eagerly, perhaps to another end, as where
    the squares of a gradient are too large for float32.
    """

    def __init__(self, name: str, update: Update, run: Any) -> None:
        """run: has `optimizers` and `averages` by name, and `random`, all that a loss may draw from; on the
        GPU a `latch` that its updates share."""
        self.name, self.update = name, update
        self.step = Step(update, getattr(run, "latch", None))
        self.optimizer: Optimizer = run.optimizers[name]
        self.average: EMA | None = run.averages.get(name)
        self.random: list[Generator] = run.random
        self.eager = False

    def __call__(self, *batch: Any) -> dict[str, Tensor] | None:
        before = None if self.eager else self._counters()
        if before is not None:
            try:
                terms: dict[str, Tensor] | None = self.step(*batch)
                return terms
            except NonFiniteError:
                pass
            except Exception as error:  # of the user's own, too: it comes again
                self.eager = True
                _log.warning("tinygen: %s; the steps of %s run eagerly", error, self.name)
            self._reset(before)
        return self.update(*batch)

    def _counters(self) -> tuple[Any, ...]:
        """What counts updates and random numbers: a program that ended early has counted them."""
        updates = None if self.average is None else self.average.updates
        return self.optimizer.steps, updates, [generator.state for generator in self.random]

    def _reset(self, counters: tuple[Any, ...]) -> None:
        self.optimizer.steps, updates, states = counters
        if self.average is not None:
            self.average.updates = updates
        for generator, state in zip(self.random, states, strict=True):
            generator.state = state


def records(model: Any, *functions: Callable[..., Any]) -> bool:
    """Whether a program may take the place of what `model` and these functions of it compute on the CPU.

    There is a compiler, and all is tinygen's own code. A user's is not recorded unasked: what else it
    does than compute would be done in the first steps only.
    """
    parts = model.modules() if isinstance(model, Module) else [model]
    code = [*map(type, parts), *functions]
    return dispatch.native() is not None and all(c.__module__.startswith("tinygen.") for c in code)


def finite(loss: Tensor, norm: float) -> bool:
    """Whether an update may follow. A program, which nobody waits for, ends here where it may not;
    of the norm, `clip_global_norm` has taken care then."""
    if (record := recorder.get()) is None:
        return isfinite(loss.item()) and isfinite(norm)
    record.stop_unless(namespace_of(loss.data).isfinite(loss.data), "the loss is finite")
    return True
