"""The live laboratory: who is answered, what a run does, and what a browser makes of it."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
from functools import partial
from urllib.parse import urlsplit

import pytest

from tests.lab.test_page import PRESS
from tests.support.browser import Document, needs_browser, run
from tinygen import data
from tinygen.__main__ import main
from tinygen.lab import serve
from tinygen.lab.frames import watched
from tinygen.lab.serve import MOST_BYTES, Busy, Runs, Server

pytestmark = pytest.mark.cpu_only("the laboratory computes on the CPU")

SETS = {name: partial(data.load, name, n=300) for name in ("two-moons", "swiss-roll")}
WISH = {"data": "two-moons", "model": "ae", "steps": 40, "seed": 1, "options": {}}
POINTS = [[x / 20, (x * x % 7) / 3] for x in range(60)]


@pytest.fixture
def server():
    with Server(SETS, "two-moons", 40, 0, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def runs():
    runs = Runs(SETS)
    yield runs
    runs.close()


@pytest.fixture
def gate(monkeypatch):
    """A semaphore: a run takes one leave of it for each frame, so that a test knows where it is."""
    gate = threading.Semaphore(0)

    def gated(model, scene, settings, looks, tell, resting):
        watched(model, scene, settings, looks, tell, lambda: gate.acquire() and resting())

    monkeypatch.setattr(serve, "watched", gated)
    yield gate
    gate.release(1000)  # for a run that a failed test left


def asked(server, method, path, body=None, **headers):
    """The status and the JSON or text that the server answers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    html = reply.headers["Content-Type"].startswith("text/html")
    return reply.status, text if html else json.loads(text)


def post(server, what, body):
    return asked(server, "POST", f"/{server.token}/{what}", json.dumps(body))


def until(runs, number, condition):
    """What the run has shown when the condition holds of it."""
    shown, silent = {"frames": [], "state": "running", "message": ""}, 0
    while not condition(shown):
        news = runs.since(number, len(shown["frames"]))  # waits for one
        silent = 0 if news["frames"] else silent + 1
        assert silent < 10, shown
        shown |= {**news, "frames": shown["frames"] + news["frames"]}
    return shown


def rests(shown):
    return shown["state"] != "running"


# -- who is answered -----------------------------------------------------------------------------
def test_the_address_is_on_the_loopback_with_a_token_of_its_own(server):
    url = urlsplit(server.address)
    assert url.hostname == server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32 and url.path == f"/{server.token}/"
    with Server(SETS, "two-moons", 40, 0, 0) as other:
        assert other.token != server.token


@pytest.mark.parametrize(
    "path", ["/", "/frames?run=0&after=0", "/{other}/", "/{short}/", "/%C3%A9/", "x", "//"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_the_token_nothing_is_answered(method, path, server):
    path = path.format(other="A" * len(server.token), short=server.token[:-1])
    status, answer = asked(server, method, path)
    assert status == 403 and "lacks the token" in answer["error"]
    assert server.runs.state == "idle"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "0.0.0.0:{port}", ""]
)
def test_under_another_name_nothing_is_answered(host, server):
    """A page elsewhere whose name leads here (DNS rebinding) does not get in, even with the token."""
    host = host.format(port=server.server_port)
    status, answer = asked(server, "GET", f"/{server.token}/", Host=host)
    assert status == 403 and "own address only" in answer["error"]
    assert (
        asked(server, "GET", f"/{server.token}/", Host=f"localhost:{server.server_port}")[0] == 200
    )


def test_the_page_may_ask_this_server_and_nobody_else(server):
    status, page = asked(server, "GET", f"/{server.token}/")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert status == 200 and policy == (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
    )
    assert asked(server, "GET", f"/{server.token}/other")[0] == 404
    assert asked(server, "POST", f"/{server.token}/frames", "{}")[0] == 404


