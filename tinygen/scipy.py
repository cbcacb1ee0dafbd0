"""SciPy's optimisers with tinygen's derivatives, for parameters in any tree of arrays.

For one array NumPy's way is enough: `scipy.optimize.minimize(f, x0, jac=tg.grad(f))`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Tensor, tensor
from tinygen.autodiff.promotion import as_array, is_number
from tinygen.autodiff.transforms import hessian, hvp, value_and_grad
from tinygen.autodiff.trees import leaves_of, like
from tinygen.backend import namespace_of, to_device
from tinygen.compile import compile as compiled

__all__ = ["minimize"]

Array = np.ndarray[Any, Any]

WITHOUT_GRADIENT = ("nelder-mead", "powell", "cobyla", "cobyqa")
WITH_PRODUCT = ("newton-cg", "trust-ncg", "trust-krylov", "trust-constr")
WITH_MATRIX = ("dogleg", "trust-exact")


def minimize(
    f: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...] = (),
    method: Any = None,
    *,
    compile: bool = False,
    **options: Any,
) -> Any:
    """A local minimum of f(x, *args) by `scipy.optimize.minimize`, with f's derivatives.

    f: computes one number with tinygen's operations. It gets x as Tensors of float64.
    x0: where to begin: an array, or a dict, list, tuple or named tuple of arrays and further trees.
    method: as in SciPy, which chooses one for None. It gets the gradient if it uses one, and
        products with the Hessian ('Newton-CG', 'trust-ncg', 'trust-krylov', 'trust-constr') or the
        Hessian itself ('dogleg', 'trust-exact') if it uses those.
    compile: whether value and gradient run as a program, see `tg.compile`: it takes a second at the
        first use, and is then many times faster for small f.
    options: whatever else SciPy's function takes: tol, bounds, constraints, callback, options. Bounds,
        constraints and `hess_inv` of the result see the leaves in order, as one vector. A callback
        gets x as a tree.

    The result is SciPy's, with `x` a tree like x0: of the same shapes, float dtypes and kinds.
    ValueError: f returns more than one number.
    """
    from scipy import optimize  # here, because the import is slow

    flat = _Flat(x0)
    name = method.lower() if isinstance(method, str) else None
    both = value_and_grad(f)
    both = compiled(both) if compile else both

    def value(x: Array, *rest: Any) -> float:
        return float(f(like(x0, map(tensor, flat.parts(x))), *rest))

    def with_gradient(x: Array, *rest: Any) -> tuple[float, Array]:
        y, gradient = both(flat.tree(x), *rest)
        return float(y), flat.vector(gradient)

    if name not in WITHOUT_GRADIENT:
        options["jac"] = True
    if name in WITH_PRODUCT:
        options["hessp"] = lambda x, v, *rest: flat.vector(
            hvp(f, flat.tree(x), flat.tree(v), *rest)
        )
    if name in WITH_MATRIX:
        options["hess"] = lambda x, *rest: flat.matrix(hessian(f)(flat.tree(x), *rest))
    if (callback := options.get("callback")) is not None:
        options["callback"] = lambda x, *state: callback(flat.given(x), *state)
    fun = with_gradient if "jac" in options else value
    result = optimize.minimize(fun, flat.vector(x0), args, method, **options)
    result.x = flat.given(result.x)
    return result


class _Flat:
    """The leaves of a tree as one vector of float64 on the CPU, and back."""

    def __init__(self, tree: Any) -> None:
        self.model, self.leaves = tree, leaves_of(tree)
        arrays = [as_array(leaf) for leaf in self.leaves]
        self.shapes = [a.shape for a in arrays]
        self.sizes = [a.size for a in arrays]
        ends = [0, *accumulate(self.sizes)]
        self.slices = [slice(*pair) for pair in pairwise(ends)]
        self.devices = [namespace_of(a).device for a in arrays]
        self.dtypes = [a.dtype if a.dtype.kind == "f" else np.dtype(float) for a in arrays]

    def vector(self, tree: Any) -> Array:
        arrays = [to_device(as_array(leaf), "cpu").ravel() for leaf in leaves_of(tree)]
        return np.concatenate(arrays, dtype=np.float64)

    def parts(self, x: Array) -> list[Any]:
        """The arrays of the leaves, on their devices; without a copy on the CPU."""
        places = zip(self.slices, self.shapes, self.devices, strict=True)
        return [to_device(x[part].reshape(shape), device) for part, shape, device in places]

    def tree(self, x: Array) -> Any:
        return like(self.model, self.parts(x))

    def matrix(self, blocks: Any) -> Array:
        """The Hessian, from a tree of a tree of blocks."""
        flat = iter(leaves_of(blocks))
        return np.block(
            [[to_device(next(flat), "cpu").reshape(i, j) for j in self.sizes] for i in self.sizes]
        )

    def given(self, x: Array) -> Any:
        """x as a tree of what x0 has: Tensors, arrays, numbers, in its float dtypes."""
        parts = zip(self.leaves, self.parts(x), self.dtypes, strict=True)

        def kind(leaf: Any, array: Any, dtype: Any) -> Any:
            array = array.astype(dtype)  # a copy
            return (
                Tensor(array)
                if isinstance(leaf, Tensor)
                else array[()]
                if is_number(leaf)
                else array
            )

        return like(self.model, [kind(*part) for part in parts])
