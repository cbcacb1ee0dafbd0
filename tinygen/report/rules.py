"""The text of an operation and of its derivatives, as it stands in the files."""

from __future__ import annotations

import ast
import inspect
import os
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

from tinygen.autodiff.engine import Operation

__all__ = ["place", "record_of"]

_ROOT = Path(__file__).parents[2]


def record_of(op: Operation) -> dict[str, Any]:
    """An operation, with the text and the place of its function and of each of its derivatives."""
    rules = {name: _source(rule.function, name) for name, rule in op.rules.items()}
    if op.shared:
        rules["shared"] = _source(op.shared.function, "shared")
    return {
        "doc": inspect.getdoc(op.forward) or "",
        "signature": f"{op.name}({', '.join(op.names)})",
        "forward": _source(op.forward, op.name),
        "rules": rules,
    }


def place(line: str) -> str:
    """`file:line`, in the package or below the present folder without what leads there."""
    for root in (_ROOT, Path.cwd()):
        line = line.removeprefix(f"{root}{os.sep}")
    return line


def _source(function: Any, name: str) -> dict[str, str]:
    """Text and place; the text is empty where no file has it."""
    code = getattr(function, "__code__", None)
    if code is None:
        return {"text": "", "at": ""}
    found = {"at": place(f"{code.co_filename}:{code.co_firstlineno}")}
    try:
        if function.__name__ != "<lambda>":
            return {"text": dedent(inspect.getsource(function)).rstrip(), **found}
        lines, _ = inspect.findsource(function)
    except (OSError, TypeError):
        return {"text": "", **found}
    return {"text": _lambda("".join(lines), code.co_firstlineno, name), **found}


def _lambda(text: str, line: int, name: str) -> str:
    """The lambda that is given as `name` in this line; the whole line if there is none."""
    value = _lambdas(text).get((line, name))
    if value is None:
        return text.splitlines()[line - 1].strip()
    return f"{name}={ast.get_source_segment(text, value)}"


@cache
def _lambdas(text: str) -> dict[tuple[int, str | None], ast.Lambda]:
    """The lambdas of a file that are given by name, by their first line and that name."""
    return {
        (node.value.lineno, node.arg): node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Lambda)
    }
