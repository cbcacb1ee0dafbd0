"""The contenders, each a process of its own that lives on and is asked for one round at a time.

So no library's threads wait beside another's: while one works, the others sleep at their pipes.
All may use the same cores and take as many threads.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.suite import with_tinygen
from benchmarks.suite.contract import threads
from benchmarks.suite.workloads import Workload

__all__ = [
    "CONTENDERS",
    "FLOOR",
    "OURS",
    "Contender",
    "Failed",
    "Process",
    "environment",
    "missing",
    "takes_part",
]

ROOT = Path(__file__).parents[2]


class Contender(NamedTuple):
    """module: of this folder; library: what is imported."""

    module: str
    compiled: bool
    library: str


CONTENDERS = {
    "tinygen": Contender("with_tinygen", False, "tinygen"),
    "tinygen compiled": Contender("with_tinygen", True, "tinygen"),
    "PyTorch": Contender("with_torch", False, "torch"),
    "PyTorch compiled": Contender("with_torch", True, "torch"),
    "JAX": Contender("with_jax", True, "jax"),
    "autograd": Contender("with_autograd", False, "autograd"),
}
OURS = (
    "tinygen compiled",
    "tinygen",
)  # the first that is there is what the others are held against
FLOOR = "products"
_FLOOR = Contender("products", False, "numpy")


def missing(name: str) -> str | None:
    """Why a contender is not there; None: it is."""
    if name == "tinygen compiled" and not with_tinygen.compiles():
        return "not there: this tinygen has no tg.compile"
    library = CONTENDERS[name].library
    return None if find_spec(library) else f"not there: {library} is not installed"


def environment() -> dict[str, str]:
    """Of a contender: equal numbers of threads for every library, all on the CPU."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    set_here = {name: str(threads()) for name in names}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **set_here, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}


def takes_part(name: str, work: Workload) -> bool:
    """Whether a contender does such a workload at all."""
    if work.kind in ("solve", "start"):
        return name != "PyTorch compiled"  # it compiles for longer than the problems take
    return name != "autograd"


class Failed(Exception):
    """A contender could not do what it was asked; the message is one line."""


class Process:
    """The process of a contender."""

    def __init__(self, name: str) -> None:
        contender = _FLOOR if name == FLOOR else CONTENDERS[name]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.suite.worker", contender.module,
             "compiled" if contender.compiled else "eager"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env=environment(),
        )  # fmt: skip
        self._rest = b""

    def ask(self, limit: float, **command: Any) -> dict[str, Any]:
        """The answer to a command; Failed: an error, no answer within the limit (seconds)."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # what it said is read below
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        answer = json.loads(self._line(time.monotonic() + limit, command["do"]))
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _line(self, deadline: float, what: str) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            ready, _, _ = select.select(
                [self._process.stdout], [], [], max(deadline - time.monotonic(), 0)
            )
            if not ready:
                self.end()
                raise Failed(f"{what} took too long")
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                raise Failed(f"its process ended: {self._last_words()}")
            self._rest += piece
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def _last_words(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), f"exit code {code}")[:300]

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            with suppress(BrokenPipeError):  # a command that it did not read
                pipe.close()
