"""The command line: what it leaves, what it prints, and one line for every mistake."""

from __future__ import annotations

import configparser
import errno
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import tinygen
from tests.support.small_runs import assert_same
from tinygen import checkpoint, models, pictures
from tinygen.__main__ import BYTES, _check_memory, main
from tinygen.errors import pip_install
from tinygen.folder import CHECKPOINT, locked
from tinygen.kernels import dispatch
from tinygen.report.run import MEANINGS
from tinygen.training.loop import Loop

pytestmark = pytest.mark.cpu_only("processes and files; --device gpu is in test_devices.py")

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

SMALL = {
    "ae": ["--set", "hidden=[8]"],
    "dae": ["--set", "hidden=[8]", "--set", "corruption=gaussian"],
    "cae": ["--set", "hidden=[8]", "--set", "latent=3"],
    "vae": ["--set", "hidden=[8]"],
    "gan": ["--set", "hidden=[8]", "--set", "discriminator_steps=2"],
    "ddpm": ["--set", "width=8", "--set", "T=30"],
}
PNG = b"\x89PNG\r\n"


def train(name, folder, *more, steps=3):
    options = ["--steps", str(steps), "--batch", "16", *SMALL[name], "--out", str(folder), *more]
    return main(["train", name, *options])


@pytest.fixture
def run(tmp_path):
    """The folder of a small trained VAE."""
    assert train("vae", tmp_path / "run") == 0
    return tmp_path / "run"


# -- the main job --------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SMALL)
def test_every_model_trains_samples_and_is_evaluated(name, tmp_path, capsys):
    folder = tmp_path / "runs" / name
    assert train(name, folder) == 0
    files = {"checkpoint.npz", "metrics.json", "samples.png", "loss.png", "report.html"}
    files |= {"progress.npz", "progress.png", "training.gif"}
    if hasattr(models.MODELS[name], "reconstruct"):
        files.add("reconstructions.png")
    assert set(os.listdir(folder)) == files
    for file in files:
        if file.endswith(".png"):
            assert (folder / file).read_bytes().startswith(PNG)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["model"] == name and metrics["settings"]["steps"] == 3
    assert all(np.isfinite(v) for v in metrics["held_out"].values())
    assert metrics["samples"].keys() == metrics["floor"].keys()
    report = (folder / "report.html").read_text(encoding="utf-8")
    for measure in metrics["samples"].keys() | metrics["held_out"].keys():
        assert f'<th scope="row">{measure}</th>' in report and MEANINGS[measure][1]
    capsys.readouterr()

    assert main(["sample", str(folder), "--n", "5", "--seed", "3"]) == 0
    assert (folder / "samples-3.png").read_bytes().startswith(PNG)
    out = tmp_path / "x.npy"
    assert main(["sample", str(folder), "--n", "5", "--seed", "3", "--out", str(out)]) == 0
    again = np.load(out)
    model = models.load(folder / CHECKPOINT)
    np.testing.assert_array_equal(again, model.sample(5, rng=tinygen.random.Generator(3)))
    assert again.shape == (5, 64) and again.dtype == np.float32
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--n", "20"]) == 0
    assert json.loads(capsys.readouterr().out)["held_out"] == metrics["held_out"]


def test_a_run_ends_with_its_measures_and_what_to_do_next(tmp_path, capsys):
    folder = tmp_path / "a run"
    assert train("vae", folder) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    files, measures, commands, report = capsys.readouterr().out.splitlines()
    assert report == f"report: {folder / 'report.html'}" and (folder / "report.html").exists()
    assert files.startswith(f"{folder}: checkpoint.npz, metrics.json, samples.png")
    assert f"loss {metrics['held_out']['loss']:.4g}, reconstruction" in measures
    for name in ("sliced_wasserstein", "c2st_accuracy"):
        assert f"{name} {metrics['samples'][name]:.2g} ({metrics['floor'][name]:.2g})" in measures
    first, second = commands.removeprefix("next: ").split(", or ")
    for command in (first, second):
        assert main(shlex.split(command.removeprefix("python -m tinygen "))) == 0


@pytest.mark.parametrize("data", ["digits", "two-moons"])
@pytest.mark.parametrize("name", ["gan", "ddpm"])
def test_a_run_with_pictures_has_the_bits_of_one_without(name, data, tmp_path, monkeypatch):
    arguments = ["--data", data, "--ema-decay", "0.9"]
    assert train(name, tmp_path / "with", *arguments, steps=20) == 0
    monkeypatch.setattr(pictures, "available", lambda: False)
    assert train(name, tmp_path / "without", *arguments, steps=20) == 0
    assert not list((tmp_path / "without").glob("progress*"))
    kept = checkpoint.read(tmp_path / "with" / "progress.npz")[1]
    quick = {"sampler": "dpm-solver", "sampling_steps": 10} if name == "ddpm" else {}
    again = models.load(tmp_path / "with" / CHECKPOINT).sample(25, rng=0, **quick)
    np.testing.assert_array_equal(kept["20"][:25], again)  # each time from the seed of the run
    (meta_a, a), (meta_b, b) = (
        checkpoint.read(tmp_path / run / CHECKPOINT) for run in ("with", "without")
    )
    assert {**meta_a, "sittings": []} == {**meta_b, "sittings": []}
    assert_same(a, b)


