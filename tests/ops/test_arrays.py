"""The array half of NumPy's vocabulary, beside the cases of the registry: arguments, dtypes, programs."""

from __future__ import annotations

import numpy
import pytest

from tests.campaign import graphs
from tests.support.on_device import np, on_cpu, placed, tg
from tests.support.tensors import equal, leaf
from tinygen.compile import compile

pytestmark = pytest.mark.filterwarnings("error")


# -- random graphs -----------------------------------------------------------------------------------
@pytest.mark.cpu_only("what the derivatives are does not depend on the device")
@pytest.mark.parametrize("number", range(40))
def test_random_graphs_have_the_derivatives_of_central_differences(number, monkeypatch):
    """First and second ones of graphs in which one operation in two is one of these."""
    monkeypatch.setattr(graphs, "ALONG_ROWS", graphs.ARRAYS)
    assert graphs.trial(numpy.random.default_rng([13, number])) is None


# -- in a program ----------------------------------------------------------------------------------------
@pytest.mark.cpu_only("programs run on the CPU")
def test_functions_without_a_derivative_are_computed_anew_at_every_run():
    """Also from a Tensor that the step found outside, and through NumPy's own functions."""
    outside = tg.tensor(numpy.zeros(4))

    def step(x):
        t = outside + x
        rows = tg.argsort(t)
        return (
            tg.argmax(t), tg.argmin(t), tg.any(t > 1), tg.all(t > 1), rows, t[rows], tg.nanargmax(x),
            tg.nanargmin(t), tg.sort(x), tg.median(t), tg.nanmedian(x), numpy.cumsum(t), tg.arange(4) * x,
            tg.argmax(outside),
        )  # fmt: skip

    compiled = compile(step)
    rng = numpy.random.default_rng(3)
    for _ in range(5):
        x = rng.normal(size=4) * rng.uniform(0, 3)
        outside.data[...] = rng.normal(size=4)
        for found, expected in zip(compiled(x), step(x), strict=True):
            found, expected = map(numpy.asarray, (found, expected))
            assert found.dtype == expected.dtype
            numpy.testing.assert_allclose(found, expected, rtol=1e-14)


# -- functions without a derivative ---------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["argmax", "argmin", "argsort", "any", "all", "nanargmax", "nanargmin"]
)
def test_positions_and_truths_of_a_tensor_with_a_graph_are_constants(name):
    x = leaf([3.0, 1.0, 2.0]) * 2.0
    y = getattr(tg, name)(x)
    assert type(y) is tg.Tensor and not y.requires_grad and y.dtype.kind in "ib"
    np.testing.assert_array_equal(y.data, getattr(np, name)(x.data))
    equal(x[tg.argsort(x)].detach(), [2.0, 4.0, 6.0])


def test_tolist():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]] and (x * 2).sum().tolist() == 20.0
    assert [type(k) for k in tg.tensor([1, 2]).tolist()] == [int, int]


def test_sorting_in_place_names_the_function():
    with pytest.raises(AttributeError, match=r"tg\.sort\(x"):
        leaf([2.0, 1.0]).sort()


# -- NumPy's arguments -------------------------------------------------------------------------------------
@pytest.mark.parametrize("period", [2.5, -3.0])
def test_a_periodic_interpolation_is_numpys(period):
    x = np.linspace(-7.0, 8.0, 41)
    xp, fp = np.array([1.0, 0.2, 2.0, 4.1]), np.array([1.0, 2.0, 3.0, -1.0])
    y = tg.interp(x, xp, fp, left=9.0, right=9.0, period=period)
    np.testing.assert_allclose(y.data, np.interp(x, xp, fp, period=period), rtol=0, atol=1e-13)
    assert tg.gradgradcheck(
        lambda x, xp, fp: tg.interp(x, xp, fp, period=period), [x + 0.003, xp, fp]
    )


