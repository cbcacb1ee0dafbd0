"""The command line of the suite."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tinygen
from benchmarks.suite import report
from benchmarks.suite.contenders import CONTENDERS, ROOT, missing
from benchmarks.suite.contract import threads
from benchmarks.suite.measure import FULL, QUICK, Plan, measure
from benchmarks.suite.workloads import QUICK as FEW
from benchmarks.suite.workloads import WORKLOADS, Unknown, chosen, titles

__all__ = ["run"]


class Wrong(Exception):
    """What was asked cannot be done; the message is one line."""


def run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Do what the arguments ask; the exit status."""
    options(parser)
    args = parser.parse_args(arguments)
    try:
        asked(args)
    except (Wrong, Unknown) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


def options(parser: argparse.ArgumentParser) -> None:
    """The suite's own."""
    add = parser.add_argument
    add("--quick", action="store_true", help=f"two minutes: {', '.join(FEW)}, in fewer rounds")
    add("--only", nargs="+", metavar="NAME", default=[], help="workloads or groups, see --list")
    add("--list", action="store_true", help="name the workloads and the contenders")
    add("--json", type=Path, metavar="FILE", help="store the run")
    add("--compare", type=Path, metavar="FILE", help="this run beside a stored one, as ratios")
    add(
        "--chart", type=Path, metavar="FILE.png", help="draw steps and samplings (needs matplotlib)"
    )
    about_table = (
        "print a stored run as Markdown instead of a new one; with --only, --compare, --chart"
    )
    add("--table", type=Path, metavar="FILE", help=about_table)


def asked(args: argparse.Namespace) -> None:
    """Everything that can be wrong is looked at before anything is timed."""
    works = chosen(args.only)
    if args.list:
        print(titles([*WORKLOADS.values()]))
        print("\n".join(f"{name}: {missing(name) or 'there'}" for name in CONTENDERS))
        return
    stored = load(args.compare) if args.compare else None
    for path in filter(None, (args.json, args.chart)):
        if not path.absolute().parent.is_dir():
            raise Wrong(f"there is no folder {path.parent} for {path.name}")
    if args.chart:
        if args.chart.suffix != ".png":
            raise Wrong(f"a chart is a .png file, not {args.chart.name}")
        if not find_spec("matplotlib"):
            raise Wrong("a chart needs matplotlib: pip install 'tinygen[plot]'")
    if args.table:
        if args.json or args.quick:
            raise Wrong("--table takes a stored run: --json and --quick are for a new one")
        found = only(load(args.table), [w.name for w in works])
        print(report.markdown(found))
    else:
        names = FEW if args.quick and not works else WORKLOADS
        plan = QUICK if args.quick else FULL
        found = new(works or chosen(names), plan)
        if args.json:
            args.json.write_text(json.dumps(found, indent=1))
        print(report.text(found))
    if stored:
        print(report.compared(found, stored))
    if args.chart:
        from benchmarks.suite.chart import draw

        try:
            draw(found, args.chart)
        except ValueError as error:
            raise Wrong(str(error)) from None


def new(works: Sequence[Any], plan: Plan) -> dict[str, Any]:
    """A run, as it is stored."""
    found, machine = measure(works, plan, lambda line: print(line, file=sys.stderr, flush=True))
    return {"about": about(plan), "machine": machine, "workloads": found}


def load(path: Path) -> dict[str, Any]:
    """A stored run; Wrong: it is none."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise Wrong(f"{path}: {error.strerror}") from None
    except ValueError:
        raise Wrong(f"{path} is not JSON") from None
    try:
        report.text(found)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Wrong(f"{path} is no run that --json stored") from None
    return found


def only(found: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The run with the workloads of these names; all of them for none."""
    kept = {n: w for n, w in found["workloads"].items() if not names or n in names}
    if not kept:
        raise Wrong(f"the stored run has none of these; it has {', '.join(found['workloads'])}")
    return {**found, "workloads": kept}


def about(plan: Plan) -> dict[str, Any]:
    """When, where and of what."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "commit": commit(),
        "processor": processor(),
        "threads": threads(),
        "rounds": plan.rounds,
        "versions": {
            "Python": platform.python_version(),
            "tinygen": tinygen.__version__,
            **{
                name: versions
                for name in ("numpy", "torch", "jax", "autograd")
                if (versions := _version(name))
            },
        },
    }


def commit() -> str:
    """Of the repository, with a + if files differ from it."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return said.stdout.strip() or "unknown"


def processor() -> str:
    """Its name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
