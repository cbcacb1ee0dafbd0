"""What the models learn, from the command line's own commands: measures of their samples.

    python -m benchmarks learning [RUN ...] --out FOLDER [--data-dir FOLDER]

Every run is `python -m tinygen train ...` in a process of its own, as printed, with seed 0; its folder
FOLDER/RUN keeps checkpoint and pictures, and a run that was finished is measured again, not trained.
2000 samples, for digits as many as there are held-out rows (of diffusion on images by DPM-Solver++ in
25 steps, and by the whole chain) are compared with held-out rows by `tinygen.evaluation`, beside real rows in
their place ("floor").

minutes: of the process, training, its own measures and pictures included. C2ST: the share that a
classifier tells right (.5: it cannot tell them apart). P, R, D, C: precision, recall, density, coverage.
SW: sliced Wasserstein distance. memory: mean distance to the nearest training row, over that of
held-out rows (below 1: nearer). rarest: the share of the rarest class, clear: that of
samples told with a probability of .9 or more, as a classifier trained on the labels sees them.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from math import nan
from pathlib import Path

import numpy as np

from tinygen import data, nn, no_grad, ops
from tinygen.evaluation import evaluate
from tinygen.models import DDPM, MODELS, load
from tinygen.optim import Adam, cosine
from tinygen.random import Generator

SAMPLES = 2000
rows_of = cache(data.load)  # of a name and a folder
RUNS = {
    **{f"digits-{model}": f"{model} --data digits" for model in MODELS},
    "mnist-ddpm": "ddpm --data mnist --steps 14000",
    "mnist-ddpm-long": "ddpm --data mnist --steps 56000",
    "mnist-vae": "vae --data mnist",
    "mnist-gan": "gan --data mnist",
    "moons-ddpm": "ddpm --data two-moons",
    "moons-gan": "gan --data two-moons",
    "gaussians-ddpm": "ddpm --data eight-gaussians",
    "gaussians-gan": "gan --data eight-gaussians",
}


def train(name: str, out: Path, data_dir: str | None) -> float:
    """Run the command unless that was done; the seconds it took, all of the process."""
    command = [*shlex.split(RUNS[name]), "--out", str(out / name)]
    if data_dir and "mnist" in name:
        command += ["--data-dir", data_dir]
    if (out / name / "metrics.json").exists():  # the last file of a run
        return nan
    if (out / name).exists():
        command += ["--resume"]
    print(f"python -m tinygen train {RUNS[name]}", flush=True)
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "tinygen", "train", *command], check=True)
    return time.monotonic() - began


@cache
def classifier(name: str, data_dir: str | None) -> nn.MLP:
    """A network that tells the classes of a labelled set."""
    rows = rows_of(name, data_dir)
    rng = Generator(0)
    net = nn.MLP([rows.x.shape[1], 256, 256, rows.y.max() + 1], rng=rng)
    steps = 4000
    adam = Adam(net.named_parameters(), cosine(1e-3, steps))
    for _ in range(steps):
        chosen = rng.integers(0, len(rows.x), 128)
        adam.zero_grad()
        ops.mean(ops.softmax_cross_entropy(net(rows.x[chosen]), rows.y[chosen])).backward()
        adam.step()
    return net


def seen(x: np.ndarray, name: str, data_dir: str | None) -> tuple[float, float]:
    """Of rows x, the share of the rarest class and of clear ones; NaN without labels."""
    if rows_of(name, data_dir).y is None:
        return nan, nan
    net = classifier(name, data_dir)
    with no_grad():
        probs = ops.softmax(net(x)).numpy()
    counts = np.bincount(probs.argmax(axis=1), minlength=probs.shape[1])
    return counts.min() / len(x), (probs.max(axis=1) >= 0.9).mean()


COLUMNS = ("minutes", "C2ST", "P", "R", "D", "C", "SW", "memory", "rarest", "clear")
KEYS = (
    "c2st_accuracy", "precision", "recall", "density", "coverage", "sliced_wasserstein",
    "memorisation_ratio",
)  # fmt: skip


def line(name: str, minutes: float, found: dict[str, float], classes: tuple[float, float]) -> str:
    """A row of the table."""
    numbers = (minutes, *(found[key] for key in KEYS), *classes)
    return f"{name:18}" + "".join(f"{number:9.3f}" for number in numbers)


def measure(name: str, out: Path, data_dir: str | None) -> None:
    """Train if need be, and print the rows of the samples and of their floor."""
    minutes = train(name, out, data_dir) / 60
    model = load(out / name / "checkpoint.npz")
    rows = rows_of(shlex.split(RUNS[name])[2], data_dir)
    drawn = {name: model.sample(SAMPLES, rng=Generator(0))}
    if isinstance(model, DDPM) and model.bounded:
        drawn["  whole chain"] = model.sample(SAMPLES, sampler="ddpm", rng=Generator(0))
    for what, samples in drawn.items():
        found = evaluate(model, rows, samples)
        print(line(what, minutes, found["samples"], seen(samples, rows.name, data_dir)))
        minutes = nan
    print(line("  floor", nan, found["floor"], seen(rows.test, rows.name, data_dir)))
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help=", ".join(RUNS))
    parser.add_argument("--out", type=Path, required=True, help="where the runs' folders are")
    parser.add_argument("--data-dir")
    args = parser.parse_args(arguments)
    if unknown := set(args.runs) - set(RUNS):
        parser.error(f"no run {', '.join(sorted(unknown))}; there are {', '.join(RUNS)}")
    print(f"{'run':18}" + "".join(f"{column:>9}" for column in COLUMNS))
    for name in args.runs or RUNS:
        measure(name, args.out, args.data_dir)
