"""What a run shows while it goes."""

from __future__ import annotations

from tests.support.small_runs import X, assert_same, make, parameters


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
