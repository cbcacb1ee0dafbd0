"""Two starts into one new folder at once: one trains, the other is refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def trial(number: int, rows: Path, folder: Path) -> str | None:
    command = [
        sys.executable, "-m", "tinygen", "train", "ae", "--data", str(rows), "--out", str(folder),
        "--steps", "200", "--warmup", "0", "--seed", str(number),
    ]  # fmt: skip
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    pair = [
        subprocess.Popen(command, cwd=ROOT, env=environment, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]  # fmt: skip
    ends = sorted((*p.communicate(), p.returncode)[::-1] for p in pair)
    (first, _, _), (second, errors, _) = ends
    refused = second == 2 and len(errors.splitlines()) == 1 and errors.startswith("tinygen: ")
    if (first, refused) != (0, True):
        return f"the two ended with {[(code, errors) for code, errors, _ in ends]}"
    return (
        None if (folder / "metrics.json").exists() else "the one that was accepted left no metrics"
    )


def trials(seed: int, numbers: Iterable[int]) -> Iterator[tuple[int, str | None]]:
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.csv")
        np.savetxt(rows, np.random.default_rng(seed).normal(size=(60, 2)), delimiter=",")
        for number in numbers:
            yield number, trial(number, rows, Path(folder, str(number)))
