"""tinygen on this machine's GPU: right, fast, and beside CuPy, PyTorch and JAX.

    python -m benchmarks gpu --out report.json [--minutes 9]

It needs CuPy and a GPU; what pytest, compute-sanitizer, PyTorch and JAX are for is left out without
them. The parts stand below, the most important first; each is a process of its own with a time limit,
so that a part that fails, hangs or breaks its CUDA context costs nothing but itself. What there is no
time for is left out. All that was found goes to the report as it is found; a table is printed at the
end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu import bandwidth, check, peers, processes, steps, summary
from benchmarks.gpu.table import KERNELS
from tinygen.backend import gpu_problem, namespace_for
from tinygen.kernels import cuda

LEAST = 15.0  # seconds, with which a part is still begun
PACKAGES = (
    "cupy", "cupy-cuda12x", "cupy-cuda13x", "numpy", "scipy", "torch", "triton", "jax", "jaxlib",
)  # fmt: skip
QUICK_SHAPES = check.SHAPES[:-1]

Save = Callable[[dict[str, Any]], None]


# -- parts that compute here, in a process of their own --------------------------------------------
def checked(save: Save, quick: bool) -> None:
    """Every kernel against float64 and the C++ build, on fresh inputs."""
    seed = time.time_ns() % 2**32
    save({"seed": seed})
    for kernel in KERNELS:
        try:
            found = check.verdict(kernel, seed, QUICK_SHAPES if quick else check.SHAPES)
        except Exception as error:
            found = {"ok": False, "failed": f"{type(error).__name__}: {error}"[:400]}
        save({kernel.name: found})


def of_scale(measure: Callable[[bandwidth.Scale, Save], None], save: Save, quick: bool) -> None:
    """A part that is as large as its scale."""
    measure(bandwidth.QUICK if quick else bandwidth.FULL, save)


COMPUTED: dict[str, Callable[[Save, bool], None]] = {
    "registers": lambda save, quick: bandwidth.registers(save),
    "check": checked,
    "bandwidth": partial(of_scale, bandwidth.measure),
    "peers": partial(of_scale, peers.measure),
    **{
        f"steps {name}": partial(of_scale, partial(steps.measure, name))
        for name in steps.CONTENDERS
    },
}


def compute(part: str, path: Path, quick: bool) -> None:
    """A part, in this process. What it finds so far is in the file whenever there is more."""
    found: dict[str, Any] = {}

    def save(piece: dict[str, Any]) -> None:
        merge(found, piece)
        write(path, found)

    COMPUTED[part](save, quick)


def merge(into: dict[str, Any], piece: dict[str, Any]) -> None:
    """Add what is new, at any depth."""
    for key, value in piece.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def write(path: Path, content: dict[str, Any]) -> None:
    """All of it or nothing: a reader, or a run that is ended here, has the one before."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(content, indent=1, default=str))
    os.replace(temporary, path)


# -- the run -------------------------------------------------------------------------------------
class Part(NamedTuple):
    """`limit` in seconds; `run` is given what there is of it."""

    limit: float
    run: Callable[[float, Path, bool], dict[str, Any]]


def apart(part: str, limit: float, report: Path, quick: bool) -> dict[str, Any]:
    """What a part finds that computes in a process of its own."""
    path = report.with_name(f"{report.name}.{part}")
    options = ["--part", part, "--out", str(path), *(["--quick"] if quick else [])]
    done = processes.command([*processes.PYTHON, "-m", "benchmarks.gpu", *options], limit)
    found = json.loads(path.read_text()) if path.exists() else {}
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".new").unlink(missing_ok=True)
    ended = "" if done.code == 0 else f"exit code {done.code}"
    return {"ended": "at its time limit" if done.code is None else ended, "found": found} | (
        {"tail": done.output[-3000:]} if done.code != 0 else {}
    )