def test_the_pictures_of_a_run_that_was_stopped_and_made_longer_are_of_all_its_sittings(
    tmp_path, monkeypatch
):
    folder, advance = tmp_path / "r", Loop.advance

    def interrupted(loop):
        advance(loop)
        if loop.step == 40:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "advance", interrupted)
        assert train("vae", folder, steps=90) == 130
    first = [step for step in pictures.moments(90) if step <= 40]
    assert list(checkpoint.read(folder / "progress.npz")[1]) == [*map(str, first)]
    before = checkpoint.read(folder / "progress.npz")[1]
    assert main(["train", "vae", "--out", str(folder), "--resume", "--steps", "120"]) == 0
    after = checkpoint.read(folder / "progress.npz")[1]
    steps = first + [step for step in pictures.moments(120) if step > 40]
    assert list(after) == [*map(str, steps)]
    for step, samples in before.items():
        np.testing.assert_array_equal(samples, after[step])
    with Image.open(folder / "training.gif") as film:
        assert film.n_frames == len(steps)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "90 steps become 120" in report  # what the second sitting told


def test_parameters_that_have_grown_too_large_are_one_line(tmp_path, capsys):
    model = models.DDPM(4)
    for p in model.parameters():
        p.data[...] = 3e38
    model.save(tmp_path / "m.npz")
    out = tmp_path / "x.npy"
    one_line(capsys, ["sample", str(tmp_path / "m.npz"), "--out", str(out)], "m.npz", "not finite")
    assert not out.exists()


@pytest.mark.parametrize("name", ["ddpm", "vae"])
def test_points_in_the_plane(name, tmp_path):
    assert train(name, tmp_path / "r", "--data", "two-moons") == 0
    assert (tmp_path / "r" / "samples.png").read_bytes().startswith(PNG)
    assert models.load(tmp_path / "r" / CHECKPOINT).bounded is False


def test_a_model_with_classes(tmp_path, capsys):
    """Trained with the labels of the data, sampled with one label, evaluated with theirs."""
    folder = tmp_path / "r"
    assert train("ddpm", folder, "--set", "classes=10") == 0
    model = models.load(folder / CHECKPOINT)
    out = tmp_path / "x.npy"
    for options, condition in (
        ([], {}),
        (["--label", "3"], {"labels": 3}),
        (["--label", "3", "--guidance", "2.5"], {"labels": 3, "guidance": 2.5}),
    ):
        assert main(["sample", str(folder), "--n", "5", "--out", str(out), *options]) == 0
        expected = model.sample(5, rng=tinygen.random.Generator(0), **condition)
        np.testing.assert_array_equal(np.load(out), expected)
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--n", "20"]) == 0
    assert np.isfinite(json.loads(capsys.readouterr().out)["samples"]["wasserstein"])
    assert main(["train", "ddpm", "--out", str(folder), "--resume"]) == 0
    for label in ("10", "77", "-1"):
        arguments = ["sample", str(folder), "--label", label]
        one_line(capsys, arguments, "--label", "10 classes", "0 to 9", label)
    one_line(
        capsys, ["sample", str(folder), "--label", "1", "--guidance", "-3"], "--guidance", "-3"
    )
    one_line(capsys, ["sample", str(folder), "--guidance", "2"], "give some")
    one_line(capsys, ["sample", str(folder), "--label", "1", "--guidance", "nan"], "nan")
    assert os.listdir(folder) and not (folder / "samples-0.png").exists()
    assert train("ddpm", tmp_path / "s") == 0
    one_line(capsys, ["sample", str(tmp_path / "s"), "--label", "1"], "--label", "classes")


