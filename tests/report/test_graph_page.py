"""The page of a graph: what it holds, and what a browser makes of it."""

from __future__ import annotations

import json
import re
from html import unescape

import numpy
import pytest

import tinygen
from tests.report.test_backward import micrograd, network
from tests.support.browser import Document, needs_browser, opened, run
from tests.support.on_device import np, tg
from tinygen.__main__ import main
from tinygen.report import recording
from tinygen.report.graph import MOST, TEMPLATE, WHOLE, _array
from tinygen.report.page import SHARED, filled

pytestmark = pytest.mark.filterwarnings("error")
cpu_only = pytest.mark.cpu_only("a browser shows the same page")


def data_of(page):
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)[1])


# -- what it holds -------------------------------------------------------------------------------
def test_the_page_of_micrograds_example_has_its_numbers():
    with recording():
        _, _, g = micrograd()
        data = data_of(tg.graph_html(g))
    a, b = data["nodes"][:2]
    assert (a["name"], b["name"], data["nodes"][-1]["name"]) == ("a", "b", "g")
    assert (a["value"]["values"], b["value"]["values"]) == ([-4.0], [2.0])
    assert round(data["nodes"][-1]["value"]["values"][0], 4) == 24.7041
    assert round(a["arrivals"][-1]["total"]["values"][0], 4) == 138.8338
    assert round(b["arrivals"][-1]["total"]["values"][0], 4) == 645.5773
    assert all(node["value"] for node in data["nodes"])


def test_the_order_of_the_page_visits_users_first():
    data = data_of(tg.graph_html(network()[2]))
    turn = {n: i for i, n in enumerate(data["steps"])}
    for n, node in enumerate(data["nodes"]):
        for p in node["inputs"]:
            assert p is None or p not in turn or turn[n] < turn[p]


def test_what_a_node_keeps_with_its_bytes():
    x = tg.tensor(np.ones((3, 4)), requires_grad=True, dtype=np.float32)
    data = data_of(tg.graph_html((tg.exp(x) * 2.0).sum()))
    exp, times, total = (
        next(n for n in data["nodes"] if n["op"] == op) for op in ("exp", "multiply", "sum")
    )
    (y,) = exp["kept"]
    assert (y["name"], y["role"], y["bytes"]) == ("y", "the output", 48)
    (two,) = times["kept"]
    assert (two["name"], two["role"], two["what"]) == ("b", "the input, a constant", "2.0")
    assert [(k["name"], k["role"], k["bytes"]) for k in total["kept"]] == [
        ("x_shape", "a shape", 0)
    ]
    assert data["kept"] == [0, 48]
    scaled = data_of(tg.graph_html((x * np.arange(4.0, dtype=np.float32)).sum()))["nodes"][1]
    assert scaled["kept"][0]["array"]["values"] == [0, 1, 2, 3] and scaled["kept"][0]["bytes"] == 16


def test_a_buffer_that_two_nodes_keep_counts_once_and_a_leafs_apart():
    x = tg.tensor(np.ones(8), requires_grad=True)
    y = tg.exp(x)
    data = data_of(tg.graph_html((y * y + tg.square(x)).sum()))
    assert data["kept"] == [64, 64]


def test_small_arrays_are_whole_and_large_ones_told_in_short():
    assert _array(numpy.arange(WHOLE)) == {"shape": (WHOLE,), "values": list(range(WHOLE))}
    large = _array(numpy.arange(100.0))
    assert sum(large["counts"]) == 100 and (large["min"], large["max"]) == (0.0, 99.0)
    assert large["mean"] == 49.5 and large["norm"] == pytest.approx(573.018324, abs=1e-6)
    assert large["odd"] == 0
    odd = _array(numpy.array([numpy.nan, numpy.inf, *[1.0] * 40]))
    assert odd["odd"] == 2 and odd["mean"] == 1.0
    assert _array(numpy.full(50, numpy.nan)) == {"shape": (50,), "odd": 50}
    assert _array(numpy.array([numpy.nan, -numpy.inf, True]))["values"] == ["nan", "-inf", 1.0]
    huge = _array(numpy.array([-1e308, 1e308] * 25))
    assert sum(huge["counts"]) == 50 and huge["max"] == 1e308
    assert sum(_array(numpy.zeros(50))["counts"]) == 50
    assert _array(numpy.ones((0, 3))) == {"shape": (0, 3), "values": []}


