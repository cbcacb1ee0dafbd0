"""The graph of a result as a page: what each node computed, keeps and sends backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Leaf, Node, Source, Tensor
from tinygen.backend import is_gpu_array, to_device
from tinygen.report.backward import Arrival, Backward, backward_of, values_of
from tinygen.report.layout import BOX, layout
from tinygen.report.order import ways
from tinygen.report.page import Page, filled
from tinygen.report.rules import place, record_of

__all__ = ["page_of"]

TEMPLATE = Path(__file__).with_name("graph.html")
WHOLE = 36  # elements of an array that is shown in numbers; a larger one is a histogram
BINS = 24
MOST = 1000  # nodes of a page
LONG = 80  # characters of a parameter


def page_of(result: Tensor) -> Page:
    """The page of the graph behind `result`: see `graph_html`."""
    backward = backward_of(result)
    if len(backward.numbers) > MOST:
        raise ValueError(
            f"a page of {len(backward.numbers)} nodes is more than a browser draws well, the limit is "
            f"{MOST}: draw a part of the graph, or print it with tg.graph_text"
        )
    nodes = _nodes(result, backward)
    operations = {s.op.name: s.op for s in backward.visits}
    title = result.name or nodes[-1]["op"] or "leaf"
    told = {
        "title": title,
        "box": BOX,
        "nodes": nodes,
        "steps": [backward.numbers[node] for node in backward.visits],
        "operations": {name: record_of(op) for name, op in operations.items()},
        "kept": _bytes_kept(backward.visits),
        "ways": ways(),
    }
    return filled(TEMPLATE, title=title, about="backward, step by step", data=told)


def _nodes(result: Tensor, backward: Backward) -> list[dict[str, Any]]:
    """What the page shows of each source, by its number."""
    numbers = backward.numbers
    inputs = [
        [None if p is None else numbers[p] for p in getattr(s, "parents", ())] for s in numbers
    ]
    boxes, ways = layout(inputs)
    values = values_of(result, numbers)
    return [
        {
            "name": source.name,
            "op": source.op.name if isinstance(source, Node) else None,
            "shape": source.shape,
            "dtype": str(source.dtype),
            "x": boxes[n][0],
            "y": boxes[n][1],
            "inputs": inputs[n],
            "ways": ways[n],
            "value": _array(values[source][0]) if source in values else None,
            "holder": values[source][1] if source in values else None,
            "arrivals": [_arrival(a, numbers) for a in backward.arrivals[source]],
            **(_of_operation(source) if isinstance(source, Node) else {}),
        }
        for source, n in numbers.items()
    ]


def _arrival(a: Arrival, numbers: dict[Source, int]) -> dict[str, Any]:
    return {
        "step": a.step,
        "from": None if a.sender is None else numbers[a.sender],
        "input": a.input,
        "gradient": _array(a.gradient),
        "total": None if a.total is a.gradient else _array(a.total),
    }


def _of_operation(node: Node) -> dict[str, Any]:
    """What only the result of an operation has: what it keeps, which rules it runs, its parameters."""
    each, places = node.op.each, range(len(node.parents))
    names = [f"{each}[{i}]" for i in places] if each else node.op.inputs
    return {
        "line": place(node.line),
        "names": names,
        "rules": [each or names[i] for i, _ in node.plan.rules],
        "params": {name: _short(value) for name, value in node.params.items()},
        "kept": [_kept(node, name, value) for name, value in (node.kept or {}).items()],
    }


def _kept(node: Node, name: str, value: Any) -> dict[str, Any]:
    """One thing that the node keeps for its rules: the role, the size, and a constant whole."""
    arrays = _arrays(value)
    told = {
        "name": name,
        "bytes": sum(a.nbytes for a in arrays),
        "what": ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays) or _short(value),
    }
    role = "a shape" if not arrays else "computed beside the output"
    if name == "y":
        role = "the output"
    elif name in node.op.inputs:
        constant = not node.op.each and _input(node, name) is None
        role = "the input, a constant" if constant else "the input"
        if constant and arrays:
            told["array"] = _array(arrays[0])
    return {**told, "role": role}


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic)) or is_gpu_array(value)


def _short(value: Any) -> str:
    text = f"{value.dtype}{list(value.shape)}" if _is_array(value) else repr(value)
    return text if len(text) <= LONG else f"{text[: LONG - 1]}…"


def _bytes_kept(nodes: list[Node]) -> list[int]:
    """Bytes of the arrays that are kept, each buffer once: those of leaves, which are there anyway,
    and the others."""
    buffers: dict[int, tuple[int, bool]] = {}
    for node in nodes:
        for name, value in (node.kept or {}).items():
            inputs = node.parents if node.op.each else [_input(node, name)]
            for array, source in zip(_arrays(value), inputs, strict=False):
                owner = array if getattr(array, "base", None) is None else array.base
                buffers[id(owner)] = array.nbytes, isinstance(source, Leaf)
    return [sum(n for n, leaf in buffers.values() if leaf is which) for which in (True, False)]


def _input(node: Node, name: str) -> Source | None:
    """The place of what a node keeps by this name, if that is an input in the graph."""
    names = node.op.inputs
    return node.parents[names.index(name)] if name in names else None


def _arrays(value: Any) -> list[Any]:
    return [a for a in (value if isinstance(value, list) else [value]) if _is_array(a)]


def _array(array: Any) -> dict[str, Any]:
    """An array for the page: its numbers if they are few, else where they lie."""
    array = np.asarray(to_device(array, "cpu"))
    told: dict[str, Any] = {"shape": array.shape}
    if array.size <= WHOLE:
        return {**told, "values": [_number(v) for v in array.ravel()]}
    finite = array[np.isfinite(array)].astype(float)
    if not finite.size:
        return {**told, "odd": array.size}
    scale = (
        float(np.abs(finite).max()) or 1.0
    )  # squares and widths of scaled numbers do not overflow
    counts, _ = np.histogram(finite / scale, BINS)
    return {
        **told,
        "counts": counts.tolist(),
        "odd": array.size - finite.size,
        "norm": _number(float(np.linalg.norm(finite / scale)) * scale),
        "mean": _number(float((finite / scale).mean()) * scale),
        "min": _number(finite.min()),
        "max": _number(finite.max()),
    }


def _number(v: Any) -> Any:
    """As JSON has it; it has no word for what is not finite. Nine digits tell every float32."""
    if isinstance(v, (bool, np.bool_)):
        return bool(v)
    v = v.item() if isinstance(v, np.generic) else v
    if isinstance(v, int):
        return v
    return float(f"{v:.9g}") if np.isfinite(v) else str(v)