def test_a_file_of_the_users_own(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.savetxt(tmp_path / "x.csv", rng.normal(5.0, 3.0, (60, 3)), delimiter=",")
    assert train("vae", tmp_path / "r", "--data", str(tmp_path / "x.csv")) == 0
    model = models.load(tmp_path / "r" / CHECKPOINT)
    assert model.features == 3 and abs(model.shift.data - 5.0).max() < 2.0
    assert main(["evaluate", str(tmp_path / "r"), "--n", "5"]) == 0


def test_how_a_csv_is_read_belongs_to_the_run(tmp_path, capsys, caplog):
    """Said when it is guessed, recorded when it is given: later commands find the same data."""
    rng = np.random.default_rng(0)
    lines = [
        f"{i};{'ab'[i % 2]};{x};{y};{z}" for i, (x, y, z) in enumerate(rng.normal(size=(60, 3)))
    ]
    path, out = tmp_path / "x.csv", str(tmp_path / "r")
    path.write_text("\n".join(["id;kind;x;y, z;z", *lines]))
    assert train("vae", out, "--data", str(path)) == 0
    (said,) = caplog.messages
    assert said == (
        f"tinygen: guessed of {path}: delimiter ';', without the text of 'kind', without 'id', which "
        "counts the rows; --delimiter, --columns, --label-column say otherwise"
    )
    assert models.load(tmp_path / "r" / CHECKPOINT).features == 3

    given = ["--columns", 'x,"y, z"', "--label-column", "kind", "--delimiter", ";"]
    classes, out = ["--set", "classes=2"], str(tmp_path / "s")
    assert train("ddpm", out, "--data", str(path), *given, *classes) == 0
    assert models.load(tmp_path / "s" / CHECKPOINT).features == 2
    assert main(["evaluate", out, "--n", "5"]) == 0
    assert main(["sample", out, "--n", "5", "--label", "1"]) == 0
    assert main(["train", "ddpm", "--out", out, "--resume"]) == 0
    assert main(["train", "ddpm", "--out", out, "--resume", *given]) == 0
    one_line(
        capsys, ["train", "ddpm", "--out", out, "--resume", "--columns", "x"], "columns", "'x'"
    )
    assert (
        main(["explain", "vae", "--data", str(path), "--columns", "2,3", "--set", "hidden=[4]"])
        == 2
    )
    assert (
        main(["explain", "vae", "--data", str(path), "--columns", "3,4", "--set", "hidden=[4]"])
        == 0
    )
    assert "float32[2, 2]" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["x.csv", "x.npy"])
def test_a_model_that_memory_cannot_hold_is_refused_before_it_is_made(
    name, tmp_path, capsys, monkeypatch
):
    """200,001 columns make layers of 100 million numbers."""
    x = np.zeros((2, 200_001), np.float32)
    if name.endswith("csv"):
        (tmp_path / name).write_text("\n".join(",".join(["0"] * x.shape[1]) for _ in x))
    else:
        np.save(tmp_path / name, x)
    monkeypatch.setattr("tinygen.__main__.free_memory", lambda: 2e9)
    arguments = ["train", "vae", "--data", str(tmp_path / name), "--out", str(tmp_path / "r")]
    one_line(capsys, arguments, "vae", "200001", "4.9 GB", "2 GB are free", "--set")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", SMALL)
