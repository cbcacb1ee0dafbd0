"""What the package says of itself: the same in its metadata, its citation, and its documents."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

import tinygen

pytestmark = pytest.mark.cpu_only("texts")

ROOT = Path(__file__).parents[1]
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / "setup.cfg", encoding="utf-8")
METADATA = CONFIG["metadata"]


def words(text):
    return [line for line in text.splitlines() if line]


def test_the_citation_says_what_the_metadata_say():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^([\w-]+): (.+)$", text, re.M))
    assert fields["title"] == METADATA["name"]
    assert fields["version"] == tinygen.__version__
    assert fields["license"] == METADATA["license_expression"]
    assert fields["abstract"] == METADATA["description"]
    assert re.findall(r"^  - name: (.+)$", text, re.M) == [METADATA["author"]]
    assert ", ".join(re.findall(r"^  - (?!name)(.+)$", text, re.M)) == METADATA["keywords"]


def test_the_supported_versions_are_the_same_everywhere():
    classified = re.findall(r"Python :: 3\.(\d+)$", METADATA["classifiers"], re.M)
    first, last = min(map(int, classified)), max(map(int, classified))
    assert list(map(int, classified)) == list(range(first, last + 1))
    options = CONFIG["options"]
    assert options["python_requires"] == f">=3.{first}"
    requirements = words(options["install_requires"])
    (numpy,) = [r.removeprefix("numpy>=") for r in requirements if r.startswith("numpy")]
    for text, pattern in {
        "README.md": rf"Python 3\.{first} to 3\.{last}, NumPy from {numpy} to the newest",
        "docs/howto/dependency.md": rf"Python \| 3\.{first} to 3\.{last} \|\n\| NumPy \| {numpy} to",
        ".ci/run": rf"Python 3\.{first}, NumPy {numpy}.*numpy=={numpy}\.\*.*for version in 3\.{last} ",
    }.items():
        assert re.search(pattern, (ROOT / text).read_text(encoding="utf-8"), re.S), text


def test_every_extra_is_explained():
    page = (ROOT / "docs/howto/dependency.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert sorted(explained) == sorted(CONFIG["options.extras_require"])