def outside(
    run: Callable[[float], dict[str, Any]], limit: float, report: Path, quick: bool
) -> dict[str, Any]:
    """What a part finds that is other programs."""
    return {"ended": "", "found": run(limit)}


STEPS = {"tinygen": 50, "tinygen eager": 40, "torch eager": 35, "jax": 50, "torch compiled": 110}
"""Seconds for the workloads of each contender. The last tunes and compiles its kernels."""

PARTS: dict[str, Part] = {
    "registers": Part(40, partial(apart, "registers")),
    "check": Part(80, partial(apart, "check")),
    **{
        f"steps {name}": Part(limit, partial(apart, f"steps {name}"))
        for name, limit in STEPS.items()
    },
    "bandwidth": Part(90, partial(apart, "bandwidth")),
    "tests": Part(60, partial(outside, processes.tests)),
    "sanitizer": Part(60, partial(outside, processes.sanitizer)),
    "peers": Part(90, partial(apart, "peers")),
    "tests on the GPU": Part(90, partial(outside, processes.tests_on_gpu)),
}


def about(quick: bool) -> dict[str, Any]:
    """When and where this was, and of what; in place of what cannot be found out, why."""
    scale = bandwidth.QUICK if quick else bandwidth.FULL
    runtime = namespace_for("gpu").cuda.runtime
    properties = runtime.getDeviceProperties
    facts: dict[str, Callable[[], Any]] = {
        "device": lambda: properties(0)["name"].decode(),
        "multiprocessors": lambda: properties(0)["multiProcessorCount"],
        "memory": lambda: properties(0)["totalGlobalMem"],
        "L2": lambda: properties(0)["l2CacheSize"],
        "driver": lambda: _said(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        ),
        "CUDA of the driver": runtime.driverGetVersion,
        "CUDA of CuPy": runtime.runtimeGetVersion,
        "python": platform.python_version,
        "versions": lambda: {name: _version(name) for name in PACKAGES},
        "commit": lambda: _said(["git", "rev-parse", "HEAD"]),
        "kernels": lambda: hashlib.sha256(cuda.source().encode()).hexdigest()[:16],
    }
    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "large": [n for n in scale.sizes if 4 * n >= scale.large],
    }
    for name, fact in facts.items():
        try:
            found[name] = fact()
        except Exception as error:
            found[name] = f"unknown: {error}"
    return found


def _said(arguments: Sequence[str]) -> str:
    """The first line of a command's output."""
    done = subprocess.run(arguments, cwd=processes.ROOT, capture_output=True, text=True, timeout=20)
    return (done.stdout.splitlines() or ["unknown"])[0]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts, or the one that `--part` names, in this process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("report.json"), help="the report")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works")
    parser.add_argument("--part", choices=COMPUTED, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * args.minutes
    if (problem := gpu_problem()) is not None:
        print(f"python -m benchmarks gpu: {problem}", file=sys.stderr)
        return 2
    path = args.out.resolve()
    if args.part:
        compute(args.part, path, args.quick)
        return 0
    report: dict[str, Any] = {"about": about(args.quick), "parts": {}}
    for name, part in PARTS.items():
        write(path, report)
        report["parts"][name] = _run(part, deadline - time.monotonic(), path, args.quick)
        seconds, ended = (report["parts"][name].get(key, "") for key in ("seconds", "ended"))
        print(f"{name}: {seconds} s {ended}", flush=True)
    write(path, report)
    print(summary.text(report))
    report["targets"] = summary.targets(report)
    write(path, report)
    return 0


def _run(part: Part, left: float, path: Path, quick: bool) -> dict[str, Any]:
    if left < LEAST:
        return {"ended": "left out: no time", "found": {}}
    start = time.monotonic()
    try:
        result = part.run(min(part.limit, left - processes.GRACE), path, quick)
    except Exception as error:
        result = {"ended": f"{type(error).__name__}: {error}", "found": {}}
    return {"seconds": round(time.monotonic() - start, 1), **result}


if __name__ == "__main__":
    sys.exit(main())