def test_the_memory_of_a_model_is_known_before_it_is_made(name, monkeypatch):
    model = models.MODELS[name](2000)
    needed = BYTES * sum(p.size for p in model.parameters())
    monkeypatch.setattr("tinygen.__main__.free_memory", lambda: needed)
    _check_memory(name, 2000, {})
    monkeypatch.setattr("tinygen.__main__.free_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match="2000"):
        _check_memory(name, 2000, {})


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_points_of_any_dimension_are_drawn_for_what_they_are(d, tmp_path, monkeypatch):
    """In the plane, in space, or by two columns that the title names."""
    figures = []
    monkeypatch.setattr("tinygen.pictures._save", lambda figure, path: figures.append(figure))
    x = np.random.default_rng(0).normal(size=(9, d))
    pictures.scatter(tmp_path / "x.png", x, 100 + x)
    data, samples = figures[0].axes
    assert [axes.name for axes in (data, samples)] == ["3d" if d == 3 else "rectilinear"] * 2
    named = ", columns 1 and 2 of 4" if d == 4 else ""
    assert data.get_title() == f"data{named}"
    assert samples.get_title() == f"samples{named}, 9 of 9 outside"


def test_data_that_moved_or_changed(tmp_path, capsys, monkeypatch):
    """A run knows its data by their content: moved they are accepted, changed they are not."""
    rng = np.random.default_rng(0)
    old, new, out = tmp_path / "x.npy", tmp_path / "y.npy", str(tmp_path / "r")
    np.save(old, rng.normal(size=(60, 3)))
    monkeypatch.chdir(tmp_path)
    assert train("vae", out, "--data", "x.npy") == 0
    monkeypatch.chdir("/")
    assert main(["evaluate", out, "--n", "5"]) == 0
    old.rename(new)
    assert main(["evaluate", out, "--n", "5"]) == 2
    assert "x.npy" in capsys.readouterr().err
    assert main(["evaluate", out, "--n", "5", "--data", str(new)]) == 0
    assert main(["train", "vae", "--out", out, "--resume", "--data", str(new)]) == 0
    np.save(new, rng.normal(size=(60, 3)))
    one_line(capsys, ["evaluate", out, "--data", str(new)], "not the data of this run")
    assert main(["train", "vae", "--out", out, "--resume", "--data", str(new)]) == 2
    assert "other data" in capsys.readouterr().err


def test_resume_takes_everything_from_the_run(tmp_path, capsys):
    train("vae", tmp_path / "a")
    first = checkpoint.read(tmp_path / "a" / CHECKPOINT)
    assert main(["train", "vae", "--out", str(tmp_path / "a"), "--resume"]) == 0
    again = checkpoint.read(tmp_path / "a" / CHECKPOINT)
    assert [s["from_step"] for s in again[0].pop("sittings")] == [0, 3]
    del first[0]["sittings"]
    assert again[0] == first[0]
    for name, array in first[1].items():
        np.testing.assert_array_equal(again[1][name], array)


@pytest.mark.skipif(dispatch.native() is None, reason="needs a compiler")
def test_steps_are_programs_unless_they_are_to_be_eager(tmp_path, monkeypatch):
    monkeypatch.setattr("tinygen.training.run.COMPILED_FROM", 3)
    for steps, options in (("compiled", []), ("eager", ["--eager"])):
        train("ae", tmp_path / steps, *options)
        (sitting,) = checkpoint.read(tmp_path / steps / CHECKPOINT)[0]["sittings"]
        assert sitting["steps"] == steps


@pytest.mark.skipif(dispatch.native() is None, reason="needs a compiler")
def test_samples_are_drawn_by_a_program_unless_they_are_to_be_eager(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["tinygen.models.diffusion.ddpm"], "COMPILED_FROM", 1)
    made = []
    monkeypatch.setattr(
        sys.modules["tinygen.models.diffusion.ddpm"],
        "compiled",
        lambda step: made.append(step) or tinygen.compile(step),
    )
    train("ddpm", tmp_path / "d")
    train("vae", tmp_path / "v")
    made.clear()
    for options, programs in (([], 1), (["--eager"], 0)):
        out = ["--out", str(tmp_path / "x.npy"), "--n", "2"]
        assert main(["sample", str(tmp_path / "d"), *out, *options]) == 0
        assert len(made) == programs
        made.clear()
        assert main(["sample", str(tmp_path / "v"), *out, *options]) == 0


def test_without_matplotlib_the_rest_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert train("vae", tmp_path / "r") == 0
    assert set(os.listdir(tmp_path / "r")) == {"checkpoint.npz", "metrics.json", "report.html"}
    assert "they need matplotlib" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "matplotlib: pip install matplotlib tqdm; going on" in capsys.readouterr().err
    one_line(capsys, ["sample", str(tmp_path / "r")], "pip install matplotlib tqdm", "samples.npy")
    monkeypatch.delitem(sys.modules, "tqdm")
    one_line(capsys, ["sample", str(tmp_path / "r")], "pip install matplotlib, or", "samples.npy")


def test_hints_name_what_the_extras_bring():
    """By names that any index has, and with the brackets that a shell would take out."""
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[1] / "setup.cfg")
    extra = config["options.extras_require"]["plot"].split()
    assert pip_install("no-such-package", "numpy") == "pip install no-such-package"
    assert pip_install("none[of-these]") == "pip install 'none[of-these]'"
    assert [p.partition(">=")[0] for p in extra] == ["matplotlib", "tqdm"]


# -- explain, info -------------------------------------------------------------------------------
def test_explain_prints_and_draws_the_graph(tmp_path, capsys):
    assert main(["explain", "vae", "--dot", str(tmp_path / "g.dot")]) == 0
    text = capsys.readouterr().out
    for part in (
        "encoder.layers.0.weight",
        "reparameterise",
        "bce_with_logits",
        "loss",
        "float32[2, 64]",
    ):
        assert part in text
    assert (tmp_path / "g.dot").read_text().startswith("digraph")
    assert main(["explain", "gan", "--dot", str(tmp_path / "g.dot")]) == 0
    assert {"g-discriminator.dot", "g-generator.dot"} < set(os.listdir(tmp_path))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_explain_where_few_signs_are_encoded(encoding, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["explain", "vae"]) == 0
    stdout.flush()
    assert b" <- . %" in stdout.buffer.getvalue()


