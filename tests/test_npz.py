"""Files of arrays whose headers lie, or that memory does not hold, as data sets."""

from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from tinygen import npz
from tinygen.data import load

pytestmark = pytest.mark.cpu_only("files")


def test_a_header_that_promises_more_than_the_file_holds_takes_no_memory(tmp_path):
    """4 TB in 128 bytes, in both kinds of files."""
    lying = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        lying, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 1)}
    )
    (tmp_path / "x.npy").write_bytes(lying.getvalue())
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", lying.getvalue())
    for name in ("x.npy", "x.npz"):
        with pytest.raises(ValueError, match=rf"{name}: .*promises float32\[1000000000000, 1\]"):
            load(tmp_path / name)


def test_a_file_that_memory_does_not_hold_is_not_read(tmp_path, monkeypatch):
    """Whether its bytes are on the disk, or unfold from few."""
    np.save(tmp_path / "x.npy", np.zeros((1 << 18, 4)))
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1 << 18, 4)))
    assert (tmp_path / "x.npz").stat().st_size < 1 << 16
    monkeypatch.setattr("tinygen.npz.free_memory", lambda: 2e6)
    for name in ("x.npy", "x.npz"):
        tracemalloc.start()
        with pytest.raises(ValueError, match=rf"{name}: .*GB are needed.*free"):
            load(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


def test_arrays_that_nobody_asked_for_are_not_read(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.eye(6), big=np.zeros(1 << 22))
    tracemalloc.start()
    assert load(tmp_path / "x.npz").x.shape[1] == 6
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_free_memory_is_a_number_of_bytes(tmp_path):
    assert npz.free_memory() > 1e6
    assert npz.free_memory(tmp_path) == float("inf")


MACHINE = 7813 * 1024.0
V1, V2 = "5:cpu:/\n3:memory:/job\n", "0::/user/job\n"


@pytest.mark.parametrize(
    ("of_process", "files", "free"),
    [
        (V2, {"memory.max": "max"}, MACHINE),
        (V2, {"user/memory.max": "5000", "user/memory.current": "2000"}, 3000.0),
        (
            V2,
            {
                "user/job/memory.max": "5000", "user/job/memory.current": "4500",
                "user/job/memory.stat": "anon 1\ninactive_file 700\n",
            },
            1200.0,
        ),
        (V2, {"memory.max": "5000", "memory.current": "6000"}, 0.0),
        (V1, {"memory/memory.limit_in_bytes": "9000", "memory/memory.usage_in_bytes": "1"}, 8999.0),
        (
            V1,
            {
                "memory/job/memory.limit_in_bytes": "9223372036854771712",
                "memory/job/memory.usage_in_bytes": "1",
            },
            MACHINE,
        ),
        (V1, {"memory/job/memory.limit_in_bytes": "what"}, MACHINE),
    ],
)  # fmt: skip
def test_free_memory_within_control_groups(of_process, files, free, tmp_path):
    """Of what the machine has, the least that a group leaves; cached files count as free."""
    for name, text in {
        "proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 7813 kB\n",
        "proc/self/cgroup": of_process,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert npz.free_memory(tmp_path) == free
