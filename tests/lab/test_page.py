"""The laboratory as a page: what it holds, and what a browser makes of it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.support.browser import Document, needs_browser, opened, run
from tinygen import data
from tinygen.__main__ import main
from tinygen.lab.frames import SAMPLES
from tinygen.lab.page import TEMPLATE, laboratory
from tinygen.models import MODELS
from tinygen.report.page import SHARED

pytestmark = pytest.mark.cpu_only("the laboratory computes on the CPU")

STEPS = 300


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a short training, with as many frames as that of a long one."""
    path = tmp_path_factory.mktemp("lab") / "lab.html"
    path.write_text(laboratory(data.load("eight-gaussians", n=600), STEPS, 1), encoding="utf-8")
    return path


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.S)[1])


# -- what it holds -------------------------------------------------------------------------------
def test_every_model_has_the_same_updates_and_all_its_frames(page):
    told = data_of(page)
    assert [r["model"] for r in told["runs"]] == list(MODELS)
    steps = [[f["step"] for f in r["frames"]] for r in told["runs"]]
    assert all(s == steps[0] for s in steps) and (steps[0][0], steps[0][-1]) == (0, STEPS)
    for r in told["runs"]:
        seconds = [f["seconds"] for f in r["frames"]]
        assert seconds == sorted(seconds)
        assert {len(f["samples"]) for f in r["frames"]} == {2 * SAMPLES}
        assert r["settings"]["steps"] == STEPS and r["parameters"] > 1000
    assert len(told["head"]["baselines"]) == 2 and told["live"] is None


def test_the_page_is_small_and_asks_for_nothing(page):
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < 2e6
    assert "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'\"" in text
    shell = re.sub(r'(?s)<script id="data".*?</script>', "", text)
    assert not re.search(r"https?://|\b(src|href)=|@import|url\(|innerHTML", shell)


def test_the_same_seed_is_the_same_page():
    def numbers(seed):
        text = laboratory(data.load("two-moons", n=300), 3, seed)
        return re.sub(r'"seconds":[\d.]+', "", text)

    assert numbers(1) == numbers(1) != numbers(2)


def test_a_run_that_diverges_leaves_its_frames_and_the_other_models(monkeypatch):
    from tinygen.models import GAN

    frames_of = GAN.sample

    def sample(self, n, *, rng=None):
        return frames_of(self, n, rng=rng) * (np.nan if self.step >= 2 else 1)

    monkeypatch.setattr(GAN, "sample", sample)
    lines = []
    text = laboratory(data.load("two-moons", n=300), 4, 0, lines.append)
    told = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.S)[1])
    frames = {r["model"]: len(r["frames"]) for r in told["runs"]}
    assert frames["gan"] == 3 and frames["vae"] == frames["ddpm"] == 5
    assert "gan: after 3 updates the samples are not finite: the run diverged" in lines


def test_the_command_writes_the_page_of_a_file(tmp_path, capsys):
    rows = np.random.default_rng(0).normal([1, 200], [0.1, 30], (90, 2))
    table = np.column_stack([rows, np.arange(90) % 7])
    np.savetxt(tmp_path / "t.csv", table, "%.4f", ",", header="a,b,c", comments="")
    given = ["lab", "--out", str(tmp_path / "t.html"), "--data", str(tmp_path / "t.csv"), "--steps"]
    assert main([*given, "2"]) == 2
    assert "has 3 columns, the laboratory shows two: --columns A,B" in capsys.readouterr().err
    assert main([*given, "2", "--columns", "a,b"]) == 0
    out, err = capsys.readouterr()
    assert "it needs no network" in out and "ddpm: 2 updates in" in err
    assert data_of(tmp_path / "t.html")["head"]["name"] == "t.csv"
    assert main([*given, "0", "--columns", "a,b"]) == 2
    assert "steps is a whole number from 1, not 0" in capsys.readouterr().err


# -- contrast ------------------------------------------------------------------------------------
def test_all_colours_are_those_of_the_shared_style():
    """Whose contrast the tests of the graph's page measure."""
    named = set(re.findall(r"--([\w-]+):", SHARED.read_text(encoding="utf-8")))
    style = TEMPLATE.with_suffix(".css").read_text(encoding="utf-8")
    script = TEMPLATE.with_suffix(".js").read_text(encoding="utf-8")
    assert set(re.findall(r"var\(--([\w-]+)\)", style)) <= named
    assert set(re.findall(r'colour\("([\w-]+)"\)', script)) <= named
    assert not re.search(r"#[0-9a-f]{3,6}\b", style)


# -- in a browser --------------------------------------------------------------------------------
VIEWS = ["all", "autoencoders", "vae", "gan", "diffusion"]


