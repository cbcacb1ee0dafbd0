"""Whether the machine was quiet while it was measured: its load, and a fixed loop's time in each round."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.suite.figures import middle

__all__ = ["Watch", "calibrate", "remarks"]

LOOP = 200_000
LOAD = 0.3  # processes that ran on average in the minute before
OTHERS = 0.05  # of the machine's time, taken by other processes
SPREAD = 0.05  # between the quartiles of the fixed loop, relative to its median
SLOWEST = 1.25  # times the median


def calibrate() -> float:
    """Seconds of a loop of Python's whole numbers, always the same: how fast a core is just now."""
    start = time.perf_counter()
    total = 0
    for i in range(LOOP):
        total += i & 7
    return time.perf_counter() - start


def _busy() -> tuple[float, float] | None:
    """Seconds that all cores worked, and that they had, since the machine began (Linux)."""
    try:
        line = Path("/proc/stat").read_text().split("\n", 1)[0]
    except OSError:
        return None
    numbers = [int(n) / os.sysconf("SC_CLK_TCK") for n in line.split()[1:9]]
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)  # without idle and waiting


def _own() -> float:
    """Seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


class Watch:
    """From its making on: what the machine did besides."""

    def __init__(self) -> None:
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        self.began, self.own = _busy(), _own()
        self.loop: list[float] = []

    def round(self) -> None:
        """Once in each round of a workload, while the contenders sleep."""
        self.loop.append(calibrate())

    def found(self) -> dict[str, Any]:
        """For the report; call it when the contenders have ended."""
        now = _busy()
        others = None
        if self.began and now:
            whole = now[1] - self.began[1]
            others = max(now[0] - self.began[0] - (_own() - self.own), 0.0) / max(whole, 1e-9)
        return {"load": self.load, "others": others, "loop": self.loop}


def remarks(found: dict[str, Any]) -> list[str]:
    """What says that the machine was not quiet; empty: nothing does."""
    said = []
    if found["load"] > LOAD:
        said.append(f"the load before the start was {found['load']:.1f}")
    if (others := found["others"]) is not None and others > OTHERS:
        said.append(f"other processes took {100 * others:.0f} % of the cores' time")
    if found["loop"]:
        m = middle(found["loop"])
        if m.spread > SPREAD or max(found["loop"]) > SLOWEST * m.median:
            said.append(
                f"a fixed loop took {1e3 * m.median:.1f} ms, with a spread of {100 * m.spread:.0f} % "
                f"and up to {max(found['loop']) / m.median:.1f} times as much"
            )
    return said
