"""The exercises: right answers pass, mistakes are seen, and all is told in a line or two."""

from __future__ import annotations

import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import tinygen
from tests.exercises.answers import RIGHT, WRONG, filled
from tinygen.__main__ import main
from tinygen.exercises import check as checking
from tinygen.exercises.check import TASKS, check
from tinygen.exercises.laws import LAWS

pytestmark = pytest.mark.cpu_only("NumPy's arrays")

PACKAGE, ROOT = Path(tinygen.__file__).parent, Path(__file__).parents[2]
KL = "07_kl.py"


def graded(folder, task, text):
    """What `check` prints of the text, and whether it is done."""
    path = folder / task
    path.write_text(text, encoding="utf-8")
    return check(path)


def laws_of(task):
    return LAWS[int(task[:2])]


def failures(text):
    """The problem of each law that fails, in order."""
    return re.findall(r"^  FAILS  .*\n((?:         .*\n)*)", text, flags=re.MULTILINE)


# -- answers -------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", TASKS)
def test_the_right_answer_passes_all_laws(task, tmp_path):
    text, done = graded(tmp_path, task, filled(task, RIGHT[task]))
    assert done and text.endswith("\ndone"), text
    assert text.count("\n  holds  ") == len(laws_of(task))


@pytest.mark.parametrize("task", TASKS)
def test_a_blank_is_seen_to_be_not_filled(task, tmp_path):
    text, done = graded(tmp_path, task, TASKS[task])
    assert not done and re.search(r"\nnot filled: line \d+, raise NotImplementedError\n", text)


@pytest.mark.parametrize(("task", "mistake", "bodies"), WRONG, ids=lambda x: str(x)[:40])
def test_a_mistake_fails_a_law_and_keeps_the_answer_secret(
    task, mistake, bodies, tmp_path, monkeypatch
):
    monkeypatch.setattr(checking, "SECONDS", 1.0)
    wrong = filled(task, RIGHT[task] | bodies)
    assert wrong != filled(task, RIGHT[task]), "this is the right answer"
    text, done = graded(tmp_path, task, wrong)
    assert not done and failures(text)
    assert "Traceback" not in text and str(PACKAGE) not in text
    for body in RIGHT[task].values():
        for line in set(map(str.strip, body.splitlines())) - set(
            map(str.strip, wrong.splitlines())
        ):
            assert line not in text


def test_each_law_is_seen_to_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "SECONDS", 0.5)
    seen = set()
    for task, _, bodies in WRONG:
        text, _ = graded(tmp_path, task, filled(task, RIGHT[task] | bodies))
        seen |= {(task, sentence) for sentence in re.findall("^  FAILS  (.*)", text, re.MULTILINE)}
    assert seen == {(task, sentence) for task in TASKS for sentence, _ in laws_of(task)}


def test_each_exercise_has_mistakes_and_several_laws():
    assert len(TASKS) == 20 and list(TASKS) == sorted(TASKS) == list(RIGHT)
    assert {task for task, _, _ in WRONG} == set(TASKS) and len(LAWS) == 20
    for task in TASKS:
        sentences = [sentence for sentence, _ in laws_of(task)]
        assert len(set(sentences)) == len(sentences) >= 2, task


@pytest.mark.parametrize("task", TASKS)
def test_a_text_names_what_to_read_and_what_is_there(task):
    text = TASKS[task]
    assert max(map(len, text.splitlines())) <= 100
    places = re.findall(r"tinygen/(\S+)\.py:(\w+)", text)
    (page,) = re.findall(r"docs/\S+\.md", text)
    written = {path.name for path in (ROOT / page).parent.glob("*.md")} - {"index.md"}
    assert places and (not written or Path(page).name in written), page
    assert f"`{task}`" in (ROOT / page).read_text(encoding="utf-8")  # the page names the exercise
    for path, name in places:
        module = import_module("tinygen." + path.replace("/", "."))
        classes = [value for value in vars(module).values() if isinstance(value, type)]
        assert any(hasattr(where, name) for where in (module, *classes)), (path, name)


def test_an_answer_in_part_shows_what_is_blank(tmp_path):
    rule = {"tanh_rule": RIGHT["01_rules.py"]["tanh_rule"]}
    text, done = graded(tmp_path, "01_rules.py", filled("01_rules.py", rule))
    assert not done and "  holds  " in text and "  blank  " in text and "FAILS" not in text


# -- the page ------------------------------------------------------------------------------------
PAGE = (ROOT / "docs" / "exercises" / "index.md").read_text(encoding="utf-8")


