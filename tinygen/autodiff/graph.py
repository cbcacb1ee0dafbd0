"""The graph of a result, as text and as a drawing in the DOT language."""

from __future__ import annotations

import sys

from tinygen.autodiff.engine import Node, Source, Tensor, ancestors
from tinygen.autodiff.promotion import check_tensor

__all__ = ["graph_dot", "graph_text"]


def graph_text(result: Tensor) -> str:
    """Every operation that `result` depends on, one a line, in the order of computation.

    A line has a number, the operation, dtype and shape, the numbers of its inputs, and the name if
    one was set with `t.name = "..."`. `·` is a constant: its value is not in the graph. If standard
    output cannot encode `←` and `·`, they are `<-` and `.`. TypeError: `result` is no Tensor.
    ValueError: it is a constant.

    >>> print(graph_text(loss))
    %0  leaf      float32[4, 3]   x
    %1  square    float32[4, 3]   ← %0
    %2  mean      float32[]       ← %1   loss
    """
    numbers, rows = numbered(result), []
    arrow, constant = _signs()
    for source, number in numbers.items():
        inputs = ""
        if isinstance(source, Node):
            inputs = " ".join(constant if p is None else f"%{numbers[p]}" for p in source.parents)
            inputs = f"{arrow} {inputs}"
        end = "  ".join(filter(None, [inputs, source.name]))
        rows.append((f"%{number}", _what(source), _spec(source), end))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    )


def graph_dot(result: Tensor) -> str:
    """The graph behind `result` in the DOT language: `dot -Tsvg graph.dot -o graph.svg`."""
    numbers = numbered(result)
    lines = ["digraph tinygen {", "  node [shape=box, fontname=monospace];"]
    for source, number in numbers.items():
        label = "\n".join(filter(None, [source.name, _what(source), _spec(source)]))
        style = "" if isinstance(source, Node) else ', style=filled, fillcolor="lightgrey"'
        lines.append(f'  n{number} [label="{_escape(label)}"{style}];')
        if isinstance(source, Node):
            lines += [f"  n{numbers[p]} -> n{number};" for p in source.parents if p is not None]
    return "\n".join([*lines, "}"])


def numbered(result: Tensor) -> dict[Source, int]:
    """Sources in the order of computation: each leaf before the first node that uses it."""
    check_tensor("the result whose graph is shown", result)
    root = result.node
    if root is None:
        raise ValueError("this Tensor has no graph: it is a constant")
    nodes = sorted((s for s in ancestors(root) if isinstance(s, Node)), key=lambda n: -n.order)
    ordered: dict[Source, int] = {}
    for node in nodes:
        for source in (*node.parents, node):
            if source is not None:
                ordered.setdefault(source, len(ordered))
    ordered.setdefault(root, len(ordered))
    return ordered


def _signs() -> tuple[str, str]:
    """The signs for "from" and for a constant."""
    try:
        "←·".encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return "<-", "."
    return "←", "·"


def _what(source: Source) -> str:
    return source.op.name if isinstance(source, Node) else "leaf"


def _spec(source: Source) -> str:
    return f"{source.dtype}[{', '.join(map(str, source.shape))}]"


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
