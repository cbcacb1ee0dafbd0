"""The command line: `python -m tinygen COMMAND`; `--help` lists the commands."""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import logging
import os
import platform
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from math import inf
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn

import numpy as np

import tinygen
from tinygen import checkpoint, data, kernels, pictures
from tinygen.autodiff import graph_dot, graph_text
from tinygen.backend import DEVICES, gpu_problem, namespace_for, to_device
from tinygen.errors import RENAMED, DeviceError, renamed, unknown, whole
from tinygen.evaluation import evaluate
from tinygen.folder import CHECKPOINT, is_leftover, locked
from tinygen.kernels import pool
from tinygen.models import MODELS, Model, load
from tinygen.models.diffusion import DDPM
from tinygen.models.model import choose
from tinygen.npz import free_memory
from tinygen.parallel import Ranks, by_rows, started
from tinygen.random import Generator
from tinygen.report import graph_html, recording
from tinygen.report.run import run_html
from tinygen.sweep import combinations, measures, table, workers
from tinygen.training import History, Stopped, fingerprint, recorded

PROGRAM = "tinygen" if Path(sys.argv[0]).stem == "tinygen" else "python -m tinygen"
SETTINGS = {  # the models' own defaults stand in `info`
    "steps": "updates of the parameters",
    "batch": "examples in each",
    "lr": "learning rate, reached after the warm-up; it then falls along a cosine to 0",
    "warmup": "steps of the warm-up",
    "clip": "limit of the norm of the gradient",
    "ema_decay": "decay of the average of the parameters, 0 for none",
    "seed": "of everything random in the run",
}
NOBODY_READS = 128 + 13  # the status of what SIGPIPE ends, as it would `cat`
SHARED = ("train", "sample", "evaluate", "sweep")  # the commands whose work several processes share
REPORT, MEASURES, TABLE = "report.html", "metrics.json", "table.md"
SAMPLES = 100  # in a picture
MEASURED = 256  # for the measures
QUICK = 10  # steps of the sampler of a DDPM that is still in training
FEW = 1000  # features of a model that may be made without asking for memory
# Of memory for a parameter: itself, its gradient, two moments, its average, and a checkpoint that is
# being written. Peaks of 35 (ae, vae) to 50 (ddpm) were measured.
BYTES = 48

FITTING: dict[
    str, tuple[Callable[[Any], bool], str]
] = {  # for an annotation of an option: what fits it, and how to say so
    "int": (lambda v: type(v) is int, "a whole number"),
    "float": (lambda v: type(v) in (int, float) and abs(v) < inf, "a number"),
    "bool": (lambda v: type(v) is bool, "true or false"),
    "Sequence[int]": (
        lambda v: isinstance(v, list) and all(type(w) is int for w in v),
        "a list of whole numbers, such as '[256, 128]'",
    ),
}


# -- train ---------------------------------------------------------------------------------------
def train(args: argparse.Namespace) -> None:
    """The command `train`: to the end of a run and its measures."""
    folder = Path(args.out)
    choose("model", args.model, MODELS)  # ValueError if there is none
    chosen, device = _chosen(args), _device(args.device)
    if args.resume:
        try:
            chosen = recorded(folder, MODELS[args.model], chosen["given"], chosen["options"])
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}: leave --resume out to start the run") from None
    dataset = data.load(
        chosen["data"], args.data_dir or chosen["data_dir"], args.download, **chosen["csv"]
    )
    model = _make(args.model, dataset, chosen["options"], chosen["settings"].seed).to(device)
    labels = _labels(model, dataset)
    if args.ranks.rank:
        _train(args, folder, chosen, dataset, model, labels)
        return
    if not args.resume:
        _new_folder(folder)
    with locked(folder):
        _train(args, folder, chosen, dataset, model, labels)


