"""The laboratory live: a server for this machine alone, which trains one model at a time."""

from __future__ import annotations

import json
import secrets
import sys
import threading
import webbrowser
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from tinygen.data import Dataset
from tinygen.data import load as load_data
from tinygen.data._dataset import hold_out
from tinygen.data.toys import TOYS
from tinygen.errors import unknown, whole
from tinygen.lab.frames import LEAST, Scene, steady, watched
from tinygen.lab.page import CHOICES, make, page_of

__all__ = ["Busy", "Runs", "Server", "serve"]

LOOKS = 48  # frames of a run
MOST_POINTS = 2000
MOST_STEPS = 20_000
MOST_SEED = 2**32
MOST_BYTES = 100_000  # of a request
WAIT = 10.0  # seconds that a request for frames waits for one
DRAWN = "drawn points"


class Busy(Exception):
    """A run is under way."""


class _Over(Exception):
    """Another run is in turn."""


class Runs:
    """One run at a time, in a thread of its own.

    datasets: by name a function that loads the set. The state is 'idle', 'running', 'stopped' (it can
    be resumed), 'done', 'failed' or 'closed', and `frames` are what the run has shown so far.
    """

    def __init__(self, datasets: dict[str, Callable[[], Dataset]]) -> None:
        self.datasets = datasets
        self.news = threading.Condition()  # held while anything below is read or changed
        self.state, self.number, self.message = "idle", 0, ""
        self.about: dict[str, Any] = {}
        self.frames: list[dict[str, Any]] = []
        self._pause = False
        self._thread: threading.Thread | None = None
        self._scene: tuple[Any, Scene] | None = None  # the last one, and what was asked for

    def start(self, asked: Any) -> int:
        """Begin a run; its number. asked: `data` (a name, or points), `model`, `steps`, `seed`,
        `options`.

        A run that was stopped is given up for it. Busy: one is running. ValueError: bad wishes.
        """
        if not isinstance(asked, dict):
            raise ValueError("a run is described by names and values")
        wishes: dict[str, Any] = {"data": None, "model": None, "steps": None, "seed": 0}
        wishes |= {"options": {}} | asked
        data, options = wishes["data"], wishes["options"]
        if not isinstance(options, dict):
            raise ValueError("options are names and values")
        load = self._loader(data)
        steps = whole("the number of updates", wishes["steps"], 1, MOST_STEPS)
        seed = whole("the seed", wishes["seed"], 0, MOST_SEED)
        model, settings = make(str(wishes["model"]), steps, seed, options)

        def run(tell: Callable[[Any], None]) -> None:
            """Tell what the run shows: first about itself, then its frames."""
            if self._scene is None or self._scene[0] != data:
                self._scene = data, Scene(load())
            scene = self._scene[1]
            key = repr((scene.head["name"], scene.head["points"]))
            told = steady(str(wishes["model"]), model, scene, settings)
            tell({"head": {**scene.head, "key": key}, "steady": told})
            watched(model, scene, settings, LOOKS, tell, lambda: self._pause)

        with self.news:
            if self.state == "running":
                raise Busy("a run is under way: stop it first")
            self.number += 1
            self.state, self.message, self._pause = "running", "", False
            self.about, self.frames = {}, []
            self._thread = threading.Thread(target=self._work, args=(self.number, run))
            self._thread.daemon = True
            self._thread.start()
            self.news.notify_all()  # a run that was stopped ends
            return self.number

    def _loader(self, data: Any) -> Callable[[], Dataset]:
        """The function that loads what is asked for: a name, or drawn points [[x, y], ...]."""
        if isinstance(data, list):
            return partial(hold_out, DRAWN, _points(data), None, None)
        if not isinstance(data, str) or data not in self.datasets:
            raise unknown("data set", data, self.datasets)
        return self.datasets[data]

    def _work(self, number: int, run: Callable[[Callable[[Any], None]], None]) -> None:
        """The thread of a run: until its end, or until another number is in turn."""

        def tell(shown: dict[str, Any]) -> None:
            with self.news:
                if "head" in shown:
                    self.about = shown
                else:
                    self.frames.append(shown)
                    last = shown["step"] == self.about["steady"]["settings"]["steps"]
                    if self._pause and not last:
                        self.state = "stopped"
                self.news.notify_all()
                while self.state == "stopped" and self.number == number:
                    self.news.wait()
                if self.number != number:
                    raise _Over

        state, message = "done", ""
        try:
            run(tell)
        except Exception as error:  # whatever it is, the server goes on
            state, message = "failed", " ".join(str(error).split()) or type(error).__name__
        with self.news:
            if self.number == number:
                self.state, self.message = state, message
                self.news.notify_all()

    def stop(self) -> None:
        """Let the run rest after the frame that it is at."""
        with self.news:
            self._pause = True

    def resume(self) -> None:
        """Go on with a run that was stopped. ValueError: there is none."""
        with self.news:
            if self.state != "stopped":
                raise ValueError(f"there is no run to resume: it is {self.state}")
            self.state, self._pause = "running", False
            self.news.notify_all()

    def since(self, number: int, after: int) -> dict[str, Any]:
        """The frames of run `number` from `after` on: as soon as there is one, or its state changes.

        ValueError: another run is in turn, or the laboratory was closed.
        """
        with self.news:
            self.news.wait_for(
                lambda: (
                    self.number != number or len(self.frames) > after or self.state != "running"
                ),
                WAIT,
            )
            if self.state == "closed":
                raise ValueError("the laboratory has ended: python -m tinygen lab starts it again")
            if self.number != number:
                raise ValueError(f"run {number} is over: run {self.number} is in turn")
            about = {} if after else self.about
            return {
                **about, "frames": self.frames[after:], "state": self.state, "message": self.message
            }  # fmt: skip

    def close(self) -> None:
        """End the run, if there is one, and wait for its thread."""
        with self.news:
            self.number += 1
            self.state = "closed"
            self.news.notify_all()
        if self._thread is not None:
            self._thread.join()


