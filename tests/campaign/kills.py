"""Runs killed by the operating system: resumed, they end with the bits of a run left alone.

A trial trains a small model in a process of its own that writes a checkpoint after every step,
kills it at a random moment, and starts the same command again until it ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .small import OPTIONS, model

MODELS = tuple(OPTIONS)
ROOT = Path(__file__).parents[2]
READY = "training starts"


def train(name: str, folder: Path) -> None:
    """What the process does: start the run, or resume it where there is a checkpoint."""
    from tinygen import data
    from tinygen.folder import CHECKPOINT

    rows = data.load("digits").x[:64]
    untrained = model(name, 64)
    print(READY, flush=True)
    untrained.fit(
        rows, steps=60, batch=16, ema_decay=0.9, folder=folder, checkpoint_seconds=0.0,
        resume=(folder / CHECKPOINT).exists(),
    )  # fmt: skip


def start(name: str, folder: Path) -> subprocess.Popen:
    """The process, when it begins to train."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.campaign.kills", name, str(folder)],
        cwd=ROOT, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.readline()
    return process


def ended(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {errors}")


def state(folder: Path) -> dict:
    """All that a checkpoint holds, but for the time that the run took."""
    import json

    with np.load(folder / "checkpoint.npz") as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    meta.pop("sittings")
    return {
        "meta": meta,
        **{name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()},
    }


def trial(whole: dict, seed: int, number: int) -> str | None:
    rng = np.random.default_rng([seed, number])
    name = MODELS[number % len(MODELS)]
    expected, seconds = whole[name]
    with tempfile.TemporaryDirectory() as folder:
        killed = False
        for attempt in range(20):  # a run may end before its time comes: then a new one
            run = Path(folder, str(attempt))
            process = start(name, run)
            try:
                process.wait(rng.uniform(0.0, seconds))
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()
            if killed := process.returncode == -9:
                break
        if not killed:
            return f"{name}: 20 runs ended before they were killed"
        try:
            ended(start(name, run))
        except RuntimeError as error:
            return f"{name}: resumed, {error}"
        found = state(run)
        left = [p.name for p in run.iterdir() if p.suffix == ".tmp"]
    different = sorted(k for k in expected.keys() | found if expected.get(k) != found.get(k))
    if different:
        return f"{name}: differs from the run left alone in {', '.join(different)}"
    return f"{name}: left behind {left}" if left else None


def trials(seed: int, numbers: Iterable[int]) -> Iterator[tuple[int, str | None]]:
    whole = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted({MODELS[n % len(MODELS)] for n in numbers}):
            run = Path(folder, name)
            process, began = start(name, run), time.monotonic()
            ended(process)
            whole[name] = state(run), time.monotonic() - began
    with ThreadPoolExecutor(2) as pool:
        yield from zip(numbers, pool.map(lambda n: trial(whole, seed, n), numbers), strict=True)


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]))
