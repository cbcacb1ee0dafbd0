"""Matrix and tensor products, linear equations, the Cholesky factor."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Tensor, operation, public
from tinygen.autodiff.promotion import as_array
from tinygen.backend import namespace_of
from tinygen.ops.elementwise import multiply
from tinygen.ops.reduce import sum as _sum
from tinygen.ops.shape import (
    axes_of,
    axis_of,
    concatenate,
    expand_dims,
    index,
    moveaxis,
    reshape,
    split,
    squeeze,
    transpose,
)


# -- products ------------------------------------------------------------------------------------
@operation(
    a=lambda m, g, b: m.matmul(g, m.swapaxes(b, -1, -2)),
    b=lambda m, g, a: m.matmul(m.swapaxes(a, -1, -2), g),
    whole=True,
)
def _matmul(m: Any, a: Any, b: Any) -> Any:
    return m.matmul(a, b)


def matmul(a: Any, b: Any) -> Tensor:
    """The matrix product over the last two axes. Leading axes broadcast. Vectors are as in NumPy."""
    na, nb = as_array(a).ndim, as_array(b).ndim
    if na == 2 and nb == 2:
        return _matmul(a, b)
    if na > 2 and nb == 2:  # one large product instead of many small ones
        shape = as_array(a).shape
        rows = reshape(a, (prod(shape[:-1]), shape[-1]))
        return reshape(_matmul(rows, b), (*shape[:-1], as_array(b).shape[-1]))
    if na > 1 and nb > 1:
        return _matmul(a, b)
    if not na or not nb:
        raise ValueError("matmul: inputs need at least one dimension; use * to scale by a number")
    left = expand_dims(a, 0) if na == 1 else a
    right = expand_dims(b, 1) if nb == 1 else b
    y = _matmul(left, right)
    return squeeze(y, tuple(axis for axis, n in ((-2, na), (-1, nb)) if n == 1))


public(matmul, operator="matmul")


@public
def tensordot(a: Any, b: Any, axes: Any = 2) -> Tensor:
    """The sum of products over some axes of a and as many of b; the other axes remain, a's first.

    axes: a number n, for the last n of a and the first n of b, or a pair of axes or lists of axes.
    ValueError: their numbers or lengths differ.
    """
    shapes = as_array(a).shape, as_array(b).shape
    if isinstance(axes, int):
        axes = tuple(range(-axes, 0)), tuple(range(axes))
    summed = [axes_of(k, len(n), "tensordot: axis") for k, n in zip(axes, shapes, strict=True)]
    lengths = [[n[i] for i in k] for k, n in zip(summed, shapes, strict=True)]
    if lengths[0] != lengths[1]:
        raise ValueError(f"tensordot: axes {axes} have the lengths {lengths[0]} and {lengths[1]}")
    rest = [[i for i in range(len(n)) if i not in k] for k, n in zip(summed, shapes, strict=True)]
    left, right = ([n[i] for i in k] for k, n in zip(rest, shapes, strict=True))
    x = reshape(transpose(a, (*rest[0], *summed[0])), (prod(left), prod(lengths[0])))
    y = reshape(transpose(b, (*summed[1], *rest[1])), (prod(lengths[0]), prod(right)))
    return reshape(_matmul(x, y), (*left, *right))


def dot(a: Any, b: Any) -> Tensor:
    """a · b as in NumPy: over the last axis of a, and the last but one of b or its only one."""
    na, nb = as_array(a).ndim, as_array(b).ndim
    if not na or not nb:
        return multiply(a, b)
    return matmul(a, b) if na <= 2 >= nb else tensordot(a, b, (-1, -min(nb, 2)))


public(dot, method="dot")


@public
def vdot(a: Any, b: Any) -> Tensor:
    """The sum of the products of all elements."""
    return dot(reshape(a, -1), reshape(b, -1))


@public
def inner(a: Any, b: Any) -> Tensor:
    """The sum of products over the last axes of both."""
    one = as_array(a).ndim and as_array(b).ndim
    return tensordot(a, b, (-1, -1)) if one else multiply(a, b)


@public
def outer(a: Any, b: Any) -> Tensor:
    """The product of each element of a with each of b, (a.size, b.size)."""
    return multiply(reshape(a, (-1, 1)), reshape(b, -1))


@public
def kron(a: Any, b: Any) -> Tensor:
    """Kronecker's product: a with each of its elements multiplied by all of b."""
    shapes = as_array(a).shape, as_array(b).shape
    n = max(map(len, shapes))
    tall, low = ((1,) * (n - len(shape)) + shape for shape in shapes)
    x = reshape(a, tuple(k for m in tall for k in (m, 1)))
    y = reshape(b, tuple(k for m in low for k in (1, m)))
    return reshape(multiply(x, y), tuple(i * j for i, j in zip(tall, low, strict=True)))