def test_info(run, capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for part in (tinygen.__version__, np.__version__, "ddpm", "two-moons", "matplotlib"):
        assert part in text
    assert main(["info", str(run)]) == 0
    meta = json.loads(capsys.readouterr().out)
    assert meta["model"] == "VAE" and meta["step"] == 3 and meta["run"]["data"] == "digits"


# -- mistakes ------------------------------------------------------------------------------------
def one_line(capsys, arguments, *parts):
    """Exit status 2 and one line on stderr, which names all of `parts`."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as leaving:  # argparse's own way
        status = leaving.code
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert status == 2 and captured.out == ""
    assert len(lines) == 1 and lines[0].startswith("tinygen: "), captured.err
    for part in parts:
        assert part in lines[0]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["COMMAND", "--help"]),
        (["trian"], ["trian"]),
        (["train"], ["model", "--out"]),
        (["train", "vea", "--out", "R"], ["unknown model 'vea'", "'vae'"]),
        (["train", "vae", "--data", "digts", "--out", "R"], ["'digts'", "'digits'"]),
        (["train", "vae", "--data", "nowhere.csv", "--out", "R"], ["nowhere.csv"]),
        (["train", "vae", "--steps", "-5", "--out", "R"], ["steps", "-5"]),
        (["train", "vae", "--steps", "many", "--out", "R"], ["--steps", "many"]),
        (["train", "vae", "--lr", "0", "--out", "R"], ["lr", "0"]),
        (["train", "vae", "--ema-decay", "2", "--out", "R"], ["ema_decay", "2"]),
        (["train", "vae", "--ema", "0.9", "--out", "R"], ["--ema is called --ema-decay", "0.2"]),
        (["train", "ddpm", "--set", "steps=9", "--out", "R"], ["'steps' is called 'T'", "0.2"]),
        (["explain", "ddpm", "--set", "steps=9"], ["'steps' is called 'T'", "0.2"]),
        (["train", "vae", "--checkpoint-seconds", "nan", "--out", "R"], ["--checkpoint-seconds", "nan"]),
        (["train", "vae", "--checkpoint-seconds", "-1", "--out", "R"], ["--checkpoint-seconds", "-1"]),
        (["train", "vae", "--set", "latnt=3", "--out", "R"], ["latnt", "'latent'"]),
        (["train", "vae", "--set", "latent", "--out", "R"], ["NAME=VALUE", "latent"]),
        (["train", "vae", "--set", "latent=0", "--out", "R"], ["latent", "0"]),
        (["train", "vae", "--set", "latent=three", "--out", "R"], ["latent", "three"]),
        (["train", "vae", "--set", "likelihood=3", "--out", "R"], ["likelihood", "3", "gaussian"]),
        (["train", "gan", "--set", "loss=null", "--out", "R"], ["loss", "None", "minimax"]),
        (["train", "gan", "--set", "discriminator_steps=1.5", "--out", "R"], ["1.5"]),
        (["train", "ddpm", "--set", "blocks=-1", "--out", "R"], ["blocks", "-1"]),
        (["explain", "vae", "--batch", "0"], ["--batch", "0"]),
        (["train", "vae", "--set", "hidden=64", "--out", "R"], ["hidden", "list", "[256, 128]", "64"]),
        (["train", "vae", "--set", 'hidden=[8, "a"]', "--out", "R"], ["hidden", "list", "'a'"]),
        (["train", "vae", "--set", "binarise=abc", "--out", "R"], ["binarise", "true or false", "abc"]),
        (["train", "cae", "--set", "penalty=abc", "--out", "R"], ["penalty", "a number", "'abc'"]),
        (["train", "cae", "--set", "penalty=Infinity", "--out", "R"], ["penalty", "a number", "inf"]),
        (["train", "gan", "--set", "penalty_weight=x", "--out", "R"], ["a number or null", "'x'"]),
        (["train", "vae", "--steps", "0", "--out", "R"], ["--steps", "1", "0"]),
        (["train", "vae", "--columns", "a", "--out", "R"], ["--columns is", ".csv", "'digits'"]),
        (["explain", "vae", "--delimiter", ";"], ["--delimiter is", ".csv", "'digits'"]),
        (["train", "vae", "--set", "activation=rellu", "--out", "R"], ["'rellu'", "'relu'"]),
        (["train", "ddpm", "--set", "schedule=cosin", "--out", "R"], ["'cosin'", "'cosine'"]),
        (["train", "ddpm", "--set", "schedule=linear", "--set", "T=5", "--out", "R"], ["β_", "(0, 1)"]),
        (["train", "ddpm", "--set", "T=0", "--out", "R"], ["steps T", "0"]),
        (["train", "ddpm", "--set", "classes=5", "--out", "R"], ["labels 0..9", "5 classes"]),
        (["train", "ddpm", "--set", "classes=2", "--data", "swiss-roll", "--out", "R"], ["no labels"]),
        (["train", "dae", "--set", "amount=1.5", "--out", "R"], ["masking", "1.5"]),
        (["train", "vae", "--data", "mnist", "--data-dir", "E", "--out", "R"], ["--data-dir or"]),
        (["train", "vae", "--resume", "--out", "R"], ["no checkpoint", "R", "leave --resume out"]),
        (["sample", "R"], ["R"]),
        (["evaluate", "nothing"], ["nothing"]),
        (["info", "nothing"], ["nothing"]),
        (["explain", "wae"], ["'wae'", "vae"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, parts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "E").mkdir()
    one_line(capsys, arguments, *parts)
    assert os.listdir(tmp_path) == ["E"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["sample", "RUN", "--n", "0"], ["samples", "0"]),
        (["sample", "RUN", "--n", "two"], ["--n", "two"]),
        (["sample", "RUN", "--seed", "-1"], ["-1"]),
        (["sample", "RUN", "--out", "x.gif"], [".png", "x.gif"]),
        (["sample", "RUN", "--out", "no/such/folder/x.npy"], ["no/such/folder/x.npy"]),
        (["sample", "RUN", "--out", "no/such/folder/x.png"], ["no/such/folder/x.png"]),
        (["evaluate", "RUN", "--n", "-2"], ["-2"]),
        (["train", "vae", "--out", "RUN"], ["exists already", "--resume"]),
        (["train", "vae", "--out", "RUN/metrics.json"], ["exists already"]),
        (["train", "gan", "--out", "RUN", "--resume"], ["VAE"]),
        (["train", "vae", "--out", "RUN", "--resume", "--steps", "2"], ["steps = 3", "2"]),
        (["train", "vae", "--out", "RUN", "--resume", "--data", "two-moons"], ["digits", "two-moons"]),
        (["train", "vae", "--out", "RUN", "--resume", "--set", "latent=2"], ["latent", "2"]),
    ],
)  # fmt: skip
def test_a_mistake_loses_nothing_of_a_run(arguments, parts, run, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    before = {f.name: f.read_bytes() for f in run.iterdir()}
    one_line(capsys, [a.replace("RUN", "run") for a in arguments], *parts)
    assert {f.name: f.read_bytes() for f in run.iterdir()} == before


def test_the_default_of_an_option_resumes(tmp_path, capsys):
    assert train("ddpm", tmp_path / "r") == 0
    resume = ["train", "ddpm", "--out", str(tmp_path / "r"), "--resume"]
    assert main([*resume, "--steps", "3", "--set", "T=30", "--set", "blocks=3"]) == 0
    one_line(capsys, [*resume, "--steps", "1"], "steps = 3", "1")
    one_line(capsys, [*resume, "--set", "T=3"], "T = 30", "3")


def test_a_checkpoint_made_in_python(tmp_path, capsys):
    model = models.VAE(64, hidden=(8,))
    model.fit(np.zeros((9, 64)), steps=1, folder=tmp_path)
    one_line(capsys, ["train", "vae", "--out", str(tmp_path), "--resume"], "command line")
    one_line(capsys, ["evaluate", str(tmp_path)], "trained on")
    assert main(["sample", str(tmp_path), "--out", str(tmp_path / "x.npy")]) == 0


def test_a_refused_start_removes_nothing(run, tmp_path, capsys):
    """Not the hidden files of a user, nor those of a run under way."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ".draft.tmp").write_text("a chapter")
    one_line(capsys, ["train", "vae", "--out", str(mine)], "not an empty folder")
    assert (mine / ".draft.tmp").read_text() == "a chapter" and len(os.listdir(mine)) == 1
    (run / ".checkpoint.npz.7.tmp").write_bytes(b"PK half")
    one_line(capsys, ["train", "vae", "--out", str(run)], "exists already")
    with locked(mine), ThreadPoolExecutor(1) as other:
        os.rename(run / ".checkpoint.npz.7.tmp", mine / ".checkpoint.npz.7.tmp")
        os.remove(mine / ".draft.tmp")
        os.rename(run / CHECKPOINT, mine / CHECKPOINT)
        for how in ([], ["--resume"]):
            words = ["train", "vae", "--out", str(mine), *how]
            part = "another run is under way in this folder" if how else "exists already"
            other.submit(one_line, capsys, words, str(mine), part).result()
        assert len(os.listdir(mine)) == 3


@pytest.mark.slow
def test_of_two_starts_at_once_one_is_accepted(tmp_path):
    """As a new run, and as a resumed one; the other says so in a line."""
    start = [sys.executable, "-m", "tinygen", "train", "vae", "--out", str(tmp_path / "r")]
    for words in (["--steps", "200", "--set", "hidden=[8]"], ["--resume", "--steps", "400"]):
        pair = [
            subprocess.Popen([*start, *words], stderr=subprocess.PIPE, text=True) for _ in range(2)
        ]
        errors = [process.communicate()[1] for process in pair]
        assert sorted(process.returncode for process in pair) == [0, 2]
        error = errors[pair.index(next(p for p in pair if p.returncode))]
        lines = [line for line in error.splitlines() if line.startswith("tinygen: ")]
        assert len(lines) == 1 and str(tmp_path / "r") in lines[0]
        assert str(checkpoint.read(tmp_path / "r" / CHECKPOINT)[0]["step"]) in words


def test_a_stopped_run_ends_in_one_line_and_its_time_is_that_of_all_sittings(
    tmp_path, capsys, monkeypatch
):
    advance = Loop.advance

    def interrupted(loop):
        advance(loop)
        if loop.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "advance", interrupted)
        assert train("vae", tmp_path / "r") == 130
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("tinygen: stopped after step 2 of 3;") and "--resume" in line
    meta, arrays = checkpoint.read(tmp_path / "r" / CHECKPOINT)
    meta["sittings"][0] |= {"seconds": 1000.0, "numpy": "1.0"}
    checkpoint.write(tmp_path / "r" / CHECKPOINT, meta, arrays)
    assert main(["train", "vae", "--out", str(tmp_path / "r"), "--resume"]) == 0
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert 1000 <= metrics["seconds"] < 1100
    sittings = metrics["sittings"]
    assert [s["from_step"] for s in sittings] == [0, 2]
    assert [s["numpy"] for s in sittings] == ["1.0", np.__version__]


