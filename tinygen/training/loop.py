"""The training loop: what a step is, for every model.

A run is a function of its seed alone. The order of the data comes from one stream of random
numbers, indexed by epoch; the noise inside the losses from another, whose state is two integers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinygen.autodiff.engine import Tensor
from tinygen.backend import namespace_of, to_device
from tinygen.errors import NonFiniteError, renamed, unknown, whole
from tinygen.optim import EMA, Optimizer, clip_global_norm, cosine, warmup
from tinygen.parallel import Ranks
from tinygen.random import Generator
from tinygen.training.history import History
from tinygen.training.programs import Compiled, Update, finite

__all__ = [
    "Data", "History", "Loop", "NonFiniteStep", "Objective", "Settings", "Trainable", "schedule",
]  # fmt: skip

Array = np.ndarray[Any, Any]

Data = tuple[Array, ...]
"""Arrays of equal length: (x,), or (x, labels). A batch holds the same rows of each."""


@dataclass(frozen=True)
class Settings:
    """How a model is trained.

    steps, batch: the number of updates, and of examples in each.
    lr, warmup: the learning rate rises over `warmup` steps and falls along a cosine to 0.
    clip: limit of the global gradient norm.
    ema_decay: of the moving average of the parameters; 0 for no average.
    seed: of everything random in the run.
    """

    steps: int = 4000
    batch: int = 128
    lr: float = 1e-3
    warmup: int = 100
    clip: float = 1.0
    ema_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        # Stored as Python's own numbers, which a checkpoint can describe.
        for name, low in (("steps", 0), ("batch", 1), ("warmup", 0), ("seed", 0)):
            object.__setattr__(self, name, whole(name, getattr(self, name), low))
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} is a number above 0, not {getattr(self, name)!r}")
            object.__setattr__(self, name, float(getattr(self, name)))
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is a decay in [0, 1), not {self.ema_decay!r}")
        object.__setattr__(self, "ema_decay", float(self.ema_decay))

    def changed(self, **changes: Any) -> Settings:
        """These settings with some changed; ValueError for an unknown name or a bad value."""
        if change := renamed("Settings", changes):
            raise ValueError(change)
        for name in changes:
            if name not in asdict(self):
                raise unknown("training setting", name, asdict(self))
        return replace(self, **changes)


class Objective(NamedTuple):
    """Something to minimise: parameters by name, and `loss(*batch, rng=rng)`, its named terms.

    The first of the terms is the loss, a Tensor of one number; the others are only recorded.
    """

    name: str
    parameters: dict[str, Tensor]
    loss: Callable[..., dict[str, Tensor]]


class Trainable(Protocol):
    """What training needs of a model; `tinygen.models.Model` provides it.

    The loop sets `step`, the number of steps so far, before each.
    """

    step: int

    def objectives(self) -> list[Objective]: ...
    def optimizer(self, parameters: dict[str, Tensor], lr: Callable[[int], float]) -> Optimizer: ...
    def named_parameters(self) -> dict[str, Tensor]: ...
    def state_dict(self) -> dict[str, Array]: ...
    def load_state_dict(self, state: dict[str, Array]) -> None: ...
    def generators(self) -> list[Generator]: ...
    def watch(self, x: Array, settings: Settings) -> Callable[[], str | None]: ...
    def train(self) -> Any: ...
    def eval(self) -> Any: ...
    def finish(self, x: Array) -> None: ...


class NonFiniteStep(NonFiniteError):
    """The loss of an objective on a batch, or its gradient, is NaN or infinite.

    With all that is needed to compute it again: also the states of `Loop.random` before.
    """

    def __init__(self, objective: Objective, batch: Data, states: list[Any]) -> None:
        super().__init__(f"{objective.name}: the norm of the gradient is not finite")
        self.objective, self.batch, self.states = objective, batch, states


def schedule(settings: Settings) -> Callable[[int], float]:
    """The learning rate by the step."""
    return warmup(cosine(settings.lr, max(settings.steps, 1)), settings.warmup)


class Loop:
    """What the steps of a run change, and one step.

    An objective that `model.objectives()` lists k times has k updates in a step, all with the
    learning rate of that step. compiled: updates are programs. ranks: the processes that share each batch;
    `random` then draws within `ranks.drawing`.
    """

    ranks = Ranks()

    def __init__(
        self, model: Trainable, data: Data, settings: Settings, compiled: bool = False
    ) -> None:
        self.model, self.data, self.settings, self.compiled = model, data, settings, compiled
        self.order, self.rng = map(Generator(settings.seed).child, ("order", "noise"))
        self.random = [self.rng, *model.generators()]  # all that a loss may draw from
        self.batch = min(settings.batch, len(data[0]))  # rows
        self.objectives = model.objectives()
        self.times = Counter(o.name for o in self.objectives)  # of an objective in one step
        by_name = {o.name: o for o in self.objectives}
        self.optimizers = {
            name: model.optimizer(o.parameters, self._rate(self.times[name]))
            for name, o in by_name.items()
        }
        self.averages = {
            name: EMA(optimizer.parameters, settings.ema_decay)
            for name, optimizer in self.optimizers.items()
            if settings.ema_decay
        }
        self.updates: dict[str, Update] = {n: partial(self._update, o) for n, o in by_name.items()}
        if compiled:
            self.updates = {n: Compiled(n, update, self) for n, update in self.updates.items()}
        self.step, self.batches, self._epoch = 0, 0, -1  # the first two: taken so far
        self.history = History()

    def _rate(self, times: int) -> Callable[[int], float]:
        """The learning rate by the update, for an optimiser that updates `times` times in a step."""
        by_step = schedule(self.settings)
        return lambda updates: by_step(updates // times)

    def advance(self) -> None:
        """One training step: each objective in turn takes a batch and updates its parameters."""
        self.model.step = self.step
        for objective in self.objectives:
            batch = self.next_batch()
            states = [generator.state for generator in self.random]
            terms = self.updates[objective.name](*batch)
            if terms is None:
                raise NonFiniteStep(objective, batch, states)
            for name, value in terms.items():
                self.history.setdefault(name, []).append(value.item())
        self.step += 1

    def _update(self, objective: Objective, *batch: Array) -> dict[str, Tensor] | None:
        """Loss, gradient, clipping, optimiser, average: an `Update` of the objective."""
        optimizer, parameters = self.optimizers[objective.name], objective.parameters.values()
        optimizer.zero_grad()
        terms = objective.loss(*batch, rng=self.rng)
        next(iter(terms.values())).backward(inputs=parameters)
        terms = self.ranks.mean(self.rng, parameters, terms)
        norm = clip_global_norm(parameters, self.settings.clip)
        if not finite(next(iter(terms.values())), norm):
            return None
        optimizer.step(self.averages.get(objective.name))
        return terms

    def next_batch(self) -> Data:
        """The next rows, this rank's of them, in an order that is shuffled anew for every pass over the
        data."""
        n, size = len(self.data[0]), self.batch
        epoch, place = divmod(self.batches, n // size)
        if epoch != self._epoch:
            self.order.state = self.order.state[0], epoch  # the epoch's own draw: nothing to store
            rows = self.order.permutation(n)
            self._epoch, self._rows = epoch, to_device(rows, namespace_of(self.data[0]).device)
        self.batches += 1
        rows = self.ranks.part(self._rows[place * size : (place + 1) * size])
        return tuple(a[rows] for a in self.data)
