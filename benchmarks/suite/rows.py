"""The figures of a workload, from the rounds of its contenders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.suite.contenders import CONTENDERS, FLOOR, OURS
from benchmarks.suite.figures import middle, number, ratio

__all__ = ["HEAD", "Row", "base"]

UNITS = {
    "step": 1e3,
    "sample": 1e3,
    "chain": 1e6 / 100,
    "solve": 1e3,
    "start": 1e3,
    "import": 1e3,
    "memory": 1e-6,
}
HEAD = ("", *CONTENDERS, "best peer", FLOOR, "bytes", "tinygen / floor", "spread")


class Row:
    """The figures of one workload."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self.title, self.unit = found["title"], UNITS[found["kind"]]
        self.missing = {n: c["missing"] for n, c in found["contenders"].items() if "missing" in c}
        self.rounds = {
            n: c["rounds"]
            for n, c in found["contenders"].items()
            if c.get("rounds") and n not in self.missing
        }
        self.base = next((n for n in OURS if n in self.rounds), None)
        floor = found["floor"].get(FLOOR) or {}
        self.products = floor.get("rounds")
        self.bytes = found["floor"].get("bytes")

    def ratios(self) -> dict[str, float]:
        """To tinygen, of every contender: below 1 it is the faster."""
        if self.base is None:
            return {}
        ours = self.rounds[self.base]
        return {name: ratio(rounds, ours) for name, rounds in self.rounds.items()}

    def best_peer(self) -> float | None:
        """The least ratio of those that are not tinygen."""
        return min((r for name, r in self.ratios().items() if name not in OURS), default=None)

    def over_floor(self) -> float | None:
        """tinygen's time over the larger of the two floors, for both may go on at once."""
        if self.base is None or not self.products:
            return None
        floor = max(middle(self.products).median, self.bytes or 0.0)
        return (
            ratio(self.rounds[self.base], [*self.products]) * middle(self.products).median / floor
        )

    def spread(self) -> float:
        """The largest of the contenders."""
        return max((middle(rounds).spread for rounds in self.rounds.values()), default=0.0)

    def cells(self) -> list[str]:
        """As a line of a table under HEAD."""
        ratios = self.ratios()
        cells = [self.title]
        for name in CONTENDERS:
            if name not in self.rounds:
                cells.append("")
                continue
            time = number(self.unit * middle(self.rounds[name]).median)
            bracket = f" ({ratios[name]:.2f})" if name in ratios and name != self.base else ""
            cells.append(time + bracket)
        products = number(self.unit * middle(self.products).median) if self.products else ""
        cells += [_two(self.best_peer()), products]
        cells += [
            "" if self.bytes is None else number(self.unit * self.bytes),
            _two(self.over_floor()),
        ]
        return [*cells, f"{100 * self.spread():.0f} %"]


def _two(x: float | None) -> str:
    return "" if x is None else f"{x:.2f}"


def base(rows: Iterable[Row]) -> str:
    """What the others are held against."""
    bases = {row.base for row in rows}
    return next((name for name in OURS if name in bases), OURS[-1])
