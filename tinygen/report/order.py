"""Why backward needs an order: the engine beside three recursions, on y = b + b of b = a + a.

The recursions are run as they stand here, and the page shows this text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Node, Source, Tensor, _pull, _walk, tensor
from tinygen.report.rules import place

__all__ = ["ways"]

Grads = dict[Source, Any]


def replacing(node: Source, g: Any, grads: Grads) -> None:
    grads[node] = g
    for source, d in rules_of(node, g):
        replacing(source, d, grads)


def adding(node: Source, g: Any, grads: Grads) -> None:
    grads[node] = grads.get(node, 0) + g
    for source, d in rules_of(node, grads[node]):
        adding(source, d, grads)


def every_path(node: Source, g: Any, grads: Grads) -> None:
    grads[node] = grads.get(node, 0) + g
    for source, d in rules_of(node, g):
        every_path(source, d, grads)


def rules_of(node: Source, g: Any) -> Iterator[tuple[Source, Any]]:
    """What a node sends to its inputs: the engine's own rules. A leaf sends nothing."""
    return _pull(node, g, False, None) if isinstance(node, Node) else iter(())


TOLD = {
    replacing: (
        "A gradient replaces the one before",
        "b is used twice, so two gradients arrive at it. The second wipes out the first.",
    ),
    adding: (
        "Add, and pass on the sum at once",
        "The first visit of b passes on a sum that is not complete. The second passes it on again, "
        "inside the complete one: it counts twice.",
    ),
    every_path: (
        "Pass on only what is new",
        "Right, but it walks every path from y to a. Each line like b = a + a doubles them: "
        "thirty such lines have a thousand million paths.",
    ),
}
ENGINE = (
    "The engine: the newest node first",
    "All that used a node is newer than the node. So when its turn comes, its gradient is complete, "
    "and each node is visited once.",
)


def ways() -> list[dict[str, Any]]:
    """Each way of going backward, with its text, each value that it stored, and the gradients."""
    a = tensor(1.0, requires_grad=True, name="a")
    b = _named(a + a, "b")
    y = _named(b + b, "y")
    told = [_told(f, *words, *_events(f, y, a)) for f, words in TOLD.items()]
    complete = _walk(y.node, np.ones(()), {a.node, b.node, y.node}, True, False)
    events = [(source.name, float(g)) for source, g in complete.items()]
    return [*told, _told(_walk, *ENGINE, events, events[-1][1])]


def _named(t: Tensor, name: str) -> Tensor:
    t.name = name
    return t


class _Watched(dict[Source, Any]):
    """Gradients by source, and each that was stored, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str | None, float]] = []

    def __setitem__(self, source: Source, g: Any) -> None:
        super().__setitem__(source, g)
        self.events.append((source.name, float(g)))


def _events(f: Callable[..., None], y: Tensor, a: Tensor) -> tuple[Any, float]:
    grads = _Watched()
    f(y.node, np.ones(()), grads)
    return grads.events, float(grads[a.node])


def _told(f: Any, title: str, why: str, events: Any, result: float) -> dict[str, Any]:
    code = f.__code__
    return {
        "title": title,
        "why": why,
        "text": inspect.getsource(f).rstrip(),
        "at": place(f"{code.co_filename}:{code.co_firstlineno}"),
        "events": events,
        "result": result,
    }