def _train(
    args: argparse.Namespace,
    folder: Path,
    chosen: dict[str, Any],
    dataset: data.Dataset,
    model: Any,
    labels: Any,
) -> None:
    """Train the model in a folder that is this process's alone, and measure it."""
    _require_plots(args)
    device = model.device
    title = (
        f"{args.model} on {dataset.name}: {len(dataset.x)} rows of {model.features}, "
        f"{_size(model)} parameters, "
        f"{chosen['settings'].steps} training steps of {chosen['settings'].batch} on the {device}"
        f"{f', by {args.ranks.size} processes' if args.ranks.size > 1 else ''}"
    )
    kept = ("data_dir", "options", "csv")
    run = {"data": dataset.name, **{name: chosen[name] for name in kept}}
    snapshots = _snapshots(args, folder, model, dataset, chosen["settings"].seed)
    history = model.fit(
        to_device(dataset.x, device),
        settings=chosen["settings"],
        folder=folder,
        resume=args.resume,
        meta={**model.description(), "run": run, "image_shape": dataset.image_shape},
        checkpoint_seconds=args.checkpoint_seconds,
        show_progress=title,
        compile=False if args.eager else None,
        look=snapshots,
        look_at=pictures.moments(chosen["settings"].steps),
        comm=args.ranks,
        **({} if labels is None else {"labels": labels}),
    )
    samples = _samples(model, dataset, MEASURED, chosen["settings"].seed, args.ranks)
    measures = evaluate(model, dataset, samples, comm=args.ranks)
    if args.ranks.rank:
        return
    sittings = checkpoint.read(folder / CHECKPOINT)[0]["sittings"]
    seconds = sum(sitting["seconds"] for sitting in sittings)
    metrics = {
        "model": args.model,
        **run,
        "settings": asdict(chosen["settings"]),
        "device": device,
        "seconds": round(seconds, 2),
        "sittings": sittings,
        "final": {k: float(np.mean(v[-100:])) for k, v in history.items()},
        **measures,
        "versions": _versions(),
    }
    _write_text(folder / MEASURES, json.dumps(metrics, indent=2) + "\n")
    drawn = _draw(folder, model, dataset, to_device(samples, "cpu"), history)
    if snapshots is not None:
        snapshots.animate()
        drawn += ["progress.png", "training.gif"]
    commands = _commands(args, chosen["settings"].steps)
    files = {name: (folder / name).read_bytes() for name in drawn}
    told = {**metrics, "options": model.config}  # also those that nobody gave
    _write_text(folder / REPORT, run_html(told, history, files, commands))
    written = [CHECKPOINT, MEASURES, *drawn, REPORT]
    print(f"{folder}: {', '.join(written)} after {seconds:.0f} s")
    print(_summary(metrics))
    print(f"next: {', or '.join([*commands.values()][:2])}")
    print(f"report: {folder / REPORT}")


def _commands(args: argparse.Namespace, steps: int) -> dict[str, str]:
    """What to do with a run, by what it does."""
    at = shlex.quote(args.out)
    return {
        "Draw samples": f"{PROGRAM} sample {at}",
        "Measure again, with more samples": f"{PROGRAM} evaluate {at} --n 2000",
        "Samples as numbers": f"{PROGRAM} sample {at} --n 1000 --out samples.npy",
        "Train twice as long": f"{PROGRAM} train {args.model} --out {at} --resume --steps {2 * steps}",
        "What the checkpoint holds": f"{PROGRAM} info {at}",
    }


def _device(word: str) -> str:
    """The device meant; DeviceError: the GPU was asked for by name and cannot be used."""
    if word == "auto":
        return "cpu" if gpu_problem() else "gpu"
    namespace_for(word)
    return word


