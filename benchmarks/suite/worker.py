"""A contender's process: it takes commands as lines of JSON, and answers each with one.

open (workload, case): ready the workload. results (to): write what `Opened.results` found. run
(steps): take steps and tell the seconds. close: end the run. peak: the most memory it had, in bytes.
bandwidth: see `products`. An error is an answer too.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite.contract import Opened
from benchmarks.suite.workloads import Workload

__all__ = ["Pacer", "main"]

Command = dict[str, Any]


class Closed(BaseException):
    """The run is over."""


class Pacer:
    """The tick of a run: between its rounds it waits for commands."""

    def __init__(self, first: Command, read: Callable[[], Command], answer: Callable[[Any], None]):
        self.next: Command | None = first
        self.read, self.answer = read, answer
        self.left = 0
        self.begun: float | None = None

    def __call__(self, wait: Callable[[], object] | None = None) -> None:
        if self.left:
            self.left -= 1
            return
        if wait:
            wait()
        now = time.perf_counter()
        if self.begun is not None:
            self.answer({"seconds": now - self.begun})
        command = self.next or self.read()
        self.next = None
        if command["do"] != "run":
            self.answer({})
            raise Closed
        self.left = command["steps"] - 1
        self.begun = time.perf_counter()


def peak() -> int:
    """The most memory that this process had, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise OSError("the system does not tell the peak of a process")
    return 1024 * int(found[1])


class Worker:
    """One contender, and the workload that it has open."""

    def __init__(self, module: str, compiled: bool, read: Callable[[], Command], answer: Any):
        self.module, self.compiled, self.read, self.answer = module, compiled, read, answer
        self.open: Opened | None = None

    def obey(self, command: Command) -> None:
        """Do what a command says, and answer."""
        do = command["do"]
        if do == "open":
            self.open = None  # the memory of the one before
            contender = import_module(f"benchmarks.suite.{self.module}")
            case = dict(np.load(command["case"]))
            self.open = contender.opened(Workload(**command["workload"]), case, self.compiled)
            self.answer({})
        elif do == "results":
            np.savez(command["to"], **self.open.results())
            self.answer({})
        elif do == "run":
            with suppress(Closed):
                self.open.run(Pacer(command, self.read, self.answer))
        elif do == "peak":
            self.answer({"bytes": peak()})
        elif do == "bandwidth":
            from benchmarks.suite.products import bandwidth

            self.answer({"rate": bandwidth()})
        else:
            raise ValueError(f"no command {do}")


def main(module: str, compiled: bool) -> None:
    """Obey until there are no more commands."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def read() -> Command:
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        return json.loads(line)

    def answer(content: Any) -> None:
        print(json.dumps(content), file=replies, flush=True)

    worker = Worker(module, compiled, read, answer)
    while True:
        command = read()
        try:
            worker.obey(command)
        except Exception as error:
            answer({"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "compiled")
