"""Values and lines for a page, recorded while a function computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinygen.autodiff.anomaly import callers_line
from tinygen.autodiff.engine import Node, Operation, Tensor

__all__ = ["recording"]


@contextmanager
def recording() -> Iterator[None]:
    """Hold on to the result of every operation in this block, and to the line that called it.

    A node does not keep its output, so that memory is freed. `tg.graph_html` in this block shows
    the value of every node, and where it was computed.
    """
    apply: Any = Operation.apply
    held = []

    def applied(op: Operation, args: Any, kwargs: Any) -> Tensor:
        result = apply(op, args, kwargs)
        if isinstance(result.node, Node):
            result.node.line = callers_line()
            held.append(result)
        return result

    Operation.apply = applied  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Operation.apply = apply  # type: ignore[method-assign]
