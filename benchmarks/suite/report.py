"""From rounds to tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.suite.contenders import CONTENDERS, FLOOR, OURS
from benchmarks.suite.figures import geometric_mean, middle, number, ratio
from benchmarks.suite.quiet import remarks

__all__ = ["Row", "compared", "markdown", "text"]

Run = Mapping[str, Any]
"""A stored run: `about`, `machine`, `workloads`."""


# -- a row -----------------------------------------------------------------------------------------
UNITS = {"step": 1e3, "sample": 1e3, "chain": 1e6 / 100, "import": 1e3, "memory": 1e-6}
SECTIONS = {
    "Training steps and sampling, milliseconds": ("steps", "sampling"),
    "Small operations, forward and backward, microseconds an operation": ("operations",),
    "Cost against depth, width, batch and T, milliseconds": ("depth", "width", "batch", "T"),
    "Import, milliseconds": ("import",),
    "Peak memory of the process, megabytes": ("memory",),
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


# -- tables ----------------------------------------------------------------------------------------
Table = tuple[str, list[list[str]]]
"""A title, and lines of cells; the first is the head."""


def tables(run: Run) -> list[Table]:
    """One for each kind of work in the run."""
    found = []
    for title, groups in SECTIONS.items():
        rows = [Row(w) for w in run["workloads"].values() if w["group"] in groups]
        if rows:
            lines = [row.cells() for row in rows]
            if "steps" in groups:
                lines += _means(rows)
            found.append((title, _without_empty([[*HEAD], *lines])))
    return found


def _means(rows: list[Row]) -> list[list[str]]:
    """The geometric mean of each contender's ratios, where all rows that have tinygen have them."""
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, r in row.ratios().items():
            if name != row.base:
                columns.setdefault(name, []).append(r)
    if not columns:
        return []
    means = {name: f"({geometric_mean(rs):.2f}; {len(rs)} rows)" for name, rs in columns.items()}
    return [
        [
            "geometric mean",
            *(means.get(name, "") for name in CONTENDERS),
            *[""] * (len(HEAD) - len(CONTENDERS) - 1),
        ]
    ]


def _without_empty(lines: list[list[str]]) -> list[list[str]]:
    """Without columns that have nothing but a head."""
    keep = [any(line[i] for line in lines[1:]) for i in range(len(lines[0]))]
    return [[cell for cell, kept in zip(line, keep, strict=True) if kept] for line in lines]


def remarked(run: Run) -> list[str]:
    """Who was not timed in which workload, and why."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for work in run["workloads"].values():
        for name, why in Row(work).missing.items():
            by_reason.setdefault((name, why), []).append(work["title"])
    everywhere = len(run["workloads"])
    return [
        f"{name}: {why}" + ("" if len(titles) == everywhere else f" ({'; '.join(titles)})")
        for (name, why), titles in by_reason.items()
    ]


def machine(run: Run) -> list[str]:
    """Where and when, and whether it was quiet."""
    about = run["about"]
    said = remarks(run["machine"])
    return [
        f"{about['date']}, commit {about['commit']}; {about['processor']}, {about['threads']} threads; "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        f"medians of {about['rounds']} rounds in turn; in brackets the ratio to tinygen (below 1: faster), "
        "spread: between the quartiles, the widest of the row",
        "NOT A QUIET MACHINE: " + "; ".join(said) if said else "the machine was quiet",
        *remarked(run),
    ]


def text(run: Run) -> str:
    """For a terminal."""
    return "\n".join([*machine(run), *(_aligned(table) for table in tables(run))])


def markdown(run: Run) -> str:
    """For a document."""
    blocks = [_markdown(table) for table in tables(run)]
    return "\n\n".join([*blocks, "\n".join(f"{line}." for line in machine(run))])


def _aligned(table: Table) -> str:
    title, lines = table
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = (
        "  ".join(
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(["", title, *rows])


def _markdown(table: Table) -> str:
    title, lines = table
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"**{title}**", "", rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])


# -- two runs --------------------------------------------------------------------------------------
def compared(run: Run, stored: Run) -> str:
    """This run's medians over the stored one's: below 1, this one is faster."""
    lines = [["", *CONTENDERS, FLOOR]]
    for name, work in run["workloads"].items():
        if name in stored["workloads"]:
            new, old = (_medians(Row(w)) for w in (work, stored["workloads"][name]))
            shared = {n: f"{new[n] / old[n]:.2f}" for n in new if n in old}
            lines.append([work["title"], *(shared.get(n, "") for n in (*CONTENDERS, FLOOR))])
    if len(lines) == 1:
        return "the stored run has none of these workloads"
    loops = [middle(r["machine"]["loop"]).median for r in (run, stored) if r["machine"]["loop"]]
    title = (
        f"this run over the one of {stored['about']['date']}, commit {stored['about']['commit']}"
    )
    notes = [f"the fixed loop: {loops[0] / loops[1]:.2f}"] if len(loops) == 2 else []
    notes += [
        f"other {what}: {run['about'][what]}, stored {stored['about'][what]}"
        for what in ("processor", "threads", "versions")
        if run["about"][what] != stored["about"][what]
    ]
    notes += [f"stored: not a quiet machine, {said}" for said in remarks(stored["machine"])]
    return "\n".join([_aligned((title, _without_empty(lines))), *notes])


def _medians(row: Row) -> dict[str, float]:
    rounds = {**row.rounds, **({FLOOR: row.products} if row.products else {})}
    return {name: middle(of).median for name, of in rounds.items()}