# -- bad requests --------------------------------------------------------------------------------
@pytest.mark.parametrize("change, message", [
    ({"data": "mnist"}, "unknown data set 'mnist'"),
    ({"data": None}, "unknown data set None"),
    ({"data": {"a": 1}}, "unknown data set {'a': 1}"),
    ({"data": POINTS[:59]}, "60 to 2000 points make a data set, 59 are drawn"),
    ({"data": POINTS * 34}, "60 to 2000 points make a data set, 2040 are drawn"),
    ({"data": [*POINTS, [1]]}, "a point is two numbers, not [1]"),
    ({"data": [*POINTS, [1, "2"]]}, "a point is two numbers, not [1, '2']"),
    ({"data": [*POINTS, [1, True]]}, "a point is two numbers, not [1, True]"),
    ({"data": [*POINTS, [1, float("nan")]]}, "a point is two numbers, not [1, nan]"),
    ({"data": [*POINTS, [1, 10**400]]}, "a point is two numbers, not [1, 1000"),
    ({"model": "resnet"}, "unknown model 'resnet'"),
    ({"model": ["ae"]}, "unknown model \"['ae']\""),
    ({"steps": 0}, "the number of updates is a whole number from 1, not 0"),
    ({"steps": "9"}, "the number of updates is a whole number from 1, not '9'"),
    ({"steps": 20_001}, "the number of updates is at most 20000, not 20001"),
    ({"seed": -1}, "the seed is a whole number from 0, not -1"),
    ({"seed": 10**30}, "the seed is at most 4294967296"),
    ({"options": []}, "options are names and values"),
    ({"options": {"hidden": [10**6]}}, "unknown option of ae 'hidden'"),
    ({"options": {"latent": 64}}, "latent is one of [1, 2], not 64"),
])  # fmt: skip
def test_bad_wishes_are_told_and_start_nothing(change, message, server):
    status, answer = post(server, "start", WISH | change)
    assert status == 400 and message in answer["error"]
    assert server.runs.state == "idle"
    assert asked(server, "GET", f"/{server.token}/")[0] == 200


@pytest.mark.parametrize("body, headers, status, message", [
    ("{", {}, 400, "a request is JSON: Expecting"),
    ("[" * 50_000, {}, 400, "a request is JSON: "),
    (b"\xff\xfe", {}, 400, "a request is JSON: "),
    ("[]", {}, 400, "a run is described by names and values"),
    ("{}", {"Content-Length": str(MOST_BYTES + 1)}, 413, "at most 100000 bytes"),
    ("{}", {"Content-Length": "-1"}, 413, "at most 100000 bytes"),
    ("{}", {"Content-Length": "²"}, 413, "at most 100000 bytes"),
])  # fmt: skip
def test_bad_requests_are_told_and_end_nothing(body, headers, status, message, server):
    found, answer = asked(server, "POST", f"/{server.token}/start", body, **headers)
    assert found == status and message in answer["error"]
    assert asked(server, "GET", f"/{server.token}/")[0] == 200


@pytest.mark.parametrize("query", ["", "run=1", "run=x&after=0", "run=0&after=-1", "run=7&after=0"])
def test_bad_questions_for_frames(query, server):
    status, answer = asked(server, "GET", f"/{server.token}/frames?{query}")
    assert status == 400 and answer["error"]


def test_there_must_be_a_run_to_resume(server):
    assert post(server, "resume", {}) == (400, {"error": "there is no run to resume: it is idle"})


def test_a_browser_that_leaves_ends_nothing(server, capsys):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", f"/{server.token}/")
    connection.sock.close()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.connect()
    connection.sock.sendall(b"no HTTP at all\r\n\r\n")
    connection.close()
    assert asked(server, "GET", f"/{server.token}/")[0] == 200
    assert capsys.readouterr().err == ""


# -- a run ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("points", ["two-moons", POINTS], ids=["a set", "drawn points"])
def test_a_run_shows_all_its_frames(points, server):
    status, answer = post(server, "start", WISH | {"data": points})
    assert status == 200
    shown = until(server.runs, answer["run"], rests)
    assert shown["state"] == "done" and shown["message"] == ""
    assert shown["frames"][0]["step"] == 0 and shown["frames"][-1]["step"] == 40
    assert shown["steady"]["model"] == "ae" and shown["steady"]["settings"]["seed"] == 1
    assert shown["head"]["name"] == ("two-moons" if points == "two-moons" else "drawn points")
    status, again = asked(server, "GET", f"/{server.token}/frames?run={answer['run']}&after=3")
    assert again["frames"] == json.loads(json.dumps(shown["frames"][3:])) and "head" not in again


def test_one_run_at_a_time(server, gate):
    _, first = post(server, "start", WISH)
    assert post(server, "start", WISH) == (409, {"error": "a run is under way: stop it first"})
    gate.release(1000)
    assert until(server.runs, first["run"], rests)["state"] == "done"
    status, second = post(server, "start", WISH)
    assert status == 200 and second["run"] != first["run"]


