"""Checkpoint files: whole or not at all, and clear about what they are not."""

from __future__ import annotations

import copy
import errno
import io
import json
import os
import pickle
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from tests.support.small_runs import assert_same, make
from tinygen import checkpoint
from tinygen.errors import CheckpointError
from tinygen.models import MODELS

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


def written_by_hand(path, meta=META, arrays=ARRAYS, headers=None, **how):
    """A checkpoint whose members are made one by one: `headers` are set into the .npy of a name."""
    text = meta if isinstance(meta, str) else json.dumps({"format": checkpoint.FORMAT, **meta})
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, array in {"meta": np.array(text), **arrays}.items():
            content = io.BytesIO()
            np.save(content, array)
            npy = content.getvalue()
            if headers and name in headers:
                npy = (
                    npy[:10]
                    + headers[name].ljust(len(npy[10:128]) - 1).encode()
                    + b"\n"
                    + npy[128:]
                )
            archive.writestr(name + ".npy", npy)


def set_bytes(path, offset, value):
    """In the local and the central header of the first member, whose fields start alike."""
    content = bytearray(path.read_bytes())
    for signature, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):
        start = content.index(signature) + shift + offset
        content[start : start + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)


def header(shape="(2, 3)", descr="'<f4'"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


WEIGHT = "model/a.weight"
DAMAGES = {
    "brackets": lambda p: written_by_hand(p, "[" * 100_000),
    "no format": lambda p: written_by_hand(p, '{"step": 3}'),
    "an open bracket": lambda p: written_by_hand(p, headers={WEIGHT: "{'descr': (("}),
    "a header of Python 2": lambda p: written_by_hand(p, headers={WEIGHT: header("(20L, 3L)")}),
    "many numbers": lambda p: written_by_hand(p, headers={WEIGHT: header("(10**9,)")}),
    "more numbers": lambda p: written_by_hand(p, headers={WEIGHT: header("(1000000000000, 8)")}),
    "a negative axis": lambda p: written_by_hand(p, headers={WEIGHT: header("(-2, -3)")}),
    "objects": lambda p: written_by_hand(p, headers={WEIGHT: header(descr="'|O'")}),
    "no such dtype": lambda p: written_by_hand(p, headers={WEIGHT: header(descr="'<q9'")}),
    "complex numbers": lambda p: written_by_hand(p, arrays={"model/a": np.zeros(2, complex)}),
    "words": lambda p: written_by_hand(p, arrays={"optimizer/loss/steps": np.array("three")}),
    "compressed": lambda p: written_by_hand(p, compression=zipfile.ZIP_DEFLATED),
    "LZMA": lambda p: written_by_hand(p, compression=zipfile.ZIP_LZMA),
    "method 99": lambda p: (written_by_hand(p), set_bytes(p, 8, 99)),
    "encrypted": lambda p: (written_by_hand(p), set_bytes(p, 6, 1)),
    "a member that is no array": lambda p: (
        written_by_hand(p), zipfile.ZipFile(p, "a").writestr("optimizer/loss/steps", b"3"),
    ),
    "negative batches": lambda p: written_by_hand(p, {"batches": -1}),
    "half a step": lambda p: written_by_hand(p, {"step": 1.5}),
    "a step of words": lambda p: written_by_hand(p, {"step": "1"}),
    "a step long before": lambda p: written_by_hand(p, {"step": -(10**9)}),
    "a true step": lambda p: written_by_hand(p, {"step": True}),
    "a list of models": lambda p: written_by_hand(p, {"model": ["VAE"]}),
    "a config of words": lambda p: written_by_hand(p, {"config": "features"}),
    "settings that are a list": lambda p: written_by_hand(p, {"settings": [1]}),
    "a number beyond all": lambda p: written_by_hand(p, '{"step": ' + "9" * 5000 + "}"),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_one_line(tmp_path, damage):
    path = tmp_path / "c.npz"
    DAMAGES[damage](path)
    with pytest.raises(CheckpointError, match=r"^[^\n]*c\.npz[^\n]{10,300}$"):
        checkpoint.read(path)


def test_a_file_of_another_format_is_refused_by_its_number(tmp_path):
    checkpoint.write(tmp_path / "c.npz", {"format": "tinygen-3"}, {})
    with pytest.raises(CheckpointError, match="'tinygen-3', this version reads 'tinygen-2'"):
        checkpoint.read(tmp_path / "c.npz")


def memory_of(call):
    """The most bytes that were taken at once, and what was raised."""
    tracemalloc.start()
    try:
        with pytest.raises(Exception) as caught:
            call()
        return tracemalloc.get_traced_memory()[1], caught.value
    finally:
        tracemalloc.stop()


def test_a_small_file_does_not_unfold_to_a_large_array(tmp_path):
    """A member of 64 MB in 64 KB, which nobody expects: refused by the archive's directory."""
    path = tmp_path / "c.npz"
    checkpoint.write(path, META, ARRAYS)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("model/extra.npy", "w") as member:
            np.save(member, np.zeros(1 << 23))
    taken, error = memory_of(lambda: checkpoint.read(path))
    assert isinstance(error, CheckpointError) and "compressed" in str(error)
    assert path.stat().st_size < 1 << 17 and taken < 1 << 20


def test_members_that_share_their_bytes_are_refused(tmp_path):
    """A directory may name the same bytes a thousand times."""
    path = tmp_path / "c.npz"
    checkpoint.write(path, META, {"big": np.zeros(10_000)})
    with zipfile.ZipFile(path, "a") as archive:
        member = archive.getinfo("big.npy")
        for i in range(100):
            again = copy.copy(member)
            again.filename = f"big{i}.npy"
            archive.filelist.append(again)
        archive._didModify = True
    with pytest.raises(CheckpointError, match="larger than the file"):
        checkpoint.read(path)


def test_what_does_not_fit_into_memory_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    checkpoint.write(path, META, {"big": np.zeros(1 << 20)})
    monkeypatch.setattr("tinygen.npz.free_memory", lambda: 1e6)
    taken, error = memory_of(lambda: checkpoint.read(path))
    assert isinstance(error, CheckpointError) and "memory" in str(error) and taken < 1 << 20


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


# -- weights for other libraries -----------------------------------------------------------------
@pytest.fixture
def safetensors():
    return pytest.importorskip("safetensors.numpy", reason="the package safetensors")


@pytest.mark.parametrize("name", MODELS)
def test_weights_leave_and_enter_with_every_bit_and_their_names(name, tmp_path, safetensors):
    path = tmp_path / "w.safetensors"
    model, other = make(name, seed=1), make(name, seed=2)
    checkpoint.write_safetensors(path, model.state_dict())
    arrays = safetensors.load_file(path)  # as another library sees them
    assert arrays.keys() == model.state_dict().keys()
    other.load_state_dict(checkpoint.read_safetensors(path))
    assert_same(other.state_dict(), model.state_dict())
    assert_same(other.state_dict(), arrays)
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_arrays_of_any_layout_shape_and_type_come_back(tmp_path, safetensors):
    """The library writes memory as it lies, whatever the order of the axes."""
    path = tmp_path / "w.safetensors"
    given = {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T, "spread": np.arange(9)[::2],
        "big-endian": np.arange(3, dtype=">f8"), "one": np.array(2.5), "none": np.zeros((0, 3)),
        "generator": np.array([2**64 - 1, 7], np.uint64), "π": np.array([True]),
    }  # fmt: skip
    checkpoint.write_safetensors(path, given)
    arrays = checkpoint.read_safetensors(path)
    assert arrays.keys() == given.keys()
    for name, array in given.items():
        assert arrays[name].shape == array.shape and arrays[name].dtype.kind == array.dtype.kind
        np.testing.assert_array_equal(arrays[name], array)


def test_weights_that_do_not_fit_are_named_and_change_nothing(tmp_path, safetensors):
    path = tmp_path / "w.safetensors"
    model = make("vae")
    state = model.state_dict()
    checkpoint.write_safetensors(path, state | {"log_std": np.zeros(3), "extra": np.zeros(1)})
    with pytest.raises(ValueError, match=r"log_std: shape \(3,\).*not expected: extra"):
        model.load_state_dict(checkpoint.read_safetensors(path))
    checkpoint.write_safetensors(path, {k: v + 1 for k, v in state.items() if k != "log_std"})
    with pytest.raises(ValueError, match="missing: log_std"):
        model.load_state_dict(checkpoint.read_safetensors(path))
    assert_same(model.state_dict(), state)


def test_a_bad_file_of_weights_says_what_it_is(tmp_path, safetensors):
    path = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match=r"w\.safetensors"):
        checkpoint.read_safetensors(path)
    checkpoint.write_safetensors(path, {"a": np.ones(4, np.float32)})
    content = path.read_bytes()
    bfloat16 = content.replace(b'"F32"', b'"BF16"').replace(b"[4]", b"[8]")
    bfloat16 = (len(bfloat16) - 8 - 16).to_bytes(8, "little") + bfloat16[8:]
    path.write_bytes(bfloat16)
    with pytest.raises(CheckpointError, match=r"w\.safetensors holds numbers of type 'BF16'.*F32"):
        checkpoint.read_safetensors(path)
    for bad in (content[:-3], content[:5], b"", b"no weights at all"):
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"w\.safetensors is no safetensors file"):
            checkpoint.read_safetensors(path)


def test_a_full_disk_leaves_the_last_weights(tmp_path, monkeypatch, safetensors):
    path = tmp_path / "w.safetensors"
    checkpoint.write_safetensors(path, {"a": np.ones(4)})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match=r"w\.safetensors: full; .* intact"):
        checkpoint.write_safetensors(path, {"a": np.zeros(4)})
    assert checkpoint.read_safetensors(path)["a"].all() and os.listdir(tmp_path) == [path.name]


def test_without_the_package_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (checkpoint.read_safetensors, lambda p: checkpoint.write_safetensors(p, {})):
        with pytest.raises(ModuleNotFoundError, match="pip install safetensors"):
            call(tmp_path / "w.safetensors")
