"""A run's folder is one run's: whoever comes second is told, and nothing but leavings is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tinygen.folder import CHECKPOINT, locked
from tinygen.models import Autoencoder

pytestmark = pytest.mark.cpu_only("files and processes")

X = np.linspace(0, 1, 12, dtype=np.float32).reshape(6, 2)
HOLD = """
import sys
from tinygen.folder import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


def small():
    return Autoencoder(2, hidden=(2,), latent=1)


def elsewhere(call):
    """What the call gives in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.fixture
def holder(tmp_path):
    """Another process that works in the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "locked\n"
        yield process


@pytest.mark.slow
def test_a_run_under_way_keeps_others_out_until_its_process_dies(tmp_path, holder):
    (tmp_path / f".{CHECKPOINT}.{holder.pid}.tmp").write_bytes(b"PK half")
    with pytest.raises(BlockingIOError, match="another run is under way") as caught:
        small().fit(X, steps=2, folder=tmp_path)
    assert caught.value.filename == str(tmp_path)
    assert len(os.listdir(tmp_path)) == 2  # the other's lock and what it writes
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    small().fit(X, steps=2, folder=tmp_path)
    assert os.listdir(tmp_path) == [CHECKPOINT]


def test_a_lock_is_one_threads_which_may_lock_again(tmp_path):
    with locked(tmp_path), locked(tmp_path):
        small().fit(X, steps=2, folder=tmp_path)
        with pytest.raises(BlockingIOError):
            elsewhere(lambda: small().fit(X, steps=2, folder=tmp_path, resume=True))
    elsewhere(lambda: small().fit(X, steps=2, folder=tmp_path, resume=True))
    assert os.listdir(tmp_path) == [CHECKPOINT]


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    """Its owner removes the file as another has just opened it."""
    import fcntl

    flock, opened = fcntl.flock, []

    def removed(descriptor, how):
        flock(descriptor, how)
        opened.append(descriptor)
        if len(opened) == 1:
            (tmp_path / ".lock").unlink()

    monkeypatch.setattr(fcntl, "flock", removed)
    with locked(tmp_path):
        assert len(opened) == 2
        with pytest.raises(BlockingIOError):
            elsewhere(lambda: small().fit(X, steps=2, folder=tmp_path))


def test_only_what_a_killed_run_left_is_removed(tmp_path):
    mine = {".draft.tmp", ".checkpoint.npz.tmp", ".checkpoint.npz.7.tmp.bak", ".metrics.json.7.tmp"}
    for name in (*mine, ".checkpoint.npz.7.tmp", ".lock"):
        (tmp_path / name).write_text("x")
    with locked(tmp_path):
        assert set(os.listdir(tmp_path)) == mine | {".lock"}
    assert set(os.listdir(tmp_path)) == mine


def test_a_folder_that_cannot_be_locked_is_told(tmp_path, monkeypatch, caplog):
    def none(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("tinygen.folder._flock", none)
    with locked(tmp_path):
        assert "cannot be locked" in caplog.text
