"""Rounds: every contender does a workload in turn, round after round."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite import products, with_tinygen
from benchmarks.suite.apart import imports, memory, starts
from benchmarks.suite.contenders import CONTENDERS, FLOOR, OURS, missing, takes_part
from benchmarks.suite.contract import Case
from benchmarks.suite.equality import differs
from benchmarks.suite.party import OPENING, Field, Party
from benchmarks.suite.quiet import Watch
from benchmarks.suite.workloads import Workload

__all__ = ["FULL", "QUICK", "Plan", "measure"]

REST = 0.05  # seconds before a round, in which threads that wait by spinning fall asleep
WARM = 3  # steps before any are counted


@dataclass(frozen=True)
class Plan:
    """How many rounds, and about how many seconds each contender works in one."""

    rounds: int
    seconds: float


FULL, QUICK = Plan(7, 0.5), Plan(5, 0.15)
Found = dict[str, Any]
Say = Callable[[str], None]


def measure(workloads: Iterable[Workload], plan: Plan, say: Say) -> tuple[Found, Found]:
    """What was found of each workload by name, and of the machine meanwhile.

    Of a workload: for each contender its `rounds` (seconds a step, or bytes), or why there are none
    (`missing`); and the floor.
    """
    absent = {name: why for name in CONTENDERS if (why := missing(name))}
    there = [name for name in CONTENDERS if name not in absent]
    field, watch = Field(), Watch()
    found: Found = {}
    try:
        for work in workloads:
            began = time.monotonic()
            names = [name for name in there if takes_part(name, work)]
            if work.kind == "import":
                of = imports(names, plan.rounds, watch)
            elif work.kind == "start":
                of = starts(work, names, plan.rounds, watch)
            elif work.kind == "memory":
                of = memory(work, names)
            else:
                of = timed(work, Party(field, names), plan, watch)
            of["contenders"] |= {
                name: {"missing": why} for name, why in absent.items() if takes_part(name, work)
            }
            found[work.name] = {**asdict(work), **of}
            say(f"{work.title}: {time.monotonic() - began:.0f} s")
    finally:
        field.close()
    return found, watch.found()


def timed(work: Workload, party: Party, plan: Plan, watch: Watch) -> Found:
    """Ready, compare, and time the contenders and the floor."""
    case = with_tinygen.case(work)
    if work.kind in ("step", "sample"):
        party.found[FLOOR] = {"rounds": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        np.savez(path, **case)
        for name in party.running():
            party.open(name, work, path)
        compare(work, case, party, Path(folder))
    steps = {name: pace(party, name, plan) for name in party.running()}
    with neighbour() if work.busy else nullcontext():
        for i in range(plan.rounds):
            if not work.busy:
                watch.round()
            for name in turned(party.running(), i):  # none is always the first
                time.sleep(REST)
                if (seconds := party.seconds(name, steps[name])) is not None:
                    party.found[name]["rounds"].append(seconds)
    for name in party.running():
        party.ask(name, do="close")
    floor: Found = {}
    if work.kind == "step" and FLOOR in party.running():
        rate = party.ask(FLOOR, do="bandwidth")
        floor["bytes"] = products.least_bytes(work, case) / rate["rate"] if rate else None
    if FLOOR in party.found:
        floor[FLOOR] = party.found.pop(FLOOR)
    return {"contenders": party.found, "floor": floor}


def turned(names: list[str], i: int) -> list[str]:
    """The names in order, but from another one on in each round i."""
    start = i % len(names) if names else 0
    return names[start:] + names[:start]


@contextmanager
def neighbour() -> Iterator[None]:
    """Inside, a process works all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def compare(work: Workload, case: Case, party: Party, folder: Path) -> None:
    """Put out who computes something else than eager tinygen."""
    found: dict[str, Case] = {}
    for name in party.running():
        path = folder / f"{name}.npz"
        if name != FLOOR and party.ask(name, OPENING, do="results", to=str(path)) is not None:
            found[name] = dict(np.load(path))
    ours = found.pop(OURS[-1], None)
    for name, theirs in found.items():
        if ours is None:
            party.out(name, "not timed: tinygen failed, so there is nothing to compare with")
        elif what := differs(work, case, ours, theirs):
            party.out(name, f"not timed: {what}")


def pace(party: Party, name: str, plan: Plan) -> int:
    """Warm up, and tell how many steps fill a round."""
    first = party.seconds(name, 1, OPENING)
    if first is not None and first < plan.seconds:
        again = [party.seconds(name, n) for n in (WARM, 2, 2) if name in party.running()]
        first = min(s for s in again[1:] if s is not None) if None not in again else None
    return 1 if first is None else max(1, round(plan.seconds / first))
