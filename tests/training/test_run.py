"""A run: the same from the same seed, however often it is stopped; and what it refuses, and tells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zlib

import numpy
import pytest

from tests.support.interrupted import Interrupted, stop_at
from tests.support.on_device import np, on_cpu, placed, tg
from tests.support.small_runs import SMALL, X, assert_same, make, parameters
from tinygen import checkpoint, kernels, models
from tinygen.errors import CheckpointError, NonFiniteError
from tinygen.folder import CHECKPOINT
from tinygen.random import Generator
from tinygen.training import Stopped, fingerprint, recorded, run
from tinygen.training.loop import Loop


# -- determinism and resume ----------------------------------------------------------------------
@pytest.mark.parametrize("name", SMALL)
def test_a_stopped_run_resumes_to_the_same_bits(name, tmp_path):
    """Stopped twice, in the middle of a step; ema, moments, random state and order continue."""
    settings = {"steps": 12, "batch": 16, "ema_decay": 0.9, "warmup": 3}
    whole = make(name)
    history = whole.fit(X, **settings)
    for at, resume in ((4, False), (5, True)):
        model = make(name)
        stop_at(model, at)
        with pytest.raises(Interrupted):
            model.fit(X, **settings, folder=tmp_path, resume=resume, checkpoint_seconds=0.0)
    assert 0 < checkpoint.read(tmp_path / CHECKPOINT)[0]["step"] < 12
    resumed = make(name, seed=99)  # other initial weights: all come from the checkpoint
    assert resumed.fit(X, **settings, folder=tmp_path, resume=True) == history
    assert_same(parameters(whole), parameters(resumed))
    np.testing.assert_array_equal(
        whole.sample(3, rng=Generator(0)), resumed.sample(3, rng=Generator(0))
    )


@pytest.mark.parametrize("name", SMALL)
def test_looking_on_changes_no_bit_of_a_run_that_is_stopped_and_resumed(name, tmp_path):
    settings = {"steps": 12, "batch": 16, "ema_decay": 0.9, "warmup": 3}
    alone = make(name)
    history = alone.fit(X, **settings, folder=tmp_path / "alone")
    seen = []

    def look(step):
        seen.append((step, model.sample(3, rng=Generator(0))))

    looked = {**settings, "folder": tmp_path / "seen", "look": look, "look_at": {0, 1, 7, 12}}
    model = make(name)
    stop_at(model, 5)
    with pytest.raises(Interrupted):
        model.fit(X, **looked, checkpoint_seconds=0.0)
    assert [step for step, _ in seen] == [0, 1]
    resumed = checkpoint.read(tmp_path / "seen" / CHECKPOINT)[0]["step"]
    model = make(name)
    assert model.fit(X, **looked, resume=True) == history
    assert [step for step, _ in seen][2:] == [step for step in (1, 7, 12) if step >= resumed]
    assert_same(parameters(alone), parameters(model))
    (meta, arrays), (looked_meta, looked_arrays) = (
        checkpoint.read(tmp_path / folder / CHECKPOINT) for folder in ("alone", "seen")
    )
    assert {**meta, "sittings": []} == {**looked_meta, "sittings": []}
    assert_same(arrays, looked_arrays)
    # The last look saw the model that the run ends with: averaged, and with all that it measured.
    np.testing.assert_array_equal(seen[-1][1], alone.sample(3, rng=Generator(0)))


def test_how_often_checkpoints_are_written_changes_nothing(tmp_path):
    a, b = make("vae"), make("vae")
    a.fit(X, steps=5, folder=tmp_path, checkpoint_seconds=0.0)
    b.fit(X, steps=5)
    assert_same(parameters(a), parameters(b))


KILLED = """
import os, signal, sys
from tinygen import __main__
from tinygen.training.loop import Loop

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "after":      # between two steps, some time after a checkpoint
    advance = Loop.advance
    def advance_and_die(loop):
        advance(loop)
        if loop.step == 25:
            kill()
    Loop.advance = advance_and_die
