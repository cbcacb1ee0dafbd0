"""Where the boxes of a page stand."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygen.report.layout import BOX, layout

pytestmark = pytest.mark.cpu_only("no arrays")

graphs = st.lists(st.lists(st.integers(0, 10**6), max_size=4), min_size=1, max_size=30).map(
    lambda rows: [[s % n for s in row] if n else [] for n, row in enumerate(rows)]
)


@given(graphs)
def test_no_two_boxes_meet_and_inputs_stand_above(inputs):
    boxes, ways = layout(inputs)
    for n, (x, y) in enumerate(boxes):
        for u, v in boxes[:n]:
            assert abs(x - u) >= BOX[0] - 0.2 or abs(y - v) >= BOX[1]
        for i, s in enumerate(inputs[n]):
            points = ways[n][i]
            assert points[0] == [boxes[s][0], boxes[s][1] + BOX[1] / 2]
            assert abs(points[-1][0] - x) < BOX[0] / 2 and points[-1][1] == y - BOX[1] / 2
            assert all(above[1] < below[1] for above, below in pairwise(points))
    assert [len(row) for row in ways] == [len(row) for row in inputs]


@given(graphs)
def test_an_edge_goes_around_boxes(inputs):
    """Beside a box it goes straight down, and not through it."""
    boxes, ways = layout(inputs)
    for points in chain(*ways):
        for (x, y), (u, v) in pairwise(points):
            for middle, across in boxes:
                if y < across < v:
                    assert x == u and abs(x - middle) >= BOX[0] / 2 - 0.2


def test_a_chain_is_a_straight_line():
    boxes, ways = layout([[], *[[n] for n in range(50)]])
    assert {x for x, _ in boxes} == {boxes[0][0]}
    assert all(points[0][0] == points[-1][0] for points in chain(*ways))


def test_two_uses_in_one_operation_are_two_lines():
    _, ways = layout([[], [0, 0]])
    assert ways[1][0][0] == ways[1][1][0] and ways[1][0][-1] != ways[1][1][-1]


def test_a_long_straight_line_has_few_points():
    _, ways = layout([[], *[[n] for n in range(9)], [9, 0]])
    assert len(ways[-1][1]) <= 6


def test_a_constant_has_no_edge():
    _, ways = layout([[], [None, 0]])
    assert ways[1][0] is None and len(ways[1][1]) == 2


def test_edges_of_a_tree_do_not_cross():
    """A binary tree, whose leaves are given in an order in which they would cross."""
    inputs = [[], [], [], [], [0, 2], [1, 3], [4, 5]]
    boxes, _ = layout(inputs)
    left = [n for n in sorted(range(4), key=lambda n: boxes[n][0])]
    assert {frozenset(left[:2]), frozenset(left[2:])} == {frozenset({0, 2}), frozenset({1, 3})}


def test_a_leaf_stands_just_above_its_first_user():
    inputs = [[], *[[n] for n in range(5)], [], [5, 6]]
    boxes, _ = layout(inputs)
    assert boxes[6][1] == boxes[5][1]
