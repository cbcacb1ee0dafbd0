"""Many runs of one command with other options and seeds, and a table of what they reach."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from tinygen.parallel import Ranks

__all__ = ["combinations", "measures", "table", "workers"]

Point = tuple[tuple[str, str], ...]
"""Options by name, with a value for each, as a text."""


def combinations(pairs: Sequence[str]) -> list[Point]:
    """All combinations of the values in NAME=VALUE,VALUE,...; a comma inside brackets separates nothing.

    ValueError: a text without a name or a value.
    """
    axes = []
    for pair in pairs:
        name, _, text = pair.partition("=")
        if not name or not text:
            raise ValueError(f"--set takes NAME=VALUE,VALUE,..., not {pair!r}")
        try:
            values = [json.dumps(value) for value in json.loads(f"[{text}]")]
        except ValueError:
            values = text.split(",")
        axes.append([(name, value) for value in values])
    return list(product(*axes))


@contextmanager
def workers(ranks: Ranks) -> Iterator[Callable[..., Any] | None]:
    """A function like `map`: this process, or with several ranks all but rank 0, by mpi4py.futures.

    None on the ranks that work: there the `with` block begins when all is done.
    """
    if ranks.size == 1:
        yield map
        return
    from mpi4py import MPI
    from mpi4py.futures import MPICommExecutor

    pool: Any = MPICommExecutor(MPI.COMM_WORLD, root=0)
    with pool as executor:
        yield None if executor is None else executor.map


def measures(metrics: dict[str, Any]) -> dict[str, float]:
    """What a table shows of the measures of a run: of held-out rows, and of samples beside them."""
    shown = ("sliced_wasserstein", "c2st_accuracy")
    samples = {name: v for name, v in metrics["samples"].items() if name in shown}
    return {**metrics["held_out"], **samples}


def table(found: dict[Point, list[dict[str, float]]]) -> str:
    """A row for each combination: means over its runs, and their standard errors if there are several."""
    names = list(dict.fromkeys(name for runs in found.values() for run in runs for name in run))
    options = [name for name, _ in next(iter(found))]
    rows = [[*options, "runs", *names]]
    rows.append(["---"] * len(rows[0]))
    for point, runs in found.items():
        columns = [[run[name] for run in runs if name in run] for name in names]
        rows.append(
            [*(value for _, value in point), str(len(runs)), *map(_mean_and_error, columns)]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _mean_and_error(values: list[float]) -> str:
    if not values:
        return ""
    error = f" ± {stdev(values) / sqrt(len(values)):.2g}" if len(values) > 1 else ""
    return f"{fmean(values):.4g}{error}"