else:                           # in the middle of writing one
    fsync = os.fsync
    calls = iter(range(4))
    def half(number):
        if next(calls, None) is None:
            os.ftruncate(number, 1000)
            kill()
        fsync(number)
    os.fsync = half
sys.exit(__main__.main(sys.argv[2:]))
"""

COMMAND = [
    "train", "vae", "--steps", "40", "--batch", "32", "--set", "hidden=[16]", "--ema-decay", "0.9",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.cpu_only("a process of its own")
@pytest.mark.parametrize("moment", ["after", "writing"])
def test_kill_9_and_resume(moment, tmp_path):
    """The command line, killed by the operating system, against the same command left alone."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False
        )

    assert python("-m", "tinygen", *COMMAND, "--out", str(whole)).returncode == 0
    died = python("-c", KILLED, moment, *COMMAND, "--out", str(killed), "--checkpoint-seconds", "0")
    assert died.returncode == -signal.SIGKILL, died.stderr
    at = checkpoint.read(killed / CHECKPOINT)[0]["step"]
    assert 0 < at < 40
    again = python("-m", "tinygen", *COMMAND, "--out", str(killed), "--resume")
    assert again.returncode == 0, again.stderr
    (meta_a, a), (meta_b, b) = (checkpoint.read(d / CHECKPOINT) for d in (whole, killed))
    assert [s["from_step"] for s in meta_b.pop("sittings")] == [0, at]
    del meta_a["sittings"]
    assert meta_a == meta_b
    assert_same(a, b)
    for picture in [*whole.glob("*.png"), *whole.glob("*.gif"), whole / "progress.npz"]:
        assert picture.read_bytes() == (killed / picture.name).read_bytes()
    assert not list(killed.glob(".*"))