def test_a_stopped_run_rests_and_goes_on_to_the_same_end(runs, gate):
    number = runs.start(WISH)
    gate.release(3)
    until(runs, number, lambda s: len(s["frames"]) == 3)
    runs.stop()
    gate.release(1)
    shown = until(runs, number, rests)
    assert shown["state"] == "stopped" and len(shown["frames"]) == 4
    gate.release(1000)  # nothing is taken of it
    runs.resume()
    shown = until(runs, number, rests)
    assert shown["state"] == "done" and shown["frames"][-1]["step"] == 40
    number = runs.start(WISH)
    straight = until(runs, number, rests)
    assert shown["frames"][-1]["samples"] == straight["frames"][-1]["samples"]


def test_a_diffusion_run_that_stops_shows_its_paths(runs, gate):
    number = runs.start(WISH | {"model": "ddpm"})
    gate.release(2)
    until(runs, number, lambda s: len(s["frames"]) == 2)
    runs.stop()
    gate.release(1)
    frames = until(runs, number, rests)["frames"]
    assert ["paths" in f for f in frames] == [False, False, True]


def test_another_run_takes_the_place_of_a_stopped_one(runs, gate):
    first = runs.start(WISH)
    thread = runs._thread
    runs.stop()
    gate.release(1)
    assert until(runs, first, rests)["state"] == "stopped"
    gate.release(1000)
    second = runs.start(WISH | {"model": "vae"})
    thread.join(60)
    assert not thread.is_alive()
    assert until(runs, second, rests)["steady"]["model"] == "vae"
    with pytest.raises(ValueError, match=f"run {first} is over: run {second} is in turn"):
        runs.since(first, 0)


def test_stop_at_the_last_frame_is_the_end(runs, gate):
    number = runs.start(WISH | {"steps": 1})  # the frames of steps 0 and 1
    gate.release(1)
    until(runs, number, lambda s: len(s["frames"]) == 1)
    runs.stop()
    gate.release(1)
    assert until(runs, number, rests)["state"] == "done"


def test_a_run_that_fails_says_why_and_the_next_one_runs(runs, monkeypatch):
    def failing(*args):
        raise RuntimeError("the network\nis out of order")

    monkeypatch.setattr(serve, "watched", failing)
    shown = until(runs, runs.start(WISH), rests)
    assert (shown["state"], shown["message"]) == ("failed", "the network is out of order")
    monkeypatch.setattr(serve, "watched", watched)
    assert until(runs, runs.start(WISH), rests)["state"] == "done"


def test_runs_from_several_threads_are_one(runs, gate):
    """Of many that start at once, one does."""
    outcomes = []

    def begin():
        try:
            outcomes.append(runs.start(WISH))
        except Busy:
            outcomes.append(None)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [1] + [None] * 7


def test_closing_ends_a_run_that_is_under_way(gate):
    runs = Runs(SETS)
    runs.start(WISH)
    gate.release(2)
    until(runs, 1, lambda s: len(s["frames"]) == 2)
    closing = threading.Thread(target=runs.close)
    closing.start()
    gate.release(1)
    closing.join(60)
    assert not closing.is_alive() and not runs._thread.is_alive()
    with pytest.raises(ValueError, match="the laboratory has ended: python -m tinygen lab starts"):
        runs.since(1, 2)


# -- the command ---------------------------------------------------------------------------------
def test_the_command_serves_until_ctrl_c():
    given = [sys.executable, "-m", "tinygen", "lab", "--no-browser"]
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as lab:
        url = urlsplit(lab.stdout.readline().split()[-1])
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
        connection.request("GET", url.path)
        assert connection.getresponse().status == 200
        connection.close()
        lab.send_signal(subprocess.signal.SIGINT)
        out, err = lab.communicate(timeout=60)
    assert (lab.returncode, err) == (0, "") and "the laboratory is closed" in out


def test_a_port_that_is_taken(server, capsys):
    given = ["lab", "--no-browser", "--port"]
    assert main([*given, str(server.server_port)]) == 2
    assert f"port {server.server_port} cannot be used" in capsys.readouterr().err
    assert main([*given, "70000"]) == 2
    assert "port 70000 cannot be used" in capsys.readouterr().err
    assert main(["lab", "--data", "digits"]) == 2
    assert "digits has 64 columns" in capsys.readouterr().err


# -- in a browser --------------------------------------------------------------------------------
class Address(str):
    """An address in the place of a file."""

    def as_uri(self):
        return str(self)


def noted(server, tmp_path, script):
    """What a script notes that plays the reader on the live page."""
    played = f"<script>{PRESS}(async () => {{ {script}; done(); }})()</script></body>"
    server.page = server.page.replace("</body>", played)
    dumped, console = run(Address(server.address), "", tmp_path / "profile", "--dump-dom")
    assert not console, console
    return json.loads(Document(dumped).one("body")["data-note"])


