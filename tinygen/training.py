"""The one training loop: batches, objectives, progress, checkpoints, exact resume.

A run is a function of its seed alone. The order of the data comes from one stream of random
numbers, indexed by epoch; the noise inside the losses from another, whose state is two integers.
So a checkpoint (parameters, optimiser state, averages, three counters) is enough to continue to
the same parameters, bit for bit, as a run that was never stopped.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinygen import checkpoint, kernels
from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.modes import detect_anomaly
from tinygen.autodiff.transforms import gradients
from tinygen.backend import namespace_of, to_device
from tinygen.errors import CheckpointError, NonFiniteError, unknown, whole
from tinygen.folder import CHECKPOINT, locked
from tinygen.optim import EMA, Optimizer, clip_global_norm, cosine, warmup
from tinygen.random import Generator

__all__ = ["History", "Objective", "Settings", "Stopped", "train"]

Array = np.ndarray[Any, Any]
WATCH_STEPS = 100  # from one look at the state of the run to the next


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
        # Stored as Python's own numbers, which a checkpoint can describe.
        for name, low in (("steps", 0), ("batch", 1), ("warmup", 0), ("seed", 0)):
            object.__setattr__(self, name, whole(name, getattr(self, name), low))
        for name in ("lr", "clip", "ema"):
            value: Any = getattr(self, name)
            good = 0 <= value < 1 if name == "ema" else 0 < value < float("inf")
            if not good:
                what = "a decay in [0, 1)" if name == "ema" else "a number above 0"
                raise ValueError(f"{name} is {what}, not {value!r}")
            object.__setattr__(self, name, float(value))

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
    """What the loop needs of a model; `tinygen.models.Model` provides it.

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


History = dict[str, list[float]]
"""For each term of the losses, its values in order: one for each update of its objective."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop (Ctrl-C); if it has a folder, it has saved where it was."""


def train(
    model: Trainable,
    x: Array,
    settings: Settings,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    meta: dict[str, Any] | None = None,
    checkpoint_seconds: float = 15.0,
    show_progress: bool | str = False,
) -> History:
    """Train `model` on the rows of `x` (n, d) and return the history of its losses.

    Model and data are on one device, which is no part of the run: it may be resumed on the other.
    With a `folder`, which exists, `checkpoint.npz` in it is renewed every `checkpoint_seconds` and
    at the end, and `resume` continues from it, also to more steps than it was started with (its
    learning rate is then the longer run's). `meta` is stored in it for whoever loads the model.
    `show_progress` is True, or a line to show before.
    The model ends with the averaged parameters if the settings ask for an average.
    What the model sees going wrong (`Model.watch`), and what a resumed run computes with that is
    not what it was started with, is told by the logger "tinygen", on stderr.
    NonFiniteError: a loss or gradient became NaN or infinite; the message names the step and the
    operation, the last checkpoint is from before. Stopped: on Ctrl-C, SIGTERM or SIGHUP, after a
    checkpoint. CheckpointError: the checkpoint is damaged, or does not belong to this model, these
    settings or this data. FileExistsError: the folder holds a run, and `resume` was not asked for.
    BlockingIOError: another run is under way in the folder.
    """
    path = None if folder is None else Path(folder) / CHECKPOINT
    # NumPy's warnings would only repeat what the checks say with a name.
    with nullcontext() if path is None else locked(path.parent), np.errstate(all="ignore"):
        run = _Run(model, x, settings, path, meta or {})
        if resume:
            run.restore()
        elif run.path is not None:
            if run.path.exists():
                raise FileExistsError(
                    f"{run.path} exists: resume that run, or choose another folder"
                )
            run.save()  # from the start there is something to resume from
        if isinstance(show_progress, str):
            print(show_progress, file=sys.stderr)
        return _loop(run, checkpoint_seconds, bool(show_progress))


def _loop(run: _Run, checkpoint_seconds: float, show_progress: bool) -> History:
    """Take the steps that are left; see `train`."""
    model, steps = run.model, run.settings.steps
    watch = model.watch(run.x, run.settings)
    model.train()
    progress = _progress(steps, run.step) if show_progress else None
    saved = time.monotonic()
    with _stop_signals() as asked_to_stop:
        while run.step < steps and not asked_to_stop:
            run.advance()
            if run.step % WATCH_STEPS == 0 and (remark := watch()):
                _tell(f"step {run.step}: {remark}")
            if progress:
                progress(run.step, run.history)
            if run.path is not None and time.monotonic() - saved >= checkpoint_seconds:
                run.check_parameters()
                run.save()
                model.train()
                saved = time.monotonic()
    if progress:
        progress(run.step, run.history, last=True)
    run.check_parameters()
    if run.path is not None:
        run.save()
    else:
        run.finish()
    if asked_to_stop:
        raise Stopped(f"stopped after step {run.step} of {steps}")
    for average in run.averages.values():
        for name, p in average.parameters.items():
            p.data[...] = average.average[name]
    return run.history