def test_the_page_lists_each_task_with_its_laws_and_links_to_what_it_names():
    rows = {row[2:4]: row for row in PAGE.splitlines() if re.match(r"\| \d\d \|", row)}
    assert list(rows) == [task[:2] for task in TASKS]
    for task, text in TASKS.items():
        row = rows[task[:2]].replace("\\|", "|")
        title, laws = text.split('"""')[1].split(".\n")[0], [f"• {s}" for s, _ in laws_of(task)]
        assert row.startswith(f"| {task[:2]} | {title} | {'<br>'.join(laws)} |")
        assert f"(../{re.search(r'docs/(.*)', text)[1]})" in row


def test_what_the_page_shows_is_what_is_printed(tmp_path):
    wrong = RIGHT[KL]["kl"].replace("s_q / s_p", "s_p / s_q")
    text, _ = graded(tmp_path, KL, filled(KL, {"kl": wrong}))
    assert f"\n```\n{text}\n```\n" in PAGE


# -- what students do ----------------------------------------------------------------------------
def body(text):
    return filled(KL, {"kl": text})


MISTAKES = {
    "an exception": (
        body("return 1 / (s_p - s_p)"),
        "line 20, return 1 / (s_p - s_p)",
        "ZeroDivisionError",
    ),
    "no return": (body("m_p + m_q"), "returned None"),
    "a word": (body("return 'much'"), "'much', not real numbers"),
    "a ragged list": (body("return [[1], [1, 2]]"), "not real numbers"),
    "a complex number": (body("return 1j"), "not real numbers"),
    "a function": (body("return kl"), "not real numbers"),
    "a wrong shape": (body("return np.zeros(3)"), "the shape (3,), the right shape is ()"),
    "NaN": (body("return np.log(-s_p)"), "is nan"),
    "infinity": (body("return np.inf"), "is inf"),
    "no end of calls": (body("return kl(m_p, s_p, m_q, s_q)"), "RecursionError"),
    "no end of printing": (body("while True:\n    print('kl')"), "it prints without end"),
    "no end": (body("while True:\n    pass"), "more than 0.2 s: does it end?"),
    "no end that catches": (
        body("while True:\n    try:\n        m_p = abs(m_p)\n    except Exception:\n        pass"),
        "more than 0.2 s",
    ),
    "no end that catches all": (
        body("while True:\n    try:\n        m_p = abs(m_p)\n    except:\n        pass"),
        "more than 0.2 s",
    ),
    "an exit": (body("raise SystemExit(0)"), "SystemExit"),
    "too few arguments": (
        TASKS[KL].replace("kl(m_p, s_p, m_q, s_q)", "kl(p, q)"),
        "kl() takes 2 positional arguments but 4 were given",
    ),
    "another name": (TASKS[KL].replace("def kl", "def KL"), "has no function kl"),
    "a number for the function": (TASKS[KL] + "\n\nkl = 3\n", "has no function kl"),
    "a wrong indent": (
        body("return 0").replace("    return", "  return"),
        "line 20: IndentationError",
    ),
    "no Python": ("kl: KL = (\n", "SyntaxError"),
    "a missing package": (
        "import nothing_like_it\n" + TASKS[KL],
        "line 1, import nothing_like_it",
        "ModuleNotFoundError",
    ),
    "a null byte": ("\0" + TASKS[KL], "null byte"),
    "an error of many lines": (body("raise ValueError('one\\ntwo' * 999)"), "ValueError: one two"),
}


if sys.version_info < (3, 11):  # there nothing interrupts a loop outside of its `try`
    del MISTAKES["no end that catches all"]


@pytest.mark.parametrize("what", MISTAKES)
def test_what_a_student_did_is_told_in_two_lines(what, tmp_path, monkeypatch):
    monkeypatch.setattr(checking, "SECONDS", 0.2)
    source, *expected = MISTAKES[what]
    text, done = graded(tmp_path, KL, source)
    assert not done and "Traceback" not in text and str(PACKAGE) not in text
    problems = failures(text)
    assert any(all(e in p for e in expected) for p in problems), text
    assert all(len(p.splitlines()) <= 3 and len(p) < 2500 for p in problems)


def test_the_students_code_may_change_its_arguments(tmp_path):
    """They are copies: a law that calls twice sees the same numbers."""
    in_place = (
        RIGHT["18_ddpm.py"]["sample"]
        .replace("x = x + ", "x += ")
        .replace("    x = (x -", "    x[...] = (x -")
    )
    assert in_place.count("x +=") == in_place.count("x[...]") == 1
    text, done = graded(tmp_path, "18_ddpm.py", filled("18_ddpm.py", {"sample": in_place}))
    assert done, text


