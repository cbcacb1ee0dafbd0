"""Checkpoint files: whole or not at all, and clear about what they are not."""

from __future__ import annotations

import errno
import json
import os
import pickle

import numpy as np
import pytest

from tinygen import checkpoint
from tinygen.errors import CheckpointError

pytestmark = pytest.mark.cpu_only("files")

ARRAYS = {
    "model/a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "state": np.array([2**64 - 1, 7], np.uint64),
    "empty": np.zeros((0, 3)),
}
META = {"step": 3, "config": {"hidden": [2, 3], "name": "π"}}


def test_a_round_trip_keeps_every_bit(tmp_path):
    path = tmp_path / "c.npz"
    checkpoint.write(path, META, ARRAYS)
    meta, arrays = checkpoint.read(path)
    assert meta == {"format": checkpoint.FORMAT, **META}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert os.listdir(tmp_path) == ["c.npz"]


def test_it_is_an_npz_that_numpy_reads_without_pickle(tmp_path):
    checkpoint.write(tmp_path / "c.npz", META, ARRAYS)
    with np.load(tmp_path / "c.npz", allow_pickle=False) as file:
        assert json.loads(str(file["meta"]))["step"] == 3


def test_section_and_prefixed_are_inverses():
    arrays = checkpoint.prefixed("a/b", {"x": 1, "y/z": 2})
    assert checkpoint.section({**arrays, "a/c": 3, "a": 4}, "a/b") == {"x": 1, "y/z": 2}


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_recognised(tmp_path, part):
    path = tmp_path / "c.npz"
    checkpoint.write(path, META, {"big": np.arange(10_000.0), **ARRAYS})
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(CheckpointError, match=r"c\.npz"):
        checkpoint.read(path)


def test_a_flipped_bit_is_recognised(tmp_path):
    path = tmp_path / "c.npz"
    checkpoint.write(path, META, {"big": np.arange(10_000.0)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read(path)


def _pickle(path):
    path.write_bytes(pickle.dumps({"a": 1}))


def _foreign_npz(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.zeros(3))


def _other_format(path):
    with open(path, "wb") as file:
        np.savez(file, meta=np.array(json.dumps({"format": "tinygen-999"})))


def _objects(path):
    with open(path, "wb") as file:
        np.savez(file, meta=np.array({"format": 1}, dtype=object))


def _npy(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize("make", [_pickle, _foreign_npz, _other_format, _objects, _npy])
def test_a_foreign_file_is_recognised(tmp_path, make):
    path = tmp_path / "c.npz"
    make(path)
    with pytest.raises(CheckpointError, match=r"c\.npz"):
        checkpoint.read(path)


class Payload:
    """What a hostile pickle does when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_file_is_executed(tmp_path):
    path, trace = tmp_path / "c.npz", tmp_path / "trace"
    with open(path, "wb") as file:
        np.savez(file, meta=np.array(Payload(trace), dtype=object))
    with pytest.raises(CheckpointError):
        checkpoint.read(path)
    assert not trace.exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*c\.npz"):
        checkpoint.read(tmp_path / "c.npz")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    checkpoint.write(path, {"step": 1}, ARRAYS)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"c\.npz: No space left on device; .* intact") as caught:
        checkpoint.write(path, {"step": 2}, ARRAYS)
    assert caught.value.errno == errno.ENOSPC
    assert checkpoint.read(path)[0]["step"] == 1
    assert os.listdir(tmp_path) == ["c.npz"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the device /dev/full is not here")
def test_a_disk_that_is_full_indeed(tmp_path):
    """The same through the operating system: the temporary file's name leads to /dev/full."""
    path = tmp_path / "c.npz"
    os.symlink("/dev/full", tmp_path / f".c.npz.{os.getpid()}.tmp")
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, META, {"big": np.zeros(100_000)})
    assert os.listdir(tmp_path) == []


def test_a_description_that_json_cannot_hold_is_refused_before_writing(tmp_path):
    with pytest.raises(TypeError):
        checkpoint.write(tmp_path / "c.npz", {"f": print}, ARRAYS)
    assert os.listdir(tmp_path) == []
