"""A page of the documentation run as a reader runs it: its blocks of Python in turn, in one folder.

python -m tests.support.pages            every page that has pictures: they go to docs/pictures
python -m tests.support.pages handout/elbo.md
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tinygen.autodiff.engine import REGISTRY
from tinygen.backend import raw_forms, vocabulary

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = DOCS / "pictures"
FENCE = re.compile(r"^```(python|output)([^\n]*)\n(.*?)^```", re.S | re.M)
PICTURE = re.compile(r"!\[(.*?)\]\((?:\.\./)*pictures/([\w-]+\.png)\)", re.S)
NUMBER = re.compile(r"(-?\d+\.?\d*(?:e[-+]?\d+)?)")


@dataclass
class Block:
    code: str
    line: int  # of the page
    promised: str | None = None  # what it prints, as the page says
    within: float = 0.01  # how far a number may be from the promised one, as a share of it


def pages() -> list[Path]:
    return sorted(p for p in DOCS.rglob("*.md") if FENCE.search(p.read_text(encoding="utf-8")))


def blocks(text: str) -> list[Block]:
    """The Python of a page. A block `output` after one is what it prints; `output 5%` is looser."""
    found: list[Block] = []
    for match in FENCE.finditer(text):
        language, rest, body = match.groups()
        if language == "python":
            found.append(Block(body, text[: match.start()].count("\n") + 2))
        else:
            found[-1].promised = body
            if rest.strip():
                found[-1].within = float(rest.strip().rstrip("%")) / 100
    return found


def pictures(text: str) -> dict[str, str]:
    """The pictures of a page, by name, with what stands for them where they are not seen."""
    return {name: alternative for alternative, name in PICTURE.findall(text)}


@contextlib.contextmanager
def own_operations():
    """Operations that are made meanwhile are forgotten at the end."""
    before = set(REGISTRY)
    try:
        yield
    finally:
        for name in set(REGISTRY) - before:
            del REGISTRY[name], raw_forms[name], vars(vocabulary)[name]


def run(page: Path) -> list[str]:
    """Run a page in the working directory. What it printed other than promised, one line each."""
    wrong, names = [], {"__name__": "page"}
    text = page.read_text(encoding="utf-8")
    with own_operations():
        for block in blocks(text):
            printed = io.StringIO()
            code = "\n" * (block.line - 1) + block.code  # so that errors name the line of the page
            with contextlib.redirect_stdout(printed):
                exec(compile(code, str(page), "exec"), names)
            if block.promised is not None and not same(
                block.promised, printed.getvalue(), block.within
            ):
                wrong.append(f"line {block.line}: printed {printed.getvalue()!r}")
    missing = [name for name in pictures(text) if not Path(name).is_file()]
    return wrong + [f"no block wrote {name}" for name in missing]


def same(promised: str, printed: str, within: float) -> bool:
    """Whether two texts are equal but for the spaces, and numbers that differ by a share of them."""
    a, b = (NUMBER.split(" ".join(text.split())) for text in (promised, printed))
    return a[::2] == b[::2] and all(
        p == q or abs(float(p) - float(q)) <= within * abs(float(p))
        for p, q in zip(a[1::2], b[1::2], strict=True)
    )


def main(names: list[str]) -> int:
    status = 0
    for page in [DOCS / name for name in names] or pages():
        drawn = pictures(page.read_text(encoding="utf-8"))
        if not (drawn or names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            for line in run(page):
                print(f"{page.relative_to(DOCS)}: {line}", file=sys.stderr)
                status = 1
            for name in drawn:
                if Path(name).is_file():
                    shutil.copy(name, PICTURES / name)
            os.chdir(DOCS)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