def test_what_is_printed_is_shown_with_the_law_that_fails(tmp_path):
    text, _ = graded(tmp_path, KL, body("print('ratio', s_q / s_p)\nreturn 0.0"))
    assert "it printed: ratio 2.0" in text and text.count("it printed") == len(failures(text))


def test_the_student_may_stop_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        graded(tmp_path, KL, body("raise KeyboardInterrupt"))


def test_warnings_of_the_students_code_are_theirs(tmp_path):
    text, done = graded(tmp_path, KL, body("np.log(np.zeros(2))\n" + RIGHT[KL]["kl"]))
    assert done, text


# -- the commands --------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path):
    assert main(["exercises", "--out", str(tmp_path / "new" / "ex")]) == 0
    return tmp_path / "new" / "ex"


def test_exercises_are_copied_and_never_written_over(folder, capsys):
    assert {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir()} == TASKS
    (folder / KL).write_text("mine")
    (folder / "08_js.py").unlink()
    capsys.readouterr()
    assert main(["exercises", "--out", str(folder)]) == 0
    said = capsys.readouterr().out
    assert (folder / KL).read_text() == "mine" and (folder / "08_js.py").exists()
    assert said.startswith("1 of 20 exercises copied") and KL in said and "08_js.py" not in said
    assert "rename" in said


def test_check_of_a_file_says_which_laws_hold_and_where_to_read(folder, capsys):
    assert main(["check", str(folder / KL)]) == 1
    said = capsys.readouterr().out
    assert said.count("\n") == 3 and "\nnot filled: line 20, raise NotImplementedError\n" in said
    assert "read tinygen/distributions/divergences.py:_kl_normal; docs/" in said
    (folder / KL).write_text(body(RIGHT[KL]["kl"]), encoding="utf-8")
    assert main(["check", str(folder / KL)]) == 0
    assert capsys.readouterr().out.endswith("\ndone\n")


def test_check_of_a_folder_is_a_table(folder, capsys):
    (folder / KL).write_text(body(RIGHT[KL]["kl"]), encoding="utf-8")
    (folder / "08_js.py").write_text(filled("08_js.py", {"js": "return 0 * p[:, 0]"}))
    (folder / "notes.py").write_text("raise SystemExit(5)")
    (folder / "20_score.py").unlink()
    assert main(["check", str(folder)]) == 1
    said = capsys.readouterr().out.splitlines()
    rows = dict(line.split(maxsplit=1) for line in said[:-1])
    assert list(rows) == list(TASKS)[:-1]
    assert rows.pop(KL) == "done"
    assert re.fullmatch(r"\d of \d laws hold", rows.pop("08_js.py"))
    assert set(rows.values()) == {"not filled"}
    assert said[-1] == "1 of 20 done"


def test_check_of_a_folder_with_all_answers_is_0(folder, capsys):
    for task, bodies in RIGHT.items():
        (folder / task).write_text(filled(task, bodies), encoding="utf-8")
    assert main(["check", str(folder)]) == 0
    assert capsys.readouterr().out.endswith("20 of 20 done\n")


def test_a_wrong_command_is_2_and_one_line(folder, capsys):
    for name in ("7_kl.py", "01_elbo.py", "notes.py"):
        (folder / name).write_text("")
    shutil.copytree(folder / "..", folder / "empty", ignore=lambda d, names: names)
    for path, expected in (
        (folder / "none" / KL, "No such file"),
        (folder / "none.py", "'none.py' is not the name of an exercise"),
        (folder / "7_kl.py", "'7_kl.py' is not the name of an exercise: did you mean '07_kl.py'?"),
        (folder / "01_elbo.py", "did you mean '10_elbo.py'?"),
        (folder / "notes.py", "exercise: The file keeps the name it was copied with; `tinygen"),
        (folder / "empty", "has no exercises"),
    ):
        assert main(["check", str(path)]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and expected in said.err and not said.out
    assert main(["exercises", "--out", str(folder / KL)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_grading_is_the_same_each_time_and_draws_from_no_hidden_stream(tmp_path):
    np.random.seed(0)  # noqa: NPY002 - the stream of the student's code
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (graded(tmp_path, KL, body("return s_p - s_q")) for _ in range(2))
    assert first == second and (np.random.get_state()[1] == before).all()  # noqa: NPY002
