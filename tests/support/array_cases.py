"""Cases of operations on arrays: shape, order, reductions without NaN. `op_cases.py` takes them in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.support.on_device import placed, tg
from tests.support.op_cases import (
    CONSTANTS,
    POINTS,
    case,
    nonzero,
    normal,
    positive,
    var_oracle,
)

# -- another shape, another order ----------------------------------------------------------------
for shape in [(2, 3), (3,), (), (0, 2)]:
    case("ravel", np.ravel, normal(*shape))
for source, destination in [((0, 1), (2, 0)), ([-1], [0]), ((0, -1), (-1, 0))]:
    case("moveaxis", np.moveaxis, normal(2, 3, 2), source=source, destination=destination)
for shift, axis in [
    (1, None), (-2, 0), (7, -1), ((1, -1), (0, 2)), (2, (0, 1)), ((1, 2), (-1, 0)), (0, None)
]:  # fmt: skip
    case("roll", np.roll, normal(3, 2, 4), shift=shift, axis=axis)
case("roll", np.roll, normal(0), shift=2)
for triangle, oracle in (("tril", np.tril), ("triu", np.triu)):
    for k in (0, 1, -1, 5):
        case(triangle, oracle, normal(3, 4), k=k)
    case(triangle, oracle, normal(2, 3, 3))
    case(triangle, oracle, normal(3))
for k in (0, 1, -2):
    case("diag", np.diag, normal(3), k=k)
    case("diag", np.diag, normal(3, 4), k=k)
case("diag", np.diag, normal(4, 2), k=-3)
case("diag", np.diag, normal(2, 3), k=7)

# -- joined, repeated ----------------------------------------------------------------------------
JOINED: list[tuple[str, Callable[..., Any], list[list[tuple[int, ...]]]]] = [
    ("vstack", np.vstack, [[(3,), (3,)], [(2, 3), (3,)], [(), ()], [(1, 2, 2), (2, 2, 2)]]),
    ("hstack", np.hstack, [[(3,), (2,)], [(2, 3), (2, 1)], [(), ()], [(2, 1, 2), (2, 2, 2)], [(), (2,)]]),
    ("column_stack", np.column_stack, [[(3,), (3,)], [(2, 3), (2,)], [(2, 0), (2, 1)]]),
]  # fmt: skip
for name, oracle, lists in JOINED:
    for shapes in lists:
        case(name, lambda *xs, join=oracle: join(xs), *(normal(*s) for s in shapes),
             call=lambda *xs, name=name: getattr(tg, name)(xs))  # fmt: skip
for repeats, axis in [(2, None), (3, 0), (2, -1), ([1, 0, 2], 1), ([2, 1], -2), (0, 0), ([2], 1)]:
    case("repeat", np.repeat, normal(2, 3), repeats=repeats, axis=axis)
case("repeat", np.repeat, normal(), repeats=3)
for reps in [2, (2,), (2, 1), (1, 2, 3), (2, 0), ()]:
    case("tile", np.tile, normal(2, 3), reps=reps)
case("tile", np.tile, normal(2, 1, 2), reps=3)
case("tile", np.tile, normal(), reps=(2, 2))
for mode in ("edge", "reflect", "symmetric", "wrap"):
    for pad_width in [1, ((0, 2), (1, 0)), ((7, 0), (0, 7))]:
        case("pad", np.pad, normal(2, 3), pad_width=pad_width, mode=mode)
for values in [1.5, (1, 2), ((1, 2), (3, 4))]:
    case("pad", np.pad, normal(2, 3), pad_width=((1, 2), (0, 1)), constant_values=values)
for n, axis in [(1, -1), (2, 0), (3, 1), (0, 0), (5, 1)]:
    case("diff", np.diff, normal(3, 4), n=n, axis=axis)


def diff_between(x: Any, before: Any, after: Any, f: Callable[..., Any], axis: int) -> Any:
    return f(x, axis=axis, prepend=before, append=after)


case("diff", functools.partial(diff_between, f=np.diff, axis=-1), normal(2, 3), normal(), normal(2, 2),
     call=lambda *xs: diff_between(*xs, f=tg.diff, axis=-1))  # fmt: skip
case("diff", lambda x, prepend: np.diff(x, prepend=prepend), normal(4),
     call=lambda x, prepend: tg.diff(x, prepend=prepend), prepend=0.0)  # fmt: skip
for mode in ("full", "same", "valid"):
    for n, m in [(5, 3), (2, 4), (1, 1), (4, 4), (3, 2)]:
        case(
            "convolve", lambda a, v, mode: np.convolve(a, v, mode), normal(n), normal(m), mode=mode
        )
for start, stop in [((), ()), ((2,), ()), ((2, 1), (3,))]:
    for params in [{"num": 4}, {"num": 3, "endpoint": False, "axis": -1}, {"num": 1}, {"num": 0}]:
        case("linspace", np.linspace, normal(*start), normal(*stop), **params)

# -- reductions ----------------------------------------------------------------------------------


def std_oracle(x: Any, axis: Any = None, ddof: float = 0, keepdims: bool = False) -> Any:
    return np.sqrt(var_oracle(x, axis, ddof, keepdims))


for axis in [None, 0, -1, (0, 2), (-1, 0), (0, 1, 2)]:
    case("std", std_oracle, normal(2, 2, 3), axis=axis, keepdims=axis in (0, (-1, 0)))
case("std", std_oracle, normal(4, 3), axis=0, ddof=1)
case("std", std_oracle, normal(4, 3), ddof=1.5, keepdims=True)
for axis in (None, 0, 1, -1):
    case("cumprod", np.cumprod, nonzero(2, 5), axis=axis)
case("cumprod", np.cumprod, normal())
case("cumprod", np.cumprod, normal(2, 0), axis=1)

# Elements that are NaN in these operations: they are put there on the way, so that the other tests
# move numbers. One row in two is whole.


def holes(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(int(np.prod(shape))).reshape(shape) % 5 == 2


def of_holes(name: str) -> Callable[..., Any]:
    return lambda x, **p: getattr(tg, name)(tg.where(placed(holes(x.shape)), np.nan, x), **p)


def with_holes(oracle: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, **p: oracle(np.where(holes(x.shape), np.nan, x), **p)


def nanvar_oracle(x: Any, axis: Any = None, ddof: float = 0, keepdims: bool = False) -> Any:
    n = np.sum(~np.isnan(x), axis=axis, keepdims=True)
    d = x - np.nansum(x, axis=axis, keepdims=True) / n
    return np.nansum(d * d / (n - ddof), axis=axis, keepdims=keepdims)


def nanstd_oracle(*args: Any, **params: Any) -> Any:
    return np.sqrt(nanvar_oracle(*args, **params))


WITHOUT_NAN: dict[str, Callable[..., Any]] = {
    "nansum": np.nansum, "nanprod": np.nanprod, "nanmax": np.nanmax, "nanmin": np.nanmin,
    "nanmean": np.nanmean, "nanvar": nanvar_oracle, "nanstd": nanstd_oracle,
}  # fmt: skip
for name, oracle in WITHOUT_NAN.items():
    for axis in [None, 0, -1, (0, 2), (-1, 0)]:
        case(name, with_holes(oracle), nonzero(2, 2, 4), call=of_holes(name), axis=axis,
             keepdims=axis in (0, (-1, 0)))  # fmt: skip
    case(name, oracle, nonzero(4), axis=0)
for name in ("nanvar", "nanstd"):
    case(name, with_holes(WITHOUT_NAN[name]), normal(4, 3), call=of_holes(name), ddof=1)
for name, oracle in (("nancumsum", np.nancumsum), ("nancumprod", np.nancumprod)):
    for axis in (None, 0, -1):
        case(name, with_holes(oracle), nonzero(2, 4), call=of_holes(name), axis=axis)

# -- order ---------------------------------------------------------------------------------------
for axis in (-1, 0, 1, None):
    case("sort", np.sort, normal(3, 4), axis=axis)
case("sort", np.sort, normal(0, 3), axis=0)
for indices, axis in [
    ([[0, 2, 1, 1]], 0), ([[3], [0], [3]], 1), ([[1, 1], [0, 3], [-1, 2]], -1), ([5, 0, 5], None)
]:  # fmt: skip
    case("take_along_axis", np.take_along_axis, normal(3, 4), indices=np.array(indices), axis=axis)


def quantile_oracle(
    x: Any, q: Any, axis: Any = None, method: str = "linear", keepdims: bool = False
) -> Any:
    """NumPy's of real numbers. It finds the places of others among whole numbers, too."""
    if x.dtype.kind != "c":
        return np.quantile(x, q, axis, method=method, keepdims=keepdims)
    axes = tuple(a % x.ndim for a in ((axis,) if isinstance(axis, int) else axis or range(x.ndim)))
    last = np.moveaxis(x, axes, range(len(axes))).reshape(-1, *np.delete(x.shape, axes))
    last = np.sort(last, axis=0)
    place = np.quantile(np.arange(float(len(last))), q, method=method)
    low, high = np.floor(place).astype(int), np.ceil(place).astype(int)
    part = (place - low).reshape(np.shape(place) + (1,) * (last.ndim - 1))
    y = last[low] * (1 - part) + last[high] * part
    return np.expand_dims(y, tuple(a + np.ndim(q) for a in axes)) if keepdims else y


