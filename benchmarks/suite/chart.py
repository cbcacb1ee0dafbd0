"""A picture of a run for a document: each contender's time beside tinygen's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.suite.contenders import FLOOR
from benchmarks.suite.figures import ratio
from benchmarks.suite.rows import Row, base

__all__ = ["draw", "points"]

GROUPS = ("steps", "sampling")
# Colours that the colour-blind tell apart (Okabe & Ito 2008), and a form for each.
MARKS = {
    "tinygen": ("#000000", "P"), "PyTorch": ("#D55E00", "o"), "PyTorch compiled": ("#E69F00", "s"),
    "JAX": ("#0072B2", "^"), FLOOR: ("#999999", "d"),
}  # fmt: skip


def points(run: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By title: each contender's time relative to tinygen's, and that of the products alone."""
    found = {}
    for work in run["workloads"].values():
        row = Row(work)
        if work["group"] not in GROUPS or row.base is None:
            continue
        ratios = {name: r for name, r in row.ratios().items() if name != row.base}
        if row.products:
            ratios[FLOOR] = ratio(row.products, row.rounds[row.base])
        found[row.title] = ratios
    return found


def draw(run: Mapping[str, Any], path: Path) -> None:
    """Write the picture. ValueError: the run has no training steps and no samplings."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    found = points(run)
    if not found:
        raise ValueError("a chart is of training steps and samplings, and the run has none")
    figure, axes = plt.subplots(figsize=(8, 1.3 + 0.34 * len(found)), layout="constrained")
    for i, ratios in enumerate(found.values()):
        axes.plot(
            [min([1, *ratios.values()]), max([1, *ratios.values()])],
            [i, i],
            color="#dddddd",
            lw=3,
            zorder=1,
        )
    axes.axvline(1, color="black", lw=1.5, zorder=2)
    for name, (colour, mark) in MARKS.items():
        at = [(r[name], i) for i, r in enumerate(found.values()) if name in r]
        if at:
            label = {"products": "matrix products alone", "tinygen": "tinygen eager"}.get(
                name, name
            )
            axes.scatter(
                *zip(*at, strict=True), color=colour, marker=mark, s=46, label=label, zorder=3
            )
    axes.set_xscale("log")
    ends = [x for r in found.values() for x in (1.0, *r.values())]
    ticks = [
        t
        for t in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)
        if min(ends) / 1.4 < t < max(ends) * 1.4
    ]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(found)), [*found])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    ours = base(map(Row, run["workloads"].values()))
    axes.set_xlabel(f"time relative to {ours} (left of 1: faster; {run['about']['processor']})")
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
