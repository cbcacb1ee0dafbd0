"""The names and argument types of all kernels, read from kernels.h, where they stand once."""

from __future__ import annotations

import functools
import re
from pathlib import Path

__all__ = ["FOLDER", "inlined", "pasted", "signatures"]

FOLDER = Path(__file__).parent
"""Where the sources are."""

_DECLARATION = re.compile(r"^KERNEL\((\w+)\)\(([^)]*)\);", re.MULTILINE)
_INCLUDE = re.compile(r'^#include "(\w+\.h)"$', re.MULTILINE)


@functools.cache
def signatures() -> dict[str, list[tuple[str, str]]]:
    """For each kernel its arguments, as (type, name): ("const float*", "x0")."""
    text = (FOLDER / "kernels.h").read_text()
    return {
        name: [_argument(part) for part in arguments.split(",")]
        for name, arguments in _DECLARATION.findall(text)
    }


def _argument(declaration: str) -> tuple[str, str]:
    kind, _, name = declaration.strip().rpartition(" ")
    return " ".join(kind.split()), name


def inlined(source: str) -> str:
    """The text of a source file, with its headers."""
    return pasted((FOLDER / source).read_text())


def pasted(text: str) -> str:
    """A source with the kernels' own headers in the place of their #include lines.

    What is compiled is then one text: a cache that is keyed by it cannot miss a changed header.
    """
    seen: set[str] = set()

    def paste(match: re.Match[str]) -> str:
        if match[1] in seen:
            return ""
        seen.add(match[1])
        header = (FOLDER / match[1]).read_text().replace("#pragma once\n", "")
        return _INCLUDE.sub(paste, header)

    return _INCLUDE.sub(paste, text)
