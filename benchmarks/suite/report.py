"""From rounds to tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.suite.contenders import CONTENDERS, FLOOR
from benchmarks.suite.figures import geometric_mean, middle
from benchmarks.suite.quiet import remarks
from benchmarks.suite.rows import HEAD, Row, base

__all__ = ["compared", "markdown", "text"]

Run = Mapping[str, Any]
"""A stored run: `about`, `machine`, `workloads`."""


WIDE = 0.1  # a spread of which the reader is told
SECTIONS = {
    "Training steps and sampling, milliseconds": ("steps", "sampling"),
    "Small operations, forward and backward, microseconds an operation": ("operations",),
    "Small problems by scipy.optimize, milliseconds a solution": ("solving",),
    "The same with the import and the first solution in a fresh process, milliseconds": ("starts",),
    "Cost against depth, width, batch and T, milliseconds": ("depth", "width", "batch", "T"),
    "Beside one busy process, milliseconds": ("busy",),
    "Import, milliseconds": ("import",),
    "Peak memory of the process, megabytes": ("memory",),
}


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
    about, rows = run["about"], [Row(work) for work in run["workloads"].values()]
    said = remarks(run["machine"])
    wide = [f"{row.title} {100 * row.spread():.0f} %" for row in rows if row.spread() > WIDE]
    said += [f"rows with a wide spread: {', '.join(wide)}"] if wide else []
    return [
        f"{about['date']}, commit {about['commit']}; {about['processor']}, {about['threads']} threads; "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        f"medians of {about['rounds']} rounds in turn; in brackets the ratio to {base(rows)} (below 1: "
        "faster); spread: between the quartiles, the widest of the row",
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
