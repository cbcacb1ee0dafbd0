"""Every operation of the registry in a compiled step: value and gradients are those of the eager ones."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

import tinygen as tg
from tests.support import strict_cupy
from tests.support.op_cases import CASES
from tinygen.backend import to_device
from tinygen.compile import CompileError, compile

pytestmark = [pytest.mark.cpu_only("programs run on the CPU"), pytest.mark.filterwarnings("error")]

BY_NAME = {
    name: list(cases)
    for name, cases in groupby(sorted(CASES, key=lambda c: c.name), lambda c: c.name)
}

NOT_CAPTURED = {
    "cholesky", "einsum", "matmul", "solve",  # of more than two axes: cuBLAS, cuSOLVER
    "median", "quantile", "sort",  # positions that were sorted on the GPU, as an index
    "special.digamma", "special.polygamma", "special.psi",  # CuPy has zeta under another name
}  # fmt: skip
NOT_CAPTURED |= {f"linalg.{name}" for name in (
    "cholesky", "cofactors", "det", "eigh", "eigvalsh", "inv", "norm", "pinv", "qr", "slogdet", "solve",
    "svd", "svdvals",
)}  # fmt: skip


def differentiated(case, arrays, g):
    """The value of a case and its gradients."""
    inputs = [tg.tensor(x, requires_grad=True) if x.dtype.kind == "f" else x for x in arrays]
    y = case(*inputs)
    return y, tg.gradients(y, [x for x in inputs if isinstance(x, tg.Tensor)], g)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_operation_in_a_program_gives_what_it_gives_eagerly(name):
    """All cases in both dtypes as one step. To a few units in the last place, of the largest element
    where terms are added; log_mass is a difference of terms near 0.1."""
    compared(name, same)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_an_operation_in_a_graph_gives_what_it_gives_eagerly(name):
    """On the stand-in: recorded, captured, replayed. What CuPy cannot capture says so."""
    with strict_cupy.installed() as cupy:
        try:
            compared(name, lambda x: x if isinstance(x, tg.Tensor) else cupy.asarray(x))
        except CompileError as error:
            assert name in NOT_CAPTURED, error
        else:
            assert name not in NOT_CAPTURED


def same(x):
    return x


def fits(case, dtype, placed):
    """Whether all arrays of a case are where they are placed; some hold arrays of the CPU."""
    try:
        case(*map(placed, case.arrays(dtype)))
    except (TypeError, AttributeError):
        return False
    return True


def compared(name, placed):
    """Every case of an operation, eager and in a program; on the GPU none with a mask for an index, of
    which nobody knows how many elements it takes."""
    cases = [(case, dtype) for case in BY_NAME[name] for dtype in (np.float64, np.float32)]
    cases = [c for c in cases if fits(*c, placed) and (placed is same or "False" not in c[0].id)]

    def step(given):
        return [differentiated(c, *more) for (c, _), more in zip(cases, given, strict=True)]

    given = []
    for case, dtype in cases:
        arrays = case.arrays(dtype)
        shape = case(*arrays).shape
        g = np.random.default_rng(7).normal(size=shape).astype(dtype)
        given.append(([placed(x) for x in arrays], placed(g)))
    expected = step(given)
    compiled = compile(step)
    for _ in range(3):  # recorded, recorded again, run
        for (case, _), (y, found), (right, exact) in zip(
            cases, compiled(given), expected, strict=True
        ):
            for a, b in zip([y, *found], [right, *exact], strict=True):
                assert a.dtype == b.dtype and a.shape == b.shape
                a, b = (to_device(x.data, "cpu") for x in (a, b))
                unit = np.finfo(b.dtype).eps
                scale = max(np.abs(b).max(initial=0.0), 0.1 if name == "log_mass" else 0.0)
                np.testing.assert_allclose(
                    a, b, rtol=16 * unit, atol=8 * unit * scale, err_msg=case.id
                )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_angles_of_any_size_have_their_sine_and_cosine(dtype):
    """Beyond 2^50 too, where a float does not hold the number of turns."""
    sizes = 10.0 ** np.arange(-3, 38)
    x = np.concatenate([sizes, -sizes, [0.0, 2.0**50, -(2.0**50)]]).astype(dtype)
    both = compile(lambda x: (tg.sin(x), tg.cos(x)))
    for _ in range(3):
        found = both(x)
    wide = x.astype(np.float64)
    for y, expected in zip(found, (np.sin(wide), np.cos(wide)), strict=True):
        np.testing.assert_allclose(y.data, expected, rtol=0, atol=np.finfo(dtype).eps)
    assert np.isnan([y.data for y in both(np.full_like(x, np.nan))]).all()


WHOLE, REAL = tg.tensor([2, 3, 4]), tg.tensor([2.0, 3.0, 4.0])
OF_OUTSIDE = {
    "prod": lambda: tg.prod(WHOLE), "median": lambda: tg.median(WHOLE), "std": lambda: tg.std(REAL),
    "nanvar": lambda: tg.nanvar(REAL), "argmax": lambda: tg.argmax(REAL), "sort": lambda: tg.sort(REAL),
    "interp": lambda: tg.interp(REAL, [0.0, 1.0, 5.0], REAL), "indices": lambda: REAL[WHOLE - 2],
}  # fmt: skip


@pytest.mark.parametrize("name", OF_OUTSIDE)
def test_an_array_outside_a_step_is_read_at_each_call(name):
    step = compile(lambda x: x * tg.sum(OF_OUTSIDE[name]()))
    for whole, real in ([2, 3, 4], [2, 3, 4]), ([2, 3, 4], [2, 3, 4]), ([3, 2, 3], [4, 0, 1.5]):
        WHOLE.data[...], REAL.data[...] = whole, real
        expected = tg.sum(OF_OUTSIDE[name]())
        np.testing.assert_allclose(step(np.ones(2)).data, expected.data, rtol=1e-14)
