"""What runs in a process of its own, with a time limit: the tests, and compute-sanitizer."""

from __future__ import annotations

import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["PYTHON", "ROOT", "Done", "command", "sanitizer", "tests", "tests_on_gpu"]

ROOT = Path(__file__).parents[2]
PYTHON = [sys.executable]
GRACE = 10.0  # seconds to say what was found, after an interrupt
WORKERS = 8  # of pytest-xdist, where it is installed
CAUGHT = 99  # the exit code for which compute-sanitizer is asked


class Done(NamedTuple):
    """How a command ended; code None: at its limit."""

    code: int | None
    output: str
    seconds: float


def command(arguments: Sequence[str], limit: float) -> Done:
    """Run a command in the repository. At the limit it is interrupted, as by Ctrl-C, then ended."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        code = None
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:
            with suppress(ProcessLookupError):  # its own processes, which may have outlived it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return Done(code, output.read(), time.monotonic() - start)


# -- tests ---------------------------------------------------------------------------------------
def tests(limit: float) -> dict[str, Any]:
    """The tests that need a GPU."""
    return _pytest(["-m", "gpu"], limit)


def tests_on_gpu(limit: float) -> dict[str, Any]:
    """The tests of everything, with their arrays on the GPU; those left out that take long."""
    workers = ["-n", str(WORKERS)] if find_spec("xdist") else []
    return _pytest(["--device", "gpu", "-m", "not gpu and not slow", *workers], limit)


def _pytest(arguments: Sequence[str], limit: float) -> dict[str, Any]:
    """Counts, the names of what failed, and the end of the output.

    Warnings are not errors here: those of a CUDA or CuPy never met would hide all the rest.
    """
    if find_spec("pytest") is None:
        return {"skipped": "pytest is not installed"}
    options = ["-W", "default", "-p", "no:cacheprovider", "--tb=short", *arguments]
    done = command([*PYTHON, "-m", "pytest", *options], limit)
    lines = done.output.splitlines()
    ends = [line for line in lines if re.search(r"\d+ (passed|failed|skipped|error).* in \d", line)]
    return {
        **_ending(done),
        "counts": {
            word: int(count)
            for count, word in re.findall(r"(\d+) ([a-z]+)", ends[-1].split(" in ")[0])
        }
        if ends
        else {},
        "failed": [line for line in lines if line.startswith(("FAILED ", "ERROR "))][:100],
    }


def _ending(done: Done) -> dict[str, Any]:
    return {
        "ended": "at its time limit" if done.code is None else f"exit code {done.code}",
        "seconds": round(done.seconds, 1),
        "tail": done.output[-6000:],
    }


# -- compute-sanitizer -----------------------------------------------------------------------------
TOOLS = {
    # CuPy asks CUDA for much that it may answer with an error code: those are not looked at.
    "memcheck": ["--report-api-errors", "no"],
    "racecheck": [],
    "initcheck": [],
    "synccheck": [],
}


def find_sanitizer() -> str | None:
    """On the PATH, or where CUDA puts it."""
    places = sorted(glob.glob("/usr/local/cuda*/bin/compute-sanitizer"))
    return shutil.which("compute-sanitizer") or (places[-1] if places else None)


def sanitizer(limit: float, find: Callable[[], str | None] = find_sanitizer) -> dict[str, Any]:
    """What each tool of compute-sanitizer says of the kernels, if it finds a planted mistake."""
    program, deadline = find(), time.monotonic() + limit
    if program is None:
        return {"skipped": "there is no compute-sanitizer"}

    def watch(tool: str, *arguments: str) -> Done:
        asked = [program, "--tool", tool, "--error-exitcode", str(CAUGHT), *TOOLS[tool]]
        driver = [*PYTHON, "-m", "benchmarks.gpu.launches", *arguments]
        return command([*asked, *driver], max(deadline - time.monotonic(), 1.0))

    planted = watch("memcheck", "--plant")
    if planted.code != CAUGHT or "Invalid __global__ write" not in planted.output:
        return {"skipped": "does not work here: a planted error is not found", **_ending(planted)}
    with ThreadPoolExecutor() as pool:  # at the same time: most of it is waiting
        return dict(zip(TOOLS, pool.map(lambda tool: _said(watch(tool)), TOOLS), strict=True))


def _said(done: Done) -> dict[str, Any]:
    """The result of a tool in a word, and what it printed."""
    words = {0: "clean", CAUGHT: "ERRORS", None: "not finished in time"}
    summaries = re.findall(r"=+ (.*SUMMARY.*)", done.output)
    return {
        "result": words.get(done.code, f"failed, exit code {done.code}"),
        "summary": summaries[-1] if summaries else "",
        "head": done.output[:3000],
        **_ending(done),
    }
