"""The one training loop: batches, objectives, progress, checkpoints, exact resume.

A run is a function of its seed alone. The order of the data comes from one stream of random
numbers, indexed by epoch; the noise inside the losses from another, whose state is two integers.
So a checkpoint (parameters, optimiser state, averages, three counters) is enough to continue to
the same parameters, bit for bit, as a run that was never stopped.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinygen import checkpoint
from tinygen.autodiff.backward import gradients
from tinygen.autodiff.modes import detect_anomaly
from tinygen.autodiff.tensor import Tensor
from tinygen.errors import CheckpointError, NonFiniteError, unknown
from tinygen.optim import EMA, Optimizer, clip_global_norm, cosine, warmup
from tinygen.random import Generator

__all__ = ["History", "Objective", "Settings", "Stopped", "train"]

Array = np.ndarray[Any, Any]
CHECKPOINT = "checkpoint.npz"


@dataclass(frozen=True)
class Settings:
    """How a model is trained.

    steps, batch: the number of updates, and of examples in each.
    lr, warmup: the learning rate rises over `warmup` steps and falls along a cosine to 0.
    clip: limit of the global gradient norm. ema: decay of the parameter average, 0 for none.
    seed: of everything random in the run.
    """

    steps: int = 4000
    batch: int = 128
    lr: float = 1e-3
    warmup: int = 100
    clip: float = 1.0
    ema: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("steps", 0), ("batch", 1), ("warmup", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
                raise ValueError(f"{name} is a whole number from {low}, not {value!r}")
            object.__setattr__(self, name, int(value))  # a checkpoint describes Python's numbers
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 < value < float("inf")):
                raise ValueError(f"{name} is a number above 0, not {value!r}")
        if not (isinstance(self.ema, (int, float)) and 0 <= self.ema < 1):
            raise ValueError(f"ema is a decay in [0, 1), not {self.ema!r}")

    def changed(self, **changes: Any) -> Settings:
        """These settings with some changed; ValueError for an unknown name or a bad value."""
        for name in changes:
            if name not in asdict(self):
                raise unknown("training setting", name, asdict(self))
        return replace(self, **changes)


class Objective(NamedTuple):
    """Something to minimise: parameters by name, and a function of (batch, rng) to named terms.

    The first of the terms is the loss, a Tensor of one number; the others are only recorded.
    """

    name: str
    parameters: dict[str, Tensor]
    loss: Callable[[Array, Generator], dict[str, Tensor]]


class Trainable(Protocol):
    """What the loop needs of a model; `tinygen.models.Model` provides it."""

    def objectives(self) -> list[Objective]: ...
    def optimizer(self, parameters: dict[str, Tensor], lr: Callable[[int], float]) -> Optimizer: ...
    def named_parameters(self) -> dict[str, Tensor]: ...
    def state_dict(self) -> dict[str, Array]: ...
    def load_state_dict(self, state: dict[str, Array]) -> None: ...
    def train(self, training: bool = True) -> None: ...
    def eval(self) -> None: ...
    def finish(self, x: Array) -> None: ...


History = dict[str, list[float]]
"""For each term of the losses, its values in order: one for each update of its objective."""


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C) and has saved where it was."""


def train(
    model: Trainable,
    x: Array,
    settings: Settings,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    meta: dict[str, Any] | None = None,
    checkpoint_seconds: float = 15.0,
    show_progress: bool = False,
) -> History:
    """Train `model` on the rows of `x` (n, d) and return the history of its losses.

    With a `folder`, `checkpoint.npz` in it is renewed every `checkpoint_seconds` and at the end,
    and `resume` continues from it. `meta` is stored in it for whoever loads the model. The model
    ends with the averaged parameters if the settings ask for an average.
    NonFiniteError: a loss or gradient became NaN or infinite; the message names the step and the
    operation, the last checkpoint is from before. Stopped: on Ctrl-C, after a checkpoint.
    CheckpointError: the checkpoint does not belong to this model, these settings or this data.
    """
    path = None if folder is None else Path(folder) / CHECKPOINT
    run = _Run(model, x, settings, path, meta or {})
    if resume:
        run.restore()
    elif run.path is not None:
        run.save()  # from the start there is something to resume from
    model.train()
    progress = _progress(settings.steps, run.step) if show_progress else None
    saved = time.monotonic()
    with _stop_signals() as asked_to_stop:
        while run.step < settings.steps and not asked_to_stop:
            run.advance()
            if progress:
                progress(run.step, run.history)
            if run.path is not None and time.monotonic() - saved >= checkpoint_seconds:
                run.save()
                saved = time.monotonic()
    if progress:
        progress(run.step, run.history, last=True)
    if run.path is not None:
        run.save()
    if asked_to_stop:
        raise Stopped(f"stopped after step {run.step} of {settings.steps}")
    model.eval()
    if run.ema is not None:
        for name, p in run.ema.parameters.items():
            p.data[...] = run.ema.average[name]
    model.finish(x)
    return run.history


