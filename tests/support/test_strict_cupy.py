"""The stand-in for CuPy refuses what CuPy refuses, and gives what CuPy gives."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.support import strict_cupy
from tests.support.strict_cupy import installed

pytestmark = pytest.mark.cpu_only("the stand-in itself")


@pytest.fixture
def cupy():
    with installed() as module:
        yield module


HOST = np.arange(3.0)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda cupy, x: x + HOST,
        lambda cupy, x: HOST + x,
        lambda cupy, x: x * [1.0, 2.0, 3.0],
        lambda cupy, x: x == HOST,
        lambda cupy, x: x @ HOST,
        lambda cupy, x: x.__iadd__(HOST),
        lambda cupy, x: cupy.add(x, HOST),
        lambda cupy, x: cupy.exp(HOST),
        lambda cupy, x: cupy.sum([1.0, 2.0]),
        lambda cupy, x: cupy.concatenate([x, HOST]),
        lambda cupy, x: cupy.where(x > 0, x, HOST),
        lambda cupy, x: x.dot(HOST),
        lambda cupy, x: x.clip(HOST, None),
        lambda cupy, x: x[np.array([0, 1])],
        lambda cupy, x: x[[0, 1]],
        lambda cupy, x: x[HOST > 0],
        lambda cupy, x: x.__setitem__(slice(None), HOST),
        lambda cupy, x: HOST.__setitem__(slice(None), x),
        lambda cupy, x: cupy.add.at(x, np.array([0]), 1.0),
    ],
)
def test_nothing_mixes_with_numpy(cupy, mixed):
    with pytest.raises(TypeError):
        mixed(cupy, cupy.ones(3))


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        np.array,
        np.exp,
        np.sum,
        np.stack,
        lambda x: np.add(x, x),
        lambda x: list(HOST[x]),
    ],
)
def test_nothing_becomes_numpy_unasked(cupy, convert):
    with pytest.raises(TypeError):
        convert(cupy.ones(3))


def test_only_names_and_arguments_of_cupy(cupy):
    x = cupy.ones(3)
    for call in (
        lambda: cupy.errstate,  # NumPy has it
        lambda: cupy.summ,
        lambda: x.ctypes,
        lambda: x.summ,
    ):
        with pytest.raises(AttributeError):
            call()
    for call in (
        lambda: cupy.max(x, initial=0.0),  # NumPy takes these
        lambda: x.max(initial=0.0),
        lambda: cupy.add(x, x, where=x > 0),
        lambda: cupy.sum(x, where=x > 0),
    ):
        with pytest.raises(TypeError):
            call()


def test_results_are_arrays_also_without_axes(cupy):
    x = cupy.asarray(np.arange(6.0).reshape(2, 3))
    for result in (x[1, 2], x.sum(), cupy.max(x), x @ x.T, cupy.sqrt(2.0), x.reshape(-1)[0] + 1):
        assert type(result) is cupy.ndarray
    assert x.sum().shape == () and float(x.sum()) == 15.0 and x.sum().item() == 15.0
    x[0, 0][...] = 7.0  # an element is a view
    assert x[0, 0].item() == 7.0 and x[0].base is not None and x.base is None


def test_numbers_and_the_explicit_ways(cupy):
    x = cupy.asarray(np.arange(3, dtype=np.float32))
    assert (2.0 * x + 1).dtype == np.float32
    assert type(np.float32(2.0) * x) is cupy.ndarray and type(x > np.float32(1.0)) is cupy.ndarray
    np.testing.assert_array_equal(x.get(), [0.0, 1.0, 2.0])
    assert cupy.asarray(x) is x and x.astype(np.float32, copy=False) is x
    assert cupy.asnumpy(x).tolist() == x.tolist() == [0.0, 1.0, 2.0]
    assert x.data.ptr == x[:2].data.ptr and x.flags.c_contiguous
    for twin in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert type(twin) is cupy.ndarray and twin.tolist() == x.tolist()
    x += 1
    cupy.add.at(x, cupy.asarray([0, 0]), 1.0)
    cupy.multiply(x, 2.0, out=x)
    assert x.tolist() == [6.0, 4.0, 6.0]
    assert not np.isfinite((x / 0).get()).any()  # without a warning


def test_atomic_additions_come_in_any_order(cupy):
    found = []
    for _ in range(2):
        x = cupy.zeros((1, 2), np.float32)
        cupy.add.at(x, cupy.asarray([0, 0, 0]), cupy.asarray(np.float32([[1e8], [-1e8], [1.0]])))
        found.append(x.tolist())
    assert sorted(found) == [[[0.0, 0.0]], [[1.0, 1.0]]]


def test_cholesky_does_not_raise(cupy):
    a = np.array([[4.0, 2.0], [2.0, 3.0]])
    stack = cupy.asarray(np.stack([a, [[1.0, 2.0], [2.0, 1.0]]]).astype(np.float32))
    good, bad = cupy.linalg.cholesky(stack).get()
    assert good.dtype == np.float32 and np.isfinite(bad).all() and bad[1, 1] <= 0
    np.testing.assert_allclose(good, np.linalg.cholesky(a), rtol=1e-6)


@pytest.mark.parametrize(
    "wait",
    [
        lambda cupy, x: cupy.asarray(HOST),
        lambda cupy, x: cupy.array([1.0, 2.0]),
        lambda cupy, x: x.set(HOST),
        lambda cupy, x: x[x > 0],
        lambda cupy, x: x.__setitem__(x > 0, x[:2]),
        lambda cupy, x: cupy.where(x > 0),
        lambda cupy, x: cupy.nonzero(x),
        lambda cupy, x: x.nonzero(),
        lambda cupy, x: cupy.unique(x),
        lambda cupy, x: float(x[0]),
        lambda cupy, x: x.tolist(),
    ],
)
def test_what_needs_the_host_waits(cupy, wait):
    x = cupy.arange(3.0)
    before = cupy.ndarray.waits
    wait(cupy, x)
    assert cupy.ndarray.waits == before + 1


def test_what_stays_on_the_gpu_does_not_wait(cupy):
    x = cupy.arange(3.0)
    before = cupy.ndarray.waits
    x[1:] += 2.0 * cupy.asarray(x)[cupy.argsort(x)[:2]]
    x[...] = cupy.where(x > 0, x, 1.0)
    cupy.array(x).sum().copy()
    assert cupy.ndarray.waits == before


def test_another_operand_may_take_over(cupy):
    class Other:
        def __array_ufunc__(self, ufunc, method, *inputs):
            return ufunc.__name__, type(inputs[0]).__module__

        def __radd__(self, x):
            raise AssertionError("CuPy does not ask for it where there is __array_ufunc__")

    assert cupy.ones(2) + Other() == ("add", "cupy")
    with pytest.raises(TypeError):
        cupy.ones(2) + object()


def test_the_modules_before_come_back():
    before = sys.modules.get("cupy")
    with installed() as cupy:
        import cupyx.scipy.special  # as tinygen does

        assert sys.modules["cupy"] is cupy and cupyx.scipy.special.erf(cupy.zeros(1)).item() == 0
    assert sys.modules.get("cupy") is before


@pytest.mark.skipif(find_spec("cupy") is None, reason="compares with the real CuPy")
def test_the_record_is_that_of_the_real_package():
    """Of the version that it names; another may have other names."""
    command = [sys.executable, "-m", "tests.support.strict_cupy"]
    root = Path(strict_cupy.__file__).parents[2]
    real = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    recorded = strict_cupy.RECORD.read_text()
    if real.stdout.partition("\n")[0] != recorded.partition("\n")[0]:
        pytest.skip(f"the record is of {recorded.partition(chr(10))[0]}")
    assert real.stdout == recorded
