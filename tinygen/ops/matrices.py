"""Functions of matrices in NumPy's layout: `tg.linalg`. Leading axes are those of a stack of matrices.

A function with several results is one operation, whose result holds them one below the other; so one
rule has the gradients of all. The rules are those of Giles 2008, "Collected matrix derivative results",
and Townsend 2016, "Differentiating the singular value decomposition".
"""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from tinygen.autodiff.engine import Tensor, operation
from tinygen.autodiff.promotion import as_array
from tinygen.backend import namespace_of
from tinygen.ops import elementwise, reduce
from tinygen.ops.elementwise import power, where
from tinygen.ops.linalg import cholesky, matmul, solve, symmetric
from tinygen.ops.shape import (
    axes_of,
    concatenate,
    index,
    reshape,
    split,
    squeeze,
    swapaxes,
    transpose,
)

__all__ = [
    "cholesky", "det", "eigh", "eigvalsh", "inv", "norm", "pinv", "qr", "slogdet", "solve", "svd", "svdvals",
]  # fmt: skip


def _turned(m: Any, a: Any) -> Any:
    return m.swapaxes(a, -1, -2)


def _square(a: Any) -> None:
    """ValueError: not square matrices."""
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ValueError(f"square matrices (..., n, n) are needed, not {a.shape}")


def _known(m: Any, a: Any, y: Any) -> Any:
    """y, and NaN for a matrix that holds a NaN: what LAPACK makes of one is left to chance."""
    unknown = m.isnan(a).any(axis=(-2, -1))
    return m.where(unknown.reshape(unknown.shape + (1,) * (y.ndim - unknown.ndim)), m.nan, y)


def _numbers(m: Any, a: Any) -> Any:
    """a with 0 for NaN, at which iterations of LAPACK would not end well."""
    return m.where(m.isnan(a), 0.0, a)


# -- inverse and determinant ---------------------------------------------------------------------
@operation(a=lambda m, g, y: -m.matmul(_turned(m, y), m.matmul(g, _turned(m, y))))
def inv(m: Any, a: Any) -> Any:
    """The inverse of a (..., n, n). ValueError: a singular matrix (on the GPU it is infinite)."""
    _square(a)
    return _known(m, a, m.linalg.inv(a))


def _pinv_rule(m: Any, g: Any, a: Any, y: Any) -> Any:
    """Golub & Pereyra 1973, eq. 4.12."""
    u, v, h = _turned(m, y), _turned(m, g), m.matmul
    first = h(h(v, y), u)  # gᵀ P Pᵀ, which its part inside the image of a is taken from
    second = h(h(u, y), v)
    return first - h(a, h(y, first)) + second - h(h(second, y), a) - h(h(u, g), u)


@operation(a=_pinv_rule)
def pinv(m: Any, a: Any, rcond: float | None = None) -> Any:
    """The pseudo-inverse (..., n, k) of a (..., k, n); `rcond`, the singular values that count as 0,
    as a share of the largest one, is as in NumPy. The derivative is the one of a constant rank."""
    given = {} if rcond is None else {"rcond": rcond}
    return _known(m, a, m.linalg.pinv(_numbers(m, a), **given))


@operation(a=lambda m, g, a: m.expand_dims(g, (-2, -1)) * m.cofactors(a))
def det(m: Any, a: Any) -> Any:
    """The determinant of a (..., n, n). It has a derivative at a singular matrix too, a second one at
    the others."""
    _square(a)
    return _known(m, a, m.linalg.det(_numbers(m, a)))


def _cofactors_rule(m: Any, g: Any, a: Any, y: Any) -> Any:
    """Of y = det(a) a⁻ᵀ, and dy = tr(a⁻¹ da) y - a⁻ᵀ daᵀ y."""
    along = m.expand_dims(m.sum(g * y, axis=(-2, -1)), (-2, -1))
    u = _turned(m, m.inv(a))
    return along * u - m.matmul(y, m.matmul(_turned(m, g), u))


@operation(a=_cofactors_rule)
def cofactors(m: Any, a: Any) -> Any:
    """The derivative of the determinant: det(a) a⁻ᵀ, from products of singular values without one."""
    u, s, v = m.linalg.svd(_numbers(m, a))
    before = m.cumprod(m.concatenate([m.ones_like(s[..., :1]), s[..., :-1]], -1), axis=-1)
    after = m.cumprod(m.concatenate([m.ones_like(s[..., :1]), s[..., :0:-1]], -1), axis=-1)
    share = m.linalg.det(u) * m.linalg.det(v)
    products = share[..., None] * before * after[..., ::-1]
    return _known(m, a, m.matmul(u * products[..., None, :], v))


class SlogdetResult(NamedTuple):
    """sign and logabsdet, both (...)."""

    sign: Tensor
    logabsdet: Tensor


