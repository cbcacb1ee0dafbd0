"""Pages that open without a server or a network: the graph of a computation, the report of a run."""

from __future__ import annotations

import os
from pathlib import Path

from tinygen.autodiff.engine import Tensor
from tinygen.report.recording import recording

__all__ = ["graph_html", "recording"]


def graph_html(result: Tensor, path: str | os.PathLike[str] | None = None) -> str:
    """The graph behind `result` as a page, which is also written to `path`.

    One file that opens without a network: each node with its value and gradient, what it keeps and
    its rule; and the backward pass step by step, in the engine's own order. Call it before
    `backward`, which frees what the rules need; no `grad` changes here.

    Nodes do not keep their outputs. The page shows a value that a rule keeps or that a living Tensor
    holds; `with tinygen.report.recording():` around the computation and this call, it shows them all.

    TypeError: no Tensor. ValueError: a constant, more than one element, a history that was freed, or
    more than 1000 nodes.
    """
    from tinygen.report.graph import page_of  # who makes no page need not wait for its parts

    page = page_of(result)
    if path is not None:
        Path(path).write_text(page, encoding="utf-8")
    return page
