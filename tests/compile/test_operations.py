"""Every operation of the registry in a compiled step: value and gradients are those of the eager ones."""

from __future__ import annotations

import numpy as np
import pytest

import tinygen as tg
from tests.support.op_cases import CASES
from tinygen.compile import compile

pytestmark = [pytest.mark.cpu_only("programs run on the CPU"), pytest.mark.filterwarnings("error")]

DATA_DEPENDENT = {"index [4,3] key=array([[False"}  # shapes that follow from values


def differentiated(case):
    """The value of a case and its gradients, as a step of the arrays."""

    def step(*arrays, g=None):
        inputs = [tg.tensor(x, requires_grad=True) if x.dtype.kind == "f" else x for x in arrays]
        y = case(*inputs)
        real = [x for x in inputs if isinstance(x, tg.Tensor)]
        return y, tg.gradients(y, real, g)

    return step


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_operation_in_a_program_gives_what_it_gives_eagerly(case, dtype):
    """To a few units in the last place, of the largest element where terms are added."""
    arrays = case.arrays(dtype)
    step = differentiated(case)
    g = np.random.default_rng(7).normal(size=case(*arrays).shape).astype(dtype)
    expected = step(*arrays, g=g)
    compiled = compile(step)
    for _ in range(3):  # recorded, recorded again, run
        y, gradients = compiled(*arrays, g=g)
        for found, right in zip([y, *gradients], [expected[0], *expected[1]], strict=True):
            assert found.dtype == right.dtype and found.shape == right.shape
            unit = np.finfo(right.dtype).eps
            scale = np.abs(right.data).max(initial=0.0)
            np.testing.assert_allclose(found.data, right.data, rtol=16 * unit, atol=8 * unit * scale)