@public
def cross(
    a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None
) -> Tensor:
    """The cross product of vectors of three components, which lie along `axis`, if it is given.

    axisa, axisb, axisc: the axes of the vectors in a, in b and in the result.
    ValueError: not three components.
    """
    axisa, axisb, axisc = (axisa, axisb, axisc) if axis is None else (axis,) * 3
    pair = [moveaxis(a, axisa, -1), moveaxis(b, axisb, -1)]
    if any(x.shape[-1] != 3 for x in pair):
        raise ValueError(
            f"cross: vectors have three components, not {pair[0].shape[-1]} and {pair[1].shape[-1]}"
        )
    (a0, a1, a2), (b0, b1, b2) = (split(x, 3, -1) for x in pair)
    y = concatenate([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], -1)
    return moveaxis(y, -1, axisc)


def _other_operands(
    m: Any, g: Any, operands: list[Any], i: int, terms: tuple[str, ...], out: str
) -> Any:
    """The derivative in operand i: the same sum of products, with g in place of the operand."""
    others = [(t, x) for j, (t, x) in enumerate(zip(terms, operands, strict=True)) if j != i]
    subscripts = ",".join([out, *(t for t, _ in others)]) + "->" + terms[i]
    d = m.einsum(subscripts, g, *(x for _, x in others))
    # Axes of length 1 broadcast, so operand i may be the only one with the full length.
    return m.broadcast_to(d, tuple(max(n) for n in zip(d.shape, operands[i].shape, strict=True)))


@operation(each="operands", operands=_other_operands, whole=True)
def _einsum(m: Any, operands: list[Any], terms: tuple[str, ...], out: str) -> Any:
    return m.einsum(",".join(terms) + "->" + out, *operands, optimize=len(operands) > 2)


def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The elements with index i in axis1 and i + offset in axis2, along a new last axis."""
    ndim = as_array(x).ndim
    if ndim < 2:
        raise ValueError(f"diagonal needs two dimensions, this array has {ndim}")
    first, second = axis_of(axis1, ndim, "diagonal: axis"), axis_of(axis2, ndim, "diagonal: axis")
    if first == second:
        raise ValueError(f"diagonal: axis1 and axis2 are both {first}")
    shape = as_array(x).shape
    x = moveaxis(x, first, -1)
    x = moveaxis(x, second - (second > first), -1)
    start = max(-offset, 0)
    n = max(0, min(shape[first] - start, shape[second] - max(offset, 0)))
    rows = namespace_of(as_array(x)).arange(start, start + n)
    return index(x, (..., rows, rows + offset))


public(diagonal, method="diagonal")


def trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The sum of a diagonal (see `diagonal`)."""
    return _sum(diagonal(a, offset, axis1, axis2), -1)


public(trace, method="trace")


@public
def einsum(subscripts: str, *operands: Any) -> Tensor:
    """The sum of products that Einstein's convention describes, e.g. 'bij,bjk->bik'.

    subscripts: as in NumPy, with or without an output, with or without ellipses.
    ValueError: a sign that is not a letter, not one term for each operand, or a term that does not
    fit its operand. TypeError: the first argument is not a string.
    """
    terms, out = _parse(subscripts, operands)
    prepared = []
    for i, (term, x) in enumerate(zip(terms, operands, strict=True)):
        # An index that repeats in one operand takes a diagonal. An index that stands in one operand
        # alone is summed. Both are done first, so that the derivative of the rest is an einsum too.
        for letter in dict.fromkeys(term):
            while term.count(letter) > 1:
                a = term.index(letter)
                b = term.index(letter, a + 1)
                lengths = as_array(x).shape[a], as_array(x).shape[b]
                if lengths[0] != lengths[1]:
                    raise ValueError(
                        f"einsum: {letter!r} has the lengths {lengths[0]} and {lengths[1]} in term "
                        f"{i} of {subscripts!r}"
                    )
                x = diagonal(x, axis1=a, axis2=b)
                term = term[:a] + term[a + 1 : b] + term[b + 1 :] + letter
        elsewhere = set(out).union(*(t for j, t in enumerate(terms) if j != i))
        alone = tuple(a for a, letter in enumerate(term) if letter not in elsewhere)
        if alone:
            x = _sum(x, alone)
            term = "".join(letter for letter in term if letter in elsewhere)
        prepared.append((term, x))
    return _einsum([x for _, x in prepared], tuple(t for t, _ in prepared), out)


