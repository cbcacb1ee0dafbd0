"""A run: the training loop, and around it checkpoints, exact resume, signals, errors that explain.

A run is a function of its seed alone. So a checkpoint (parameters, optimiser state, averages, three
counters) is enough to continue to the same parameters, bit for bit, as a run that never stopped.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from tinygen import checkpoint, kernels
from tinygen.autodiff.engine import Tensor
from tinygen.autodiff.modes import detect_anomaly
from tinygen.autodiff.transforms import gradients
from tinygen.backend import keep_freed_memory, namespace_of, to_device
from tinygen.errors import CheckpointError, NonFiniteError, renamed, whole
from tinygen.folder import CHECKPOINT, locked
from tinygen.parallel import Ranks, ranks_of
from tinygen.training.loop import (
    Data,
    History,
    Loop,
    NonFiniteStep,
    Settings,
    Trainable,
    schedule,
)
from tinygen.training.programs import records
from tinygen.training.progress import progress

__all__ = ["WATCH_STEPS", "Stopped", "fingerprint", "not_finite", "recorded", "train"]

Array = np.ndarray[Any, Any]
T = TypeVar("T")
WATCH_STEPS = 100  # from one look at the state of the run to the next
SHOWN = 100  # steps, of graphs on a GPU, until the progress is shown again, which waits for them
COMPILED_FROM = 2000  # steps: from then on a run gains more than compiling takes


class Stopped(KeyboardInterrupt):
    """The run was asked to stop (Ctrl-C); if it has a folder, it has saved where it was."""


def train(
    model: Trainable,
    data: Array | Data,
    settings: Settings,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    meta: dict[str, Any] | None = None,
    checkpoint_seconds: float = 15.0,
    show_progress: bool | str = False,
    compile: bool | None = None,
    callback: Callable[[int, dict[str, float]], None] | None = None,
    look: Callable[[int], None] | None = None,
    look_at: Collection[int] = (),
    comm: Any = None,
) -> History:
    """Train `model` on `data` and return the history of its losses.

    data: rows x (n, d), or a tuple of arrays of equal length, (x,) or (x, labels). Each batch takes
        the same rows of all, and an objective is asked for `loss(*batch, rng=rng)`. Model and data
        are on one device, which is no part of the run: it may be resumed on the other.
    folder: made if it does not exist. `checkpoint.npz` in it is renewed every `checkpoint_seconds`
        and at the end, and holds `meta` for whoever loads the model.
    resume: continue from that file, also to more steps than the run was started with (its learning
        rate is then the longer run's).
    show_progress: True, or a line to show before.
    compile: steps as programs (`tinygen.compile`), on the GPU as graphs. By default it is done on the CPU,
        for models that are tinygen's in all their parts and runs that are long enough to gain by it.
        True does it for any: a loss that counts or prints does so only while it is recorded, in the
        first two steps. What cannot be recorded runs eagerly, and a line says so.
    callback: called after each step with its number, from 1, and the terms of its losses by name; of an
        objective with several updates in a step, those of the last. For a log, such as `CsvLog`. An
        error in it ends the run as any error does: the folder holds an earlier state. A run that is
        resumed calls again for what came after its checkpoint.
    look: called with the number of steps taken when that is in `look_at`; 0 is before the first. The
        model is then what it would be if the training ended here, with averaged parameters. `look`
        draws from a generator of its own: then the run's bits are as without it. A run that is
        resumed looks again at what came after its checkpoint.
    comm: an mpi4py communicator, whose ranks all call this with the same model, data and settings; they
        share the rows of every batch (`tinygen.parallel`). The result is that of one process up to the
        order of sums. Rank 0 alone writes the folder, calls back, looks and shows; all read the folder to
        resume. An error on some ranks ends all ranks, with a line.
    The model ends with the averaged parameters if the settings ask for an average.
    What the model sees going wrong (`Model.watch`), and what a resumed run computes with that is
    not what it was started with, is told by the logger "tinygen", on stderr.
    NonFiniteError: a loss or gradient became NaN or infinite; the message names the step and the
    operation, the last checkpoint is from before. Stopped: on Ctrl-C, SIGTERM or SIGHUP, after a
    checkpoint. CheckpointError: the checkpoint is damaged, or does not belong to this model, these
    settings or this data. FileExistsError: the folder holds a run, and `resume` was not asked for.
    BlockingIOError: another run is under way in the folder.
    """
    if not checkpoint_seconds >= 0:
        raise ValueError(f"checkpoint_seconds is a number from 0, not {checkpoint_seconds!r}")
    keep_freed_memory()
    data = data if isinstance(data, tuple) else (data,)
    if len({len(a) for a in data}) > 1:
        raise ValueError(f"data of different lengths: {[len(a) for a in data]}")
    ranks = ranks_of(comm)
    path = None if folder is None else Path(folder) / CHECKPOINT
    with ExitStack() as stack:
        stack.enter_context(ranks.together())
        if path is not None and ranks.rank == 0:
            if not resume:
                path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path.parent))
        # NumPy's warnings would only repeat what the checks say with a name.
        stack.enter_context(np.errstate(all="ignore"))
        compiled = worthwhile(model, data, settings) if compile is None else compile
        run = _Run(model, data, settings, path, meta or {}, compiled, ranks)
        if resume:
            run.restore()
        if ranks.rank:
            run.path, show_progress = None, False
        else:
            run.callback, run.look, run.look_at = callback, look, look_at
        if run.path is not None and not resume:
            if run.path.exists():
                raise FileExistsError(f"{path} exists: resume that run, or choose another folder")
            run.save()  # from the start there is something to resume from
        if isinstance(show_progress, str):
            print(show_progress, file=sys.stderr)
        stack.enter_context(ranks.drawing(run.loop.random, run.loop.batch))
        try:
            return run.to_the_end(checkpoint_seconds, bool(show_progress))
        finally:
            run.loop.updates.clear()  # which refer to the loop: so the model lives no longer than its names


def worthwhile(model: Trainable, data: Data, settings: Settings) -> bool:
    """Whether steps are compiled unless told otherwise. It does not depend on where a run resumes."""
    long, on_cpu = settings.steps >= COMPILED_FROM, namespace_of(data[0]).device == "cpu"
    return long and on_cpu and records(model, *(o.loss for o in model.objectives()))


def fingerprint(data: Sequence[Array]) -> list[Any]:
    """Shape and CRC-32 of each array, by which a checkpoint knows what it was trained on."""
    found: list[Any] = []
    for array in data:
        on_cpu = np.ascontiguousarray(to_device(array, "cpu"))
        found += [list(array.shape), zlib.crc32(on_cpu)]  # type: ignore[arg-type]
    return found


def not_finite(parameters: dict[str, Tensor]) -> str | None:
    """The name of the first parameter that holds a NaN or an infinity, None if none does."""
    return next(
        (n for n, p in parameters.items() if not namespace_of(p.data).isfinite(p.data).all()), None
    )


def _surroundings(device: str) -> dict[str, str]:
    """What a run computes with, on which the last bits of its results depend."""
    return {
        "kernels": kernels.description(device).split()[0].strip(",:"),
        "threads": str(kernels.get_threads()),
        "numpy": np.__version__,
    }


class _Run:
    """A loop and its folder: what is done between the steps."""

    def __init__(
        self,
        model: Trainable,
        data: Data,
        settings: Settings,
        path: Path | None,
        meta: dict[str, Any],
        compiled: bool,
        ranks: Ranks,
    ) -> None:
        self.model, self.x, self.settings = model, data[0], settings
        self.path, self.meta = path, meta
        self.callback: Callable[[int, dict[str, float]], None] | None = None
        self.look: Callable[[int], None] | None = None  # and the steps at which it is called
        self.look_at: Collection[int] = ()
        for name, p in model.named_parameters().items():
            p.name = name  # for graph drawings and error messages
        on_gpu = namespace_of(self.x).device == "gpu"
        # A graph holds no exchange with other processes.
        self.by_graphs = compiled and on_gpu and ranks.size == 1
        if self.by_graphs:
            from tinygen.training.graphs import GraphLoop  # what no run on the CPU needs

            self.loop: Loop = GraphLoop(model, data, settings)
        else:
            self.loop = Loop(model, data, settings, compiled and not on_gpu)
        self.ranks = self.loop.ranks = ranks
        self._data = fingerprint(data)
        self._began = time.monotonic()
        self.sittings = [self._sitting()]

    def _sitting(self) -> dict[str, Any]:
        """Where a part of the run between a start and a stop began, and what it computes with."""
        device = namespace_of(self.x).device
        steps = "compiled" if self.loop.compiled else "eager"
        place = {"from_step": self.loop.step, "seconds": 0.0, "steps": steps, "told": []}
        return place | {"ranks": self.ranks.size} | _surroundings(device)

    def _tell(self, remark: str) -> None:
        self.sittings[-1]["told"].append(remark)
        if self.ranks.rank == 0:
            logging.getLogger("tinygen").warning("tinygen: %s", remark)

    def to_the_end(self, checkpoint_seconds: float, show_progress: bool) -> History:
        """Take the steps that are left; see `train`."""
        model, loop, steps = self.model, self.loop, self.settings.steps
        ranks = self.ranks
        self._check_alike()
        watch = model.watch(self.x, self.settings) if ranks.rank == 0 else lambda: None
        model.train()
        show = progress(steps, loop.step) if show_progress else None
        saved = time.monotonic()
        with _stop_signals() as asked_to_stop:
            while loop.step < steps and not ranks.any(asked_to_stop):
                if loop.step % WATCH_STEPS == 0:
                    self._check_equal()
                self._look()
                self._advance()
                if self.callback is not None:  # before the checkpoint, which knows of the step
                    self.callback(loop.step, {k: v[-1] for k, v in self._history().items()})
                if loop.step % WATCH_STEPS == 0 and (remark := watch()):
                    self._tell(f"step {loop.step}: {remark}")
                if show and (loop.step % SHOWN == 0 or not self.by_graphs):
                    show(loop.step, self._history())
                if self.path is not None and time.monotonic() - saved >= checkpoint_seconds:
                    self._check_parameters()
                    self.save()
                    model.train()
                    saved = time.monotonic()
        self._check_parameters()
        if show:
            show(loop.step, loop.history, last=True)
        self._check_equal()
        self._look()
        if self.path is not None:
            self.save()
        else:
            self._finish()
        if ranks.any(asked_to_stop):
            raise Stopped(f"stopped after step {loop.step} of {steps}")
        for average in loop.averages.values():
            for name, p in average.parameters.items():
                p.data[...] = average.average[name]
        return loop.history

    def _advance(self) -> None:
        self._explained(self.loop.advance)

    def _explained(self, function: Callable[[], T]) -> T:
        """What the function returns."""
        try:
            return function()
        except NonFiniteStep as failed:
            self._explain(failed)

    def _history(self) -> History:
        """That of the steps so far. On a GPU this waits for them."""
        return self._explained(lambda: self.loop.history)

    def _explain(self, failed: NonFiniteStep) -> NoReturn:
        """The same computation once more, watched, to name the operation that failed, on any rank."""
        objective, rng = failed.objective, self.loop.rng
        step = f"step {self.loop.step + 1}, objective {objective.name}"
        for generator, state in zip(self.loop.random, failed.states, strict=True):
            generator.state = state
        found = None
        try:
            with detect_anomaly():
                terms = objective.loss(*failed.batch, rng=rng)
                gradients(next(iter(terms.values())), list(objective.parameters.values()))
        except NonFiniteError as error:
            found = str(error)
        named = [text for text in self.ranks.gather(found) if text is not None]
        what = named[0] if named else "the norm of the gradient is not finite"
        raise NonFiniteError(f"{step}: {what}{self._kept()}") from None

    def _check_parameters(self) -> None:
        """NonFiniteError if the last update spoiled a parameter; before that is saved."""
        self._history()  # now all updates are done
        if name := not_finite(self.model.named_parameters()):
            raise NonFiniteError(
                f"step {self.loop.step}: the update made {name} infinite or NaN; lower the "
                f"learning rate{self._kept()}"
            )

    def _check_alike(self) -> None:
        """ValueError if the ranks were given different things, or compute in different ways."""
        given = {**self._identity(), "options": self.meta.get("config"), **self.sittings[-1]}
        may_differ = ("seconds", "threads", "told")
        self.ranks.agree(**{k: v for k, v in given.items() if k not in may_differ})

    def _check_equal(self) -> None:
        """ValueError if the ranks, which compute the same updates, hold different parameters."""
        if self.ranks.size > 1:
            parameters = [p.data for p in self.model.named_parameters().values()]
            self.ranks.agree(**{f"parameters at step {self.loop.step}": fingerprint(parameters)})

    def _kept(self) -> str:
        return f"; {self.path} holds an earlier state" if self.path else ""

    def _finish(self, then: Callable[[int], None] = lambda step: None) -> None:
        """Let the model measure what its parameters, averaged if they are, leave open."""
        self.model.eval()
        with ExitStack() as stack:
            for average in self.loop.averages.values():
                stack.enter_context(average.applied())
            self.model.finish(self.x)
            then(self.loop.step)

    def _look(self) -> None:
        if self.look is not None and self.loop.step in self.look_at:
            self._check_parameters()
            self._finish(self.look)
            self.model.train()

    # -- checkpoints -----------------------------------------------------------------------------
    def _identity(self) -> dict[str, Any]:
        """What must be equal between a checkpoint and the run that resumes from it."""
        return {"settings": asdict(self.settings), "data": self._data}

    def save(self) -> None:
        """Write the whole state: a run to continue, and a finished model to load."""
        assert self.path is not None
        loop = self.loop
        self._finish()
        arrays = checkpoint.prefixed("model", self.model.state_dict())
        arrays |= checkpoint.prefixed("history", loop.history)
        for name, optimizer in loop.optimizers.items():
            arrays |= checkpoint.prefixed(f"optimizer/{name}", optimizer.state_dict())
        for name, average in loop.averages.items():
            arrays |= checkpoint.prefixed(f"ema/{name}", average.state_dict())
        self.sittings[-1]["seconds"] = round(time.monotonic() - self._began, 2)
        state = {
            "step": loop.step, "batches": loop.batches, "rng": list(loop.rng.state),
            "sittings": self.sittings,
        }  # fmt: skip
        checkpoint.write(self.path, {**self.meta, **self._identity(), **state}, arrays)

    def restore(self) -> None:
        """Continue from the checkpoint; CheckpointError if it is not of this run."""
        if self.path is None:
            raise ValueError("resume needs a folder")
        meta, arrays = checkpoint.read(self.path)
        _check_names(self.path, meta)
        started = {"settings": {}, "sittings": [], **meta}
        steps = started["settings"].get("steps")
        started["settings"] = _lengthened(started["settings"], self.settings.steps)
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
        now = self._sitting()
        # What an older version did not keep.
        before = {**now, "steps": "eager", "ranks": 1}
        before |= self.sittings[-1] if self.sittings else {}
        self.sittings.append(now)
        if steps != self.settings.steps:
            self._tell_schedule(replace(self.settings, steps=steps))
        self._tell_difference(before, now)

    def _load_state(self, meta: dict[str, Any], arrays: dict[str, Array]) -> None:
        """Set what `save` wrote; one of `checkpoint.WRONG_VALUES` if it cannot be so."""
        loop, step = self.loop, whole("step", meta["step"], 0)
        if step > self.settings.steps or meta["batches"] != step * len(loop.objectives):
            raise ValueError(
                f"{step} steps and {meta['batches']} batches in a run of {self.settings.steps} steps"
            )
        history = checkpoint.section(arrays, "history")
        with np.errstate(over="raise"):  # values beyond those of float32
            for name, values in history.items():
                if values.shape not in {(step * n,) for n in loop.times.values()}:
                    raise ValueError(f"the history of {name} has shape {values.shape}, step {step}")
                values.astype(np.float32)
            self.model.load_state_dict(checkpoint.section(arrays, "model"))
            for name, optimizer in loop.optimizers.items():
                optimizer.load_state_dict(checkpoint.section(arrays, f"optimizer/{name}"))
                if optimizer.steps != step * loop.times[name]:
                    raise ValueError(f"{optimizer.steps} updates of the {name} in {step} steps")
            for name, average in loop.averages.items():
                average.load_state_dict(checkpoint.section(arrays, f"ema/{name}"))
                if average.updates != step * loop.times[name]:
                    raise ValueError(f"{average.updates} in the average of {name}, {step} steps")
        if bad := not_finite(self.model.named_parameters()):
            raise ValueError(f"{bad} holds NaN or an infinity")
        loop.step, loop.batches, loop.rng.state = step, meta["batches"], meta["rng"]
        loop.history.update((name, values.tolist()) for name, values in history.items())

    def _tell_schedule(self, before: Settings) -> None:
        """Say what a longer run does to the learning rate."""
        was, is_now = (schedule(s)(self.loop.step) for s in (before, self.settings))
        self._tell(
            f"{before.steps} steps become {self.settings.steps}: from step {self.loop.step} on the "
            f"learning rate is that of the longer run, {is_now:.2g} instead of {was:.2g}"
        )

    def _tell_difference(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        """Say what this sitting computes with that the one before did not."""
        differing = [
            f"{name} {now[name]} instead of {before[name]}"
            for name in ("steps", "ranks", "kernels", "threads", "numpy")
            if now[name] != before[name]
        ]
        if differing:
            self._tell(f"resumed with {', '.join(differing)}: the last bits may differ")


# -- what a resumed run may change ---------------------------------------------------------------
def recorded(
    folder: str | Path, cls: Any, given: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """What the command in `folder` was started with: `data`, `data_dir`, `csv`, `options`, `settings`.

    cls: the model's class. given, options: what is asked for now, by name: settings, where the data
    are and how they are read; options of the model. It may differ in two things: more steps, and
    another place of the data. ValueError: it differs otherwise. CheckpointError: the file is damaged.
    """
    path = Path(folder) / CHECKPOINT
    meta, arrays = checkpoint.read(path)
    if not {"run", "settings"} <= meta.keys():
        raise ValueError(f"{folder} was not started from the command line: resume it in Python")
    if meta["model"] != cls.__name__:
        raise ValueError(f"{folder} holds a {meta['model']}; resume it under its own name")
    _check_names(path, meta)
    cls.from_file(path, meta, arrays)  # what it asks for fits what it holds
    run = {"csv": {}, **meta["run"]}
    for name, value in dict(run["options"]).items():
        if meta["config"].get(name) != value:
            raise CheckpointError(f"{path} is damaged: {name} = {value!r}")
    settings = _lengthened(meta["settings"], given.get("steps", 0))
    moved = given.get("data")
    if moved is not None and Path(moved).is_file():  # that it is the same content is checked later
        run["data"] = moved
    was = settings | {"data": run["data"]} | run["csv"]
    for now, then in ((given, was), (json.loads(json.dumps(options)), meta["config"])):
        for name, value in now.items():
            if then.get(name) != value:
                raise ValueError(
                    f"{folder} was started with {name} = {then.get(name)!r}, not {value!r}; "
                    "leave the option out to resume, or start a new run in another folder"
                )
    return {**run, "settings": Settings(**settings)}


def _lengthened(settings: dict[str, Any], steps: int) -> dict[str, Any]:
    """The settings in a file, with `steps` if that is more: a run may become longer."""
    before = settings.get("steps")
    return {**settings, "steps": steps} if type(before) is int and before < steps else settings


def _check_names(path: Path, meta: dict[str, Any]) -> None:
    """CheckpointError: a setting in the file has another name in this version."""
    if change := renamed("Settings", meta.get("settings", {})):
        raise CheckpointError(f"{path} cannot be resumed by this version: {change}")


# -- what stops a run ----------------------------------------------------------------------------
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
