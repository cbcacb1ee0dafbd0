"""Training on the GPU by graphs: the host looks at the losses, and whether all went well, every hundred
updates, and waits at no other time."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinygen.autodiff.engine import Tensor
from tinygen.backend import namespace_of, to_device
from tinygen.compile.graph import LOOKS, Latch
from tinygen.training.loop import Data, History, Loop, NonFiniteStep, Objective, Settings, Trainable

__all__ = ["GraphLoop"]


class Taken(NamedTuple):
    """An update that was queued: its number among the graphs' runs, and what counted before it."""

    objective: Objective
    batch: Data
    step: int
    run: int
    counters: tuple[list[int], list[int], list[Any]]
    terms: dict[str, Tensor]


class GraphLoop(Loop):
    """A loop whose updates are graphs, queued without waiting.

    An update whose loss or gradient is not finite changes no parameter, and none does after it, of any
    objective. When this is seen, they are taken again: that one eagerly, which explains it.
    """

    def __init__(self, model: Trainable, data: Data, settings: Settings) -> None:
        self.taken: list[Taken] = []
        self.latch = Latch(looks=False)
        super().__init__(model, data, settings, compiled=True)

    @property
    def history(self) -> History:
        """With all updates. NonFiniteStep: one of them could not be done."""
        self.settle()
        return self._history

    @history.setter
    def history(self, values: History) -> None:
        self._history = values

    def advance(self) -> None:
        """One training step, queued; see `Loop.advance`."""
        for objective in self.objectives:
            self._take(objective, self.next_batch(), self.step)
        self.step += 1
        if len(self.taken) >= LOOKS:
            self.settle()

    def _take(self, objective: Objective, batch: Data, step: int) -> None:
        self.model.step = step
        counters, run = self._counters(), self.latch.runs
        terms = self.updates[objective.name](*batch)
        if terms is None:  # it ran eagerly
            self.settle()
            raise NonFiniteStep(objective, batch, counters[2])
        self.taken.append(Taken(objective, batch, step, run, counters, terms))

    def settle(self) -> None:
        """Wait for all updates. NonFiniteStep: one of them could not be done; `step` is then its own."""
        if not self.taken:
            return
        taken, self.taken, ended = self.taken, [], self.latch.look()
        good = [t for t in taken if ended is None or t.run < ended[1]]
        self._enter([t.terms for t in good])
        if ended is None:
            return
        step, (first, *rest) = self.step, taken[len(good) :]
        self.step = self.model.step = first.step
        self._reset(first.counters)
        terms = self._update(first.objective, *first.batch)
        if terms is None:
            raise NonFiniteStep(first.objective, first.batch, first.counters[2])
        self._enter([terms])
        for t in rest:
            self._take(t.objective, t.batch, t.step)
        self.step = step

    def _enter(self, found: list[dict[str, Tensor]]) -> None:
        """The terms of updates into the history, by one copy to the host."""
        pairs = [(name, x.data) for terms in found for name, x in terms.items()]
        if pairs:
            values = namespace_of(pairs[0][1]).stack([x for _, x in pairs])
            for (name, _), value in zip(pairs, to_device(values, "cpu").tolist(), strict=True):
                self._history.setdefault(name, []).append(value)

    def _counters(self) -> tuple[list[int], list[int], list[Any]]:
        """What counts updates and random numbers."""
        return (
            [o.steps for o in self.optimizers.values()],
            [a.updates for a in self.averages.values()],
            [generator.state for generator in self.random],
        )

    def _reset(self, counters: tuple[list[int], list[int], list[Any]]) -> None:
        for optimizer, steps in zip(self.optimizers.values(), counters[0], strict=True):
            optimizer.steps = steps
        for average, updates in zip(self.averages.values(), counters[1], strict=True):
            average.updates = updates
        for generator, state in zip(self.random, counters[2], strict=True):
            generator.state = state