def test_an_interpolation_is_numpys_at_points_steps_and_ends():
    xp, fp = [0.0, 1.0, 1.0, 2.0, 5.0], [0.0, 3.0, 5.0, 1.0, 2.0]
    x = np.array([-1.0, 0.0, 0.3, 1.0, 1.5, 2.0, 4.9, 5.0, 6.0])
    for sides in ({}, {"left": 7.0}, {"right": -7.0}, {"left": 1.0, "right": 2.0}):
        y = tg.interp(x, xp, fp, **sides)
        np.testing.assert_allclose(y.data, np.interp(x, xp, fp, **sides), rtol=1e-15)
    assert np.isnan(tg.interp(np.array([np.nan]), xp, fp).data).all()


@pytest.mark.parametrize(
    "method",
    ["linear", "lower", "higher", "midpoint", "nearest", "hazen", "weibull", "median_unbiased",
     "normal_unbiased", "interpolated_inverted_cdf"],
)  # fmt: skip
@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_quantiles_of_few_are_numpys(method, n):
    """At every level, those on an element included."""
    x = np.random.default_rng(n).normal(size=(n, 3))
    q = np.linspace(0.0, 1.0, 21)
    for found, numpys in ((tg.quantile, numpy.quantile), (tg.nanquantile, numpy.nanquantile)):
        expected = numpys(on_cpu(x), on_cpu(q), 0, method=method)
        np.testing.assert_allclose(
            found(x, on_cpu(q).tolist(), 0, method).data, placed(expected), rtol=1e-13, atol=1e-15
        )


def test_small_whole_numbers_do_not_wrap_around():
    x = placed(numpy.array([100, 100, 100], numpy.int8))
    assert tg.cumprod(x).tolist() == [100, 10_000, 1_000_000]
    assert tg.median(x).item() == tg.mean(x).item() == 100.0
    assert tg.nansum(x).item() == 300 and tg.nanmax(x).dtype == numpy.int8
    assert tg.nanstd(x).item() == tg.std(x).item() == 0.0
    assert tg.quantile(placed(numpy.array([255, 0], numpy.uint8)), 0.25).item() == 63.75
    steps = placed(numpy.array([0, 10], numpy.uint8)), placed(numpy.array([200, 100], numpy.uint8))
    assert tg.interp(5, *steps).item() == 150.0


# -- one rule of dtypes ------------------------------------------------------------------------------------
def test_new_arrays_have_numpys_dtypes():
    """Of whatever makes a Tensor of numbers; dtype= asks for another."""
    pairs = [
        (tg.tensor(1.0), np.array(1.0)), (tg.tensor([1, 2]), np.array([1, 2])),
        (tg.tensor([True]), np.array([True])), (tg.zeros(2), np.zeros(2)), (tg.ones(2), np.ones(2)),
        (tg.eye(2), np.eye(2)), (tg.arange(3), np.arange(3)), (tg.arange(3.0), np.arange(3.0)),
        (tg.arange(0, 1, 0.25), np.arange(0, 1, 0.25)), (tg.linspace(0, 1, 3), np.linspace(0, 1, 3)),
        (tg.zeros(2, int), np.zeros(2, int)), (tg.tensor(np.float32([1.0])), np.float32([1.0])),
    ]  # fmt: skip
    for made, expected in pairs:
        assert type(made) is tg.Tensor and not made.requires_grad and made.dtype == expected.dtype
        np.testing.assert_array_equal(made.numpy(), on_cpu(expected))
    for f, args in [
        (tg.tensor, ([1.0],)), (tg.zeros, (2,)), (tg.ones, (2,)), (tg.eye, (2,)), (tg.arange, (3,)),
        (tg.linspace, (0, 1, 3)),
    ]:  # fmt: skip
        for dtype in (np.float32, np.float16, np.int8, bool):
            if f is tg.arange and dtype is bool:
                continue  # NumPy has none of three
            assert f(*args, dtype=dtype).dtype == dtype
    assert tg.linspace(-1, 1, 4, dtype=int).tolist() == numpy.linspace(-1, 1, 4, dtype=int).tolist()