def test_the_numbers_of_a_small_float32_array_are_exact():
    rng = numpy.random.default_rng(0)
    x = rng.normal(size=WHOLE).astype(numpy.float32)
    assert (numpy.array(_array(x)["values"], numpy.float32) == x).all()


@pytest.mark.parametrize(
    "name",
    ["</script><script>alert(1)</script>", "<!--<script>", "{{data}}{{style}}", 'a"b&amp;<b>'],
)
def test_any_name_stays_a_name(name):
    x = tg.tensor(1.0, requires_grad=True, name=name)
    y = x * 2.0
    y.name = name
    page = tg.graph_html(y)
    assert data_of(page)["nodes"][0]["name"] == name
    assert unescape(re.search(r"<title>(.*?)</title>", page)[1]).startswith(name)
    assert page.count("<script") == page.count("</script>") == 2 and "<!--" not in page


def test_the_page_asks_for_nothing():
    page = tg.graph_html(micrograd()[2])
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'" in page
    shell = re.sub(r'(?s)<script id="data".*?</script>', "", page)
    assert re.findall(r"https?://[^\"]*", shell) == ["http://www.w3.org/2000/svg"]  # a name
    assert not re.search(r"\b(src|href)=|@import|url\((?!#)|fetch\(|XMLHttp|innerHTML", shell)


def test_a_path_gets_the_text_and_a_notebook_the_page(tmp_path):
    page = tg.graph_html(micrograd()[2], tmp_path / "g.html")
    assert (tmp_path / "g.html").read_text(encoding="utf-8") == page
    frame = Document(page._repr_html_()).one("iframe")
    assert frame["srcdoc"] == page


def test_the_largest_page_stays_small():
    """MOST nodes, each with arrays that are just shown whole."""
    y = tg.tensor(np.linspace(-1, 1, WHOLE), requires_grad=True)
    for _ in range(MOST - 2):
        y = tg.tanh(y)
    assert len(tg.graph_html(y.sum()).encode()) < 2e6


def test_errors():
    with pytest.raises(ValueError, match="constant"):
        tg.graph_html(tg.tensor(1.0))
    with pytest.raises(ValueError, match="reduce the Tensor to one number"):
        tg.graph_html(tg.tensor([1.0, 2.0], requires_grad=True) * 2.0)
    y = tg.tensor(1.0, requires_grad=True)
    for _ in range(MOST):
        y = y + 1.0
    with pytest.raises(ValueError, match=rf"{MOST + 1} nodes.*graph_text"):
        tg.graph_html(y)


