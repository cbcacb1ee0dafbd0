"""A graph in layers, after Sugiyama, Tagawa and Toda (1981): inputs above, the result below.

Each source gets a layer; an edge that crosses layers bends at a point in each; points of a layer are
ordered so that few edges cross, and then moved above one another where there is room.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Hashable, Sequence
from itertools import accumulate, pairwise
from operator import add, mul

__all__ = ["BOX", "layout"]

BOX = 190, 58  # width and height
HALF = BOX[1] / 2
GAP = 26, 46  # between boxes, and between layers
BEND = 18  # the width that an edge takes in a layer that it crosses
SWEEPS = 16

Point = Hashable


Neighbours = dict[Point, list[Point]]
Way = list[list[float]]


def layout(inputs: Sequence[Sequence[int | None]]) -> tuple[Way, list[list[Way | None]]]:
    """The middle of each box; and for each of its inputs the points of the edge, from there down.

    `inputs[n]` are the inputs of n, each a smaller number than n; None for a constant has no edge.
    """
    sources = [[s for s in row if s is not None] for row in inputs]
    at = _layers(sources)
    layers, above = _points(sources, at)
    below: Neighbours = {p: [] for p in above}
    for p, uppers in above.items():
        for q in uppers:
            below[q].append(p)
    _order(layers, above, below)
    x = _place(layers, above, below)
    y = [k * (BOX[1] + GAP[1]) for k in range(len(layers))]

    def way(s: int, n: int, port: float) -> Way:
        bends = [(x[s, k], y[k] + side) for k in range(at[s] + 1, at[n]) for side in (-HALF, HALF)]
        ends = (x[s], y[at[s]] + HALF), (x[n] + port, y[at[n]] - HALF)
        return _bent([[round(u, 1), v] for u, v in (ends[0], *bends, ends[1])])

    ways: list[list[Way | None]] = []
    for n, row in enumerate(inputs):
        ports = iter(_ports(len(sources[n])))
        ways.append([None if s is None else way(s, n, next(ports)) for s in row])
    return [[round(x[n], 1), y[k]] for n, k in enumerate(at)], ways


def _ports(n: int) -> list[float]:
    """Where n edges enter a box from above, from its middle."""
    apart = min(36, (BOX[0] - 24) / max(n, 1))
    return [(i - (n - 1) / 2) * apart for i in range(n)]


def _bent(way: Way) -> Way:
    """The way without the points in the middle of a straight line down."""
    inner = zip(way, way[1:], way[2:], strict=False)
    return [way[0], *(b for a, b, c in inner if not a[0] == b[0] == c[0]), way[-1]]


def _points(
    sources: Sequence[Sequence[int]], at: Sequence[int]
) -> tuple[list[list[Point]], Neighbours]:
    """The points of each layer, boxes and bends (source, layer), and for each those above it.

    The edges of one source share their way down: a trunk of bends, which branches to each user.
    """
    end = list(at)
    for n, row in enumerate(sources):
        for s in row:
            end[s] = max(end[s], at[n] - 1)

    def trunk(s: int, k: int) -> Point:
        return s if k == at[s] else (s, k)

    layers: list[list[Point]] = [[] for _ in range(max(at) + 1)]
    above: Neighbours = {}
    for n, row in enumerate(sources):
        layers[at[n]].append(n)
        above[n] = [trunk(s, at[n] - 1) for s in row]
        for k in range(at[n] + 1, end[n] + 1):
            layers[k].append((n, k))
            above[n, k] = [trunk(n, k - 1)]
    return layers, above


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


def _order(layers: list[list[Point]], above: Neighbours, below: Neighbours) -> None:
    """Sort each layer by the means of the neighbours' places, down and up again; keep the best."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers, above)
    for sweep in range(SWEEPS):
        if not fewest:
            return
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


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(layers: list[list[Point]], above: Neighbours) -> int:
    """How many pairs of edges cross."""
    count = 0
    for upper, lower in pairwise(layers):
        place = {p: i for i, p in enumerate(upper)}
        ends = [place[q] for p in lower for q in sorted(above[p], key=place.__getitem__)]
        before: list[int] = []  # the ends of edges further left, sorted
        for end in ends:
            count += len(before) - bisect_right(before, end)
            insort(before, end)
    return count


def _place(layers: list[list[Point]], above: Neighbours, below: Neighbours) -> dict[Point, float]:
    """The x of each point: near its neighbours, in the order of its layer, without overlaps."""

    def pull(p: Point) -> float:
        """Long edges are to be straight, and chains of operations; a leaf may stand aside."""
        return 4.0 if isinstance(p, tuple) else 1.0 if above[p] else 0.1

    pulls = {p: pull(p) for p in above}
    rooms = [_room(layer) for layer in layers]
    x: dict[Point, float] = {}
    for layer, room in zip(layers, rooms, strict=True):
        x |= dict(zip(layer, _apart([0.0] * len(layer), [1.0] * len(layer), room), strict=True))
    both = list(zip(layers, rooms, strict=True))
    for sweep in range(SWEEPS):
        near = [above, below][sweep % 2]
        for layer, room in both if sweep % 2 == 0 else reversed(both):
            wanted, weights = [], []
            for p in layer:
                each = [pulls[q] for q in near[p]]
                places = [x[q] for q in near[p]]
                total = sum(each)
                wanted.append(sum(map(mul, places, each)) / total if each else x[p])
                weights.append(max(each) * pulls[p] if each else 0.1)
            x |= zip(layer, _apart(wanted, weights, room), strict=True)
    return x


def _room(layer: list[Point]) -> list[float]:
    """How far from the first point of a layer each must be at least."""
    widths = [BEND if isinstance(p, tuple) else BOX[0] for p in layer]
    return [*accumulate(((v + w) / 2 + GAP[0] for v, w in pairwise(widths)), initial=0.0)]


def _apart(wanted: list[float], weights: list[float], room: list[float]) -> list[float]:
    """The nearest places to the wanted ones that keep points apart, in least squares.

    Less the room to the left, the places must not fall: neighbours that would are pooled at their
    mean (pool adjacent violators).
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for want, weight, taken in zip(wanted, weights, room, strict=True):
        pool = (want - taken, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, w, n = pools.pop()
            both = w + pool[1]
            pool = ((mean * w + pool[0] * pool[1]) / both, both, n + pool[2])
        pools.append(pool)
    means = [mean for mean, _, n in pools for _ in range(n)]
    return [*map(add, means, room)]