@needs_browser
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_opens_and_says_in_words_what_it_draws(view, page):
    document = opened(page, f"#view={view}&frame=7&theme=dark")
    assert document.one("body")["data-ready"] == "yes"
    shown = [s["id"] for s in document.all("section") if "hidden" not in s.attributes]
    assert shown == [view]
    told = [c for c in document.all("canvas") if c.attributes.get("aria-label")]
    assert len(told) >= {"all": 10, "diffusion": 4}.get(
        view, 4
    )  # the drawing area of live runs is one
    assert all(c["role"] in ("img", "application") for c in told)
    assert "Handout: " in document.one("section", id=view).text
    assert document.one("p", id="told").text.endswith("frame 8 of 24.")


@needs_browser
def test_the_table_has_the_measures_of_the_frame(page):
    told = data_of(page)
    document = opened(page, "#view=all&frame=5")
    rows = [r.text for r in document.all("tr")][1:]
    names = [
        "Held-out data",
        *(r["model"] for r in told["runs"]),
        "Gaussian mixture",
        "Kernel density",
    ]
    assert len(rows) == len(names) == 9
    for row, r in zip(rows[1:7], told["runs"], strict=True):
        measures = r["frames"][5]["measures"]
        assert f"{measures['sliced_wasserstein']:.3f}{measures['mmd']:.4f}" in row
    assert f"{told['head']['floor']['measures']['sliced_wasserstein']:.3f}" in rows[0]


PRESS = """
const note = [], common = { bubbles: true, cancelable: true };
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, ...common }));
const set = (id, value, event) => { $(id).value = value; $(id).dispatchEvent(new Event(event)); };
const done = () => { document.body.dataset.note = JSON.stringify(note); };
/** The first time that the condition holds after a change of the page. */
const until = (condition) => new Promise((resolve) => {
  const look = () => condition() && (observer.disconnect(), resolve());
  const observer = new MutationObserver(look);
  observer.observe(document.body, { attributes: true, subtree: true, childList: true });
  look();
});
"""


def noted(page, tmp_path, script, fragment="", *options):
    """What a script notes that plays the reader."""
    text = page.read_text(encoding="utf-8")
    played = f"<script>{PRESS}(async () => {{ {script}; done(); }})()</script></body>"
    copy = tmp_path / "played.html"
    copy.write_text(text.replace("</body>", played), encoding="utf-8")
    dumped, console = run(copy, fragment, tmp_path / "profile", "--dump-dom", *options)
    assert not console, console
    return json.loads(Document(dumped).one("body")["data-note"])


@needs_browser
def test_slider_play_and_pause(page, tmp_path):
    told = noted(page, tmp_path, """
        set("slider", 4, "input"); note.push([at.frame, $("slider").getAttribute("aria-valuetext")]);
        $("play").click(); note.push($("play").textContent);
        await until(() => document.body.dataset.frame === "6");
        $("play").click(); note.push(at.frame, $("play").textContent, document.body.dataset.play);
        set("slider", 23, "input"); $("play").click();
        await until(() => document.body.dataset.frame === "0");
        set("slider", 22, "input");
        await until(() => document.body.dataset.play === "paused");
        note.push(at.frame);
        """)  # fmt: skip
    step = data_of(page)["runs"][0]["frames"][4]["step"]
    assert told == [
        [4, f"{step} updates of each model"], "❚❚ pause", 6, "▶ play", "paused", 23
    ]  # fmt: skip


@needs_browser
def test_the_keyboard_goes_everywhere(page, tmp_path):
    told = noted(page, tmp_path, """
        const now = () => note.push([at.view, at.frame, at.t]);
        press("Home"); now(); press("ArrowRight"); press("ArrowRight"); press("ArrowLeft"); now();
        for (const key of ["2", "3", "4", "5"]) { press(key); now(); }
        press("End"); press("."); now(); press(","); press(","); now();
        const { dataset } = document.body;
        press("r"); await until(() => at.t > 60);
        note.push(dataset.back); press("r"); note.push(dataset.back);
        press(" "); note.push(dataset.play); press(" "); note.push(dataset.play);
        press("t"); note.push(document.documentElement.style.colorScheme);
        """)  # fmt: skip
    assert told == [
        ["all", 0, 60], ["all", 1, 60], ["autoencoders", 1, 60], ["vae", 1, 60], ["gan", 1, 60],
        ["diffusion", 1, 60], ["diffusion", 23, 61], ["diffusion", 23, 59], "playing", "paused",
        "playing", "paused", "dark",
    ]  # fmt: skip


@needs_browser
def test_an_equal_time_shows_for_each_model_its_last_frame_within_it(page, tmp_path):
    told = noted(page, tmp_path, """
        set("budget", "seconds", "change"); go(8);
        note.push(limit(), lab.runs.map((r) => frameOf(r).step));
        """)  # fmt: skip
    runs = data_of(page)["runs"]
    limit = max(r["frames"][-1]["seconds"] for r in runs) * 8 / 23
    assert told[0] == pytest.approx(limit)
    within = [[f["step"] for f in r["frames"] if f["seconds"] <= told[0]] for r in runs]
    assert told[1] == [steps[-1] if steps else 0 for steps in within]