def test_a_finished_run_is_made_longer(run, capsys, caplog):
    assert main(["train", "vae", "--out", str(run), "--resume", "--steps", "5"]) == 0
    assert "5 training steps" in capsys.readouterr().err
    (line,) = caplog.messages
    assert "3 steps become 5" in line and "learning rate" in line
    assert json.loads((run / "metrics.json").read_text())["settings"]["steps"] == 5
    assert main(["train", "vae", "--out", str(run), "--resume"]) == 0  # the longer run is the run
    assert checkpoint.read(run / CHECKPOINT)[0]["step"] == 5


def test_an_outlier_among_the_held_out_rows_costs_only_its_measures(tmp_path, capsys, caplog):
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[5, 1] = 1e30  # every sixth row is held out
    np.save(tmp_path / "x.npy", x)
    for name in ("vae", "ae", "ddpm"):
        caplog.clear()
        assert train(name, tmp_path / name, "--data", str(tmp_path / "x.npy")) == 0
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        assert metrics["held_out"] == {} and metrics["samples"]["sliced_wasserstein"] > 0
        (line,) = caplog.messages
        assert "left out" in line and "loss (" in line and "outlier" in line


def test_a_term_that_is_not_finite_does_not_cost_the_picture(tmp_path):
    history = {"loss": [1.0, 2.0], "ratio": [np.nan, np.nan], "bound": [np.inf, 1.0]}
    pictures.loss_curve(tmp_path / "loss.png", history)
    assert (tmp_path / "loss.png").read_bytes().startswith(PNG)


