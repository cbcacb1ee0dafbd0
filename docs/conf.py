"""The settings of the documentation: `python -m sphinx docs site` makes it, without a network."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.util.inspect import stringify_signature

sys.path.insert(0, str(Path(__file__).parents[1]))

import tinygen

ROOT = Path(__file__).parents[1]
project = "tinygen"
author = "the authors of tinygen"
version = release = tinygen.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = True  # a name that is marked as a reference and leads nowhere is an error
exclude_patterns = ["site"]
smartquotes = False  # 'linear' stays as one types it
html_theme = "furo"
html_title = "tinygen"
html_copy_source = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures have them
autodoc_default_options = {"members": True}


def plain_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A docstring is plain English with names in backticks: show it so, not as a markup language.

    A line such as `x, y: arrays (n,)` begins an item of a list; indented paragraphs are examples.
    """
    shown: list[str] = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        if all(line.startswith("    ") for line in paragraph.split("\n")):
            shown += ["::", "", paragraph, ""]
            continue
        for line in paragraph.split("\n"):
            item = re.match(r"(\w+(?:, \w+)*): (.*)", line)
            if item:
                shown += ["", f"- **{item[1]}**: {_escaped(item[2])}"]
            elif shown and shown[-1].startswith("- "):
                shown[-1] += " " + _escaped(line.strip())
            else:
                shown.append(_escaped(line.strip()))
        shown.append("")
    lines[:] = "\n".join(shown).split("\n")


def _escaped(text: str) -> str:
    """Text with the signs of the markup language as signs, and names in backticks as code."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*|\\_])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"`{part}`" for part in parts[1::2]]
    return "".join(parts)


def mathml(self: Any, node: nodes.Element) -> None:
    """A formula as MathML, which browsers draw by themselves."""
    block = isinstance(node, nodes.math_block)
    drawn = convert(node.astext(), display="block" if block else "inline")
    drawn = re.sub(r"<mi>(log|exp)</mi>(?!<mo)", r'<mi>\1</mi><mspace width="0.17em"/>', drawn)
    # A minus after a bracket, a comma or a relation is a sign: it has no space around.
    before = r"(<mo[^>]*>&#x(?:00028|0005B|0002C|0003D);</mo>)"
    drawn = re.sub(before + "<mo>&#x02212;", r'\1<mo form="prefix">&#x02212;', drawn)
    drawn = drawn.replace("<mo>&#x02016;", '<mo stretchy="false">&#x02016;')  # the sign of a norm
    # The sign ~ is a relation: it has space around.
    drawn = drawn.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")
    self.body.append(f'<div class="math">{drawn}</div>' if block else drawn)
    raise nodes.SkipNode


def arguments(app: Any, what: str, name: str, obj: Any, options: Any, *found: Any) -> Any:
    """The arguments of a class are those of its __init__, whatever makes its objects."""
    if what != "class" or "__init__" not in vars(obj):
        return None
    signature = inspect.signature(obj.__init__)
    given = list(signature.parameters.values())[1:]  # without self
    shown = signature.replace(parameters=given, return_annotation=signature.empty)
    return stringify_signature(shown, show_annotation=False), None


SOURCES = "source/"  # the pages that show files, by the path of the file
LANGUAGES = {".py": "python", ".h": "c++", ".txt": "text"}


def link_to_sources(app: Any, doctree: nodes.document) -> None:
    """A link to a file of text leads to a page that shows the file. Else it would be a download."""
    page = app.env.docname
    for link in [*doctree.findall(addnodes.download_reference)]:
        if link["reftarget"].endswith(tuple(LANGUAGES)):
            path = (Path(app.env.doc2path(page)).parent / link["reftarget"]).resolve()
            target = SOURCES + path.relative_to(ROOT).as_posix()
            app.env.metadata[page].setdefault("sources", []).append(target)
            to = app.builder.get_relative_uri(page, target)
            link.replace_self(nodes.reference("", "", *link.children, refuri=to, internal=True))


def source_pages(app: Any) -> Any:
    """The pages to which these links lead: name, context, template."""
    for name in {n for told in app.env.metadata.values() for n in told.get("sources", ())}:
        path = name.removeprefix(SOURCES)
        text, language = (ROOT / path).read_text(encoding="utf-8"), LANGUAGES[Path(path).suffix]
        shown = app.builder.highlighter.highlight_block(text, language, linenos="inline")
        yield name, {"title": path, "body": f"<h1>{path}</h1>\n{shown}"}, "page.html"


def setup(app: Any) -> None:
    app.connect("doctree-read", link_to_sources, priority=400)  # before downloads are collected
    app.connect("html-collect-pages", source_pages)
    app.connect("autodoc-process-docstring", plain_text)
    app.connect("autodoc-process-signature", arguments)
    app.registry.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.config.html_math_renderer = "mathml"
