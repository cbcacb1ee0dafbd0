"""The callback of a run, and the CSV file that one writes."""

from __future__ import annotations

import csv

import pytest

from tests.support.interrupted import Interrupted, stop_at
from tests.support.small_runs import SMALL, X, assert_same, make, parameters
from tinygen import checkpoint
from tinygen.folder import CHECKPOINT
from tinygen.training import CsvLog

pytestmark = pytest.mark.cpu_only("files and numbers of Python")

RUN = {"steps": 9, "batch": 16, "ema_decay": 0.9}


# -- the callback --------------------------------------------------------------------------------
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_a_callback_gets_every_step_with_its_losses_and_changes_no_bit(name, compile):
    alone = make(name)
    history = alone.fit(X, **RUN, compile=compile)
    calls = []

    def callback(step, terms):
        calls.append((step, dict(terms)))
        terms.clear()  # it is the callback's own

    seen = make(name)
    assert seen.fit(X, **RUN, compile=compile, callback=callback) == history
    assert_same(parameters(alone), parameters(seen))
    assert [step for step, _ in calls] == list(range(1, 10))
    for term, values in history.items():
        last = values[1::2] if len(values) == 18 else values  # two updates in a step of the GAN
        assert [terms[term] for _, terms in calls] == last


def test_a_callback_that_raises_ends_the_run_where_the_folder_can_resume_it(tmp_path):
    whole = make("vae")
    history = whole.fit(X, **RUN)

    def full(step, terms):
        if step == 5:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        make("vae").fit(X, **RUN, callback=full, folder=tmp_path, checkpoint_seconds=0.0)
    assert checkpoint.read(tmp_path / CHECKPOINT)[0]["step"] == 4  # the state before that step
    resumed = make("vae")
    calls = []
    again = resumed.fit(
        X, **RUN, folder=tmp_path, resume=True, callback=lambda step, _: calls.append(step)
    )
    assert again == history and calls == [5, 6, 7, 8, 9]
    assert_same(parameters(whole), parameters(resumed))


# -- the log -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["vae", "gan"])
def test_a_log_reads_back_to_the_bits_of_the_history(name, tmp_path):
    history = make(name).fit(X, **RUN, callback=CsvLog(tmp_path / "log.csv"))
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == [str(i) for i in range(1, 10)]
    assert rows[0].keys() == {"step", *history}
    for term, values in history.items():
        assert [float(row[term]) for row in rows] == values[
            len(values) // 9 - 1 :: len(values) // 9
        ]


def test_the_log_of_a_run_stopped_twice_is_that_of_a_run_that_never_stopped(tmp_path):
    """Also where the log is ahead of the checkpoint, and where a kill cut its last line."""
    make("gan").fit(X, **RUN, callback=CsvLog(tmp_path / "whole.csv"))
    path, folder = tmp_path / "log.csv", tmp_path / "run"
    for at, resume, seconds in ((5, False, 0.0), (7, True, 1e9)):
        model = make("gan")
        stop_at(model, at)
        log = CsvLog(path, resume=resume)
        with pytest.raises(Interrupted):
            model.fit(
                X, **RUN, callback=log, folder=folder, resume=resume, checkpoint_seconds=seconds
            )
    kept = checkpoint.read(folder / CHECKPOINT)[0]["step"]
    assert kept + 1 < len(path.read_text().splitlines()) - 1  # ahead by more than a step
    path.write_text("".join(path.read_text().splitlines(True)[: kept + 1]) + "\n12")  # of 12.5
    make("gan").fit(X, **RUN, callback=CsvLog(path, resume=True), folder=folder, resume=True)
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"whole.csv", "log.csv", "run"}


def test_a_log_may_begin_where_a_run_is_resumed(tmp_path):
    make("ae").fit(X, steps=3, folder=tmp_path / "run")
    for steps in (5, 7):
        log = CsvLog(tmp_path / "log.csv", resume=True)
        make("ae").fit(X, steps=steps, folder=tmp_path / "run", resume=True, callback=log)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "4", "5", "6", "7"]


def test_a_log_that_is_there_is_not_lost(tmp_path):
    path = tmp_path / "log.csv"
    log = CsvLog(path)
    log(1, {"loss": 0.5, "kl": 2.0})
    before = path.read_bytes()
    assert before == b"step,loss,kl\n1,0.5,2.0\n"
    with pytest.raises(FileExistsError, match=r"log\.csv exists: .*resume=True"):
        CsvLog(path)
    with pytest.raises(FileExistsError):
        log(1, {"loss": 0.5, "kl": 2.0})  # a second run with the same object
    with pytest.raises(ValueError, match=r"columns \['step', 'loss', 'kl'\], .*\['step', 'loss'\]"):
        log(2, {"loss": 0.5})
    with pytest.raises(ValueError, match="columns"):
        CsvLog(path, resume=True)(1, {"loss": 0.5})
    with pytest.raises(ValueError, match="ends with step 1; the run goes on with 7"):
        CsvLog(path, resume=True)(7, {"loss": 0.5, "kl": 2.0})
    path.with_name("other.csv").write_text("\nmine\n")
    with pytest.raises(ValueError, match="columns"):
        CsvLog(path.with_name("other.csv"), resume=True)(1, {"loss": 0.5})
    assert path.read_bytes() == before and path.with_name("other.csv").read_text() == "\nmine\n"
