"""What takes a fresh process for each figure: imports, and the peak of memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite import with_tinygen
from benchmarks.suite.contenders import CONTENDERS, environment
from benchmarks.suite.party import Field, Party
from benchmarks.suite.quiet import Watch
from benchmarks.suite.workloads import Workload

__all__ = ["imports", "memory", "starts"]

IMPORT = "import time; t = time.perf_counter(); import {0}; print(time.perf_counter() - t)"
REMEMBERED = 10  # steps, after which the peak is asked for


def imports(names: Iterable[str], rounds: int, watch: Watch) -> dict[str, Any]:
    """Seconds of importing each library, once, with what it imports in turn."""
    libraries = {
        CONTENDERS[name].library: name for name in reversed([*names])
    }  # eager, if there are both
    commands = {name: ["-c", IMPORT.format(library)] for library, name in libraries.items()}
    return fresh({name: commands[name] for name in reversed(commands)}, rounds, watch)


def starts(work: Workload, names: Iterable[str], rounds: int, watch: Watch) -> dict[str, Any]:
    """Seconds of importing a library and solving a small problem once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        np.savez(path, **with_tinygen.case(replace(work, kind="solve")))
        commands = {}
        for name in names:
            way = "compiled" if CONTENDERS[name].compiled else "eager"
            arguments = [CONTENDERS[name].library, way, work.model, str(path)]
            commands[name] = ["-m", "benchmarks.suite.solving", *arguments]
        return fresh(commands, rounds, watch)


def fresh(commands: Mapping[str, list[str]], rounds: int, watch: Watch) -> dict[str, Any]:
    """The seconds that each contender's command of Python prints, round after round."""
    party = Party(Field(), commands)
    with tempfile.TemporaryDirectory() as folder:
        # Compiled code is kept, as a user's Python does it. The first round makes it.
        kept = {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for i in range(rounds + 1):
            watch.round()
            for name in party.running():
                done = subprocess.run(
                    [sys.executable, *commands[name]],
                    env=environment() | kept, capture_output=True, text=True,
                )  # fmt: skip
                if done.returncode:
                    party.out(name, f"failed: {done.stderr.strip().splitlines()[-1]}")
                elif i:
                    party.found[name]["rounds"].append(float(done.stdout))
    return {"contenders": party.found, "floor": {}}


def memory(work: Workload, names: Iterable[str]) -> dict[str, Any]:
    """The peak of a process that does some steps of a workload and nothing else, in bytes."""
    step = replace(work, kind="step")
    field = Field()
    party = Party(field, names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        np.savez(path, **with_tinygen.case(step))
        for name in party.running():
            party.open(name, step, path)
            for command in ({"do": "run", "steps": REMEMBERED}, {"do": "close"}, {"do": "peak"}):
                answer = party.ask(name, **command) if name in party.running() else None
            if answer:
                party.found[name]["rounds"].append(answer["bytes"])
            field.drop(name)
    return {"contenders": party.found, "floor": {}}
