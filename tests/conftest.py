"""What every test starts from, and where it runs: `python -m pytest --device gpu`."""

from __future__ import annotations

import os
from contextlib import ExitStack

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # before NumPy: processes beside one another take one thread
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

import tinygen as tg
from tests.support import on_device
from tinygen import backend

settings.register_profile("tinygen", deadline=None)  # a kernel's first call compiles it
settings.load_profile("tinygen")
_gpu = ExitStack()


def pytest_addoption(parser):
    parser.addoption(
        "--device", choices=backend.DEVICES, default="cpu",
        help="where the tests' arrays are; gpu: on the GPU, or on its stand-in where there is none",
    )  # fmt: skip


def pytest_configure(config):
    if config.getoption("--device") == "gpu":
        on_device.use_gpu(_gpu)


def pytest_unconfigure(config):
    _gpu.close()


def pytest_runtest_setup(item):
    elsewhere = item.get_closest_marker("cpu_only")
    if elsewhere and on_device.DEVICE != "cpu":
        pytest.skip(f"on the CPU only: {elsewhere.args[0]}")
    if item.get_closest_marker("gpu") and (problem := real_gpu_problem()):
        pytest.skip(problem)


def real_gpu_problem():
    """Why there is no real GPU to test on; None if there is."""
    stand_in = on_device.DEVICE == "gpu" and on_device.np.ndarray is on_device.strict_cupy.ndarray
    return "the stand-in is no GPU" if stand_in else backend.gpu_problem()


@pytest.fixture(autouse=True)
def default_randomness():
    """The default generator at its start, whatever ran before."""
    tg.manual_seed(0)