def _chosen(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line asks for; settings that it leaves out are the model's own."""
    old = [name for name in RENAMED["Settings"] if getattr(args, name) is not None]
    if change := renamed("Settings", old, _flag):
        raise ValueError(change)
    given = {name: getattr(args, name) for name in SETTINGS}
    given = {name: value for name, value in given.items() if value is not None}
    whole("--steps", given.get("steps", 1))
    if not args.checkpoint_seconds >= 0:
        raise ValueError(f"--checkpoint-seconds is a number from 0, not {args.checkpoint_seconds}")
    csv_options = _csv_options(args)
    name = args.data or "digits"
    if name not in data.names() and Path(name).exists():
        name = os.path.abspath(name)  # found again from another folder
    return {
        "model": args.model,
        "data": name,
        "data_dir": args.data_dir,
        "csv": csv_options,
        "options": _options(args.model, args.set or []),
        "settings": MODELS[args.model].defaults.changed(**given),
        "given": given | csv_options | ({"data": name} if args.data else {}),
    }


def _csv_options(args: argparse.Namespace) -> dict[str, Any]:
    """How a .csv file is to be read, as far as the command line says it."""
    columns = next(csv.reader([args.columns])) if args.columns else None
    options = {
        "columns": columns, "label_column": args.label_column, "delimiter": args.delimiter
    }  # fmt: skip
    return {name: value for name, value in options.items() if value is not None}


def _options(model: str, pairs: list[str]) -> dict[str, Any]:
    """Options of the model's constructor from NAME=VALUE; values are JSON or plain words."""
    known = _defaults(model)
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, not {pair!r}")
        if name not in known:
            if change := renamed(MODELS[model].__name__, [name]):
                raise ValueError(f"--set of {model}: {change}")
            raise unknown(f"option of {model}", name, known)
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
        _check_option(model, name, options[name])
    return options


def _check_option(model: str, name: str, value: Any) -> None:
    """ValueError if the value cannot be meant; what the model makes of it, the model checks."""
    kinds = inspect.signature(MODELS[model].__init__).parameters[name].annotation.split(" | ")
    fitting = [FITTING[kind] for kind in kinds if kind in FITTING]
    if len(fitting) + ("None" in kinds) < len(kinds) or (value is None and "None" in kinds):
        return
    if not any(fits(value) for fits, _ in fitting):
        what = " or ".join([text for _, text in fitting] + ["null"] * ("None" in kinds))
        raise ValueError(f"--set {name}=... of {model} takes {what}, not {value!r}")


def _defaults(model: str) -> dict[str, Any]:
    """The options of a model's constructor that are the user's to choose, with their defaults."""
    parameters = inspect.signature(MODELS[model].__init__).parameters.values()
    ours = ("self", "features", "bounded", "seed")
    return {p.name: p.default for p in parameters if p.name not in ours}


def _make(name: str, dataset: data.Dataset, options: dict[str, Any], seed: int) -> Model:
    """A new model for the data: bounded for images, measured scale for others."""
    cls: Any = MODELS[name]
    takes = inspect.signature(cls.__init__).parameters
    image = dataset.image_shape is not None
    fitting: dict[str, Any] = {"bounded": image} if "bounded" in takes else {}
    if "likelihood" in takes:
        fitting["likelihood"] = "bernoulli" if image else "gaussian"
    options = {**fitting, **options, "seed": seed}
    try:
        _check_memory(name, dataset.x.shape[1], options)
        return cls(dataset.x.shape[1], **options)
    except TypeError as error:
        raise ValueError(f"options {options} do not fit {name}: {error}") from error


def _check_memory(name: str, features: int, options: dict[str, Any]) -> None:
    """ValueError if a model for so many features cannot be trained in the memory that is free."""
    if features <= FEW:
        return
    # Each feature brings as many parameters as any other, so that small models tell of a large one.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model itself will warn
        small, next_ = (_size(MODELS[name](n, **options)) for n in (FEW, FEW + 1))
    needed = BYTES * (small + (next_ - small) * (features - FEW))
    free = free_memory()
    if needed > free:
        raise ValueError(
            f"the parameters of {name} for rows of {features} numbers take about "
            f"{needed / 1e9:.2g} GB in training, {free / 1e9:.2g} GB are free: give it fewer "
            f"columns or smaller layers (--set; {PROGRAM} info lists the options)"
        )


def _size(model: Model) -> int:
    return sum(p.size for p in model.parameters())


def _labels(model: Any, dataset: data.Dataset) -> Any:
    """The labels that a model with classes is trained with, None for another; ValueError: there are
    none, or they do not fit."""
    if not getattr(model, "classes", 0):
        return None
    if dataset.y is None:
        raise ValueError(f"{dataset.name} has no labels for {model.classes} classes")
    return model.check_labels(to_device(dataset.y, model.device), len(dataset.x))


def _samples(
    model: Any, dataset: data.Dataset, n: int, seed: int, ranks: Ranks, **options: Any
) -> Any:
    """Samples to be measured: of a model with classes, each as often as in the data."""
    labels = _labels(model, dataset)

    def drawn(n: int, rng: Generator) -> Any:
        if labels is None:
            return model.sample(n, rng=rng, **options)
        rows = rng.integers(0, len(labels), n, device=model.device)
        return model.sample(n, labels=labels[rows], rng=rng, **options)

    return by_rows(ranks, drawn, n, rng=seed)


def _new_folder(folder: Path) -> None:
    """Make it; ValueError if it holds anything but what a run leaves that was killed as it began."""
    if folder.exists() and not (folder.is_dir() and all(map(is_leftover, folder.iterdir()))):
        raise ValueError(
            f"{folder} exists already and is not an empty folder; "
            "--resume continues the run in it, another --out starts a new one"
        )
    folder.mkdir(parents=True, exist_ok=True)


# -- sweep ---------------------------------------------------------------------------------------
def sweep(args: argparse.Namespace) -> int:
    """The command `sweep`: 1 if a run failed."""
    folder, first = Path(args.out), args.seed or 0
    points = combinations(args.set or [])
    jobs = []
    for point in points:
        for seed in range(first, first + whole("--seeds", args.seeds)):
            name = ",".join(f"{name}={value}" for name, value in (*point, ("seed", seed)))
            new = {"out": str(folder / name), "seed": seed, "ranks": Ranks(), "command": "train"}
            new["set"] = [f"{name}={value}" for name, value in point]
            jobs.append(argparse.Namespace(**{**vars(args), **new, "function": train}))
            _chosen(jobs[-1])  # ValueError for what no run could take
    found: dict[Any, list[dict[str, float]]] = {}
    with workers(args.ranks) as run_all:
        if run_all is None:
            return 0
        folder.mkdir(parents=True, exist_ok=True)
        of_jobs = [point for point in points for _ in range(args.seeds)]
        for point, job, result in zip(of_jobs, jobs, run_all(_one_run, jobs), strict=True):
            print(f"{job.out}: {_summary(result) if result else 'failed'}", file=sys.stderr)
            if result:
                found.setdefault(point, []).append(measures(result))
    if found:
        text = table(found)
        _write_text(folder / TABLE, text + "\n")
        print(text)
    return 0 if sum(map(len, found.values())) == len(jobs) else 1


def _one_run(args: argparse.Namespace) -> dict[str, Any] | None:
    """The measures of a run, None if it failed; what it says goes to a file beside its folder.

    A run that has ended is read, and one that was stopped goes on.
    """
    at = Path(args.out)
    args.resume = (at / CHECKPOINT).exists()
    if not (at / MEASURES).exists():
        with open(f"{at}.log", "a") as log, redirect_stdout(log), redirect_stderr(log):
            if _performed(args):
                return None
    measured: dict[str, Any] = json.loads((at / MEASURES).read_text(encoding="utf-8"))
    return measured


# -- sample, evaluate ----------------------------------------------------------------------------
def sample(args: argparse.Namespace) -> None:
    """The command `sample`."""
    path = _checkpoint_of(args.run)
    out = args.out if args.out is not None else str(path.parent / f"samples-{args.seed}.png")
    meta, _ = checkpoint.read(path)
    target = _target("--out", out, ".png", ".npy")
    if target.suffix == ".png":
        _require_plots(args)
    model = load(path).to(_device(args.device))
    condition = {"labels": args.label, "guidance": args.guidance}
    condition = {name: value for name, value in condition.items() if value is not None}
    classes = getattr(model, "classes", 0)
    if condition and not classes:
        raise ValueError("--label and --guidance are for a diffusion model with classes")
    if args.label is not None and not 0 <= args.label < classes:
        raise ValueError(
            f"--label is one of the {classes} classes, 0 to {classes - 1}, not {args.label}"
        )
    if args.guidance is not None and not 0 <= args.guidance < inf:
        raise ValueError(f"--guidance is a number from 0, not {args.guidance}")
    if args.eager and isinstance(model, DDPM):
        condition["compile"] = False

    def drawn(n: int, rng: Generator) -> Any:
        return model.sample(n, rng=rng, **condition)

    with np.errstate(all="ignore"):  # what overflows is told below
        samples = to_device(by_rows(args.ranks, drawn, args.n, rng=args.seed), "cpu")
    if args.ranks.rank:
        return
    if not np.isfinite(samples).all():
        raise ValueError(f"{path}: the samples are not finite; its parameters have grown too large")
    if target.suffix == ".npy":
        with checkpoint.replacing(target) as temporary, open(temporary, "wb") as file:
            np.save(file, samples)
    elif meta.get("image_shape"):
        pictures.image_grid(target, samples, tuple(meta["image_shape"]))
    else:
        pictures.scatter(target, _dataset_of(meta, args).test, samples)
    print(f"{len(samples)} samples in {target}")


def evaluate_run(args: argparse.Namespace) -> None:
    """The command `evaluate`."""
    path = _checkpoint_of(args.run)
    meta, _ = checkpoint.read(path)
    model, dataset = load(path).to(_device(args.device)), _dataset_of(meta, args)
    samples = _samples(model, dataset, args.n, args.seed, args.ranks)
    print(json.dumps(evaluate(model, dataset, samples, args.seed, args.ranks), indent=2))


def _checkpoint_of(run: str) -> Path:
    path = Path(run)
    return path / CHECKPOINT if path.is_dir() else path


def _dataset_of(meta: dict[str, Any], args: argparse.Namespace) -> data.Dataset:
    """The data of a run; ValueError if what is there now is not what it was trained on."""
    run = meta.get("run")
    if run is None:
        raise ValueError("this checkpoint does not say what it was trained on; train it with --out")
    dataset = data.load(
        args.data or run["data"], args.data_dir or run["data_dir"], **run.get("csv", {})
    )
    labelled = meta["config"].get("classes") and dataset.y is not None
    trained_on = (dataset.x, np.asarray(dataset.y, np.int64)) if labelled else (dataset.x,)
    if fingerprint(trained_on) != meta["data"]:
        raise ValueError(
            f"{dataset.name} is not the data of this run; name where they are with --data"
        )
    return dataset


# -- exercises, check ----------------------------------------------------------------------------
def exercises(args: argparse.Namespace) -> None:
    """The command `exercises`."""
    from tinygen.exercises.check import copy as copy_exercises  # only where it is needed

    print(copy_exercises(Path(args.out)))
    print(f"next: fill the blank of a file, then {PROGRAM} check {shlex.quote(args.out)}")


def check(args: argparse.Namespace) -> int:
    """The command `check`: 1 if a law does not hold."""
    from tinygen.exercises.check import check as grade

    text, done = grade(Path(args.path))
    print(text)
    return 0 if done else 1


# -- explain, info -------------------------------------------------------------------------------
def explain(args: argparse.Namespace) -> None:
    """The command `explain`."""
    choose("model", args.model, MODELS)  # ValueError if there is none
    targets = []
    if args.dot is not None:
        targets.append((_target("--dot", args.dot), graph_dot))
    if args.html is not None:
        targets.append((_target("--html", args.html, ".html"), graph_html))
    dataset = data.load(args.data, args.data_dir, **_csv_options(args))
    model = _make(args.model, dataset, _options(args.model, args.set or []), 0)
    batch = [a[: whole("--batch", args.batch)] for a in model.prepare(dataset.x)]
    for name, p in model.named_parameters().items():
        p.name = name
    objectives = {o.name: o for o in model.objectives()}
    for objective in objectives.values():
        with recording():
            terms = objective.loss(*batch, rng=Generator(0))
            for name, term in terms.items():
                term.name = name
            loss = next(iter(terms.values()))
            print(f"# {objective.name}\n{graph_text(loss)}")
            for target, drawn in targets:
                if len(objectives) > 1:
                    target = target.with_stem(f"{target.stem}-{objective.name}")
                _write_text(target, drawn(loss) + "\n")


def lab(args: argparse.Namespace) -> None:
    """The command `lab`: the models in the plane, as a page or live."""
    from tinygen.lab.page import laboratory  # here: the other commands need not wait for it
    from tinygen.lab.serve import serve

    load = partial(data.load, args.data, args.data_dir, **_csv_options(args))
    if args.out is not None:
        target = _target("--out", args.out, ".html")
        page = laboratory(load(), args.steps, args.seed, lambda line: print(line, file=sys.stderr))
        _write_text(target, page)
        print(f"{args.out}: open it in a browser; it needs no network")
    else:
        serve(args.data, load, args.steps, args.seed, args.port, not args.no_browser)


def info(args: argparse.Namespace) -> None:
    """The command `info`."""
    if args.run:
        meta, _ = checkpoint.read(_checkpoint_of(args.run))
        size = _size(load(_checkpoint_of(args.run)))
        print(json.dumps({**meta, "parameters": size}, indent=2))
        return
    for name, version in _versions().items():
        print(f"{name:12}{version}")
    print(f"{'processors':12}{os.cpu_count()}")
    plot = (f"{m} {'found' if find_spec(m) else 'not installed'}" for m in ("matplotlib", "tqdm"))
    print(f"{'plot':12}{', '.join(plot)}")
    print(f"{'kernels':12}{kernels.description('cpu')}")
    by = "NumPy" if pool.table() is None else "tinygen's pool"
    print(f"{'threads':12}{pool.get_threads()}, large products by {by}")
    print(f"{'gpu':12}{' '.join((gpu_problem() or 'usable').split())}")
    print(f"{'data':12}{', '.join(data.names())}, or a .npy, .npz, .csv or .csv.gz file")
    print("models, their training settings, and their options for --set:")
    for name, cls in MODELS.items():
        settings = " ".join(f"{k}={v}" for k, v in asdict(cls.defaults).items())
        options = " ".join(f"{k}={json.dumps(v)}" for k, v in _defaults(name).items())
        print(f"  {name:10}{settings}\n{'':12}{options}")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {
        "tinygen": tinygen.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": version("scipy"),
    }


def _summary(metrics: dict[str, Any]) -> str:
    """The measures in a line: of the held-out rows, and of the samples beside real rows."""
    held_out = ", ".join(f"{name} {value:.4g}" for name, value in metrics["held_out"].items())
    both = [
        f"{name} {metrics['samples'][name]:.2g} ({metrics['floor'][name]:.2g})"
        for name in ("sliced_wasserstein", "c2st_accuracy")
        if name in metrics["samples"]
    ]
    return f"held out: {held_out}; samples (real rows in their place): {', '.join(both)}"


# -- files ---------------------------------------------------------------------------------------
def _draw(
    folder: Path, model: Model, dataset: data.Dataset, samples: Any, history: History
) -> list[str]:
    """The pictures of a run; their names."""
    if not pictures.available():
        return []
    names = ["samples.png", "loss.png"]
    pictures.loss_curve(folder / "loss.png", history)
    if dataset.image_shape is None:
        pictures.scatter(folder / "samples.png", dataset.test, samples)
        return names
    pictures.image_grid(folder / "samples.png", samples[:SAMPLES], dataset.image_shape)
    reconstruct = getattr(model, "reconstruct", None)
    if reconstruct is not None:
        x = dataset.test[:40]
        seen = to_device(reconstruct(to_device(x, model.device)), "cpu")
        pictures.image_pairs(folder / "reconstructions.png", x, seen, dataset.image_shape)
        names.append("reconstructions.png")
    return names


def _snapshots(
    args: argparse.Namespace, folder: Path, model: Any, dataset: data.Dataset, seed: int
) -> pictures.Snapshots | None:
    """What keeps and draws samples while the model is trained; None without matplotlib."""
    if args.ranks.rank or not pictures.available():
        return None
    quick = {}
    if isinstance(model, DDPM):
        quick = {"sampler": "dpm-solver", "sampling_steps": min(QUICK, model.schedule.T)}

    def sample(n: int) -> Any:
        return to_device(_samples(model, dataset, n, seed, Ranks(), **quick), "cpu")

    step = checkpoint.read(folder / CHECKPOINT)[0]["step"] if args.resume else None
    return pictures.Snapshots(folder, sample, dataset.test, dataset.image_shape, step)


def _require_plots(args: argparse.Namespace) -> None:
    try:
        pictures.require()
    except ModuleNotFoundError as error:
        if args.command == "sample":
            message = f"{error}, or save the numbers with --out samples.npy"
            raise ValueError(message) from None
        print(f"tinygen: {error}; going on without", file=sys.stderr)


def _target(option: str, out: str, *endings: str) -> Path:
    """Where a file will be written; that it can be is known before the work. ValueError, OSError: it
    cannot."""
    path = Path(out)
    if endings and path.suffix not in endings:
        raise ValueError(f"{option} ends in {' or '.join(endings)}, not {out!r}")
    if path.is_dir():
        raise ValueError(f"{option} is a file, and {out!r} is a folder")
    try:
        with TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise OSError(error.errno, f"cannot write {out}: {path.parent}: {error.strerror}") from None


def _write_text(path: Path, text: str) -> None:
    with checkpoint.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# -- arguments -----------------------------------------------------------------------------------
class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"tinygen: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Generative models: train, sample, evaluate.")
    parser.add_argument("--version", action="version", version=tinygen.__version__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.set_defaults(function=function)
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS,
            help="show the traceback of an error",
        )  # fmt: skip
        return sub

    def data_options(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--data-dir", help="where IDX files are (default: $TINYGEN_DATA, cache)")

    def csv_options(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--columns", metavar="A,B,...",
            help="of a .csv file, by name or number from 1 (default: those of numbers)",
        )  # fmt: skip
        sub.add_argument("--label-column", help="the labels in a .csv file, by name or number")
        sub.add_argument("--delimiter", help="between the cells of a .csv file; tab is one")

    def device_option(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--device", choices=(*DEVICES, "auto"), default="cpu",
            help="where to compute; auto takes the GPU if one is usable (default: cpu)",
        )  # fmt: skip

    def training_options(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("model", help=", ".join(MODELS))
        sub.add_argument("--data", help="a name, or a .npy, .npz or .csv file (default: digits)")
        csv_options(sub)
        data_options(sub)
        sub.add_argument("--download", action="store_true", help="fetch the data if not found")
        for name, text in SETTINGS.items():
            kind = float if name in ("lr", "clip", "ema_decay") else int
            sub.add_argument(_flag(name), type=kind, help=text)
        for old in RENAMED["Settings"]:
            sub.add_argument(_flag(old), help=argparse.SUPPRESS)  # to be refused with its new name
        sub.add_argument(
            "--checkpoint-seconds", type=float, default=15.0, help="between checkpoints"
        )
        sub.add_argument("--eager", action="store_true", help="without compiling the steps")
        device_option(sub)

    text = "train a model; its checkpoint, pictures and metrics go to a folder"
    sub = command("train", train, text)
    training_options(sub)
    sub.add_argument("--out", required=True, help="the folder of the run")
    sub.add_argument("--resume", action="store_true", help="continue the run in that folder")
    sub.add_argument("--set", action="append", metavar="NAME=VALUE", help="an option of the model")

    text = "train with several seeds and options, and compare: a table of means and errors"
    sub = command("sweep", sweep, text)
    training_options(sub)
    sub.add_argument("--seeds", type=int, default=3, help="runs of each kind (default: 3)")
    sub.add_argument(
        "--set", action="append", metavar="NAME=VALUE,...", help="values of an option of the model"
    )
    sub.add_argument(
        "--out", required=True, help="the folder; runs that are there are not repeated"
    )

    for name, function, text in (
        ("sample", sample, "draw from a trained model: a picture, or numbers as .npy"),
        (
            "evaluate",
            evaluate_run,
            "print the measures of a trained model on held-out data as JSON",
        ),
    ):
        sub = command(name, function, text)
        sub.add_argument("run", help="the folder of a run, or a checkpoint")
        count = SAMPLES if name == "sample" else MEASURED
        sub.add_argument("--n", type=int, default=count, help=f"samples (default: {count})")
        sub.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
        sub.add_argument("--data", help="where the data of the run are now, if they have moved")
        data_options(sub)
        device_option(sub)
        if name == "sample":
            sub.add_argument("--out", help="a .png or .npy file (default: beside the checkpoint)")
            sub.add_argument("--eager", action="store_true", help="without compiling the steps")
            sub.add_argument("--label", type=int, help="of the samples, from a model with classes")
            sub.add_argument(
                "--guidance", type=float,
                help="towards the label: 1 is the model's own law (the default), more sharpens it",
            )  # fmt: skip

    text = "print the graph of one training loss: every operation from the data to the loss"
    sub = command("explain", explain, text)
    sub.add_argument("model", help=", ".join(MODELS))
    sub.add_argument("--data", default="digits", help="see train (default: digits)")
    csv_options(sub)
    data_options(sub)
    sub.add_argument("--batch", type=int, default=2, help="examples (default: 2)")
    sub.add_argument("--set", action="append", metavar="NAME=VALUE", help="an option of the model")
    sub.add_argument("--dot", help="write the graph in the DOT language to this file as well")
    sub.add_argument("--html", help="write it as a page that steps backward to this file as well")

    sub = command("exercises", exercises, "copy the exercises to a folder, for `check`")
    sub.add_argument("--out", required=True, help="the folder; files that are there stay")

    sub = command("check", check, "grade an exercise, or all in a folder")
    sub.add_argument("path", help="a file that `exercises` made, or the folder")

    text = "watch all models learn points in the plane: a page, or live without --out"
    sub = command("lab", lab, text)
    sub.add_argument("--out", help="the page, a .html file; it opens without a network")
    sub.add_argument(
        "--data", default="two-moons", help="two columns; see train (default: two-moons)"
    )
    csv_options(sub)
    data_options(sub)
    sub.add_argument("--steps", type=int, default=4000, help="of each model (default: 4000)")
    sub.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    sub.add_argument("--port", type=int, default=0, help="of the live page (default: a free one)")
    sub.add_argument("--no-browser", action="store_true", help="print the address only")

    sub = command("info", info, "print what is installed and known, or what a run holds")
    sub.add_argument("run", nargs="?", help="the folder of a run, or a checkpoint")
    return parser


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _with_flags(text: str) -> str:
    """A message of the package, in which `data_dir=` becomes --data-dir."""
    names = "columns|data_dir|delimiter|download|label_column"
    return re.sub(rf"\b({names})=(True)?", lambda found: _flag(found[1]), text)


def _say_flags(record: logging.LogRecord) -> bool:
    record.msg, record.args = _with_flags(record.getMessage()), ()
    return True


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0, 2 for an error told in one line, 130 for a run that was stopped.

    `check` has 1 for exercises that are not done, `sweep` for runs that failed. Of the processes that
    mpiexec starts, the first alone speaks, and the others serve only commands that share their work.
    """
    try:
        ranks = started()
    except ModuleNotFoundError as error:
        print(f"tinygen: {error}", file=sys.stderr)
        return 2
    with open(os.devnull, "w") as nowhere, ExitStack() as stack:
        if ranks.rank:
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        return _run(arguments, ranks)


def _run(arguments: list[str] | None, ranks: Ranks) -> int:
    args = _parser().parse_args(arguments)
    args.ranks = ranks
    return 0 if ranks.rank and args.command not in SHARED else _performed(args)


def _performed(args: argparse.Namespace) -> int:
    """The status of a command; its errors are told."""
    logger = logging.getLogger("tinygen")
    logger.addFilter(_say_flags)
    try:
        with args.ranks.together():
            status: int | None = args.function(args)
            args.ranks.gather(status)  # the others wait for what rank 0 does alone
    except Stopped as stopped:
        resume = "; the same command with --resume continues" * (args.command == "train")
        print(f"tinygen: {stopped}{resume}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # of standard output: `process` says nothing about it
        raise
    except KeyboardInterrupt:
        print("tinygen: interrupted", file=sys.stderr)
        return 130
    except (
        ValueError, TypeError, LookupError, OSError, ArithmeticError, MemoryError, DeviceError
    ) as error:  # fmt: skip
        if args.debug:
            raise
        text = str(error)
        if isinstance(error, OSError) and error.filename is not None:  # without Python's [Errno 2]
            text = f"{error.filename}: {error.strerror}"
        elif isinstance(error, OSError) and error.strerror is not None:
            text = error.strerror
        print("tinygen: " + _with_flags(" ".join(text.split())), file=sys.stderr)
        return 2
    finally:
        logger.removeFilter(_say_flags)
    return status or 0


class _Stderr:
    """Standard error, which tells of a run and is no part of it: no run ends when it breaks."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            _to_nowhere(self._stream)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _to_nowhere(self._stream)


def _to_nowhere(stream: Any) -> None:
    """Let the stream swallow what is written to it, and what it still holds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def process() -> Any:
    """The exit status of `main` in a process, whose streams may be closed, break, encode few signs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 - it was closed
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, _Stderr(stream) if name == "stderr" else stream)
    warnings.showwarning = lambda message, *_: print(
        "tinygen: " + " ".join(str(message).split()), file=sys.stderr
    )
    try:
        status: Any = main()
    except SystemExit as leaving:  # argparse's way, with what it printed not yet written
        status = leaving.code
    except BrokenPipeError:
        status = NOBODY_READS
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _to_nowhere(sys.stdout)
        status = NOBODY_READS
    except OSError as error:
        _to_nowhere(sys.stdout)
        print(f"tinygen: standard output: {error.strerror}", file=sys.stderr)
        status = 2
    return status


if __name__ == "__main__":
    sys.exit(process())