def test_a_checkpoint_with_wrong_values_is_one_line(run, capsys):
    """Whole files, whose description asks for what cannot be."""
    meta, arrays = checkpoint.read(run / CHECKPOINT)
    config, resume = meta["config"], ["train", "vae", "--resume", "--out", str(run)]
    for changes, commands in (
        ({"step": 4}, [resume]),
        ({"batches": 2}, [resume]),
        ({"config": {**config, "latent": 10**9}}, [["sample", str(run)], resume]),
        ({"config": {**config, "features": "64"}}, [["info", str(run)]]),
        ({"run": {**meta["run"], "options": {"latent": 10**9}}}, [resume]),
        ({"run": {**meta["run"], "options": ["latent"]}}, [resume]),
        ({"settings": {}}, [resume]),
        ({"run": {}}, [["evaluate", str(run)], resume]),
        ({"data": []}, [["evaluate", str(run)], resume]),
        ({"image_shape": [3]}, [["sample", str(run)]]),
    ):
        checkpoint.write(run / CHECKPOINT, {**meta, **changes}, arrays)
        for command in commands:
            one_line(capsys, command)
    weight = arrays["model/decoder.layers.0.weight"]
    for bad in (weight.astype(float) * 0 + 1e300, weight * np.nan, weight.astype("U8")):
        changed = arrays | {"model/decoder.layers.0.weight": bad}
        checkpoint.write(run / CHECKPOINT, meta, changed)
        for command in (["sample", str(run)], resume):
            one_line(capsys, command, str(run / CHECKPOINT))


def test_a_run_killed_as_it_began_is_started_again(tmp_path):
    (tmp_path / ".lock").touch()
    for name in ("checkpoint.npz", "progress.npz", "progress.png"):
        (tmp_path / f".{name}.123.tmp").write_bytes(b"PK half")
    assert train("vae", tmp_path) == 0
    assert not list(tmp_path.glob(".*"))