@needs_browser
def test_points_are_drawn_and_a_run_starts_and_is_followed_to_its_end(server, tmp_path):
    told = noted(server, tmp_path, """
        const box = $("pad").getBoundingClientRect();
        const pointer = (name, x, y) => $("pad").dispatchEvent(new PointerEvent(name, {
          pointerId: 1, buttons: 1, ...common,
          clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
        if ($("count").textContent !== "two-moons is chosen. Draw here for points of your own.") throw 0;
        pointer("pointerdown", 0.5, 0.5);
        note.push($("count").textContent, $("dataset").value);
        for (let i = 0; i < 25; i++) pointer("pointermove", 0.25 + i / 50, 0.75);
        const late = live.drawn.slice(4), mean = (k) => late.reduce((sum, p) => sum + p[k], 0) / late.length;
        note.push(mean(0), mean(1));
        set("model", "gan", "change");
        note.push([...$("options").querySelectorAll("select")].map((s) => s.name));
        $("updates").value = 30;
        $("start").click();
        await until(() => document.body.dataset.state === "done");
        note.push(at.view, lab.head.name, lab.runs[0].frames.map((f) => f.step).pop(), $("told").textContent);
        const views = [...document.querySelectorAll("[data-view]")].filter((b) => !b.hidden);
        note.push(views.map((b) => b.dataset.view));
        """)  # fmt: skip
    assert told[0].startswith("4 points drawn") and told[1] == ""
    # 100 points along the line from x = -1.5 to 1.38 at y = -1.5, each off by .08.
    assert told[2] == pytest.approx(-0.06, abs=0.05) and told[3] == pytest.approx(-1.5, abs=0.05)
    assert told[4] == ["penalty", "loss"]
    assert told[5:9] == ["gan", "drawn points", 30, "GAN: 30 of 30 updates. Done."]
    assert told[9] == ["new", "all", "gan", "help"]


@needs_browser
def test_runs_on_the_same_points_stand_side_by_side(server, tmp_path):
    told = noted(server, tmp_path, """
        $("updates").value = 20;
        for (const [model, set_] of [["vae", "two-moons"], ["ae", "two-moons"], ["ddpm", "swiss-roll"]]) {
          set("model", model, "change"); $("dataset").value = set_;
          document.body.dataset.state = "";
          $("start").click();
          await until(() => document.body.dataset.state === "done");
          note.push(lab.runs.map((r) => r.model));
        }
        """)  # fmt: skip
    assert told == [["vae"], ["vae", "ae"], ["ddpm"]]


@needs_browser
def test_stop_and_resume_on_the_page(server, gate, tmp_path):
    gate.release(3)
    server.runs.stop_ = server.runs.stop
    server.runs.stop = lambda: (server.runs.stop_(), gate.release(1))
    server.runs.resume_ = server.runs.resume
    server.runs.resume = lambda: (gate.release(1000), server.runs.resume_())
    told = noted(server, tmp_path, """
        set("model", "ae", "change"); $("updates").value = 60;
        $("start").click();
        await until(() => lab.runs[0]?.frames.length === 3);
        $("start").click(); await until(() => $("told").classList.contains("wrong"));
        note.push($("told").textContent, $("resume").disabled);
        $("stop").click(); await until(() => document.body.dataset.state === "stopped");
        note.push($("told").textContent, $("stop").disabled);
        $("resume").click(); await until(() => document.body.dataset.state === "done");
        note.push($("told").textContent);
        """)  # fmt: skip
    assert told[:2] == ["a run is under way: stop it first", True]
    assert told[2].endswith("Stopped: Resume goes on.") and told[3]
    assert told[4] == "Autoencoder: 60 of 60 updates. Done."


@needs_browser
def test_what_is_wrong_is_told_on_the_page(server, tmp_path):
    told = noted(server, tmp_path, """
        const right = (value) => { $("updates").value = value; return $("form").checkValidity(); };
        note.push(["", "0", "1.5", "20001"].map(right), right(20), $("limit").textContent);
        $("dataset").value = "";
        $("start").click();
        await until(() => $("told").classList.contains("wrong"));
        note.push($("told").textContent);
        $("pad").focus();
        for (const key of ["ArrowRight", "ArrowUp", "Enter"]) press(key);
        note.push($("count").textContent, brush);
        """)  # fmt: skip
    assert told[:3] == [[False] * 4, True, "20,000"]
    assert told[3] == "60 to 2000 points make a data set, 0 are drawn"
    assert told[4].startswith("12 points drawn") and told[5] == pytest.approx([0.15, 0.15])