@needs_browser
def test_the_reverse_process_has_the_sampler_and_the_steps_that_are_chosen(page, tmp_path):
    told = noted(page, tmp_path, """
        const text = () => $("reverse").getAttribute("aria-label") + $("reverse").parentElement.textContent;
        note.push(text());
        set("sampler", "dpm-solver", "change"); set("count-of", "10", "change"); move(100); note.push(text());
        note.push([...$("count-of").options].map((o) => o.value), $("now").textContent);
        """, "#view=diffusion&t=0")  # fmt: skip
    assert "paths of ddpm in 25 steps, at time 100" in told[0] and "step 0 of 25 steps" in told[0]
    assert "paths of dpm-solver in 10 steps, at time 0" in told[1] and "at t = 0" in told[1]
    assert told[2:] == [["5", "10", "25", "50"], "t = 0 of 100"]


@needs_browser
def test_forward_clouds_in_the_browser_are_those_of_the_schedule(page, tmp_path):
    (found,) = noted(page, tmp_path, 'note.push(forward(run("ddpm"), 30).slice(0, 3))')
    r = next(r for r in data_of(page)["runs"] if r["model"] == "ddpm")
    clean, eps = (np.reshape(r[k], (-1, 2))[:3] / 100 for k in ("clean", "eps"))
    assert np.array(found) == pytest.approx(r["signal"][30] * clean + r["noise"][30] * eps)


@needs_browser
def test_points_are_drawn_where_they_lie(page, tmp_path):
    """The middle of the window is the middle of the canvas, and up is up."""
    told = noted(page, tmp_path, """
        const pixels = (draw) => {
          const canvas = document.createElement("canvas");
          draw(canvas);
          const { data, width: w } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return (x, y) => [0, 1, 2].map((k) => data[4 * (Math.round(y * w) * w + Math.round(x * w)) + k]);
        };
        let pixel = pixels((c) => plane(c, [10, 20, 2], "a test").dots([[11, 21]], "heat", 4, 1));
        note.push(String(pixel(0.75, 0.25)) === String(colour("heat")));
        note.push(String(pixel(0.75, 0.75)) === String(colour("ground")));
        const red = (v) => (v ? [255, 0, 0] : [0, 0, 0]);
        pixel = pixels((c) => plane(c, [0, 0, 1], "a test").map([0, 0, 0, 100], 2, red));
        note.push(pixel(0.95, 0.05)[0] > 200, pixel(0.05, 0.95)[0] < 50, pixel(0.95, 0.95)[0] < 50);
        """)  # fmt: skip
    assert told == [True] * 5


@needs_browser
def test_in_a_chart_each_model_has_a_look_of_its_own_and_all_words_have_room(page, tmp_path):
    told = noted(page, tmp_path, """
        const { prototype } = CanvasRenderingContext2D, { fillText, stroke } = prototype;
        const words = [], looks = new Set();
        prototype.stroke = function () {
          if (Math.round(10 * this.lineWidth) === 26) looks.add(this.strokeStyle + this.getLineDash());
          stroke.call(this);
        };
        prototype.fillText = function (text, x, y) {
          const w = this.measureText(text).width;
          const left = x - w * { left: 0, center: 0.5, right: 1 }[this.textAlign];
          words.push([this.canvas, left, left + w, y - 8, y + 8]);
          fillText.call(this, text, x, y);
        };
        const inside = ([, a, b, c, d]) => 0 <= a && b <= 560 && 0 <= c && d <= 320;
        const apart = ([chart, a, b, c, d], [other, e, f, g, h]) =>
          chart !== other || b <= e || f <= a || d <= g || h <= c;
        drawAll(); note.push(looks.size);
        drawVae(); drawGan(); drawLoss();
        note.push(words.length > 40 && words.every(inside));
        note.push(words.every((p, i) => words.slice(i + 1).every((q) => apart(p, q))));
        """)  # fmt: skip
    assert told == [6, True, True]


@needs_browser
@pytest.mark.parametrize("options, gap", [([], 250), (["--force-prefers-reduced-motion"], 1000)])
def test_who_asks_for_less_motion_gets_slower_frames(options, gap, page, tmp_path):
    script = """
        let every;
        window.setInterval = (step, gap) => { every = gap; return 1; };
        play(); note.push(every);
        """
    assert noted(page, tmp_path, script, "", *options) == [gap]


@needs_browser
def test_on_paper_all_views_are_drawn(page, tmp_path):
    told = noted(page, tmp_path, """
        dispatchEvent(new Event("beforeprint"));
        const blank = (c) => !c.getAttribute("aria-label");
        note.push([...document.querySelectorAll("canvas")].filter(blank).map((c) => c.id));
        """)  # fmt: skip
    assert told == [[]]
