"""Several processes compute what one computes, and end together: each test starts mpiexec."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from tests.parallel import worker
from tinygen.folder import CHECKPOINT

ROOT = Path(__file__).parents[2]
MPIEXEC = which("mpiexec", path=str(Path(sys.executable).parent)) or which("mpiexec")
pytestmark = [
    pytest.mark.cpu_only("processes of their own"),
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("mpi4py") is None or MPIEXEC is None,
        reason="mpi4py or mpiexec is missing: pip install 'mpi4py>=4' mpich",
    ),
]
SECONDS = 240  # a limit for a test that hangs
ONE_THREAD = {"TINYGEN_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def start(ranks, *arguments, cwd=ROOT):
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [MPIEXEC, "-n", str(ranks), sys.executable, "-m", *arguments],
        cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(ranks, *arguments, cwd=ROOT):
    """(exit status, standard output, our own lines on standard error)."""
    process = start(ranks, *arguments, cwd=cwd)
    try:
        out, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()  # also where the time is over; an mpiexec that ended is not hurt
    return process.returncode, out, [x for x in errors.splitlines() if x.startswith("tinygen:")]


def works(ranks, *arguments, cwd=ROOT):
    status, out, lines = run(ranks, *arguments, cwd=cwd)
    assert (status, lines) == (0, []), out
    return out


def assert_close(found, expected, atol):
    assert found.keys() == expected.keys()
    for name, a in expected.items():
        if a.dtype.kind in "iu":
            np.testing.assert_array_equal(found[name], a, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], a, rtol=1e-3, atol=atol, err_msg=name)


# -- training --------------------------------------------------------------------------------------
alone = functools.cache(worker.trained)


@pytest.mark.parametrize(
    ("ranks", "form"), [(2, "eager"), (2, "compiled"), (3, "eager"), (4, "eager")]
)
def test_ranks_train_every_model_to_the_parameters_of_one_process(ranks, form, tmp_path):
    """200 steps: parameters, averages, buffers, counters of random numbers, and all losses."""
    works(ranks, "tests.parallel.worker", "fit", str(tmp_path / "made.npz"), form)
    with np.load(tmp_path / "made.npz") as made:
        assert_close(dict(made), alone(form), atol=2e-4)


def test_rows_of_evaluations_are_shared(tmp_path):
    """30 rows, and 3, for which some ranks have nothing to do."""
    works(3, "tests.parallel.worker", "measure", str(tmp_path / "made.npz"))
    expected = {f"{n} {k}": a for n in (3, 30) for k, a in worker.measured(n).items()}
    with np.load(tmp_path / "made.npz") as made:
        assert_close(dict(made), expected, atol=1e-4)


# -- failures --------------------------------------------------------------------------------------
def go_wrong(happens, folder, ranks=3):
    return run(ranks, "tests.parallel.worker", "go wrong", happens, str(folder))


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        ("other data", "rank 1 has other data than rank 0"),
        ("other settings", "rank 1 has other settings than rank 0"),
        ("broken data", "tinygen: rank 1: data[5, 2] is nan"),
        ("fails", "tinygen: rank 1: the disk of this machine is full"),
        ("drifts", "rank 1 has other parameters at step 300 than rank 0"),
    ],
)
def test_a_rank_that_differs_ends_all(happens, said, tmp_path):
    process = start(3, "tests.parallel.worker", "go wrong", happens, str(tmp_path / "run"))
    try:
        _, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode and said in errors
    assert errors.count("tinygen:") == said.count("tinygen:")  # in one line, or raised on all
    assert (tmp_path / "run" / CHECKPOINT).exists()


def test_an_operation_that_fails_on_the_rows_of_one_rank_is_named(tmp_path):
    process = start(2, "tests.parallel.worker", "go wrong", "infinite", str(tmp_path / "run"))
    _, errors = process.communicate(timeout=SECONDS)
    errors = [x for x in errors.splitlines() if x.startswith("tinygen.errors.NonFiniteError")]
    assert process.returncode and len(errors) == 2  # each rank says so, also that of sound rows
    assert all("step 21, objective loss: log" in x for x in errors)


def test_a_run_goes_on_with_another_number_of_ranks_after_one_was_killed(tmp_path):
    folder = tmp_path / "run"
    status, _, _ = go_wrong("dies", folder)
    assert status
    with np.load(folder / CHECKPOINT) as file:
        assert json.loads(str(file["meta"]))["step"] == 20
    status, _, lines = run(2, "tests.parallel.worker", "go on", "nothing", str(folder))
    told = "tinygen: resumed with ranks 2 instead of 3: the last bits may differ"
    assert (status, lines) == (0, [told])
    expected = tmp_path / "expected"
    worker.train_spoiled(None, "nothing", expected)
    with np.load(folder / CHECKPOINT) as found, np.load(expected / CHECKPOINT) as one:
        a, b = ({k: f[k] for k in f.files if k != "meta"} for f in (found, one))
        assert_close(a, b, atol=2e-4)
        assert json.loads(str(found["meta"]))["sittings"][-1]["ranks"] == 2


def test_all_stop_after_the_same_step_where_one_is_asked_to(tmp_path):
    folder = tmp_path / "run"
    status, _, _ = go_wrong("asked to stop", folder)
    assert status
    with np.load(folder / CHECKPOINT) as file:
        assert json.loads(str(file["meta"]))["step"] == 21
    works(3, "tests.parallel.worker", "go on", "nothing", str(folder))


# -- the command line ------------------------------------------------------------------------------
TRAIN = ("tinygen", "train", "vae", "--steps", "30", "--batch", "30", "--set", "hidden=[8]")


def measures(folder):
    found = json.loads((folder / "metrics.json").read_text())
    return {k: np.array(v) for k, v in found["held_out"].items()}


def test_the_command_line_by_two_processes(tmp_path):
    (tmp_path / "one").mkdir()
    works(2, *TRAIN, "--out", "two", cwd=tmp_path)
    from tinygen.__main__ import main

    assert main([*TRAIN[1:], "--out", str(tmp_path / "one")]) == 0
    names = [sorted(p.name for p in (tmp_path / run).iterdir()) for run in ("one", "two")]
    assert names[0] == names[1]
    assert_close(measures(tmp_path / "two"), measures(tmp_path / "one"), atol=1e-3)
    works(2, "tinygen", "sample", "two", "--n", "10", "--out", "two.npy", cwd=tmp_path)
    assert (
        main(["sample", str(tmp_path / "two"), "--n", "10", "--out", str(tmp_path / "one.npy")])
        == 0
    )
    two, one = np.load(tmp_path / "two.npy"), np.load(tmp_path / "one.npy")
    np.testing.assert_allclose(two, one, atol=1e-6)
    out = works(2, "tinygen", "evaluate", "two", "--n", "60", cwd=tmp_path)
    assert json.loads(out)["samples"]  # printed once, by the rank that measured samples


def test_an_error_that_all_have_is_told_once(tmp_path):
    assert run(3, *TRAIN, "--out", "x", "--lr", "-1", cwd=tmp_path)[::2] == (
        2,
        ["tinygen: lr is a number above 0, not -1.0"],
    )


def test_an_error_that_one_has_is_told_once(tmp_path):
    """Rank 0 alone looks at the folder."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").touch()
    status, _, lines = run(2, *TRAIN, "--out", "x", cwd=tmp_path)
    assert status == 2
    assert lines == [
        "tinygen: rank 0: x exists already and is not an empty folder; --resume continues the run in it, "
        "another --out starts a new one"
    ]


def test_too_small_a_batch_is_an_error(tmp_path):
    status, _, lines = run(3, *TRAIN, "--out", "x", "--batch", "8", cwd=tmp_path)
    assert status == 2
    assert "3 ranks share a batch of 8 rows in groups of 4: take a batch of at least 9" in lines[0]


def test_a_sweep_by_processes_has_the_table_of_one(tmp_path):
    arguments = [
        "sweep", "vae", "--steps", "12", "--batch", "30", "--seeds", "2", "--set", "latent=2,3",
        "--set", "hidden=[8]", "--out",
    ]  # fmt: skip
    out = works(3, "tinygen", *arguments, "three", cwd=tmp_path)
    from tinygen.__main__ import main

    assert main([*arguments, str(tmp_path / "one")]) == 0
    tables = [(tmp_path / run / "table.md").read_text() for run in ("three", "one")]
    assert tables[0] == tables[1] == out
    assert sorted(p.name for p in (tmp_path / "three").iterdir() if p.is_dir()) == [
        f"latent={latent},hidden=[8],seed={seed}" for latent in (2, 3) for seed in (0, 1)
    ]
