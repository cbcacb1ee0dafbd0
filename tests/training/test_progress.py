"""What a run shows while it goes."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from tests.support.small_runs import X, assert_same, make, parameters
from tinygen.training import progress as module
from tinygen.training.progress import progress


def test_zero_steps_leave_the_model_as_it_was():
    model = make("vae")
    before = parameters(model)
    assert model.fit(X, steps=0) == {}
    assert_same(before, parameters(model))


def test_progress_says_step_loss_rate_and_time_left(capsys):
    make("vae").fit(X, steps=3, show_progress=True)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    for part in ("step 3/3", "loss ", "kl ", "steps/s", "s left"):
        assert part in line


def test_a_line_comes_every_two_seconds_and_at_the_end(capsys, monkeypatch):
    now = iter([0.0, 1.0, 2.5, 3.0, 4.0, 4.1])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(now)))
    show = progress(steps=10, start=4)
    for step in (5, 6, 7, 8):  # after 1, 2.5, 3 and 4 seconds
        show(step, {"loss": [0.5]})
    show(8, {"loss": [0.5, 1.5]}, last=True)
    assert capsys.readouterr().err.splitlines() == [
        "step 6/10  loss 0.5000  1 steps/s  5 s left",
        "step 8/10  loss 1.0000  1 steps/s  2 s left",
    ]


def test_a_terminal_gets_a_bar(monkeypatch):
    pytest.importorskip("tqdm")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    show = progress(steps=10, start=4)
    show(7, {"loss": [0.25]})
    show(10, {"loss": [0.25, 0.75]}, last=True)
    last = terminal.getvalue().strip().split("\r")[-1]
    assert "10/10" in last and "loss 0.5000" in last and "step/s" in last
