"""A page in a real browser, headless: its document when its script has run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = [
    "--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--enable-logging=stderr", "--window-size=1400,900",
    "--virtual-time-budget=3000",
]  # fmt: skip
VOID = {"meta", "input", "br", "img", "link", "hr"}

needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")


class Element:
    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes, self.parts = tag, attributes, []

    def __getitem__(self, name: str) -> str:
        return self.attributes[name] or ""

    @property
    def classes(self) -> set[str]:
        return set((self.attributes.get("class") or "").split())

    @property
    def text(self) -> str:
        return "".join(self.parts)


class Document(HTMLParser):
    """The elements of a page in order, each with its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(Element(tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag):
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data):
        for element in self._open:
            element.parts.append(data)

    def all(self, tag: str | None = None, **attributes: str) -> list[Element]:
        """Those with this tag and these attributes; `within` is the value of class, or a part."""
        part = attributes.pop("part", None)
        return [
            e
            for e in self.elements
            if (tag is None or e.tag == tag)
            and (part is None or part in e.classes)
            and all(e.attributes.get(k.replace("_", "-")) == v for k, v in attributes.items())
        ]

    def one(self, tag: str | None = None, **attributes: str) -> Element:
        found = self.all(tag, **attributes)
        assert len(found) == 1, (tag, attributes, len(found))
        return found[0]


def run(page: Path, fragment: str, profile: Path, *options: str) -> tuple[str, list[str]]:
    """What the browser prints, and what the page's console says."""
    sandbox = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    done = subprocess.run(
        [BROWSER, *OPTIONS, *sandbox, f"--user-data-dir={profile}", *options, f"{page.as_uri()}{fragment}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, re.findall(r"CONSOLE:\d+\] (.*)", done.stderr)


def opened(page: Path, fragment: str = "") -> Document:
    """The page in the state that the fragment names; AssertionError if its console says anything."""
    text, console = run(page, fragment, page.parent / "profile", "--dump-dom")
    assert not console, console
    return Document(text)
