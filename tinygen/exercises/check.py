"""Exercises are copied, and a student's files are graded. The code runs in this process: it is theirs."""

from __future__ import annotations

import io
import re
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygen.exercises.laws import LAWS, Broken, Functions

_TEXTS = (Path(__file__).parent / "tasks.txt").read_text(encoding="utf-8")
_PAIRS = re.split(r"^==== (.*)\n", _TEXTS, flags=re.MULTILINE)[1:]

TASKS = dict(zip(_PAIRS[::2], _PAIRS[1::2], strict=True))
"""The texts of the exercises by file name, in order."""

SECONDS = 5.0  # for one law. A right answer takes less than one
LETTERS = 2000  # that may be printed in the meantime


def copy(folder: Path) -> str:
    """Copy the exercises to a folder, and say what was done. Files that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    left = []
    for name, text in TASKS.items():
        try:
            with open(folder / name, "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            left.append(name)
    said = f"{len(TASKS) - len(left)} of {len(TASKS)} exercises copied to {folder}"
    hint = f"; left as they are: {', '.join(left)}. For a fresh one, rename yours and repeat this"
    return said + hint * bool(left)


def check(path: Path) -> tuple[str, bool]:
    """Grade a file, or all exercises in a folder: what to print, and whether all laws hold.

    FileNotFoundError: there is no such file. ValueError: it has not the name of an exercise.
    """
    if path.is_dir():
        return _check_folder(path)
    if path.name not in TASKS:
        topics = {_topic(name): name for name in TASKS}
        near = [topics[found] for found in get_close_matches(_topic(path.name), topics, 1)]
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"{path.name!r} is not the name of an exercise: {hint}The file keeps the name it was "
            "copied with; `tinygen exercises --out FOLDER` copies all"
        )
    path.stat()  # FileNotFoundError
    grades = _grade(path)
    title, text = TASKS[path.name].removeprefix('"""').split("\n", 1)
    state = _state(grades)
    lines = [f"{path.name}: {title}"]
    for sentence, word, problem in grades:
        lines += [f"  {word}  {sentence}", *(f"         {line}" for line in problem.splitlines())]
    if state == "not filled":
        lines[1:] = [f"not filled: {grades[0].problem}"]
    read = text.split("Read: ")[1].split('\n"""')[0].split("\n")
    lines.append("done" if state == "done" else f"{state}; read {'; '.join(map(str.strip, read))}")
    return "\n".join(lines), state == "done"


def _topic(name: str) -> str:
    """The name of a file without its number and its ending."""
    return re.sub(r"^\d*_?|\.\w*$", "", name)


def _check_folder(folder: Path) -> tuple[str, bool]:
    states = {n: _state(_grade(folder / n)) for n in TASKS if (folder / n).is_file()}
    if not states:
        raise ValueError(
            f"{folder} has no exercises; `tinygen exercises --out {folder}` copies them there"
        )
    done = [*states.values()].count("done")
    table = [f"{name:22}{state}" for name, state in states.items()]
    return "\n".join([*table, f"{done} of {len(TASKS)} done"]), done == len(states)


# -- running a student's code --------------------------------------------------------------------
class Grade(NamedTuple):
    """What was found of a law: "holds", "FAILS", or "blank" if there is no answer yet."""

    sentence: str
    word: str
    problem: str


def _state(grades: list[Grade]) -> str:
    words = [g.word for g in grades]
    if set(words) == {"blank"}:
        return "not filled"
    holding = words.count("holds")
    return "done" if holding == len(words) else f"{holding} of {len(words)} laws hold"


def _grade(path: Path) -> list[Grade]:
    names: dict[str, Any] = {"__name__": "exercise"}

    def load() -> None:
        exec(compile(path.read_bytes(), str(path), "exec"), names)

    loaded = _grade_law("The file runs", load, path)
    if loaded.word == "FAILS":
        return [loaded]
    functions, laws = Functions(names), LAWS[int(path.name[:2])]
    return [_grade_law(sentence, partial(law, functions), path) for sentence, law in laws]


def _grade_law(sentence: str, run: Callable[[], None], path: Path) -> Grade:
    printed, word = _Printed(), "FAILS"
    try:
        with redirect_stdout(printed), _limited():
            run()
        return Grade(sentence, "holds", "")
    except KeyboardInterrupt:
        raise
    except Broken as broken:
        problem = str(broken)
    except NotImplementedError as error:
        word, problem = "blank", _told(error, path).split("\n")[0]
    except BaseException as error:
        problem = _told(error, path)
    text = " ".join(printed.getvalue()[:200].split())
    return Grade(sentence, word, problem + f"\nit printed: {text}" * bool(text))


class _Endless(BaseException):
    """It stops a loop with an `except Exception` too. It is raised again and again, so that one with
    a bare `except:` is stopped outside of its `try` (not by Python 3.10)."""


class _Printed(io.StringIO):
    def write(self, text: str) -> int:
        if self.tell() > LETTERS:
            raise _Endless("it prints without end")
        return super().write(text)


@contextmanager
def _limited() -> Iterator[None]:
    """Without warnings, and _Endless after `SECONDS`, where the system has such a clock."""

    def stop(*_: Any) -> None:
        raise _Endless(f"it takes more than {SECONDS:g} s: does it end?")

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if hasattr(signal, "SIGALRM"):
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS / 50)
        try:
            yield
        finally:
            if hasattr(signal, "SIGALRM"):
                signal.setitimer(signal.ITIMER_REAL, 0)


def _told(error: BaseException, path: Path) -> str:
    """An error in a line or two: where in the student's file, and what."""
    kind = f"{type(error).__name__}: " * (not isinstance(error, _Endless))
    what = kind + " ".join(str(error).split())[:300]
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {what}"
    cause: BaseException | None = error
    while cause is not None:  # an error of tinygen may have the student's as its cause
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if frame.filename == str(path):
                return f"line {frame.lineno}, {frame.line}\n{what}"
        cause = cause.__cause__
    return f"when the exercise used it: {what}"
