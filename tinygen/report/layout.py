"""A graph in layers, after Sugiyama, Tagawa and Toda (1981): inputs above, the result below.

Each source gets a layer; an edge that crosses layers bends at a point in each; points of a layer are
ordered so that few edges cross, and then moved above one another where there is room.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

__all__ = ["BOX", "layout"]

BOX = 190, 58  # width and height
GAP = 26, 46  # between boxes, and between layers
BEND = 18  # the width that an edge takes in a layer that it crosses
SWEEPS = 16

Point = Hashable


def layout(inputs: Sequence[Sequence[int]]) -> tuple[list[Any], dict[tuple[int, int], list[Any]]]:
    """The middle of each box; and of each edge (node, which input) the points from the input down.

    `inputs[n]` are the inputs of n, each a smaller number than n.
    """
    if not inputs:
        return [], {}
    layers_of = _layers(inputs)
    # The edges of one source share their way down: a trunk of bends, which branches to each user.
    end = {s: layers_of[s] for s in range(len(inputs))}
    for n, sources in enumerate(inputs):
        for s in sources:
            end[s] = max(end[s], layers_of[n] - 1)
    layers: list[list[Point]] = [[] for _ in range(max(layers_of) + 1)]
    above: dict[Point, list[Point]] = {}
    for n, sources in enumerate(inputs):
        layers[layers_of[n]].append(n)
        above[n] = [_trunk(s, layers_of, layers_of[n] - 1) for s in sources]
        for k in range(layers_of[n] + 1, end[n] + 1):
            layers[k].append((n, k))
            above[n, k] = [_trunk(n, layers_of, k - 1)]
    below: dict[Point, list[Point]] = {p: [] for p in above}
    for p, uppers in above.items():
        for q in uppers:
            below[q].append(p)
    _order(layers, above, below)
    x = _place(layers, above, below)
    y = {p: k * (BOX[1] + GAP[1]) for k, layer in enumerate(layers) for p in layer}
    edges = {}
    for n, sources in enumerate(inputs):
        for i, s in enumerate(sources):
            way = [_trunk(s, layers_of, k) for k in range(layers_of[s] + 1, layers_of[n])]
            port = (i - (len(sources) - 1) / 2) * min(36, (BOX[0] - 24) / len(sources))
            start, finish = [x[s], y[s] + BOX[1] / 2], [x[n] + port, y[n] - BOX[1] / 2]
            bends = [[x[p], y[p] + side * BOX[1] / 2] for p in way for side in (-1, 1)]
            edges[n, i] = [start, *bends, finish]
    return [[x[n], y[n]] for n in range(len(inputs))], edges


def _layers(inputs: Sequence[Sequence[int]]) -> list[int]:
    """A layer below those of the inputs for each; what has none stands just above its first user."""
    layers: list[int] = []
    for sources in inputs:
        layers.append(max((layers[s] + 1 for s in sources), default=0))
    first: dict[int, int] = {}
    for n, sources in enumerate(inputs):
        for s in sources:
            first[s] = min(first.get(s, layers[n]), layers[n])
    return [k if inputs[n] or n not in first else first[n] - 1 for n, k in enumerate(layers)]


def _trunk(source: int, layers: Sequence[int], k: int) -> Point:
    """Where the edges of a source are in layer k: at its own box, or at a bend."""
    return source if k == layers[source] else (source, k)


Neighbours = dict[Point, list[Point]]


def _order(layers: list[list[Point]], above: Neighbours, below: Neighbours) -> None:
    """Sort each layer by the means of the neighbours' places, down and up again; keep the best."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers, above)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        near = above if down else below
        for k in range(1, len(layers)) if down else range(len(layers) - 2, -1, -1):
            place = {p: i for i, p in enumerate(layers[k - 1 if down else k + 1])}
            own = {p: i for i, p in enumerate(layers[k])}
            layers[k].sort(key=lambda p: _mean([place[q] for q in near[p]], own[p]))
        crossings = _crossings(layers, above)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    layers[:] = best


def _mean(
    values: Sequence[float], otherwise: float, weights: Sequence[float] | None = None
) -> float:
    weights = weights or [1.0] * len(values)
    pairs = zip(values, weights, strict=True)
    return sum(v * w for v, w in pairs) / sum(weights) if values else otherwise


def _crossings(layers: list[list[Point]], above: Neighbours) -> int:
    """How many pairs of edges cross."""
    count = 0
    for upper, lower in zip(layers, layers[1:], strict=False):
        place = {p: i for i, p in enumerate(upper)}
        ends = [place[q] for p in lower for q in sorted(above[p], key=place.__getitem__)]
        count += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
    return count


def _place(layers: list[list[Point]], above: Neighbours, below: Neighbours) -> dict[Point, float]:
    """The x of each point: near its neighbours, in the order of its layer, without overlaps."""

    def pull(p: Point) -> float:
        """Long edges are to be straight, and chains of operations; a leaf may stand aside."""
        return 4.0 if isinstance(p, tuple) else 1.0 if above[p] else 0.1

    x: dict[Point, float] = {}
    for layer in layers:
        x |= dict(zip(layer, _apart([0.0] * len(layer), [1.0] * len(layer), layer), strict=True))
    for sweep in range(SWEEPS):
        near = [above, below][sweep % 2]
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = [
                _mean([x[q] for q in near[p]], x[p], [pull(q) for q in near[p]]) for p in layer
            ]
            weights = [max(0.1, *(pull(p) * pull(q) for q in near[p]), 0.0) for p in layer]
            x |= dict(zip(layer, _apart(wanted, weights, layer), strict=True))
    return x


def _apart(wanted: list[float], weights: list[float], layer: list[Point]) -> list[float]:
    """The nearest places to the wanted ones that keep boxes apart, in least squares.

    Less the room that the boxes to the left take, the places must not fall: neighbours that would
    are pooled at their mean (pool adjacent violators).
    """
    room = [0.0]
    for p, q in zip(layer, layer[1:], strict=False):
        room.append(room[-1] + (_width(p) + _width(q)) / 2 + GAP[0])
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for want, weight, taken in zip(wanted, weights, room, strict=True):
        pool = (want - taken, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, w, n = pools.pop()
            both = w + pool[1]
            pool = ((mean * w + pool[0] * pool[1]) / both, both, n + pool[2])
        pools.append(pool)
    means = [mean for mean, _, n in pools for _ in range(n)]
    return [mean + taken for mean, taken in zip(means, room, strict=True)]


def _width(p: Point) -> float:
    return BEND if isinstance(p, tuple) else BOX[0]
