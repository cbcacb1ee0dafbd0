"""Every operation of the registry in a compiled step: value and gradients are those of the eager ones."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

import tinygen as tg
from tests.support.op_cases import CASES
from tinygen.compile import compile

pytestmark = [pytest.mark.cpu_only("programs run on the CPU"), pytest.mark.filterwarnings("error")]

BY_NAME = {
    name: list(cases)
    for name, cases in groupby(sorted(CASES, key=lambda c: c.name), lambda c: c.name)
}


def differentiated(case, arrays, g):
    """The value of a case and its gradients."""
    inputs = [tg.tensor(x, requires_grad=True) if x.dtype.kind == "f" else x for x in arrays]
    y = case(*inputs)
    return y, tg.gradients(y, [x for x in inputs if isinstance(x, tg.Tensor)], g)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_operation_in_a_program_gives_what_it_gives_eagerly(name):
    """All cases in both dtypes as one step. To a few units in the last place, of the largest element
    where terms are added; log_mass is a difference of terms near 0.1."""
    cases = [(case, dtype) for case in BY_NAME[name] for dtype in (np.float64, np.float32)]

    def step(given):
        return [differentiated(c, *more) for (c, _), more in zip(cases, given, strict=True)]

    given = []
    for case, dtype in cases:
        arrays = case.arrays(dtype)
        shape = case(*arrays).shape
        given.append((arrays, np.random.default_rng(7).normal(size=shape).astype(dtype)))
    expected = step(given)
    compiled = compile(step)
    for _ in range(3):  # recorded, recorded again, run
        for (case, _), (y, found), (right, exact) in zip(
            cases, compiled(given), expected, strict=True
        ):
            for a, b in zip([y, *found], [right, *exact], strict=True):
                assert a.dtype == b.dtype and a.shape == b.shape
                unit = np.finfo(b.dtype).eps
                scale = max(np.abs(b.data).max(initial=0.0), 0.1 if name == "log_mass" else 0.0)
                np.testing.assert_allclose(
                    a.data, b.data, rtol=16 * unit, atol=8 * unit * scale, err_msg=case.id
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