def _parse(subscripts: str, operands: tuple[Any, ...]) -> tuple[list[str], str]:
    """The terms and the output. Every ellipsis is replaced by letters."""
    if not isinstance(subscripts, str):
        raise TypeError(
            "einsum: the subscripts come first, as in einsum('ij,jk->ik', a, b), not a "
            f"{type(subscripts).__name__}"
        )
    left, arrow, out = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    for sign in "".join([*terms, out]).replace("...", ""):
        if not (sign.isascii() and sign.isalpha()):
            raise ValueError(f"einsum: an index is a letter, not {sign!r}, in {subscripts!r}")
    if len(terms) != len(operands):
        raise ValueError(
            f"einsum: {subscripts!r} has {len(terms)} terms, {len(operands)} operands were given"
        )
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in subscripts]
    dots = [
        as_array(x).ndim - len(t.replace("...", "")) for t, x in zip(terms, operands, strict=True)
    ]
    widest = max([0, *(n for t, n in zip(terms, dots, strict=True) if "..." in t)])
    batch = "".join(free[:widest])
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        out = ("..." if "..." in left else "") + "".join(
            sorted(c for c in set(letters) if letters.count(c) == 1)
        )
    for i, (term, n) in enumerate(zip(terms, dots, strict=True)):
        if n < 0 or (n and "..." not in term):
            raise ValueError(
                f"einsum: term {term!r} of {subscripts!r} does not fit an operand of "
                f"{as_array(operands[i]).ndim} dimensions"
            )
        terms[i] = term.replace("...", batch[len(batch) - n :] if n else "")
    return terms, out.replace("...", batch)


# -- equations -----------------------------------------------------------------------------------
@operation(
    shared=lambda m, g, a: m.solve(m.swapaxes(a, -1, -2), g),
    a=lambda m, g, y: -m.matmul(g, m.swapaxes(y, -1, -2)),
    b=lambda g: g,
)
def _solve(m: Any, a: Any, b: Any) -> Any:
    if a.ndim < 2:
        raise ValueError("a has at least two dimensions")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # CuPy's solve does not
    a, b = (m.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    invalid = m.isnan(a).any(axis=(-2, -1), keepdims=True)  # LAPACK's pivoting may skip a NaN
    return m.where(invalid, m.nan, m.linalg.solve(a, b))


@public
def solve(a: Any, b: Any) -> Tensor:
    """The solution y of a @ y = b for a (..., n, n) and b (..., n, k) or (n,). Leading axes broadcast.

    ValueError: shapes that do not fit, or a singular matrix (on the GPU y is infinite instead).
    """
    if as_array(b).ndim == 1:
        return squeeze(_solve(a, expand_dims(b, -1)), -1)
    return _solve(a, b)


def symmetric(m: Any, a: Any) -> Any:
    """The symmetric part of matrices."""
    return 0.5 * (a + m.swapaxes(a, -1, -2))


def _cholesky_rule(m: Any, g: Any, y: Any) -> Any:
    """The symmetric part of L⁻ᵀ Φ(Lᵀ G) L⁻¹ (Murray 2016).

    Φ takes the lower triangle, with half of the diagonal.
    """
    transposed = m.swapaxes(y, -1, -2)
    rows = namespace_of(as_array(g)).arange(y.shape[-1])
    phi = (0.5 * (rows[:, None] > rows) + 0.5 * (rows[:, None] >= rows)).astype(g.dtype)
    right = m.swapaxes(m.solve(transposed, phi * m.matmul(transposed, g)), -1, -2)
    return symmetric(m, m.solve(transposed, right))


@operation(a=_cholesky_rule)
def cholesky(m: Any, a: Any) -> Any:
    """The lower triangular L with L @ Lᵀ = a, for the symmetric part of a (..., n, n).

    ValueError: a matrix that is not square, or not positive definite; the message has the smallest
    eigenvalue. On the GPU, L is NaN instead, because reading values would wait for the device.
    """
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"square matrices (..., n, n) are needed, not {a.shape}")
    a = symmetric(m, a)
    try:
        factor = m.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        raise not_positive_definite(a) from None
    if m.device == "cpu":
        return factor
    # CuPy stops at a pivot that is not positive and leaves an incomplete factor.
    complete = (m.diagonal(factor, axis1=-2, axis2=-1) > 0).all(-1)
    return m.where(complete[..., None, None], factor, np.nan)


def not_positive_definite(a: Any) -> ValueError:
    """The error for symmetric matrices that have no Cholesky factor."""
    smallest = float(namespace_of(a).linalg.eigvalsh(a).min())
    return ValueError(f"not positive definite: the smallest eigenvalue is {smallest:.6g}")
