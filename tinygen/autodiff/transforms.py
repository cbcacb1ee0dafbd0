"""Gradients of results, and transforms of functions: grad, vjp, jvp, jacobian, hessian, hvp.

A transform takes `f`, a function that computes with tinygen's operations. An argument of f, and what
it returns, may be a tree: an array or a Tensor, or a dict, list, tuple or named tuple of trees.

Arrays in, arrays out: what a transformed function returns are NumPy's (or CuPy's) arrays and numbers.
They are Tensors if one of the arguments to differentiate is or holds a Tensor, or if they depend on
another Tensor that requires a gradient: then they are in its graph. f itself is always called with
Tensors. So transforms work to any order: grad(grad(f)) is the second derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Leaf, Tensor, ancestors, propagate, tensor
from tinygen.autodiff.modes import enable_grad, is_grad_enabled
from tinygen.autodiff.promotion import as_array, check_tensor, is_number
from tinygen.autodiff.trees import leaves_along, leaves_of, like
from tinygen.backend import is_gpu_array, namespace_of, vocabulary

__all__ = ["grad", "gradients", "hessian", "hvp", "jacobian", "jvp", "value_and_grad", "vjp"]

Function = Callable[..., Any]
Positions = int | Sequence[int]


def gradients(
    output: Tensor,
    inputs: Any,
    gradient: Any = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> Any:
    """The gradient of `output` with respect to each of `inputs`. No `.grad` is changed.

    inputs: a Tensor, or a list, dict or other tree of Tensors; leaves or results of operations. The
        result is such a tree of Tensors. If `output` does not depend on an input, its gradient is
        zeros.
    gradient, retain_graph: as for `Tensor.backward`.
    create_graph: whether the gradients can be differentiated again.
    ValueError: as for `Tensor.backward`, or an input requires no gradient. TypeError: `output` or one
    of `inputs` is not a Tensor.
    """
    check_tensor("the output of gradients()", output)
    wanted = leaves_of(inputs)
    for i, t in enumerate(wanted):
        check_tensor(f"input {i} of gradients()", t)
        if t.node is None:
            raise ValueError(
                f"input {i} of gradients() requires no gradient; "
                "make it with tg.tensor(..., requires_grad=True)"
            )
    sources = {t.node for t in wanted}
    table = propagate(output, gradient, sources, retain_graph or create_graph, create_graph)
    return like(inputs, [table[t.node] if t.node in table else _zeros(t) for t in wanted])


def value_and_grad(f: Function, argnums: Positions = 0, has_aux: bool = False) -> Function:
    """The function (*args) -> (f(*args), gradient of f with respect to the arguments `argnums`).

    f must return one number. The gradient is like its argument: an array, or a tree of arrays. For
    several positions it is a tuple of gradients. A negative position counts from the last argument.
    has_aux: f returns a pair of the number and anything else; so does the new function, as its value.
    ValueError: f returns more than one number, or there is no such argument.
    """
    positions = _positions("grad", f, argnums)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = _Call(f, args, kwargs, positions, has_aux)
        y = call.result
        if not isinstance(y, Tensor):
            hint = "" if has_aux else "; has_aux=True lets it return a pair (number, anything else)"
            raise TypeError(f"grad needs a function that returns one number, not a tree{hint}")
        if y.size != 1:
            raise ValueError(
                f"grad needs a function that returns one number, this returns {y.shape}"
            )
        value = call.given(call.result)
        found = call.like_arguments(call.pull([None], again=False), argnums)
        return ((value, call.given(call.aux)) if has_aux else value), found

    return wrapped


def grad(f: Function, argnums: Positions = 0, has_aux: bool = False) -> Function:
    """The function (*args) -> gradient of f at args; see `value_and_grad`.

    has_aux: f returns a pair of the number and anything else; the new function (gradient, anything).
    """
    both = value_and_grad(f, argnums, has_aux)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        value, found = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return wrapped


def vjp(f: Function, *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """f(*primals), and the function v -> (vᵀ ∂f/∂primal for each primal).

    v is like the output: an array of its shape, or such a tree. The function may be called several
    times. The gradients can be differentiated again if the primals or v require a gradient.
    """
    _positions("vjp", f, ())
    call = _Call(f, primals, {}, range(len(primals)))

    def pullback(v: Any) -> tuple[Any, ...]:
        return call.like_arguments(call.pull(leaves_along(call.result, v, "v of vjp")), ())

    return call.given(call.result), pullback


def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """f(*primals) and its derivative in the direction of `tangents`, which are like the primals.

    It is the vjp of a vjp: u -> uᵀ J is linear in u, so its own vjp is v -> J v.
    ValueError: a tangent has another shape or structure than its primal, or their numbers differ.
    """
    _positions("jvp", f, ())
    if not (isinstance(primals, (tuple, list)) and isinstance(tangents, (tuple, list))):
        raise TypeError("jvp takes the primals and their tangents as tuples: tg.jvp(f, (x,), (v,))")
    if len(primals) != len(tangents):
        raise ValueError(f"{len(primals)} primals but {len(tangents)} tangents")
    along = leaves_along([*primals], [*tangents], "the tangents of jvp")
    call = _Call(f, primals, {}, range(len(primals)))
    for i, (x, t) in enumerate(zip(call.inputs, along, strict=True)):
        if as_array(t).shape != x.shape:
            raise ValueError(f"tangent {i} has shape {as_array(t).shape}, its primal has {x.shape}")
    zeros = [_zeros(y).data for y in call.outputs]
    us = [Tensor(zero, _Traced(zero, running=False)) for zero in zeros]
    pulled = call.pull(us)  # it is in a graph, because the u are
    with enable_grad():
        pairs = zip(pulled, along, strict=True)
        total = _total([(p * t).sum() for p, t in pairs if p.requires_grad])
    again = call.nested or any(isinstance(t, Tensor) and t.requires_grad for t in along)
    found = map(_zeros, us) if total is None else gradients(total, us, create_graph=again)
    return call.given(call.result), like(call.result, map(call.kind, found))


def jacobian(f: Function, argnums: Positions = 0) -> Function:
    """The function (*args) -> ∂f/∂args[argnums], of shape output.shape + argument.shape.

    For trees it is a tree like the output, with a tree like the argument in the place of each leaf;
    for several positions there is a tuple of these. It makes one backward pass for each element of
    the output.
    """
    positions = _positions("jacobian", f, argnums)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = _Call(f, args, kwargs, positions)
        return like(call.result, [call.like_arguments(call.rows(y), argnums) for y in call.outputs])

    return wrapped


def hessian(f: Function, argnums: Positions = 0) -> Function:
    """The function (*args) -> second derivatives of f in x = args[argnums], shape x.shape + x.shape.

    f must return one number. For trees and several positions it is the jacobian of the gradient.
    """
    return jacobian(grad(f, argnums), argnums)


def hvp(f: Function, x: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
    """The Hessian of f(x, *args) in x, times v, without computing the Hessian.

    f must return one number; x is an array or a tree, v and the result are like it.
    """
    return jvp(lambda x: grad(f)(x, *args, **kwargs), (x,), (v,))[1]


# -- how a function is traced --------------------------------------------------------------------
def _positions(transform: str, f: Any, argnums: Any) -> tuple[int, ...]:
    """`argnums` as a tuple. TypeError: no positions, or `f` is no function but a result."""
    if not callable(f):
        raise TypeError(
            f"{transform} takes a function, not {type(f).__name__}; "
            "tg.gradients(y, x) differentiates a Tensor y"
        )
    positions = tuple(argnums) if isinstance(argnums, (tuple, list, range)) else (argnums,)
    for p in positions:
        if not isinstance(p, (int, np.integer)):
            raise TypeError(
                f"{transform} takes the position of an argument, not {type(p).__name__}; "
                f"write tg.{transform}(f)(x)"
            )
    return positions


class _Traced(Leaf):
    """The leaf of an input: no derivative is wanted in it once f, which got it, has returned."""

    __slots__ = ("running",)

    def __init__(self, array: Any, running: bool = True) -> None:
        super().__init__(array)
        self.running = running


class _Call:
    """One call of f with new Tensors, the `inputs`, in the place of what is differentiated.

    result, outputs: what f returned, and its leaves. aux: what else it returned.
    alone: the outputs depend on no other leaf. nested: an outer derivative may follow, because they
        depend on a leaf of the caller, or of an outer call that still runs.
    """

    def __init__(
        self, f: Function, args: Sequence[Any], kwargs: Any, positions: Any, has_aux: bool = False
    ) -> None:
        n = len(args)
        for i in positions:
            if not -n <= i < n:
                raise ValueError(f"argument {i} to differentiate, but {n} arguments were given")
        if len({i % n for i in positions}) < len(positions):
            raise ValueError(f"the positions {positions} name an argument twice")
        self.primals = [args[i] for i in positions]
        leaves = leaves_of(self.primals)
        device = _device_of(args) if any(map(is_number, leaves)) else None
        self.inputs = [_fresh(x, device) for x in leaves]
        self.as_tensors = any(isinstance(x, Tensor) for x in leaves)
        fresh = list(args)
        for i, tree in zip(positions, like(self.primals, self.inputs), strict=True):
            fresh[i] = tree
        with enable_grad():
            self.result, self.aux = f(*fresh, **kwargs), None
        if has_aux:
            if not (isinstance(self.result, tuple) and len(self.result) == 2):
                raise TypeError("with has_aux=True the function returns a pair (number, other)")
            self.result, self.aux = self.result
        self.outputs = leaves_of(self.result)
        for y in self.outputs:
            if not isinstance(y, Tensor):
                raise TypeError(
                    f"the function must return a Tensor, it returned {type(y).__name__}"
                )
        own = {t.node for t in self.inputs}
        ends = [t.node for t in (*self.outputs, *leaves_of(self.aux)) if isinstance(t, Tensor)]
        below = (s for end in ends if end is not None for s in ancestors(end))
        others = [s for s in below if isinstance(s, Leaf) and s not in own]
        for t in self.inputs:
            if isinstance(t.node, _Traced):
                t.node.running = False
        self.alone = not others
        running = any(not isinstance(s, _Traced) or s.running for s in others)
        self.nested = running and is_grad_enabled()

    def pull(self, vs: Sequence[Any], again: bool = True) -> list[Tensor]:
        """The gradient by every input of the sum of outputs · vs. again: more passes will follow."""
        create = self.nested or any(isinstance(v, Tensor) and v.requires_grad for v in vs)
        if len(self.outputs) == 1:
            return self.pull_one(self.outputs[0], vs[0], create, again)
        for i, (y, v) in enumerate(zip(self.outputs, vs, strict=True)):
            if as_array(v).shape != y.shape:
                raise ValueError(f"v {i} has shape {as_array(v).shape}, its output has {y.shape}")
        with enable_grad():
            pairs = zip(self.outputs, vs, strict=True)
            total = _total([(y * v).sum() for y, v in pairs if y.requires_grad])
        return (
            self.pull_one(total, None, create, again)
            if total is not None
            else [*map(_zeros, self.inputs)]
        )

    def pull_one(self, y: Tensor, v: Any, create: bool, again: bool = True) -> list[Tensor]:
        """The gradient by every input of y · v; that of y, if it is one number, for v None."""
        if y.node is None:  # it does not depend on the inputs
            return [*map(_zeros, self.inputs)]
        if again or not self.alone:  # the graph is needed later, or has more leaves
            found: list[Tensor] = gradients(
                y, self.inputs, v, retain_graph=True, create_graph=create
            )
            return found
        table = propagate(y, v, None, False, False)  # the inputs are all leaves that it has
        return [table[t.node] if t.node in table else _zeros(t) for t in self.inputs]

    def rows(self, y: Tensor) -> list[Tensor]:
        """The Jacobian of an output in every input."""
        m = namespace_of(y.data)
        rows = []
        for i in range(y.size):
            unit = m.zeros_like(y.data)
            unit.reshape(-1)[i] = 1
            rows.append(self.pull_one(y, unit, self.nested))
        if not rows:
            return [Tensor(m.zeros(y.shape + x.shape, x.dtype)) for x in self.inputs]
        return [
            vocabulary.stack(column).reshape(y.shape + x.shape)
            for x, column in zip(self.inputs, zip(*rows, strict=True), strict=True)
        ]

    def kind(self, t: Tensor) -> Any:
        """A result as a Tensor if it is in a graph or Tensors were given, else as an array."""
        if self.as_tensors or t.node is not None:
            return t
        array = t.data  # without axes it is a number, as in NumPy
        return array[()] if isinstance(array, np.ndarray) else array

    def given(self, tree: Any) -> Any:
        """What f returned. It keeps its history only if an outer derivative may follow."""

        def outside(t: Any) -> Any:
            if not isinstance(t, Tensor):
                return t
            return t if self.nested else self.kind(t.detach())

        return like(tree, map(outside, leaves_of(tree)))

    def like_arguments(self, found: Sequence[Tensor], argnums: Any) -> Any:
        """Gradients by input as trees like the arguments: one for a number, else a tuple."""
        trees = like(self.primals, map(self.kind, found))
        return tuple(trees) if isinstance(argnums, (tuple, list, range)) else trees[0]


def _fresh(x: Any, device: str | None) -> Tensor:
    """A new Tensor with the values of x: whole numbers become float64. `device` is that of numbers.

    If x requires a gradient it is an identity operation, so that an outer derivative flows through
    it; else a leaf.
    """
    if isinstance(x, Tensor) and x.requires_grad and is_grad_enabled():
        return x.astype(x.dtype)
    dtype = None if as_array(x).dtype.kind == "f" else float
    constant = tensor(x, dtype=dtype, device=device if is_number(x) else None)
    return Tensor(constant.data, _Traced(constant.data))


def _device_of(args: Sequence[Any]) -> str | None:
    """The device of the first array among the arguments; None: there is no array."""
    for x in leaves_of(list(args)):
        if isinstance(x, (Tensor, np.ndarray)) or is_gpu_array(x):
            return str(namespace_of(as_array(x)).device)
    return None


def _zeros(t: Tensor) -> Tensor:
    return Tensor(namespace_of(t.data).zeros_like(t.data))


def _total(terms: list[Tensor]) -> Tensor | None:
    """The sum of the terms; None without any."""
    return sum(terms[1:], terms[0]) if terms else None