@cpu_only
def test_explain_writes_a_page_for_each_loss(tmp_path, capsys):
    assert main(["explain", "vae", "--html", str(tmp_path / "p.html")]) == 0
    data = data_of((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert data["title"] == "loss" and all(node["value"] for node in data["nodes"])
    assert all(node["line"] for node in data["nodes"] if node["op"])
    assert main(["explain", "gan", "--html", str(tmp_path / "p.html")]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        "p.html", "p-discriminator.html", "p-generator.html"
    }  # fmt: skip
    capsys.readouterr()


NOWHERE = [
    (".", "ends in .html, not '.'"),
    ("", "ends in .html, not ''"),
    ("page.txt", "ends in .html, not 'page.txt'"),
    ("folder.html", "is a file, and 'folder.html' is a folder"),
    ("none/page.html", "cannot write none/page.html: none: No such file or directory"),
]


@cpu_only
@pytest.mark.parametrize(("path", "message"), NOWHERE)
def test_what_cannot_be_written_is_told_before_the_work(
    path, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    assert main(["explain", "vae", "--html", path]) == 2
    assert main(["lab", "--steps", "1", "--out", path]) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 2 and all(line.endswith(message) for line in lines)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.html"]


# -- contrast ------------------------------------------------------------------------------------
def colours(side):
    """The page's colours by name, in its light or its dark form."""
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", SHARED.read_text())
    return {name: pair[side] for name, *pair in pairs}


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * d for d in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@cpu_only
@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
def test_texts_have_the_contrast_that_wcag_asks_for(side):
    """At least 4.5 : 1 for text, 3 : 1 for lines that mean something (WCAG 2.2, AA)."""
    at = colours(side)

    def contrast(a, b):
        low, high = sorted((luminance(at[a]), luminance(at[b])))
        return (high + 0.05) / (low + 0.05)

    texts = [(ink, ground) for ink in ("ink", "quiet", "heat") for ground in ("ground", "panel")]
    texts += [
        (ink, ground) for ink in ("ink", "heat", "quiet") for ground in ("heat-fill", "heat-full")
    ]
    texts += [("leaf", g) for g in ("leaf-fill", "heat-fill", "panel")] + [("quiet", "leaf-fill")]
    texts += [("wrong", "panel"), ("heat", "leaf-fill"), ("focus", "panel")]
    texts += [(ink, "ground") for ink in ("wrong", "focus", "leaf", "violet")]  # of charts
    assert [pair for pair in texts if contrast(*pair) < 4.5] == []
    lines = [("focus", "ground"), ("focus", "panel"), ("heat", "ground"), ("leaf", "ground")]
    assert [pair for pair in lines if contrast(*pair) < 3] == []


# -- in a browser --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "g.html"
    with recording():
        _, _, g = micrograd()
        tinygen.graph_html(g, path)
    return path


def box(document, n):
    return document.one("g", data_node=str(n))


@needs_browser
@cpu_only
def test_the_last_step_shows_the_gradients_of_micrograds_example(page):
    data = data_of(page.read_text(encoding="utf-8"))
    document = opened(page, f"#step={len(data['steps'])}&node=1")
    assert document.one("body")["data-ready"] == "yes"
    assert "gradient 138.8, complete" in box(document, 0)["aria-label"]
    assert "gradient 645.6, complete" in box(document, 1)["aria-label"]
    assert "value 24.7, gradient 1" in box(document, len(data["nodes"]) - 1)["aria-label"]
    said = document.one("p", id="told").text
    assert said.endswith(". Backward is done: the leaves have their gradients.")
    chosen = document.one("aside", id="node").text
    assert "%1 b" in chosen and "645.5773" in document.one("div", id="total").text
    assert "the sum of 5" in chosen and "333.2012" in chosen and "999.6035" in chosen


@needs_browser
@cpu_only
def test_before_the_first_step_only_the_result_has_a_gradient(page):
    document = opened(page)
    boxes = document.all("g", part="box", role="button")
    data = data_of(page.read_text(encoding="utf-8"))
    assert len(boxes) == len(data["nodes"]) == 27
    assert [b["data-node"] for b in boxes if "no gradient yet" not in b["aria-label"]] == ["26"]
    assert len([p for p in document.all("path", part="way") if "data-way" in p.attributes]) == sum(
        p is not None for node in data["nodes"] for p in node["inputs"]
    )
    assert document.one("input", id="slider")["max"] == "25"
    assert [b["data-node"] for b in boxes if b["tabindex"] == "0"] == ["26"]


@needs_browser
@cpu_only
def test_the_slider_goes_through_the_engines_order(page):
    """The table has all steps; the drawing, asked for a few, has the same node in turn."""
    data = data_of(page.read_text(encoding="utf-8"))
    document = opened(page, "#view=table")
    rows = [row for row in document.all("tr") if "data-step" in row.attributes]
    assert [int(row["data-step"]) for row in rows] == list(range(1, 26))
    order = [
        int(re.match(r"\d+%(\d+) ", row.text.replace(row["data-step"], row["data-step"], 1))[1])
        for row in rows
    ]
    assert order == data["steps"]
    for step in (1, 4, 17):
        document = opened(page, f"#step={step}")
        (current,) = [b for b in document.all("g", role="button") if "current" in b.classes]
        assert int(current["data-node"]) == data["steps"][step - 1]
        assert document.one("p", id="told").text.startswith(
            f"Step {step} of 25: %{current['data-node']} "
        )
        sends = document.all("path", part="sends")
        assert {w["data-way"].split(",")[0] for w in sends} == {current["data-node"]}


@needs_browser
@cpu_only
def test_where_a_value_is_used_twice_both_summands_and_the_sum_are_shown(tmp_path):
    a = tinygen.tensor(3.0, requires_grad=True, name="a")
    b = a * a
    b.name = "b"
    y = b + 2.0 * b
    tinygen.graph_html(y, tmp_path / "y.html")  # steps: y, 2b, b
    half = opened(tmp_path / "y.html", "#step=1&node=1")
    assert "gradient 1, waits 1/2" in box(half, 1)["aria-label"]
    assert (
        half.all("div", id="total") == []
        and "arrives in step 2" in half.one("aside", id="node").text
    )
    done = opened(tmp_path / "y.html", "#step=2&node=1")
    assert "gradient 3, waits" in box(done, 1)["aria-label"]
    assert re.fullmatch(r"3the sum of 2", done.one("div", id="total").text)
    signs = [e.text for e in done.all("span", part="sign")]
    assert signs == ["", "+", "="]
    assert [e.text for e in done.one("aside", id="node") and done.all("span", part="num")][1:] == [
        "1", "2", "3"
    ]  # fmt: skip
    both = opened(tmp_path / "y.html", "#step=3&node=0")
    assert [e.text for e in both.all("span", part="num")] == [
        "3",
        "9",
        "9",
        "18",
    ]  # a; b·g twice; a.grad


PRESS = """
const drawing = document.getElementById("drawing"), note = [];
const common = { bubbles: true, cancelable: true };
const press = (key) =>
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, ...common }));
const click = (element) => element.dispatchEvent(new MouseEvent("click", common));
const pointer = (name, x, y) =>
    drawing.dispatchEvent(new PointerEvent(name, { pointerId: 1, clientX: x, clientY: y, ...common }));
const place = (element) => element.getBoundingClientRect();
"""


def noted(page, tmp_path, script):
    """What a script notes that plays the reader."""
    text = page.read_text(encoding="utf-8")
    played = f"<script>{PRESS}{script}; document.body.dataset.note = JSON.stringify(note)</script></body>"
    copy = tmp_path / "played.html"
    copy.write_text(text.replace("</body>", played), encoding="utf-8")
    return json.loads(opened(copy).one("body")["data-note"])


@needs_browser
@cpu_only
def test_the_keyboard_goes_everywhere(page, tmp_path):
    steps = data_of(page.read_text(encoding="utf-8"))["steps"]
    told = noted(page, tmp_path, """
        const now = () => note.push([at.step, at.node]);
        press("ArrowRight"); press("ArrowRight"); now();
        press("ArrowLeft"); now();
        press("ArrowUp"); now();
        press("ArrowDown"); now();
        press("End"); now(); press("ArrowRight"); now();
        press("p"); press("Home"); now(); press("p"); document.activeElement.blur();
        press("/"); note.push(document.activeElement.id); press("ArrowRight"); now();
        press("Escape"); press("t"); note.push(document.documentElement.style.colorScheme);
        press(" "); note.push(document.body.dataset.play); press(" "); note.push($("play").textContent);
        """)  # fmt: skip
    last = steps[-1]
    assert told == [
        [2, steps[1]], [1, 26], [1, 24], [1, 26], [25, last], [25, last], [0, last], "search",
        [0, last], "dark", "playing", "▶ play",
    ]  # fmt: skip


@needs_browser
@cpu_only
def test_the_graph_is_dragged_zoomed_and_played(page, tmp_path):
    told = noted(page, tmp_path, """
        const start = { ...eye };
        pointer("pointerdown", 300, 300);
        pointer("pointermove", 340, 310);
        pointer("pointerup", 340, 310);
        click(boxes[5]);  // the end of the drag, no choice
        note.push(at.node);
        const moved = { ...eye };
        note.push([(start.x - moved.x) * eye.zoom, (start.y - moved.y) * eye.zoom]);
        press("+"); note.push(eye.zoom / moved.zoom);
        drawing.dispatchEvent(new WheelEvent("wheel", { deltaY: 100, ...common }));
        note.push(eye.zoom < 1.25 * moved.zoom);
        press("f");
        const frame = place(drawing);
        note.push(boxes.map(place).every((b) => b.left >= frame.left && b.right <= frame.right &&
            b.top >= frame.top && b.bottom <= frame.bottom));
        click(boxes[3]);
        note.push(at.node);
        document.getElementById("slider").value = 7;
        document.getElementById("slider").dispatchEvent(new Event("input"));
        note.push(at.step);
        """)  # fmt: skip
    assert told == [
        26, [pytest.approx(40), pytest.approx(10)], pytest.approx(1.25), True, True, 3, 7
    ]  # fmt: skip


@needs_browser
@cpu_only
def test_from_afar_each_node_has_a_short_name_that_fits_into_its_box(tmp_path):
    w = tinygen.tensor(1.0, requires_grad=True, name="encoder.layers.0.weight")
    y = w
    for _ in range(20):
        y = tinygen.sigmoid(y)
    y.name = "a_name_that_is_far_too_long_for_any_box"
    tinygen.graph_html(y, tmp_path / "y.html")
    told = noted(tmp_path / "y.html", tmp_path, """
        const shown = () => [...document.querySelectorAll(".box text")].filter((t) => t.getBBox().width);
        press("f");
        note.push(drawing.classList.contains("far"), shown().every((t) => t.classList.contains("brief")));
        note.push(shown().every((t) => t.getBBox().width < WIDTH && t.getBBox().height < HEIGHT));
        note.push(shown().slice(0, 2).map((t) => t.textContent));
        for (let i = 0; i < 9; i++) press("+");
        note.push(shown().some((t) => t.classList.contains("brief")));
        """)  # fmt: skip
    assert told == [True, True, True, ["weight", "sigmoid"], False]


@needs_browser
@cpu_only
def test_why_an_order(page):
    document = opened(page, "#view=order")
    assert "hidden" in document.one("section", id="graph").attributes
    assert "hidden" not in document.one("section", id="order").attributes
    assert [e.text for e in document.all("span", part="wrong")] == ["✗ a.grad = 1", "✗ a.grad = 6"]
    assert [e.text for e in document.all("span", part="right")] == ["✓ a.grad = 4"] * 2
    assert "def _walk(" in document.one("section", id="order").text


@needs_browser
@cpu_only
def test_names_of_any_kind_are_shown_as_they_are(tmp_path):
    name = '<script>alert(1)</script><img src="https://example.org/x">'
    x = tinygen.tensor([1.0, 2.0], requires_grad=True, name=name)
    y = (x * x).sum()
    y.name = name
    tinygen.graph_html(y, tmp_path / "y.html")
    document = opened(tmp_path / "y.html", "#step=2&node=0")
    assert document.all("h2")[0].text == f"%0 {name}"
    assert document.all("img") == [] and len(document.all("script")) == 2


@needs_browser
@cpu_only
def test_the_page_works_in_the_frame_of_a_notebook(page, tmp_path):
    with recording():
        shown = tinygen.graph_html(micrograd()[2])
    book = tmp_path / "notebook.html"
    book.write_text(f"""<!doctype html><body>{shown._repr_html_()}<script>
        const frame = document.querySelector("iframe");
        frame.onload = () => {{
          const {{ document: inside, KeyboardEvent }} = frame.contentWindow;
          inside.body.dispatchEvent(new KeyboardEvent("keydown", {{ key: "ArrowRight", bubbles: true }}));
          setTimeout(() => {{
            document.body.dataset.told = inside.getElementById("told").textContent;
            document.body.dataset.place = frame.contentWindow.location.href;
          }}, 1000);
        }};</script></body>""", encoding="utf-8")  # fmt: skip
    body = opened(book).one("body")
    assert body["data-told"].startswith("Step 1 of 25") and body["data-place"] == "about:srcdoc"


@needs_browser
@cpu_only
def test_three_hundred_nodes_and_search(tmp_path):
    x = y = tinygen.tensor(numpy.linspace(-1, 1, 60), requires_grad=True, name="x")
    for i in range(149):
        y = tinygen.tanh(y) + (x if i % 10 == 0 else 1.0)
    tinygen.graph_html(y.mean(), tmp_path / "y.html")
    assert (tmp_path / "y.html").stat().st_size < 1e6
    document = opened(tmp_path / "y.html", "#step=250&search=tanh")
    boxes = document.all("g", role="button")
    assert len(boxes) == 300 and document.one("span", id="matches").text == "149 matches"
    assert sum("match" in b.classes for b in boxes) == 149
    assert sum("done" in b.classes or "current" in b.classes for b in boxes) == 250


@needs_browser
@cpu_only
def test_the_browser_tells_of_errors_and_requests(tmp_path):
    """What the tests above rely on: a page that fails or asks for something is noticed."""
    policy = re.search("<meta http-equiv.*", filled(TEMPLATE, title="", about=""))[0]
    for body in ("<script>throw new Error('x')</script>", "<img src='https://example.org/x'>"):
        bad = tmp_path / "bad.html"
        bad.write_text(f"<!doctype html><head>{policy}</head><body>{body}</body>")
        assert run(bad, "", tmp_path / "profile", "--dump-dom")[1] != []