class _Run:
    """The state of a run, and how it advances by one step."""

    def __init__(
        self,
        model: Trainable,
        x: Array,
        settings: Settings,
        path: Path | None,
        meta: dict[str, Any],
    ) -> None:
        self.model, self.x, self.settings, self.path, self.meta = model, x, settings, path, meta
        for name, p in model.named_parameters().items():
            p.name = name  # for graph drawings and error messages
        self.objectives = model.objectives()
        schedule = warmup(cosine(settings.lr, max(settings.steps, 1)), settings.warmup)
        self.optimizers = {o.name: model.optimizer(o.parameters, schedule) for o in self.objectives}
        self.ema = EMA(model.named_parameters(), settings.ema) if settings.ema else None
        streams = Generator(settings.seed)
        self.order = streams.child(1)
        self.rng = streams.child(2)
        self.step = 0
        self.batches = 0  # drawn so far
        self.history: History = {}
        self._epoch = -1

    def advance(self) -> None:
        """One step: each objective in turn takes a batch and updates its parameters."""
        for objective in self.objectives:
            batch = self._next_batch()
            before = self.rng.state
            terms = objective.loss(batch, self.rng)
            loss = next(iter(terms.values()))
            self._backward(objective, loss)
            norm = clip_global_norm(objective.parameters.values(), self.settings.clip)
            if not (isfinite(loss.item()) and isfinite(norm)):
                self.rng.state = before
                self._explain(objective, batch)
            self.optimizers[objective.name].step()
            for name, value in terms.items():
                self.history.setdefault(name, []).append(value.item())
        if self.ema is not None:
            self.ema.update()
        self.step += 1

    def _backward(self, objective: Objective, loss: Tensor) -> None:
        parameters = list(objective.parameters.values())
        for p, g in zip(parameters, gradients(loss, parameters), strict=True):
            p.grad = g

    def _next_batch(self) -> Array:
        """Rows in an order that is shuffled anew for every pass over the data."""
        n = len(self.x)
        size = min(self.settings.batch, n)
        epoch, place = divmod(self.batches, n // size)
        if epoch != self._epoch:
            self.order.state = self.order.state[0], epoch  # the epoch's own draw: nothing to store
            self._epoch, self._permutation = epoch, self.order.permutation(n)
        self.batches += 1
        return self.x[self._permutation[place * size : (place + 1) * size]]

    def _explain(self, objective: Objective, batch: Array) -> None:
        """The same computation once more, watched, to name the operation that failed."""
        step = f"step {self.step + 1}, objective {objective.name}"
        kept = f"; {self.path} holds the state before" if self.path else ""
        try:
            with detect_anomaly():
                self._backward(objective, next(iter(objective.loss(batch, self.rng).values())))
        except NonFiniteError as error:
            raise NonFiniteError(f"{step}: {error}{kept}") from None
        raise NonFiniteError(f"{step}: the norm of the gradient is not finite{kept}")

    # -- checkpoints -----------------------------------------------------------------------------
    def _identity(self) -> dict[str, Any]:
        """What must be equal between a checkpoint and the run that resumes from it."""
        return {
            "settings": asdict(self.settings),
            "data": [list(self.x.shape), zlib.crc32(np.ascontiguousarray(self.x).tobytes())],
        }

    def save(self) -> None:
        """Write the whole state: a run to continue, and a finished model to load."""
        assert self.path is not None
        with self.ema.applied() if self.ema is not None else nullcontext():
            self.model.finish(self.x)
        arrays = checkpoint.prefixed("model", self.model.state_dict())
        arrays |= checkpoint.prefixed("history", self.history)
        for name, optimizer in self.optimizers.items():
            arrays |= checkpoint.prefixed(f"optimizer/{name}", optimizer.state_dict())
        if self.ema is not None:
            arrays |= checkpoint.prefixed("ema", self.ema.state_dict())
        counters = {"step": self.step, "batches": self.batches, "rng": list(self.rng.state)}
        checkpoint.write(self.path, {**self.meta, **self._identity(), **counters}, arrays)

    def restore(self) -> None:
        """Continue from the checkpoint; CheckpointError if it is not of this run."""
        if self.path is None:
            raise ValueError("resume needs a folder")
        meta, arrays = checkpoint.read(self.path)
        for key, own in self._identity().items():
            if meta.get(key) != own:
                raise CheckpointError(
                    f"{self.path} was made with other {key}: {meta.get(key)}, this run has {own}"
                )
        try:
            self.model.load_state_dict(checkpoint.section(arrays, "model"))
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(checkpoint.section(arrays, f"optimizer/{name}"))
            if self.ema is not None:
                self.ema.load_state_dict(checkpoint.section(arrays, "ema"))
            self.step, self.batches = meta["step"], meta["batches"]
            self.rng.state = meta["rng"][0], meta["rng"][1]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.path} does not fit this run: {error}") from error
        self.history = {k: v.tolist() for k, v in checkpoint.section(arrays, "history").items()}


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop: steps are finished, never torn."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, before[number])  # a second Ctrl-C interrupts at once

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(steps: int, start: int) -> Callable[..., None]:
    """A function that shows step, loss, steps per second and time left."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True)

            def show_bar(step: int, history: History, last: bool = False) -> None:
                if history:
                    bar.set_postfix_str(_latest(history), refresh=False)
                bar.update(step - bar.n)
                if last:
                    bar.close()

            return show_bar

    began = shown = time.monotonic()

    def show_line(step: int, history: History, last: bool = False) -> None:
        nonlocal shown
        now = time.monotonic()
        if not history or (now - shown < 2.0 and not last):
            return
        shown = now
        rate = (step - start) / max(now - began, 1e-9)
        left = (steps - step) / rate if rate else float("inf")
        print(
            f"step {step}/{steps}  {_latest(history)}  {rate:.0f} steps/s  {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return show_line


def _latest(history: History) -> str:
    """Each term, averaged over its last 50 values."""
    return "  ".join(f"{k} {np.mean(v[-50:]):.4f}" for k, v in history.items())