def test_a_few_images(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((12, 3, 2)))
    arguments = ["train", "ae", "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "r")]
    assert main([*arguments, "--steps", "2", "--set", "hidden=[4]", "--set", "latent=2"]) == 0
    assert (tmp_path / "r" / "reconstructions.png").read_bytes().startswith(PNG)


def test_a_truncated_checkpoint(run, capsys):
    path = run / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    for command in ("sample", "evaluate", "info"):
        one_line(capsys, [command, str(run)], str(path))
    one_line(capsys, ["train", "vae", "--out", str(run), "--resume"], str(path))


def test_a_foreign_checkpoint(run, capsys):
    np.savez(run / CHECKPOINT, a=np.zeros(3))
    one_line(capsys, ["sample", str(run)], "not a tinygen checkpoint")


def test_data_with_nan(tmp_path, capsys):
    x = np.zeros((20, 3))
    x[7, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    arguments = ["train", "vae", "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "r")]
    one_line(capsys, arguments, "x.npy", "7")
    assert not (tmp_path / "r").exists()


def test_a_full_disk_in_training(tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert train("vae", tmp_path / "r") == 2
    assert "No space left" in capsys.readouterr().err.splitlines()[-1]


def test_a_loss_that_becomes_nan_is_one_line(tmp_path, capsys):
    with np.errstate(all="ignore"):
        assert train("ae", tmp_path / "r", "--lr", "1e30", "--warmup", "0", steps=50) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("tinygen: step ") and "holds an earlier state" in error
    models.load(tmp_path / "r" / CHECKPOINT)


def test_debug_shows_where_it_happened(tmp_path):
    with pytest.raises(ValueError, match="unknown model"):
        main(["train", "vea", "--out", str(tmp_path / "r"), "--debug"])
    with pytest.raises(ValueError, match="unknown model"):
        main(["--debug", "train", "vea", "--out", str(tmp_path / "r")])


# -- as a process --------------------------------------------------------------------------------
COMMAND = [sys.executable, "-m", "tinygen"]


def shell(line, **environment):
    """A line of the shell in which $TG is the command line."""
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False,
        env={**os.environ, "TG": shlex.join(COMMAND), "PYTHONUNBUFFERED": "", **environment},
    )  # fmt: skip


@pytest.mark.slow
def test_as_a_process(tmp_path):
    done = subprocess.run(
        [*COMMAND, "train", "vea", "--out", str(tmp_path / "r")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    done = shell("$TG evaluate nowhere --debug")
    assert done.returncode == 1 and done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("FileNotFoundError: ")


@pytest.mark.slow
def test_without_docstrings_everything_is_there(tmp_path):
    python = [sys.executable, "-OO", "-m", "tinygen"]
    done = subprocess.run([*python, "--help"], capture_output=True, text=True, check=True)
    assert "train a model" in done.stdout and done.stderr == ""
    options = ["--steps", "2", *SMALL["vae"], "--out", str(tmp_path)]
    done = subprocess.run([*python, "train", "vae", *options], capture_output=True, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["numpy", "tinygen.training", "tinygen.evaluation"])
def test_ctrl_c_while_importing_ends_without_a_word(moment, tmp_path):
    """As the module of that name is looked for, which is before, within and near the end."""
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, signal, sys
class Interrupt:
    def find_spec(self, name, *rest):
        if name == {moment!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
""")
    here = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [*COMMAND, "info"], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": here},
    )  # fmt: skip
    assert done.returncode == -signal.SIGINT and done.stderr == done.stdout == ""


@pytest.mark.slow
def test_importing_the_package_leaves_signals_alone():
    code = "import signal, tinygen; print(signal.getsignal(signal.SIGINT).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "default_int_handler"


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", "2> >(exec <&-)", "2> /dev/full"])
def test_a_run_does_not_need_its_standard_error(closed, tmp_path):
    """Closed from the start, nobody reads it, or the disk is full."""
    options = f"--steps 3 {shlex.join(SMALL['vae'])} --out {tmp_path}/r"
    done = shell(f"$TG train vae {options} {closed}")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"{tmp_path}/r: checkpoint.npz, metrics.json")
    assert json.loads((tmp_path / "r" / "metrics.json").read_text())["settings"]["steps"] == 3


@pytest.mark.slow
def test_a_reader_who_leaves_ends_the_command_quietly():
    for command in ("info", "--help"):
        done = shell(f"$TG {command} | true; echo ${{PIPESTATUS[0]}}")
        assert done.stdout == "141\n" and done.stderr == ""
    assert shell("$TG info >&-").returncode == 0
    done = shell("$TG info > /dev/full")
    assert done.returncode == 2
    assert done.stderr == "tinygen: standard output: No space left on device\n"


@pytest.mark.slow
def test_output_and_warnings_of_a_run_where_few_signs_are_encoded(tmp_path):
    """What cannot be written is escaped; a warning is one line without the source."""
    options = f"--steps 2 {shlex.join(SMALL['ddpm'])} --set classes=11 --out {tmp_path}/日"
    done = shell(f"$TG train ddpm {options}", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "\\u65e5: checkpoint.npz" in done.stdout
    assert "tinygen: no row to learn the labels [10] from" in done.stderr.splitlines()
    assert "Warning" not in done.stderr and ".py" not in done.stderr


def test_the_benchmark_of_the_kernels_has_a_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--help"])
    with pytest.raises(SystemExit) as leaving:
        import_module("benchmarks.kernels").main()
    assert leaving.value.code == 0 and "PyTorch" in capsys.readouterr().out


def test_the_console_script_is_the_command():
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[1] / "setup.cfg")
    name, module, function = re.fullmatch(
        r"\s*(\w+) = ([\w.]+):(\w+)", config["options.entry_points"]["console_scripts"]
    ).groups()
    assert name == "tinygen" and callable(getattr(import_module(module), function))


# -- the package ---------------------------------------------------------------------------------
@pytest.mark.slow
def test_import_is_light():
    """`import tinygen` brings in neither SciPy nor CuPy nor matplotlib."""
    heavy = ("scipy", "cupy", "matplotlib", "tqdm")
    code = f"import sys, tinygen; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists_and_has_a_docstring():
    for name in tinygen.__all__:
        assert getattr(tinygen, name).__doc__, name


def test_the_package_is_typed():
    assert (Path(tinygen.__file__).parent / "py.typed").exists()
