"""The lines of code of each file of the package: `python -m benchmarks lines`.

Counted are lines that hold code: no blank lines, comments or docstrings.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections.abc import Sequence
from pathlib import Path

import tinygen

PACKAGE = Path(tinygen.__file__).parent
NO_CODE = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER
)  # fmt: skip


def lines_of_code(path: Path) -> int:
    """How many lines of a Python file hold code."""
    source = path.read_text()
    texts = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - texts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Count and print."""
    argparse.ArgumentParser(prog="python -m benchmarks lines", description=__doc__).parse_args(
        arguments
    )
    total = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        count = lines_of_code(path)
        total += count
        print(f"{count:6}  {path.relative_to(PACKAGE.parent)}")
    print(f"{total:6}  in all")
