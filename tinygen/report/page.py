"""A page: one file that opens without a server or a network."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["Page", "filled"]

SHARED = Path(__file__).with_name("page.css")  # the style that all pages share
SCRIPT = SHARED.with_suffix(".js")  # what the scripts share
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; {{allowed}}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}}: {{about}}</title>
<style>
{{style}}
</style>
</head>
<body>
{{body}}{{end}}
</body>
</html>
"""
STYLE = "style-src 'unsafe-inline'"
ALLOWED = (
    f"img-src data:; {STYLE}",
    f"script-src 'unsafe-inline'; {STYLE}",
)  # without, with a script
END = """<noscript>This page needs JavaScript; it asks for nothing from a network.</noscript>
<script id="data" type="application/json">{{data}}</script>
<script>
{{script}}
</script>"""


class Page(str):
    """The text of a page; a notebook shows the page itself."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        style = "width:100%;height:720px;border:1px solid #8888"
        return (
            f'<iframe title="A page of tinygen" style="{style}" srcdoc="{escape(self)}"></iframe>'
        )


def filled(template: Path, *, title: str, about: str, data: Any = None, **parts: str) -> Page:
    """The page of a template: an .html file with the body, in which {{name}} stands for a part.

    Its style is the one that all pages share, and then the .css file beside the template. If there is
    a .js file beside it, this runs at the end, after the script that pages share. `title` and `about`
    are text, `data` is what the script gets. The other `parts` are HTML. What they hold is not
    searched for names again.
    """
    script = template.with_suffix(".js")
    scripted = script.exists()
    # Inside a script element only "<" can end it or begin a comment.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {"allowed": ALLOWED[scripted]} | parts
    parts |= {
        "title": escape(title),
        "about": about,
        "style": _read(SHARED) + _read(template.with_suffix(".css")),
        "script": _read(SCRIPT) + _read(script) if scripted else "",
        "data": text,
    }
    parts |= {"body": _with(parts, _read(template)), "end": _with(parts, END) if scripted else ""}
    return Page(_with(parts, PAGE))


def _with(parts: dict[str, str], text: str) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], text)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