def median_oracle(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return quantile_oracle(x, 0.5, axis, keepdims=keepdims)


METHODS = [
    "linear", "lower", "higher", "midpoint", "nearest", "hazen", "weibull", "median_unbiased",
    "normal_unbiased", "interpolated_inverted_cdf",
]  # fmt: skip
for method in METHODS:
    case("quantile", quantile_oracle, normal(7), q=[0.0, 0.07, 0.4, 0.83, 1.0], method=method)
for q, axis in [
    (0.3, 0),
    (0.5, (0, -1)),
    ([[0.1, 0.7]], 1),
    ([0.25], None),
    ([], -1),
    (0.9, (-1, 1)),
]:
    case(
        "quantile",
        quantile_oracle,
        normal(2, 3, 4),
        q=q,
        axis=axis,
        keepdims=axis in (0, (0, -1), 1),
    )
for axis in [None, 0, 1, -1, (0, 1), (-1, 0)]:
    case("median", median_oracle, normal(3, 4, 1), axis=axis, keepdims=axis in (0, (-1, 0)))
case("median", median_oracle, normal())


def by_row(oracle: Callable[..., Any]) -> Callable[..., Any]:
    """Of the last axis, without NaN."""

    def f(x: Any, **params: Any) -> Any:
        rows = [oracle(row[~np.isnan(row)], **params) for row in x.reshape(-1, x.shape[-1])]
        return np.moveaxis(np.array(rows), 0, -1).reshape(*np.shape(params.get("q")), *x.shape[:-1])

    return f


case("nanmedian", with_holes(lambda x, axis: by_row(median_oracle)(x)), normal(2, 3, 4),
     call=of_holes("nanmedian"), axis=-1)  # fmt: skip
case("nanmedian", with_holes(lambda x: median_oracle(x[~np.isnan(x)])), normal(2, 4),
     call=of_holes("nanmedian"))  # fmt: skip
for q, method in [(0.3, "linear"), ([0.1, 0.8], "hazen"), ([0.2, 0.6], "nearest")]:
    case("nanquantile", with_holes(lambda x, q, method: by_row(quantile_oracle)(x, q=q, method=method)),
         normal(3, 6), call=lambda x, **p: of_holes("nanquantile")(x, axis=-1, **p), q=q,
         method=method)  # fmt: skip


def interp_oracle(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None) -> Any:
    """np.interp, of complex numbers too. NaN where xp does not ascend."""
    if not (np.diff(xp.real) > 0).all():
        return np.full(x.shape, np.nan)
    i = np.clip(np.searchsorted(xp.real, x.real, side="right"), 1, len(xp) - 1)
    y = fp[i - 1] + (fp[i] - fp[i - 1]) * (x - xp[i - 1]) / (xp[i] - xp[i - 1])
    y = np.where(x.real < xp[0].real, fp[0] if left is None else left, y)
    return np.where(x.real > xp[-1].real, fp[-1] if right is None else right, y)


def interp_of_steps(interp: Callable[..., Any], cumsum: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, steps, fp, **p: interp(x, cumsum(steps) - 3.0, fp, **p)


for shape, sides in [((5,), {}), ((2, 3), {"left": -1.0}), ((), {"right": 7.0}), ((0, 2), {})]:
    case("interp", interp_of_steps(interp_oracle, np.cumsum), normal(*shape), positive(4), normal(4),
         call=interp_of_steps(tg.interp, tg.cumsum), **sides)  # fmt: skip

# -- functions without a derivative ---------------------------------------------------------------
x = np.array([[1.0, 3.0, 3.0], [2.0, 0.0, -1.0]])
n = np.array([[np.nan, 3.0, 3.0], [2.0, 0.0, np.nan]])
mask = x > 1
CONSTANTS += [
    ("eye", (3,), np.eye(3)),
    ("eye", (2, 3, -1, np.float32), np.eye(2, 3, -1, np.float32)),
    ("arange", (2.5,), np.arange(2.5)),
    ("arange", (4, 0, -1, np.float32), np.arange(4, 0, -1, np.float32)),
    ("linspace", (0, 1, 5), np.linspace(0, 1, 5)),
    ("linspace", (0, 1), np.linspace(0, 1)),
    ("any", (mask,), np.any(mask)),
    ("any", (mask, 0), np.any(mask, 0)),
    ("any", (x, (0, -1), True), np.any(x, (0, -1), keepdims=True)),
    ("all", (mask, 1), np.all(mask, 1)),
    ("all", (n, -1, True), np.all(n, -1, keepdims=True)),
    ("argmax", (x,), np.argmax(x)),
    ("argmax", (x, -1, True), np.argmax(x, -1, keepdims=True)),
    ("argmin", (x, 0), np.argmin(x, 0)),
    ("nanargmax", (n, 1), np.nanargmax(n, 1)),
    ("nanargmin", (n, 1, True), np.nanargmin(n, 1, keepdims=True)),
    ("argsort", (x,), np.argsort(x, kind="stable")),
    ("argsort", (x, None), np.argsort(x, None, kind="stable")),
    ("argsort", (n, 0), np.argsort(n, 0, kind="stable")),
]

# -- exact answers where a formula is delicate ----------------------------------------------------
POINTS += [
    ("std, a row of equals", lambda x: tg.std(x, 1), [[2.0, 2.0], [1.0, 3.0]], [0.0, 1.0],
     [[0.0, 0.0], [-0.5, 0.5]]),
    ("cumprod, one zero", tg.cumprod, [2.0, 0.0, 4.0], [2.0, 0.0, 0.0], [1.0, 10.0, 0.0]),
    ("sort, ties keep their places", lambda x: tg.sort(x) * placed(np.float32([1, 2, 3])),
     [1.0, 0.0, 1.0], [0.0, 2.0, 3.0], [2.0, 1.0, 3.0]),
    ("sort, NaN last", lambda x: tg.sort(x)[:2], [np.nan, 2.0, 1.0], [1.0, 2.0], [0.0, 1.0, 1.0]),
    ("median, odd", tg.median, [3.0, 1.0, 2.0], 2.0, [0.0, 0.0, 1.0]),
    ("median, even", tg.median, [3.0, 1.0, 2.0, 9.0], 2.5, [0.5, 0.0, 0.5, 0.0]),
    ("median of infinities", tg.median, [np.inf, 1.0, np.inf], np.inf, [1.0, 0.0, 0.0]),
    ("quantile at an infinity", lambda x: tg.quantile(x, 0.5), [-np.inf, 1.0, np.inf], 1.0, [0.0, 1.0, 0.0]),
    ("median, a NaN", lambda x: tg.median(x, 1), [[np.nan, 1.0], [1.0, 3.0]], [np.nan, 2.0],
     [[np.nan, np.nan], [0.5, 0.5]]),
    ("nanmedian, nothing left", lambda x: tg.nanmedian(x, 1), [[np.nan, np.nan], [np.nan, 3.0]],
     [np.nan, 3.0], [[0.0, 0.0], [0.0, 1.0]]),
    ("nanmax, nothing left", lambda x: tg.nanmax(x, 1), [[np.nan, np.nan], [np.nan, 3.0]],
     [np.nan, 3.0], [[0.0, 0.0], [0.0, 1.0]]),
    ("nanmean, nothing left", lambda x: tg.nanmean(x, 1), [[np.nan, np.nan], [np.nan, 3.0]],
     [np.nan, 3.0], [[0.0, 0.0], [0.0, 1.0]]),
    ("interp, at points and outside", lambda x: tg.interp(x, [0.0, 1.0, 2.0], [0.0, 3.0, 1.0]),
     [-1.0, 0.0, 1.0, 1.5, 2.0, 3.0], [0.0, 0.0, 3.0, 2.0, 1.0, 1.0], [0.0, 3.0, -2.0, -2.0, -2.0, 0.0]),
    ("interp, NaN", lambda x: tg.interp(x, [0.0, 1.0], [0.0, 3.0]), [np.nan, 0.5],
     [np.nan, 1.5], [np.nan, 3.0]),
    ("interp, a step", lambda x: tg.interp(x, [0.0, 1.0, 1.0], [0.0, 3.0, 5.0]), [0.5, 1.0],
     [1.5, 5.0], [3.0, 0.0]),
    ("interp, one point", lambda x: tg.interp(x, [0.0], [4.0]), [-1.0, 0.0, 1.0], [4.0] * 3, [0.0] * 3),
]  # fmt: skip

# What a NaN among the inputs makes is said in their docstrings, and tested by points above.
OWN_WAY_WITH_NAN = {
    "sort",
    "interp",
    "nanmedian",
    "nanquantile",
    "nancumsum",
    "nancumprod",
    *WITHOUT_NAN,
}