def test_ctrl_c_finishes_the_step_and_saves(tmp_path):
    model = make("gan")
    generate = model.generate

    def interrupted(x, rng):
        if checkpointed.step == 4:
            os.kill(os.getpid(), signal.SIGINT)  # between the discriminator and the generator
        return generate(x, rng)

    model.generate = interrupted
    checkpointed = None
    advance = Loop.advance

    def remember(loop):
        nonlocal checkpointed
        checkpointed = loop
        advance(loop)

    before = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "advance", remember)
        with pytest.raises(Stopped, match="step 5 of 10"):
            model.fit(X, steps=10, batch=16, folder=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint.read(tmp_path / CHECKPOINT)[0]["step"] == 5
    whole, resumed = make("gan"), make("gan")
    whole.fit(X, steps=10, batch=16)
    resumed.fit(X, steps=10, batch=16, folder=tmp_path, resume=True)
    assert_same(parameters(whole), parameters(resumed))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_request_to_end_and_a_closed_terminal_save(name, tmp_path):
    if not hasattr(signal, name):
        pytest.skip(f"no {name} here")
    number, model = getattr(signal, name), make("vae")
    interrupt(model, 3, number)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:  # which `except Exception` lets through
            model.fit(X, steps=10, batch=16, folder=tmp_path)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert isinstance(stopped.value, Stopped) and "step 3 of 10" in str(stopped.value)
    assert checkpoint.read(tmp_path / CHECKPOINT)[0]["step"] == 3


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_a_run_that_is_to_outlive_its_terminal_does():
    """As `nohup` starts it."""
    model = make("vae")
    interrupt(model, 3, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert len(model.fit(X, steps=5, batch=16)["loss"]) == 5
    finally:
        signal.signal(signal.SIGHUP, before)


def interrupt(model, step, number):
    """Let a signal come while the model is in a step."""
    loss = model.loss

    def interrupted(x, rng):
        if model.step == step - 1:
            os.kill(os.getpid(), number)
        return loss(x, rng)

    model.loss = interrupted


# -- what a run is resumed with ------------------------------------------------------------------
def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    make("vae").fit(X, steps=2, folder=tmp_path)
    content = (tmp_path / CHECKPOINT).read_bytes()
    for model, x, settings, what in (
        (make("vae"), X, {"steps": 1}, "other settings.*'steps': 2.*'steps': 1"),
        (make("vae"), X, {"steps": 3, "lr": 0.1}, "other settings.*'lr': 0.001.*'lr': 0.1"),
        (make("vae"), X[:-1], {"steps": 2}, r"other data.*\[50, 64\].*\[49, 64\]"),
        (make("vae"), X + np.float32(1e-3) * (X < 0.5), {"steps": 2}, "other data"),
        (make("ae"), X, {"steps": 2}, "code_mean|log_std"),
        (make("vae", latent=4), X, {"steps": 2}, r"encoder.*\(8, 6\).*\(8, 8\)"),
    ):
        before = parameters(model)
        with pytest.raises(CheckpointError, match=what):
            model.fit(x, **settings, folder=tmp_path, resume=True)
        assert_same(before, parameters(model))
        assert (tmp_path / CHECKPOINT).read_bytes() == content


def test_the_fingerprint_sees_every_array():
    x, labels = X, placed(numpy.arange(len(X)))
    of_both = fingerprint((x, labels))
    assert of_both == fingerprint((x.copy(), labels.copy()))
    assert fingerprint((x,)) == [[50, 64], zlib.crc32(on_cpu(X))] == of_both[:2]
    for other in ((x, labels[::-1]), (x, labels.astype(np.int32)), (x[::-1], labels), (x,)):
        assert fingerprint(other) != of_both


def test_a_run_of_version_0_1_is_refused_by_the_name_that_changed(tmp_path):
    make("vae").fit(X, steps=2, folder=tmp_path)
    meta, _ = checkpoint.read(tmp_path / CHECKPOINT)
    settings = meta["settings"]
    settings["ema"] = settings.pop("ema_decay")
    changed(tmp_path, {"settings": settings})
    told = r"checkpoint\.npz cannot be resumed.*'ema' is called 'ema_decay' since version 0\.2"
    with pytest.raises(CheckpointError, match=told):
        make("vae").fit(X, steps=2, folder=tmp_path, resume=True)
    changed(tmp_path, {"run": {"data": "digits", "data_dir": None, "options": {}}})
    with pytest.raises(CheckpointError, match=told):
        recorded(tmp_path, models.VAE, {}, {})
    assert models.load(tmp_path / CHECKPOINT).features == 64  # the model itself is as it was


def test_a_command_repeats_what_its_run_was_started_with_but_for_more_steps_and_moved_data(
    tmp_path,
):
    model = make("vae", latent=3)
    started = {
        "data": "here.npy",
        "data_dir": None,
        "options": {"latent": 3},
        "csv": {"delimiter": ";"},
    }
    model.fit(X, steps=2, lr=0.01, folder=tmp_path, meta={"run": started})
    moved = tmp_path / "there.npy"
    moved.write_text("")

    def asked(given, **options):
        return recorded(tmp_path, models.VAE, given, options)

    settings = models.VAE.defaults.changed(steps=2, lr=0.01)
    assert asked({}) == {**started, "settings": settings}
    assert asked({"steps": 2, "lr": 0.01, "delimiter": ";"}, latent=3) == asked({})
    assert asked({"steps": 9})["settings"] == settings.changed(steps=9)
    assert asked({"data": str(moved)}) == {**started, "data": str(moved), "settings": settings}
    for given, options, told in (
        ({"steps": 1}, {}, "steps = 2, not 1"),
        ({"lr": 0.1}, {}, r"lr = 0\.01, not 0\.1"),
        ({"data": "digits"}, {}, r"data = 'here\.npy', not 'digits'"),
        ({"delimiter": ","}, {}, "delimiter = ';', not ','"),
        ({}, {"latent": 4}, "latent = 3, not 4"),
    ):
        with pytest.raises(ValueError, match=told):
            asked(given, **options)
    with pytest.raises(ValueError, match="holds a VAE"):
        recorded(tmp_path, models.GAN, {}, {})


def test_resume_needs_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        make("vae").fit(X, steps=2, folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match="folder"):
        make("vae").fit(X, steps=2, resume=True)


def test_a_finished_run_resumes_to_itself(tmp_path):
    a, b = make("ddpm"), make("ddpm")
    history = a.fit(X, steps=3, folder=tmp_path, ema_decay=0.9)
    assert b.fit(X, steps=3, folder=tmp_path, ema_decay=0.9, resume=True) == history
    assert_same(parameters(a), parameters(b))
    np.testing.assert_array_equal(
        models.load(tmp_path / CHECKPOINT).sample(2, rng=Generator(0)),
        a.sample(2, rng=Generator(0)),
    )


def changed(folder, meta=(), arrays=()):
    """Rewrite parts of a checkpoint."""
    before, content = checkpoint.read(folder / CHECKPOINT)
    checkpoint.write(folder / CHECKPOINT, before | dict(meta), content | dict(arrays))


WEIGHT = "encoder.layers.0.weight"


@pytest.mark.parametrize(
    ("meta", "arrays"),
    [
        ({"step": 3}, {}),
        ({"step": 1}, {}),
        ({"step": None}, {}),
        ({"batches": 3}, {}),
        ({"rng": [1]}, {}),
        ({"rng": [1, -1]}, {}),
        ({"rng": [1, 0.5]}, {}),
        ({"sittings": [3]}, {}),
        ({"sittings": [{"seconds": "long"}]}, {}),
        ({}, {"history/loss": numpy.zeros((2, 1))}),
        ({}, {"history/loss": numpy.zeros(3)}),
        ({}, {"history/loss": numpy.full(2, 1e300)}),
        ({}, {"optimizer/loss/steps": numpy.array(3)}),
        ({}, {"optimizer/loss/steps": numpy.array(-2)}),
        ({}, {"optimizer/loss/steps": numpy.zeros(2)}),
        ({}, {"optimizer/loss/steps": numpy.array(1e300)}),
        ({}, {"ema/loss/updates": numpy.array(5)}),
        ({}, {f"model/{WEIGHT}": numpy.full((64, 8), 1e300)}),
        ({}, {f"model/{WEIGHT}": numpy.full((64, 8), numpy.nan)}),
        pytest.param(
            {},
            {f"optimizer/loss/mean/{WEIGHT}": numpy.full((64, 8), 1e300)},
            marks=pytest.mark.cpu_only("NumPy says that a number does not fit, CuPy does not"),
        ),
    ],
)
def test_a_checkpoint_with_wrong_values_is_refused(meta, arrays, tmp_path):
    make("ae").fit(X, steps=2, ema_decay=0.5, folder=tmp_path)
    changed(tmp_path, meta, arrays)
    with pytest.raises(CheckpointError, match=r"^[^\n]*checkpoint\.npz[^\n]*$"):
        make("ae").fit(X, steps=2, ema_decay=0.5, folder=tmp_path, resume=True)


def rates_of(model):
    """The learning rates by which the model's one optimiser will have stepped."""
    rates = []
    optimizer = model.optimizer
    model.optimizer = lambda parameters, lr: optimizer(
        parameters, lambda n: rates.append(lr(n)) or rates[-1]
    )
    return rates


def test_a_finished_run_is_made_longer_under_the_longer_runs_learning_rate(tmp_path, caplog):
    options = {"batch": 16, "warmup": 2, "folder": tmp_path}
    whole, first, longer = make("vae"), make("vae"), make("vae", seed=9)
    expected, rates = rates_of(whole), rates_of(longer)
    whole.fit(X, steps=9, batch=16, warmup=2)
    start = first.fit(X, steps=4, **options)
    assert not caplog.messages
    history = longer.fit(X, steps=9, resume=True, **options)
    assert rates == expected[4:] and len(history["loss"]) == 9
    assert history["loss"][:4] == start["loss"]
    (line,) = caplog.messages
    assert "4 steps become 9" in line and f"{expected[4]:.2g} instead of 0" in line
    assert checkpoint.read(tmp_path / CHECKPOINT)[0]["settings"]["steps"] == 9
    again = make("vae")
    assert again.fit(X, steps=9, resume=True, **options) == history
    assert_same(parameters(longer), parameters(again))


def test_what_differs_when_a_run_is_resumed_is_told_and_kept(tmp_path, caplog, monkeypatch):
    here = run._surroundings(make("vae").device)
    monkeypatch.setattr(run, "_surroundings", lambda device: {**here, "numpy": "1.0"})
    make("vae").fit(X, steps=2, folder=tmp_path)
    monkeypatch.undo()
    for _ in range(2):  # told at the change, not again
        make("vae").fit(X, steps=2, folder=tmp_path, resume=True)
    (line,) = caplog.messages
    assert f"numpy {numpy.__version__} instead of 1.0" in line
    assert "kernels" not in line and "threads" not in line
    sittings = checkpoint.read(tmp_path / CHECKPOINT)[0]["sittings"]
    assert [s["numpy"] for s in sittings] == ["1.0", numpy.__version__, numpy.__version__]
    assert [[f"tinygen: {told}" for told in s["told"]] for s in sittings] == [[], [line], []]


@pytest.mark.cpu_only("of the processor")
def test_the_surroundings_are_the_form_of_the_kernels_the_threads_and_numpy():
    before = tg.get_threads()
    tg.set_threads(3)
    found = run._surroundings("cpu")
    tg.set_threads(before)
    assert found == {
        "kernels": kernels.description("cpu").split(" ")[0].rstrip(",:"),
        "threads": "3", "numpy": numpy.__version__,
    }  # fmt: skip


def test_a_checkpoint_from_before_sittings_were_kept_resumes(tmp_path, caplog):
    make("vae").fit(X, steps=2, folder=tmp_path)
    meta, arrays = checkpoint.read(tmp_path / CHECKPOINT)
    del meta["sittings"]
    checkpoint.write(tmp_path / CHECKPOINT, meta, arrays)
    make("vae").fit(X, steps=2, folder=tmp_path, resume=True)
    assert not caplog.messages
    assert len(checkpoint.read(tmp_path / CHECKPOINT)[0]["sittings"]) == 1


# -- losses that are not finite ------------------------------------------------------------------
def bad_loss(kind):
    """A loss that goes wrong at the fourth call, and what the message must name."""

    def loss(model, x, rng):
        model.calls += 1
        w = model.decoder.layers[0].weight
        y = tg.mean(tg.square(w))
        if model.calls >= 4:
            if kind == "nan":
                y = y + tg.mean(tg.log(w - 1e3))
            elif kind == "inf":
                y = y * tg.exp(tg.mean(w) + 1e4)
            else:  # the value is finite, the derivative is not
                y = y + tg.sum(tg.sqrt(w * 0.0))
        return {"loss": y}

    return loss


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("kind", "names"), [("nan", "log"), ("inf", "exp"), ("derivative", "derivative of sqrt")]
)
def test_a_loss_that_is_not_finite_stops_the_run(kind, names, tmp_path):
    model = make("vae")
    model.calls = 0
    loss = bad_loss(kind)
    model.loss = lambda x, rng: loss(model, x, rng)
    with pytest.raises(NonFiniteError) as caught:
        model.fit(X, steps=10, folder=tmp_path, checkpoint_seconds=0.0)
    message = str(caught.value)
    assert "step 4" in message and names in message and "test_run.py" in message
    assert checkpoint.read(tmp_path / CHECKPOINT)[0]["step"] == 3
    kept = models.load(tmp_path / CHECKPOINT)
    assert all(np.isfinite(p.data).all() for p in kept.parameters())
    for name, p in model.named_parameters().items():  # and the model was not spoiled either
        np.testing.assert_array_equal(p.data, kept.named_parameters()[name].data)


def test_an_overflow_names_the_users_line():
    """Also where the user's code is not what overflows, and NumPy's is between the two."""
    with pytest.raises(NonFiniteError, match=r"at \S*test_run\.py:\d+$"):
        make("ae").fit(X, steps=50, lr=1e30, warmup=0)


def test_the_failing_step_is_explained_with_its_own_random_numbers():
    """Noise makes the NaN; drawn anew it might not."""
    model, states = make("ae"), []

    def loss(x, rng):
        states.append(rng.state)
        w = tg.mean(model.decoder.layers[0].weight)
        return {"loss": tg.log(w * 0.0 - 1.0 + 2.0 * (rng.uniform((), dtype=np.float64) > 0.2))}

    model.loss = loss
    with pytest.raises(NonFiniteError, match="log made NaN"):
        model.fit(X, steps=100, batch=4)
    assert states[-1] == states[-2] and len(set(states)) == len(states) - 1 > 1


def test_a_full_disk_ends_the_run_in_an_error(tmp_path, monkeypatch):
    calls = iter([None, None])
    write = checkpoint.write

    def full(*args):
        if next(calls, "full") == "full":
            raise OSError(28, "No space left on device")
        write(*args)

    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(OSError, match="No space"):
        make("vae").fit(X, steps=5, folder=tmp_path, checkpoint_seconds=0.0)
    monkeypatch.undo()
    model = make("vae")
    model.fit(X, steps=5, folder=tmp_path, resume=True)
    whole = make("vae")
    whole.fit(X, steps=5)
    assert_same(parameters(whole), parameters(model))


# -- what remains ------------------------------------------------------------------------------
def test_the_averaged_parameters_are_what_remains(tmp_path):
    model = make("ae")
    model.fit(X, steps=4, ema_decay=0.5, folder=tmp_path)
    _, arrays = checkpoint.read(tmp_path / CHECKPOINT)
    for name, p in model.named_parameters().items():
        np.testing.assert_array_equal(p.data, arrays[f"ema/loss/average/{name}"])
        if name.endswith("weight"):
            assert not np.array_equal(p.data, arrays[f"model/{name}"])


def test_the_folder_of_a_run_is_made(tmp_path):
    folder = tmp_path / "a" / "b"
    make("vae").fit(X, steps=1, folder=folder)
    assert (folder / CHECKPOINT).exists()
    make("vae").fit(X, steps=2, folder=folder, resume=True)
    with pytest.raises(FileNotFoundError):
        make("vae").fit(X, steps=1, folder=tmp_path / "c", resume=True)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("seconds", [float("nan"), -1.0])
def test_the_time_between_checkpoints_is_a_number_from_0(seconds, tmp_path):
    with pytest.raises(ValueError, match=rf"checkpoint_seconds is a number from 0, not {seconds}"):
        make("vae").fit(X, steps=1, folder=tmp_path / "r", checkpoint_seconds=seconds)
    assert not (tmp_path / "r").exists()


def test_a_run_is_not_overwritten(tmp_path):
    make("vae").fit(X, steps=2, folder=tmp_path)
    content = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(FileExistsError, match="resume"):
        make("vae").fit(X, steps=2, folder=tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == content


def test_parameters_that_an_update_spoiled_are_not_saved(tmp_path):
    """The loss and its gradient are finite; the step is not."""
    with pytest.raises(NonFiniteError, match=r"step 1: the update made .*weight .*lower the"):
        make("ae").fit(X, steps=1, lr=1e40, warmup=0, folder=tmp_path)
    assert checkpoint.read(tmp_path / CHECKPOINT)[0]["step"] == 0
    with pytest.raises(NonFiniteError):
        make("ae").fit(X, steps=1, lr=1e40, warmup=0)


def with_dropout():
    model = make("ae")
    layers = model.encoder.layers
    layers.insert(1, tg.nn.Dropout(0.5, rng=Generator(3)))
    return model


def test_dropout_resumes_and_is_off_while_codes_are_measured(tmp_path):
    whole, saved, resumed = with_dropout(), with_dropout(), with_dropout()
    history = whole.fit(X, steps=6, batch=16)
    stop_at(saved, 4)
    with pytest.raises(Interrupted):
        saved.fit(X, steps=6, batch=16, folder=tmp_path, checkpoint_seconds=0.0)
    assert resumed.fit(X, steps=6, batch=16, folder=tmp_path, resume=True) == history
    assert_same(parameters(whole), parameters(resumed))
    codes = whole.encode(X)  # in evaluation, as they were measured
    np.testing.assert_allclose(whole.code_mean.data, codes.mean(0), rtol=1e-4, atol=1e-5)