@operation(a=lambda m, g, a: m.expand_dims(g[..., 1], (-2, -1)) * _turned(m, m.inv(a)))
def _slogdet(m: Any, a: Any) -> Any:
    _square(a)
    return _known(m, a, m.stack(list(m.linalg.slogdet(_numbers(m, a))), -1))


def slogdet(a: Any) -> SlogdetResult:
    """The sign of the determinant of a (..., n, n), a constant, and the logarithm of its size: -∞ of a
    singular matrix, where it has no derivative (ValueError in the backward pass)."""
    both = _slogdet(a)
    return SlogdetResult(index(both, (..., 0)).detach(), index(both, (..., 1)))


# -- decompositions ------------------------------------------------------------------------------
def _over_gaps(m: Any, w: Any) -> Any:
    """1 / (w_j - w_i), and 0 where they are equal."""
    gaps = m.expand_dims(w, -2) - m.expand_dims(w, -1)
    return m.where(gaps == 0, 0.0, 1.0 / m.where(gaps == 0, 1.0, gaps))


class EighResult(NamedTuple):
    """eigenvalues (..., n), the smallest first, and eigenvectors (..., n, n), in columns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


def _eigh_rule(m: Any, g: Any, y: Any) -> Any:
    (w, v), (gw, gv) = m.split(y, [1], axis=-2), m.split(g, [1], axis=-2)
    along = _over_gaps(m, m.squeeze(w, -2)) * m.matmul(_turned(m, v), gv)
    return symmetric(m, m.matmul(v * gw + m.matmul(v, along), _turned(m, v)))


@operation(a=_eigh_rule)
def _eigh(m: Any, a: Any) -> Any:
    _square(a)
    w, v = m.linalg.eigh(symmetric(m, _numbers(m, a)))
    return _known(m, a, m.concatenate([w[..., None, :], v], axis=-2))


def eigh(a: Any) -> EighResult:
    """Eigenvalues and eigenvectors of the symmetric part of a (..., n, n).

    An eigenvector has a derivative where its eigenvalue differs from all others; parts along those that
    are equal to the bit count as 0. So a function of the eigenvalues alone, such as their sum of
    squares, has its first derivative everywhere. The sign of an eigenvector is left to LAPACK.
    """
    w, v = split(_eigh(a), [1], axis=-2)
    return EighResult(squeeze(w, -2), v)


def eigvalsh(a: Any) -> Tensor:
    """The eigenvalues of `eigh`."""
    return eigh(a).eigenvalues


class SVDResult(NamedTuple):
    """U (..., m, k), S (..., k), the largest first, and Vh (..., k, n), k = min(m, n)."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def _svd_rule(m: Any, g: Any, y: Any, a_shape: tuple[int, ...]) -> Any:
    rows, columns = a_shape[-2:]
    (u, s, v), (gu, gs, gv) = (m.split(x, [rows, rows + 1], axis=-2) for x in (y, g))
    gaps = _over_gaps(m, m.square(m.squeeze(s, -2)))
    in_u, in_v = m.matmul(_turned(m, u), gu), m.matmul(_turned(m, v), gv)
    core = gaps * (in_u - _turned(m, in_u)) * s + _turned(m, s) * gaps * (in_v - _turned(m, in_v))
    left, per_s = u * gs + m.matmul(u, core), m.where(s == 0, 0.0, 1.0 / m.where(s == 0, 1.0, s))
    if rows > columns:  # what lies outside the images of U and V
        left = left + (gu - m.matmul(u, in_u)) * per_s
    d = m.matmul(left, _turned(m, v))
    if columns > rows:
        d = d + m.matmul(u, _turned(m, (gv - m.matmul(v, in_v)) * per_s))
    return d


@operation(a=_svd_rule)
def _svd(m: Any, a: Any) -> Any:
    u, s, v = m.linalg.svd(_numbers(m, a), full_matrices=False)
    return _known(m, a, m.concatenate([u, s[..., None, :], _turned(m, v)], axis=-2))


def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """The singular value decomposition a = U @ diag(S) @ Vh of a (..., m, n); S if not `compute_uv`.

    U and Vh have derivatives where the singular values differ, and, unless a is square, are not 0;
    parts along those that are equal to the bit count as 0. So a function of S alone has its first
    derivative wherever the singular values are not 0. The signs of U's columns are left to LAPACK.
    ValueError: a is not square, and `full_matrices`: the columns beyond min(m, n) have no derivative.
    """
    rows, columns = as_array(a).shape[-2:]
    if full_matrices and compute_uv and rows != columns:
        raise ValueError(
            f"svd: only the first {min(rows, columns)} columns of {max(rows, columns)} have a "
            "derivative; pass full_matrices=False for these alone"
        )
    u, s, v = split(_svd(a), [rows, rows + 1], axis=-2)
    s = squeeze(s, -2)
    return SVDResult(u, s, swapaxes(v, -1, -2)) if compute_uv else s


