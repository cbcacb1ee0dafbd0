"""The report of a run: what it says, and what a browser makes of it."""

from __future__ import annotations

import base64
import json
import re

import pytest

from tests.support.browser import Document, needs_browser, opened
from tinygen import checkpoint
from tinygen.__main__ import main
from tinygen.folder import CHECKPOINT
from tinygen.report.run import MEANINGS, MOST, PICTURES, run_html

pytestmark = pytest.mark.cpu_only("a page of plain data")

METRICS = {
    "model": "vae", "data": "digits", "options": {"hidden": [8]}, "csv": {}, "device": "cpu",
    "settings": {"steps": 3, "batch": 16, "lr": 0.001}, "seconds": 61.0,
    "sittings": [
        {"from_step": 0, "steps": "eager", "numpy": "1.0", "told": ["step 100: mode collapse"]},
        {"from_step": 2, "steps": "compiled", "numpy": "2.0"},
    ],
    "held_out": {"loss": 24.5, "my term": -0.25},
    "samples": {"recall": 0.5, "wasserstein": 2.0}, "floor": {"recall": 0.75, "wasserstein": 1.0},
    "versions": {"tinygen": "0.2.0"},
}  # fmt: skip


def page_of(history=None, pictures=None, **changes):
    metrics = {**METRICS, **changes}
    history = {"loss": [3.0, 2.0, 1.0]} if history is None else history
    return run_html(metrics, history, pictures or {}, {"Draw samples": "tinygen sample 'a b'"})


def rows(page):
    """The rows of its tables, as texts."""
    found = re.findall(r"<tr>(.*?)</tr>", page)
    return [
        [cell.text for cell in Document(row).elements if cell.tag in ("th", "td")] for row in found
    ]


# -- what it says --------------------------------------------------------------------------------
def test_a_measure_stands_beside_its_floor_and_says_what_it_means():
    found = rows(page_of())
    assert ["recall", "0.5", "0.75", *MEANINGS["recall"]] in found
    assert ["wasserstein", "2", "1", *MEANINGS["wasserstein"]] in found
    assert ["loss", "24.5", *MEANINGS["loss"]] in found
    assert ["my term", "−0.25", "", ""] in found  # of a model of one's own
    assert "None could be computed" in page_of(held_out={})


def test_settings_options_and_sittings_are_there():
    found = rows(page_of())
    for row in (["steps", "3"], ["lr", "0.001"], ["option hidden", "[8]"], ["data", "digits"]):
        assert row in found
    assert ["0", "eager", "1.0"] in found and ["2", "compiled", "2.0"] in found
    assert "3 training steps of 16 rows in 61 s on the cpu" in page_of()


def test_what_was_told_in_the_run_is_told_again():
    assert Document(page_of()).one("aside").text.endswith("step 100: mode collapse")
    assert not Document(page_of(sittings=[{"from_step": 0}])).all("aside")


def test_a_curve_falls_with_its_term_and_says_so():
    page = page_of(
        {"loss": [float(9 - i) for i in range(9)], "flat": [2.0], "lost": [float("nan")]}
    )
    assert "loss: from 9 to 1 in 9 updates" in page and "lost</figcaption><p>No finite" in page
    curves = [line["points"] for line in Document(page).all("polyline")]
    heights = [float(point.split(",")[1]) for point in curves[0].split()]
    assert heights == sorted(heights) and len(heights) == 9  # downwards on the screen
    assert len(curves) == 2


def test_a_long_history_is_a_short_curve():
    page = page_of({"loss": [1.0] * 100_000})
    assert len(page) < 40_000 and "in 100000 updates" in page


def test_pictures_are_in_the_page_and_those_too_large_are_named():
    content = {name: name.encode() for name in PICTURES}
    shown = Document(page_of(pictures=content)).all("img")
    found = {base64.b64decode(e["src"].partition("base64,")[2]).decode(): e["alt"] for e in shown}
    assert found == {name: alt for name, (_, alt) in PICTURES.items()}
    large = page_of(pictures={**content, "training.gif": bytes(MOST)})
    assert len(large) < 2e6 and "training.gif is too large" in large
    assert len(Document(large).all("img")) == len(PICTURES) - 1
    assert "they need matplotlib" in page_of()


@pytest.mark.parametrize("name", ["</style><script>alert(1)</script>", "{{style}}", 'a"b&amp;<b>'])
def test_any_name_stays_a_name(name):
    page = page_of({name: [1.0]}, data=name, held_out={name: 1.0}, options={name: name})
    assert "<script" not in page and page.count("</style>") == 1 and "<b>" not in page
    assert Document(page).one("h1").text == f"vae on {name}"
    assert [name, "1", "", ""] in rows(page) and [f"option {name}", name] in rows(page)


def test_the_page_asks_for_nothing():
    page = page_of(pictures={name: b"1" for name in PICTURES})
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    assert not re.search(r"https?://|@import|url\(|<script", page)
    assert set(re.findall(r'\b(?:src|href)="(data:|#|.)', page)) == {"data:", "#"}


# -- in a browser --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a small VAE that the command trained."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("report") / "run"
    assert main(["train", "vae", "--steps", "8", "--set", "hidden=[8]", "--out", str(folder)]) == 0
    return folder


@needs_browser
def test_the_report_of_a_run_opens_without_a_word(run):
    document = opened(run / "report.html")
    assert document.one("h1").text == "vae on digits"
    metrics = json.loads((run / "metrics.json").read_text())
    heads = {e.text for e in document.all("th", scope="row")}
    assert metrics["samples"].keys() | metrics["held_out"].keys() <= heads
    files = {base64.b64decode(e["src"].partition("base64,")[2]) for e in document.all("img")}
    assert files == {(run / name).read_bytes() for name in PICTURES}
    assert all(e["alt"] for e in document.all("img"))
    labels = [e["aria-label"] for e in document.all("svg", role="img")]
    history = checkpoint.section(checkpoint.read(run / CHECKPOINT)[1], "history")
    assert [label.partition(":")[0] for label in labels] == [*history]
    ids = {e.attributes.get("id") for e in document.elements}
    assert {e["href"][1:] for e in document.all("a")} <= ids
    assert (run / "report.html").stat().st_size < 2e6
