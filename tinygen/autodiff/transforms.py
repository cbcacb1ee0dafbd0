"""Gradients of results, and transforms of functions: grad, vjp, jvp, jacobian, hessian, hvp.

A transform takes `f`, a function of arrays or Tensors that returns a Tensor and computes it with
tinygen's operations. Transforms work to any order: grad(grad(f)) is the second derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tinygen.autodiff.engine import Leaf, Tensor, ancestors, propagate, tensor
from tinygen.autodiff.modes import enable_grad, is_grad_enabled
from tinygen.autodiff.promotion import as_array, check_tensor, is_number
from tinygen.backend import is_gpu_array, namespace_of, vocabulary

__all__ = ["grad", "gradients", "hessian", "hvp", "jacobian", "jvp", "value_and_grad", "vjp"]

Function = Callable[..., Tensor]


def gradients(
    output: Tensor,
    inputs: Tensor | Sequence[Tensor],
    gradient: Any = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> Any:
    """The gradient of `output` with respect to each of `inputs`. No `.grad` is changed.

    inputs: leaves or results of operations. The result is a Tensor if `inputs` is one Tensor, else a
        list. If `output` does not depend on an input, its gradient is zeros.
    gradient, retain_graph: as for `Tensor.backward`.
    create_graph: whether the gradients can be differentiated again.
    ValueError: as for `Tensor.backward`, or an input requires no gradient. TypeError: `output` or one
    of `inputs` is not a Tensor.
    """
    check_tensor("the output of gradients()", output)
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for i, t in enumerate(wanted):
        check_tensor(f"input {i} of gradients()", t)
    sources = [t.node for t in wanted]
    for i, source in enumerate(sources):
        if source is None:
            raise ValueError(
                f"input {i} of gradients() requires no gradient; "
                "make it with tg.tensor(..., requires_grad=True)"
            )
    table = propagate(output, gradient, set(sources), retain_graph or create_graph, create_graph)
    found = [
        table[s] if s in table else Tensor(namespace_of(t.data).zeros_like(t.data))
        for s, t in zip(sources, wanted, strict=True)
    ]
    return found[0] if isinstance(inputs, Tensor) else found


def value_and_grad(f: Function, argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """The function (*args) -> (f(*args), gradient of f with respect to the arguments `argnums`).

    f must return one number. The gradient is a Tensor for one position, a tuple for several. It can
    be differentiated again if an argument, or a Tensor inside f, requires a gradient.
    ValueError: f returns more than one number, or there is no such argument.
    """
    positions = tuple(argnums) if isinstance(argnums, (tuple, list)) else (argnums,)
    _check("grad", f, *positions)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        y, inputs = _trace(partial(f, **kwargs), args, positions)
        if y.size != 1:
            raise ValueError(
                f"grad needs a function that returns one number, this returns {y.shape}"
            )
        found = _pull(y, inputs, None, _nested(y, inputs))
        return _outer(y, inputs), tuple(found) if isinstance(argnums, (tuple, list)) else found[0]

    return wrapped


def grad(f: Function, argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """The function (*args) -> gradient of f at args; see `value_and_grad`."""
    both = value_and_grad(f, argnums)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def vjp(f: Function, *primals: Any) -> tuple[Tensor, Callable[[Any], tuple[Tensor, ...]]]:
    """f(*primals), and the function v -> (vᵀ ∂f/∂primal for each primal).

    v has the shape of the output. The function may be called several times. The gradients can be
    differentiated again if the primals or v require a gradient.
    """
    _check("vjp", f)
    y, inputs = _trace(f, primals, range(len(primals)))
    create = _nested(y, inputs)

    def pullback(v: Any) -> tuple[Tensor, ...]:
        again = create or (isinstance(v, Tensor) and v.requires_grad)
        return tuple(_pull(y, inputs, v, again))

    return _outer(y, inputs), pullback


def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """f(*primals) and its derivative in the direction of `tangents`.

    It is the vjp of a vjp: u -> uᵀ J is linear in u, so its own vjp is v -> J v.
    ValueError: a tangent has another shape than its primal, or their numbers differ.
    """
    _check("jvp", f)
    if not (isinstance(primals, (tuple, list)) and isinstance(tangents, (tuple, list))):
        raise TypeError("jvp takes the primals and their tangents as tuples: tg.jvp(f, (x,), (v,))")
    if len(primals) != len(tangents):
        raise ValueError(f"{len(primals)} primals but {len(tangents)} tangents")
    y, inputs = _trace(f, primals, range(len(primals)))
    for i, (x, t) in enumerate(zip(inputs, tangents, strict=True)):
        if as_array(t).shape != x.shape:
            raise ValueError(f"tangent {i} has shape {as_array(t).shape}, its primal has {x.shape}")
    create = _nested(y, inputs) or any(isinstance(t, Tensor) and t.requires_grad for t in tangents)
    m = namespace_of(y.data)
    u = tensor(m.zeros_like(y.data), requires_grad=True)
    if y.node is None:  # f does not depend on the primals
        return y, Tensor(m.zeros_like(y.data))
    pulled = gradients(y, inputs, u, create_graph=True)
    with enable_grad():
        terms = [(p * t).sum() for p, t in zip(pulled, tangents, strict=True) if p.requires_grad]
        total = terms[0] if terms else None
        for term in terms[1:]:
            total = total + term
    if total is None:
        return _outer(y, inputs), Tensor(m.zeros_like(y.data))
    return _outer(y, inputs), gradients(total, u, create_graph=create)


def jacobian(f: Function, argnum: int = 0) -> Callable[..., Tensor]:
    """The function (*args) -> ∂f/∂args[argnum], of shape output.shape + argument.shape.

    It makes one backward pass for each element of the output.
    """
    _check("jacobian", f, argnum)

    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        y, inputs = _trace(partial(f, **kwargs), args, (argnum,))
        x, create = inputs[0], _nested(y, inputs)
        rows = []
        for i in range(y.size):
            unit = namespace_of(y.data).zeros_like(y.data)
            unit.reshape(-1)[i] = 1
            rows.append(_pull(y, inputs, unit, create)[0])
        if not rows:
            return Tensor(namespace_of(x.data).zeros(y.shape + x.shape, x.dtype))
        return vocabulary.stack(rows).reshape(y.shape + x.shape)

    return wrapped


def hessian(f: Function, argnum: int = 0) -> Callable[..., Tensor]:
    """The function (*args) -> second derivatives of f in x = args[argnum], shape x.shape + x.shape.

    f must return one number.
    """
    return jacobian(grad(f, argnum), argnum)


def hvp(f: Function, x: Any, v: Any) -> Tensor:
    """The Hessian of f at x times v, without computing the Hessian. f must return one number."""
    return jvp(grad(f), (x,), (v,))[1]


# -- how a function is traced --------------------------------------------------------------------
def _check(transform: str, f: Any, *positions: Any) -> None:
    """TypeError: `f` is no function but a result, or a position is not a number but an argument."""
    if not callable(f):
        raise TypeError(
            f"{transform} takes a function, not {type(f).__name__}; "
            "tg.gradients(y, x) differentiates a Tensor y"
        )
    for p in positions:
        if not isinstance(p, (int, np.integer)):
            raise TypeError(
                f"{transform} takes the position of an argument, not {type(p).__name__}; "
                f"write tg.{transform}(f)(x)"
            )


def _trace(
    f: Function, args: Sequence[Any], positions: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """f(*args) with new Tensors at `positions`, and those Tensors.

    An argument that requires a gradient enters through an identity operation, so that an outer
    derivative flows through it. Any other argument becomes a leaf.
    """
    fresh = list(args)
    inputs = []
    arrays = [a for a in args if isinstance(a, (Tensor, np.ndarray)) or is_gpu_array(a)]
    device = namespace_of(as_array(arrays[0])).device if arrays else None
    for i in positions:
        if not 0 <= i < len(args):
            raise ValueError(f"argument {i} to differentiate, but {len(args)} arguments were given")
        x = args[i]
        if isinstance(x, Tensor) and x.requires_grad and is_grad_enabled():
            fresh[i] = x.astype(x.dtype)
        else:
            loose = is_number(x) or isinstance(x, (list, tuple))  # it has no device of its own
            fresh[i] = tensor(
                x, dtype=_float_dtype(x), requires_grad=True, device=device if loose else None
            )
        inputs.append(fresh[i])
    with enable_grad():
        y = f(*fresh)
    if not isinstance(y, Tensor):
        raise TypeError(
            f"the function must return a Tensor, it returned {type(y).__name__}; "
            "for several outputs, stack them"
        )
    return y, inputs


def _float_dtype(x: Any) -> Any:
    """The dtype in which x is differentiated: its own for a float, float64 for whole numbers."""
    return None if as_array(x).dtype.kind == "f" else float


def _nested(y: Tensor, inputs: Sequence[Tensor]) -> bool:
    """True if y also depends on another leaf: then an outer derivative may follow."""
    if y.node is None or not is_grad_enabled():
        return False
    own = {t.node for t in inputs}
    return any(isinstance(s, Leaf) and s not in own for s in ancestors(y.node))


def _pull(y: Tensor, inputs: list[Tensor], gradient: Any, create_graph: bool) -> list[Tensor]:
    if y.node is None:  # f does not depend on its arguments
        return [Tensor(namespace_of(t.data).zeros_like(t.data)) for t in inputs]
    return gradients(y, inputs, gradient, retain_graph=True, create_graph=create_graph)


def _outer(y: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """The value to return. It keeps its history only if it depends on more than the traced inputs."""
    return y if _nested(y, inputs) else y.detach()
