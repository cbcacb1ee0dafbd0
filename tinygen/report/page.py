"""A page: one file that opens without a server or a network."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["Page", "filled"]

SHARED = Path(__file__).with_name("page.css")  # the style that all pages share


class Page(str):
    """The text of a page; a notebook shows the page itself."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        style = "width:100%;height:720px;border:1px solid #8888"
        return (
            f'<iframe title="A page of tinygen" style="{style}" srcdoc="{escape(self)}"></iframe>'
        )


def filled(template: Path, *, title: str, data: Any = None, **parts: str) -> Page:
    """The page of a template: an .html file in which {{name}} stands for a part.

    {{style}} is the style that all pages share, and the .css file beside the template after it;
    {{script}} is the .js file beside it. {{title}} is escaped, {{data}} is JSON for a script element.
    The other `parts` are HTML. What they hold is not searched for names again.
    """
    # Inside a script element only "<" can end it or begin a comment.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    script = template.with_suffix(".js")
    parts |= {
        "title": escape(title),
        "style": _read(SHARED) + _read(template.with_suffix(".css")),
        "script": _read(script) if script.exists() else "",
        "data": text,
    }
    return Page(re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read(template)))


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
