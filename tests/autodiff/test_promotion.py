"""What an operation takes as an input, and what it makes of it."""

from __future__ import annotations

import numpy
import pytest

from tests.support.on_device import np, tg
from tests.support.tensors import equal, leaf, temporary_operation


def test_a_masked_array_does_not_lose_its_mask():
    masked = numpy.ma.array([1.0, 2.0], mask=[False, True])
    for call in (tg.tensor, tg.exp, lambda a: leaf([1.0, 2.0]) * a):
        with pytest.raises(TypeError, match=r"mask.*\.filled\("):
            call(masked)


def test_lists_do_not_widen():
    x = tg.tensor(np.ones(2, np.float32), requires_grad=True)
    assert (x * [1.0, 2.0]).dtype == ([[1.0], [2.0]] - x).dtype == np.float32


def test_data_is_an_array():
    x = leaf([1.0, 2.0])
    for wrong in ([3.0, 4.0], 3.0, None, tg.tensor([3.0, 4.0])):
        kind = type(wrong).__name__
        with pytest.raises(
            TypeError, match=rf"NumPy or CuPy array, not {kind}.*x\.data\[\.\.\.\] ="
        ):
            x.data = wrong
    equal(x, [1.0, 2.0])
    x.data = np.array([3.0, 4.0])
    equal(x, [3.0, 4.0])
    s = leaf(2.0)
    s.data = s.data - 0.5  # NumPy makes a scalar of it
    assert isinstance(s.data, np.ndarray) and s.item() == 1.5


@pytest.mark.parametrize("x", [leaf([1.0]), tg.tensor([1]), tg.tensor(1.0)], ids=repr)
@pytest.mark.parametrize("made", [None, "text", {}], ids=repr)
def test_a_forward_function_that_makes_no_array_is_named(made, x):
    with temporary_operation("faulty", lambda m, x: made, x=lambda g: g) as f:
        with pytest.raises(TypeError, match=r"forward function of faulty.*return"):
            f(x)


def test_arguments_that_look_like_others_are_refused():
    x = leaf([1.0])
    with pytest.raises(TypeError):
        tg.tensor([1.0], np.float32)  # the dtype has a name
    for call in (tg.concatenate, tg.stack):
        with pytest.raises(TypeError, match="list or tuple"):
            call(x, x)
    with pytest.raises(TypeError, match=r"tg\.stack"):
        tg.tensor([x.sum(), x.sum()])
