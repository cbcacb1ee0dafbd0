"""What a backward pass did, node by node, and the values on its way. All of it is asked of the engine."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from tinygen.autodiff.engine import Node, Source, Tensor, _pull, propagate
from tinygen.autodiff.graph import numbered

__all__ = ["Arrival", "Backward", "backward_of", "values_of"]

ALIVE = "no rule keeps it, a Tensor that is alive holds it"


@dataclass
class Arrival:
    """A gradient that arrives at a source: in which step, from which input of which node."""

    step: int
    sender: Node | None  # None for the gradient that backward begins with
    input: int
    gradient: Any
    total: Any  # with all that arrived before


@dataclass
class Backward:
    """One backward pass: the sources in the order of computation, the nodes in that of the visits."""

    numbers: dict[Source, int]
    visits: list[Node]
    arrivals: dict[Source, list[Arrival]]


def backward_of(result: Tensor) -> Backward:
    """The backward pass of `result`, as the engine walks it. No `grad` changes, nothing is freed.

    TypeError, ValueError: as for `graph_text` and `Tensor.backward`.
    """
    numbers = numbered(result)
    # The gradient of every source is asked for, and the engine answers in the order of its visits.
    complete = propagate(result, None, set(numbers), retain=True, create_graph=False)
    seed = complete[result.node].data
    arrivals = {result.node: [Arrival(0, None, 0, seed, seed)]}
    visits = [source for source in complete if isinstance(source, Node)]
    for step, node in enumerate(visits, 1):
        inputs = (i for i, _ in node.plan.rules)  # in the order of the rules
        for i, (source, d) in zip(
            inputs, _pull(node, complete[node].data, False, None), strict=True
        ):
            before = arrivals.setdefault(source, [])
            total = before[-1].total + d if before else d
            before.append(Arrival(step, node, i, d, total))
    return Backward(numbers, visits, arrivals)


def values_of(result: Tensor, numbers: dict[Source, int]) -> dict[Source, tuple[Any, str]]:
    """The array of each source that something still holds, and what holds it.

    That is a rule of a node, or else a Tensor that is alive.
    """
    found: dict[Any, tuple[Any, str]] = {}
    for node in (s for s in numbers if isinstance(s, Node)):
        kept = node.kept or {}
        if "y" in kept:
            found[node] = kept["y"], "kept by its own rule, as y"
        for i, name in node.plan.arrays:
            arrays = kept[name] if node.op.each else [kept[name]]
            parents = node.parents if node.op.each else [node.parents[i]]
            for parent, array in zip(parents, arrays, strict=True):
                # An operation may have cast its input: then it does not keep the parent's own array.
                if parent is not None and (array.shape, array.dtype) == (
                    parent.shape,
                    parent.dtype,
                ):
                    found.setdefault(parent, (array, f"kept by %{numbers[node]}, as {name}"))
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor) and getattr(thing, "node", None) in numbers:
            found.setdefault(thing.node, (thing.data, ALIVE))
    found.setdefault(result.node, (result.data, ALIVE))
    return found
