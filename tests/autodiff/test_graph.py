"""The graph of a result: as text, as DOT."""

from __future__ import annotations

import io
import re
import sys

import pytest

from tests.support.on_device import np, tg

pytestmark = pytest.mark.filterwarnings("error")


def small_graph():
    x = tg.tensor(np.ones((4, 3)), requires_grad=True, dtype=np.float32, name="x")
    w = tg.tensor(np.ones((3, 2)), requires_grad=True, dtype=np.float32)
    h = tg.tanh(x @ w)
    loss = ((h - np.ones(2, np.float32)) * h).mean()
    loss.name = "loss"
    return loss


TEXT = """\
%0  leaf      float32[4, 3]  x
%1  leaf      float32[3, 2]
%2  matmul    float32[4, 2]  ← %0 %1
%3  tanh      float32[4, 2]  ← %2
%4  subtract  float32[4, 2]  ← %3 ·
%5  multiply  float32[4, 2]  ← %4 %3
%6  mean      float32[]      ← %5  loss"""

DOT = """\
digraph tinygen {
  node [shape=box, fontname=monospace];
  n0 [label="x\\nleaf\\nfloat32[4, 3]", style=filled, fillcolor="lightgrey"];
  n1 [label="leaf\\nfloat32[3, 2]", style=filled, fillcolor="lightgrey"];
  n2 [label="matmul\\nfloat32[4, 2]"];
  n0 -> n2;
  n1 -> n2;
  n3 [label="tanh\\nfloat32[4, 2]"];
  n2 -> n3;
  n4 [label="subtract\\nfloat32[4, 2]"];
  n3 -> n4;
  n5 [label="multiply\\nfloat32[4, 2]"];
  n4 -> n5;
  n3 -> n5;
  n6 [label="loss\\nmean\\nfloat32[]"];
  n5 -> n6;
}"""


def test_text():
    assert tg.graph_text(small_graph()) == TEXT


def test_text_where_few_signs_are_encoded(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    assert tg.graph_text(small_graph()) == TEXT.replace("←", "<-").replace("·", ".")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert tg.graph_text(small_graph()) == TEXT


def test_dot():
    assert tg.graph_dot(small_graph()) == DOT


def test_the_graph_can_be_drawn_after_backward():
    loss = small_graph()
    loss.backward()
    assert tg.graph_text(loss) == TEXT


def test_a_leaf_alone():
    x = tg.tensor([1.0], requires_grad=True, name="x")
    assert tg.graph_text(x) == "%0  leaf  float64[1]  x"
    assert '  n0 [label="x\\nleaf\\nfloat64[1]", style=filled' in tg.graph_dot(x)


def test_a_constant_has_no_graph():
    for draw in (tg.graph_text, tg.graph_dot):
        with pytest.raises(ValueError, match="constant"):
            draw(tg.tensor([1.0]))
        with pytest.raises(TypeError, match=r"is a Tensor, not \w*array"):
            draw(np.ones(2))


def test_names_may_be_set_at_any_time():
    x = tg.tensor(1.0, requires_grad=True)
    y = x * 2.0
    y.name = "doubled"
    z = y + 1.0
    y = None  # the name stays with the graph
    x.name = "input"
    lines = tg.graph_text(z).splitlines()
    assert lines[0].endswith("input") and lines[1].endswith("doubled")
    assert z.name is None and (x * 1.0).name is None


def read_dot(text):
    """Labels by node, and edges, of a drawing in the form above; an assertion if it is not that."""
    lines = text.splitlines()
    assert lines[0] == "digraph tinygen {" and lines[-1] == "}"
    labels, edges = {}, []
    for line in lines[2:-1]:
        node = re.fullmatch(
            r'  (n\d+) \[label="((?:[^"\\]|\\.)*)"(, style=\w+, fillcolor="\w+")?\];', line
        )
        edge = re.fullmatch(r"  (n\d+) -> (n\d+);", line)
        assert node or edge, line
        if node:
            assert node[1] not in labels
            labels[node[1]] = node[2]
        else:
            edges.append((edge[1], edge[2]))
    assert all(a in labels and b in labels for a, b in edges)
    return labels, edges


def test_a_shared_part_stands_once():
    x = tg.tensor([1.0], requires_grad=True)
    h = tg.exp(x)
    y = h
    for _ in range(30):  # 2³⁰ paths, 31 nodes
        y = y + y
    labels, edges = read_dot(tg.graph_dot(y))
    assert len(labels) == 32 and len(edges) == 61
    assert len(tg.graph_text(y).splitlines()) == 32


@pytest.mark.parametrize("name", ['say "x"', "back\\", "a\\b", "two\nlines", "\\n", '\\"'])
def test_any_name_is_valid_dot(name):
    x = tg.tensor([1.0], requires_grad=True, name=name)
    labels, _ = read_dot(tg.graph_dot(x * 2.0))
    written = labels["n0"].removesuffix("\\nleaf\\nfloat64[1]")
    unescape = {"n": "\n", '"': '"', "\\": "\\"}
    assert re.sub(r"\\(.)", lambda m: unescape[m[1]], written) == name


def test_the_graph_of_a_derivative():
    x = tg.tensor(2.0, requires_grad=True)
    g = tg.gradients(x * x, x, create_graph=True)
    text = tg.graph_text(g)
    assert text.splitlines()[0].startswith("%0  leaf") and "multiply" in text