def svdvals(a: Any) -> Tensor:
    """The singular values of `svd`."""
    return svd(a, compute_uv=False)


class QRResult(NamedTuple):
    """Q (..., m, k) and R (..., k, n), k = min(m, n)."""

    Q: Tensor
    R: Tensor


def _qr_rule(m: Any, g: Any, y: Any, a_shape: tuple[int, ...]) -> Any:
    """Walter & Lehmann 2018, "Algorithmic differentiation of linear algebra functions", §4."""
    (q, r), (gq, gr) = (m.split(x, [a_shape[-2]], axis=-2) for x in (y, g))  # r, gr: transposed
    rows = namespace_of(as_array(g)).arange(a_shape[-1])
    lower = (0.5 * (rows[:, None] > rows) + 0.5 * (rows[:, None] >= rows)).astype(g.dtype)
    half = lower * (m.matmul(_turned(m, r), gr) - m.matmul(_turned(m, gq), q))
    d = gq + m.matmul(q, half + _turned(m, half))
    return _turned(m, m.solve(_turned(m, r), _turned(m, d)))


@operation(a=_qr_rule)
def _qr(m: Any, a: Any) -> Any:
    q, r = m.linalg.qr(_numbers(m, a))
    return _known(m, a, m.concatenate([q, _turned(m, r)], axis=-2))


def qr(a: Any, mode: str = "reduced") -> Any:
    """Q with orthonormal columns and R, zero below its diagonal, with Q @ R = a (..., m, n).

    mode: "reduced", or "r" for R alone. The first min(m, n) columns have to be independent.
    ValueError: another mode; the columns of Q that "complete" adds have no derivative.
    """
    if mode not in ("reduced", "r"):
        raise ValueError(f'qr: mode is "reduced" or "r", not {mode!r}')
    k, n = as_array(a).shape[-2:]
    first = index(a, (..., slice(k))) if n > k else a
    q, r = split(_qr(first), [k], axis=-2)
    r = swapaxes(r, -1, -2)
    if n > k:
        rest = matmul(swapaxes(q, -1, -2), index(a, (..., slice(k, None))))
        r = concatenate([r, rest], axis=-1)
    return r if mode == "r" else QRResult(q, r)


# -- norms ---------------------------------------------------------------------------------------
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The norm of vectors (`axis` a number) or matrices (`axis` a pair) of a given order.

    ord: of vectors None or 2, ∞, -∞, 0 (how many are not 0) and every other number; of matrices None or
        "fro", "nuc", ±1, ±2 and ±∞, as in NumPy. Without an axis: that of all elements if `ord` is None,
        else of one vector or matrix. ValueError: another order or number of axes.
    The derivative at 0 is taken as 0; equal extremes share theirs.
    """
    ndim = as_array(x).ndim
    axes = axes_of(axis, ndim, "norm: axis")
    x = x if as_array(x).dtype.kind == "f" else elementwise.astype(x, float)
    if (axis is None and ord is None) or (len(axes) == 1 and ord in (None, 2)):
        return reduce.norm(x, axes, keepdims)
    if len(axes) == 1:
        return _vector_norm(x, ord, axes, keepdims)
    if len(axes) != 2:
        raise ValueError(f"norm: ord={ord!r} is of one or two axes, not {len(axes)}")
    if ord in (None, "fro"):
        return reduce.norm(x, axes, keepdims)
    y = _matrix_norm(transpose(x, (*(i for i in range(ndim) if i not in axes), *axes)), ord)
    shape = as_array(x).shape
    return reshape(y, tuple(1 if i in axes else n for i, n in enumerate(shape))) if keepdims else y


def _vector_norm(x: Any, ord: Any, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    if not isinstance(ord, (int, float)):
        raise ValueError(f"norm: the order of a vector's norm is a number, not {ord!r}")
    size = elementwise.abs(x)
    if abs(ord) == inf:
        return (reduce.max if ord > 0 else reduce.min)(size, axes, keepdims)
    if ord == 0:
        return reduce.sum(elementwise.sign(size), axes, keepdims)
    if ord == 1:
        return reduce.sum(size, axes, keepdims)
    total = reduce.sum(power(size, ord), axes, keepdims)
    nothing = total == 0
    return where(nothing, 0.0, power(where(nothing, 1.0, total), 1.0 / ord))


def _matrix_norm(x: Any, ord: Any) -> Tensor:
    if ord == "nuc":
        return reduce.sum(svdvals(x), -1)
    if not isinstance(ord, (int, float)) or abs(ord) not in (1, 2, inf):
        raise ValueError(
            f'norm: the order of a matrix norm is "fro", "nuc", ±1, ±2 or ±inf, not {ord!r}'
        )
    values = (
        svdvals(x) if abs(ord) == 2 else reduce.sum(elementwise.abs(x), -2 if abs(ord) == 1 else -1)
    )
    return (reduce.max if ord > 0 else reduce.min)(values, -1)
