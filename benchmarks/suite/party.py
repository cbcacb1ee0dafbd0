"""Who takes part: processes that live on, and for each workload those that have not failed in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.suite.contenders import Failed, Process
from benchmarks.suite.workloads import Workload

__all__ = ["OPENING", "Field", "Party"]

OPENING, ROUND = 400.0, 200.0  # seconds, the longest: compilation takes its time


class Field:
    """The processes of contenders by name, started when they are first asked."""

    def __init__(self) -> None:
        self._live: dict[str, Process] = {}

    def __getitem__(self, name: str) -> Process:
        if name not in self._live:
            self._live[name] = Process(name)
        return self._live[name]

    def drop(self, name: str) -> None:
        """End a process; when it is asked again, it is a new one."""
        if process := self._live.pop(name, None):
            process.end()

    def close(self) -> None:
        """End all."""
        for name in [*self._live]:
            self.drop(name)


class Party:
    """The contenders in one workload. One that fails is out of it, and says why.

    found: for each its rounds (seconds a step, or bytes), or the reason that there are none.
    """

    def __init__(self, field: Field, names: Iterable[str]) -> None:
        self.field = field
        self.found: dict[str, dict[str, Any]] = {name: {"rounds": []} for name in names}

    def running(self) -> list[str]:
        """Those that are not out."""
        return [name for name, of in self.found.items() if "missing" not in of]

    def out(self, name: str, why: str) -> None:
        """This one is out."""
        self.found[name] = {"missing": why}

    def ask(self, name: str, limit: float = ROUND, **command: Any) -> dict[str, Any] | None:
        """The answer to a command; None from one that fails."""
        try:
            return self.field[name].ask(limit, **command)
        except Failed as error:
            self.field.drop(name)  # whatever it is in
            self.out(name, f"failed: {error}")
            return None

    def open(self, name: str, work: Workload, case: Path) -> None:
        """Let one ready a workload."""
        self.ask(name, OPENING, do="open", workload=asdict(work), case=str(case))

    def seconds(self, name: str, steps: int, limit: float = ROUND) -> float | None:
        """A step's, over so many; None from one that fails."""
        answer = self.ask(name, limit, do="run", steps=steps)
        return None if answer is None else answer["seconds"] / steps