def _points(drawn: list[Any]) -> Any:
    """Drawn points [[x, y], ...] as rows. ValueError: what is no point, too few, too many."""
    for point in drawn:
        pair = isinstance(point, list) and len(point) == 2
        if not (pair and all(type(v) in (int, float) and abs(v) < 1e3 for v in point)):
            raise ValueError(f"a point is two numbers, not {str(point)[:40]}")
    if not LEAST <= len(drawn) <= MOST_POINTS:
        raise ValueError(f"{LEAST} to {MOST_POINTS} points make a data set, {len(drawn)} are drawn")
    return np.array(drawn, np.float32)


class Server(ThreadingHTTPServer):
    """The laboratory at `address`, on the loopback interface alone.

    The address holds a random token; without it nothing is answered. OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(
        self,
        datasets: dict[str, Callable[[], Dataset]],
        chosen: str,
        steps: int,
        seed: int,
        port: int,
    ) -> None:
        self.runs = Runs(datasets)
        super().__init__(("127.0.0.1", port), _Handler)
        self.token = secrets.token_urlsafe(24)
        self.page: str = page_of(
            None, [],
            {
                "datasets": list(datasets), "chosen": chosen, "choices": CHOICES, "steps": steps,
                "limit": MOST_STEPS, "seed": seed, "least": LEAST, "most": MOST_POINTS,
            },
        )  # fmt: skip
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def server_close(self) -> None:
        super().server_close()
        self.runs.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a browser that left, or never asked
            super().handle_error(request, client_address)


class Refused(Exception):
    """An answer that is no answer: a status, and why."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 30  # seconds for a request to arrive

    def do_GET(self) -> None:
        self._answer({"": lambda q: self.server.page, "frames": self._frames})

    def do_POST(self) -> None:
        runs = self.server.runs
        self._answer({
            "start": lambda q: {"run": runs.start(self._body())},
            "stop": lambda q: runs.stop(),
            "resume": lambda q: runs.resume(),
        })  # fmt: skip

    def _answer(self, known: dict[str, Callable[[str], Any]]) -> None:
        try:
            status, answer = 200, self._found(known)
        except Refused as refused:
            status, answer = refused.args[0], {"error": refused.args[1]}
        except Busy as busy:
            status, answer = 409, {"error": str(busy)}
        except (ValueError, TypeError, LookupError, ArithmeticError) as error:
            status, answer = 400, {"error": str(error)}
        html = isinstance(answer, str)
        body = answer if html else json.dumps(answer or {}, separators=(",", ":"))
        payload = body.encode()
        self.send_response(status)
        self.send_header(
            "Content-Type", f"{'text/html' if html else 'application/json'}; charset=utf-8"
        )
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")  # the address holds the token
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.end_headers()
        self.wfile.write(payload)

    def _found(self, known: dict[str, Callable[[str], Any]]) -> Any:
        """What the path names. Refused: it comes from elsewhere, has no token, or names nothing."""
        # Another host's name may lead to this address (DNS rebinding): then the browser says so here.
        if self.headers.get("Host") not in self.server.hosts:
            raise Refused(403, "the laboratory answers at its own address only")
        url = urlsplit(self.path)
        token, _, name = url.path[1:].partition("/")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise Refused(403, "the address lacks the token that was printed at the start")
        if name not in known:
            raise Refused(404, f"nothing is at {name[:40]!r}")
        return known[name](url.query)

    def _frames(self, query: str) -> dict[str, Any]:
        asked = parse_qs(query)
        number, after = (int(asked[name][0]) for name in ("run", "after"))
        return self.server.runs.since(number, whole("after", after, 0))

    def _body(self) -> Any:
        """The JSON of a request. Refused: it is none, or too long."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            raise Refused(413, f"a request has a length of at most {MOST_BYTES} bytes")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"a request is JSON: {error}") from None

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for what matters."""


def serve(
    name: str, load: Callable[[], Dataset], steps: int, seed: int, port: int, browser: bool
) -> None:
    """Serve the laboratory until Ctrl-C, at an address that is printed, and opened in a browser.

    name, load: a data set to offer beside the toy sets, which the page begins with.
    ValueError: the port is taken or is none, or the data are not for the plane.
    """
    Scene(load())  # that it can be shown is known now
    datasets = {toy: partial(load_data, toy) for toy in TOYS} | {name: load}
    whole("steps", steps, 1, MOST_STEPS)
    try:
        server = Server(datasets, name, steps, whole("seed", seed, 0, MOST_SEED), port)
    except (OSError, OverflowError) as error:
        raise ValueError(f"port {port} cannot be used ({error}); --port names another") from None
    print(f"the laboratory is at {server.address}\nCtrl-C closes it", flush=True)
    if browser:
        webbrowser.open(server.address)
    try:
        with server:
            server.serve_forever()
    except KeyboardInterrupt:
        print("the laboratory is closed")