def _schedule(settings: Settings) -> Callable[[int], float]:
    """The learning rate by the step."""
    return warmup(cosine(settings.lr, max(settings.steps, 1)), settings.warmup)


def _every(schedule: Callable[[int], float], times: int) -> Callable[[int], float]:
    """A schedule by the step, for an optimiser that updates `times` times in each."""
    return lambda updates: schedule(updates // times)


def fingerprint(x: Array) -> list[Any]:
    """Shape and CRC-32 of the data, by which a checkpoint knows what it was trained on."""
    on_cpu = np.ascontiguousarray(to_device(x, "cpu"))
    return [list(x.shape), zlib.crc32(on_cpu)]  # type: ignore[arg-type]


def not_finite(parameters: dict[str, Tensor]) -> str | None:
    """The name of the first parameter that holds a NaN or an infinity, None if none does."""
    return next(
        (n for n, p in parameters.items() if not namespace_of(p.data).isfinite(p.data).all()), None
    )


def _surroundings(device: str) -> dict[str, str]:
    """What a run computes with, on which the last bits of its results depend."""
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    asked = [os.environ[name] for name in names if os.environ.get(name)]
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return {
        "kernels": kernels.description(device).split()[0].strip(",:"),
        "threads": asked[0] if asked else str(len(affinity(0)) if affinity else os.cpu_count()),
        "numpy": np.__version__,
    }


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
        schedule = _schedule(settings)
        self.times = Counter(o.name for o in self.objectives)  # of an objective in one step
        self.optimizers = {
            o.name: model.optimizer(o.parameters, _every(schedule, self.times[o.name]))
            for o in {o.name: o for o in self.objectives}.values()
        }
        self.averages = {
            name: EMA(optimizer.parameters, settings.ema)
            for name, optimizer in self.optimizers.items()
            if settings.ema
        }
        self.order = Generator(settings.seed).child("order")
        self.rng = Generator(settings.seed).child("noise")
        self.random = [self.rng, *model.generators()]  # all that a loss may draw from
        self._data = fingerprint(x)
        self.step = 0
        self.batches = 0  # drawn so far
        self.history: History = {}
        self._epoch = -1
        self._began = time.monotonic()
        self.sittings = [self._sitting()]

    def _sitting(self) -> dict[str, Any]:
        """Where a part of the run between a start and a stop began, and what it computes with."""
        device = namespace_of(self.x).device
        return {"from_step": self.step, "seconds": 0.0, **_surroundings(device)}

    def advance(self) -> None:
        """One step: each objective in turn takes a batch and updates its parameters."""
        self.model.step = self.step
        for objective in self.objectives:
            batch = self._next_batch()
            before = [g.state for g in self.random]
            terms = objective.loss(batch, self.rng)
            loss = next(iter(terms.values()))
            self._backward(objective, loss)
            norm = clip_global_norm(objective.parameters.values(), self.settings.clip)
            if not (isfinite(loss.item()) and isfinite(norm)):
                for generator, state in zip(self.random, before, strict=True):
                    generator.state = state
                self._explain(objective, batch)
            self.optimizers[objective.name].step(self.averages.get(objective.name))
            for name, value in terms.items():
                self.history.setdefault(name, []).append(value.item())
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
            rows = to_device(self.order.permutation(n), namespace_of(self.x).device)
            self._epoch, self._permutation = epoch, rows
        self.batches += 1
        return self.x[self._permutation[place * size : (place + 1) * size]]

    def _explain(self, objective: Objective, batch: Array) -> None:
        """The same computation once more, watched, to name the operation that failed."""
        step = f"step {self.step + 1}, objective {objective.name}"
        try:
            with detect_anomaly():
                self._backward(objective, next(iter(objective.loss(batch, self.rng).values())))
        except NonFiniteError as error:
            raise NonFiniteError(f"{step}: {error}{self._kept()}") from None
        raise NonFiniteError(f"{step}: the norm of the gradient is not finite{self._kept()}")

    def check_parameters(self) -> None:
        """NonFiniteError if the last update spoiled a parameter; before that is saved."""
        if name := not_finite(self.model.named_parameters()):
            raise NonFiniteError(
                f"step {self.step}: the update made {name} infinite or NaN; lower the "
                f"learning rate{self._kept()}"
            )

    def _kept(self) -> str:
        return f"; {self.path} holds an earlier state" if self.path else ""

    def finish(self) -> None:
        """Let the model measure what its parameters, averaged if they are, leave open."""
        self.model.eval()
        with ExitStack() as stack:
            for average in self.averages.values():
                stack.enter_context(average.applied())
            self.model.finish(self.x)

    # -- checkpoints -----------------------------------------------------------------------------
    def _identity(self) -> dict[str, Any]:
        """What must be equal between a checkpoint and the run that resumes from it."""
        return {
            "settings": asdict(self.settings),
            "data": self._data,
        }

    def save(self) -> None:
        """Write the whole state: a run to continue, and a finished model to load."""
        assert self.path is not None
        self.finish()
        arrays = checkpoint.prefixed("model", self.model.state_dict())
        arrays |= checkpoint.prefixed("history", self.history)
        for name, optimizer in self.optimizers.items():
            arrays |= checkpoint.prefixed(f"optimizer/{name}", optimizer.state_dict())
        for name, average in self.averages.items():
            arrays |= checkpoint.prefixed(f"ema/{name}", average.state_dict())
        self.sittings[-1]["seconds"] = round(time.monotonic() - self._began, 2)
        state = {
            "step": self.step, "batches": self.batches, "rng": list(self.rng.state),
            "sittings": self.sittings,
        }  # fmt: skip
        checkpoint.write(self.path, {**self.meta, **self._identity(), **state}, arrays)

    def restore(self) -> None:
        """Continue from the checkpoint; CheckpointError if it is not of this run."""
        if self.path is None:
            raise ValueError("resume needs a folder")
        meta, arrays = checkpoint.read(self.path)
        started = {"settings": {}, "sittings": [], **meta}
        steps = started["settings"].get("steps")
        longer = type(steps) is int and steps < self.settings.steps
        if longer:
            started["settings"] = {**started["settings"], "steps": self.settings.steps}
        for key, own in self._identity().items():
            if started.get(key) != own:
                raise CheckpointError(
                    f"{self.path} was made with other {key}: {meta.get(key)}, this run has {own}"
                )
        try:
            self._load_state(meta, arrays)
            self.sittings = [{**s, "seconds": float(s["seconds"])} for s in started["sittings"]]
        except checkpoint.WRONG_VALUES as error:
            raise CheckpointError(f"{self.path} does not fit this run: {error}") from error
        if longer:
            self._tell_schedule(replace(self.settings, steps=steps))
        now = self._sitting()
        self._tell_difference({**now, **(self.sittings[-1] if self.sittings else {})}, now)
        self.sittings.append(now)

    def _load_state(self, meta: dict[str, Any], arrays: dict[str, Array]) -> None:
        """Set what `save` wrote; one of `checkpoint.WRONG_VALUES` if it cannot be so."""
        step = whole("step", meta["step"], 0)
        if step > self.settings.steps or meta["batches"] != step * len(self.objectives):
            raise ValueError(
                f"{step} steps and {meta['batches']} batches in a run of {self.settings.steps} steps"
            )
        history = checkpoint.section(arrays, "history")
        with np.errstate(over="raise"):  # values beyond those of float32
            for name, values in history.items():
                if values.shape not in {(step * n,) for n in self.times.values()}:
                    raise ValueError(f"the history of {name} has shape {values.shape}, step {step}")
                values.astype(np.float32)
            self.model.load_state_dict(checkpoint.section(arrays, "model"))
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(checkpoint.section(arrays, f"optimizer/{name}"))
                if optimizer.steps != step * self.times[name]:
                    raise ValueError(f"{optimizer.steps} updates of the {name} in {step} steps")
            for name, average in self.averages.items():
                average.load_state_dict(checkpoint.section(arrays, f"ema/{name}"))
                if average.updates != step * self.times[name]:
                    raise ValueError(f"{average.updates} in the average of {name}, {step} steps")
        if bad := not_finite(self.model.named_parameters()):
            raise ValueError(f"{bad} holds NaN or an infinity")
        self.step, self.batches = step, meta["batches"]
        self.rng.state = meta["rng"]
        self.history = {name: values.tolist() for name, values in history.items()}

    def _tell_schedule(self, before: Settings) -> None:
        """Say what a longer run does to the learning rate."""
        was, is_now = (_schedule(s)(self.step) for s in (before, self.settings))
        _tell(
            f"{before.steps} steps become {self.settings.steps}: from step {self.step} on the "
            f"learning rate is that of the longer run, {is_now:.2g} instead of {was:.2g}"
        )

    def _tell_difference(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        """Say what this sitting computes with that the one before did not."""
        differing = [
            f"{name} {now[name]} instead of {before[name]}"
            for name in ("kernels", "threads", "numpy")
            if now[name] != before[name]
        ]
        if differing:
            _tell(f"resumed with {', '.join(differing)}: the last bits may differ")


def _tell(remark: str) -> None:
    logging.getLogger("tinygen").warning("tinygen: %s", remark)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop: steps are finished, never torn."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, before[number])  # a second Ctrl-C interrupts at once

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        stops = [signal.SIGINT, signal.SIGTERM]
        # A terminal that closes; but a run that was told to outlive it (nohup) does.
        hangup = getattr(signal, "SIGHUP", None)
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
            stops.append(hangup)
        before = {s: signal.signal(s, ask) for s in stops}
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
        left = (steps - step) / rate if rate else 0.0
        print(
            f"step {step}/{steps}  {_latest(history)}  {rate:.0f} steps/s  {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return show_line


def _latest(history: History) -> str:
    """Each term, averaged over its last 50 values."""
    return "  ".join(f"{k} {np.mean(v[-50:]):.4f}" for k, v in history.items())
