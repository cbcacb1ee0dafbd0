"""Operation: a function and its derivative in one record, and the Node it leaves in the graph.

    exp = operation("exp",
        lambda m, x: m.exp(x),             # forward, in the namespace m
        lambda m, g, y, _x: g * y)         # derivative: namespace, output gradient, output, inputs

There is one derivative rule for each input, each a function `rule(m, g, y, *inputs, **params)`
that returns the gradient with respect to that input. What a rule leaves to the engine:

- the sum over broadcast axes, and the cast to the input's dtype;
- inputs that need no gradient: their rules are not called;
- memory: an argument whose name begins with `_` is not kept for the backward pass. In its place
  the rule gets a stand-in that has only `.shape` and `.dtype` (None for another, constant input).
  `y` is kept by the same convention, as an array: a node never holds its output's Tensor.

Rules use only functions that NumPy and tinygen share, so that under `create_graph=True` the same
rule, given `tinygen.ops` as its namespace, builds the graph of the derivative.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygen.autodiff.modes import mode
from tinygen.autodiff.tensor import Tensor, as_array
from tinygen.backend import _namespaces, namespace_of, raw_forms
from tinygen.errors import NonFiniteError

__all__ = ["REGISTRY", "Node", "Operation", "operation"]

Rule = Callable[..., Any]

REGISTRY: dict[str, Operation] = {}
"""Every operation by name."""

_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
_order = count()


class Node:
    """One application of an operation: what the backward pass needs to know of it.

    `parents[i]` is the node of input i: a Node, a Leaf, or None for a constant. `inputs[i]` is the
    array if a rule needs it, else `parents[i]` as a stand-in for its shape. Freed: inputs is None.
    """

    __slots__ = (
        "_line", "_name", "dtype", "inputs", "order", "output", "params", "parents", "plan", "shape",
    )  # fmt: skip

    plan: Plan
    parents: list[Any]
    inputs: list[Any] | None
    output: Any
    params: dict[str, Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: int  # nodes are numbered as they are made: each is newer than its inputs

    @property
    def op(self) -> Operation:
        """The operation that was applied."""
        return self.plan.op

    @property
    def name(self) -> str | None:
        """The name given to the result, if any."""
        return getattr(self, "_name", None)

    @name.setter
    def name(self, name: str | None) -> None:
        self._name = name

    @property
    def line(self) -> str:
        """The line of the caller's code (recorded in anomaly mode only)."""
        return getattr(self, "_line", "")

    @line.setter
    def line(self, line: str) -> None:
        self._line = line


ALL = (True,)
NONE = (False,)


class Plan(NamedTuple):
    """What to keep and which rules to run, given which inputs need a gradient."""

    op: Operation
    keep: tuple[bool, ...]  # for each input; ALL and NONE are known by identity
    keep_output: bool
    rules: tuple[tuple[int, Rule], ...]


class Operation:
    """A differentiable function of arrays; call it with Tensors, arrays or numbers.

    Floating-point inputs of different widths meet at the widest; integers join the floats' dtype;
    Python and NumPy scalars take the dtype of the Tensors, and a Tensor without axes that of arrays
    with axes. All inputs must live on one device.
    """

    def __init__(
        self,
        name: str,
        forward: Callable[..., Any],
        rules: Sequence[Rule | None],
        variadic: Rule | None,
        common: Rule | None,
        keeps_dtype: bool,
    ) -> None:
        self.name = name
        self.forward = forward
        self.rules = rules
        self.variadic = variadic
        self.common = common
        self.keeps_dtype = keeps_dtype
        self.plans: dict[int, Plan] = {}

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    def settle(self, inputs: Sequence[Any]) -> tuple[list[Any], type, np.dtype[Any]]:
        """Bring mixed inputs to one array type and one dtype, which the strongest inputs decide.

        Floats are stronger than integers; then arrays with axes (rank 2) than Tensors without (1),
        and those than numbers (0).
        """
        arrays: list[Any] = [
            x if isinstance(x, (bool, int, float, np.generic)) else as_array(x) for x in inputs
        ]
        ranks = []
        for i, (x, array) in enumerate(zip(inputs, arrays, strict=True)):
            if self.rules and self.rules[i] is None:
                ranks.append(-1)  # the condition of `where`: it keeps a dtype of its own
            elif getattr(array, "ndim", 0):
                ranks.append(2)
            else:
                ranks.append(0 if isinstance(x, (float, int, np.generic, np.ndarray)) else 1)
        if max(ranks) <= 0:  # numbers alone
            arrays = [as_array(a) for a in arrays]
        pairs = list(zip(arrays, ranks, strict=True))
        top = max((r for a, r in pairs if r > 0 and a.dtype.kind == "f"), default=max(ranks))
        devices = {namespace_of(a).device for a in arrays if hasattr(a, "dtype")}
        if len(devices) > 1:
            raise TypeError(
                f"{self.name}: inputs on {' and '.join(sorted(devices))}; move them to one device"
            )
        dtypes = {a.dtype for a, r in pairs if r == top}
        dtype = np.result_type(*({d for d in dtypes if d.kind == "f"} or dtypes))
        for i, (array, rank) in enumerate(pairs):
            if rank == top or (rank > 0 and dtype.kind == "f"):
                arrays[i] = array if array.dtype == dtype else array.astype(dtype)
            elif rank == 0:
                arrays[i] = float(array) if dtype.kind == "f" else np.asarray(array).item()
        return arrays, type(arrays[ranks.index(top)]), dtype

    def make_plan(self, key: int, parents: list[Any]) -> Plan:
        """Read off the rules' argument names what has to be kept."""
        n = len(parents)
        wanted = [i for i in range(n) if parents[i] is not None]
        rules: list[tuple[int, Rule]]
        if self.variadic is not None:
            rules = [(i, partial(self.variadic, i=i)) for i in wanted]
            declared: list[Any] = [self.variadic]
        else:
            rules = [(i, r) for i in wanted if (r := self.rules[i]) is not None]
            declared = [r for _, r in rules]
        keep = [False] * n
        keep_output = False
        for function in [*declared, *([self.common] if self.common else [])]:
            code = function.__code__
            names = code.co_varnames[2 : min(code.co_argcount, n + 3)]  # y, then the inputs
            if code.co_flags & 0x04:  # *inputs
                rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
                names += (rest,) * (n + 1 - len(names))
            keep_output |= not names[0].startswith("_")
            keep = [k or not a.startswith("_") for k, a in zip(keep, names[1:], strict=True)]
        kept = ALL if all(keep) else tuple(keep) if any(keep) else NONE
        plan = Plan(self, kept, keep_output, tuple(rules))
        self.plans[key] = plan
        return plan

    def explain(self, arrays: list[Any], error: Exception) -> Exception:
        what = ", ".join(
            f"{a.dtype}{list(a.shape)}" if hasattr(a, "shape") else repr(a) for a in arrays
        )
        kind = next(k for k in (ValueError, IndexError, TypeError) if isinstance(error, k))
        return kind(f"{self.name}({what}): {error}")

    def watch(self, arrays: list[Any], parents: list[Any], out: Any) -> None:
        """Anomaly mode: raise if this operation made a NaN or infinity, or was given a NaN."""
        m = namespace_of(out)
        given = [i for i, a in enumerate(arrays) if m.isnan(a).any()]
        if given:
            parent = parents[given[0]]
            name = getattr(parent, "name", None)
            raise NonFiniteError(
                f"input {given[0]}{f' ({name})' if name else ''} of {self.name} holds NaN before the "
                f"operation, at {_callers_line()}"
            )
        made = "NaN" if m.isnan(out).any() else "an infinity" if m.isinf(out).any() else None
        if made == "NaN" or (made and not any(m.isinf(a).any() for a in arrays)):
            shapes = ", ".join(str(list(getattr(a, "shape", ()))) for a in arrays)
            raise NonFiniteError(
                f"{self.name} made {made} from finite inputs of shape {shapes}, at {_callers_line()}"
            )


def _function(op: Operation) -> Callable[..., Tensor]:
    """The function that users call: it computes, and records a node if a gradient may be asked for.

    This is the hot path. Every operation of every model comes through here.
    """
    forward, keeps_dtype, plans = op.forward, op.keeps_dtype, op.plans
    new_tensor, new_node = Tensor.__new__, Node.__new__

    def function(*inputs: Any, **params: Any) -> Tensor:
        arrays: Any = []
        parents: list[Any] = []
        kind: Any = None  # the type of the arrays
        dtype: Any = None
        plain = True  # Tensors of one type and dtype, and Python numbers
        constants, bit = 0, 1  # which inputs are constants, as a bit set
        for x in inputs:
            if type(x) is Tensor:
                array = x.data
                if array.dtype is not dtype or type(array) is not kind:
                    if kind is None:
                        kind, dtype = type(array), array.dtype
                    else:
                        plain = False
                arrays.append(array)
                node = x.node
                parents.append(node)
                if node is None:
                    constants += bit
            else:
                if type(x) is not float and type(x) is not int:
                    plain = False
                arrays.append(x)
                parents.append(None)
                constants += bit
            bit += bit
        if not plain or kind is None:
            arrays, kind, dtype = op.settle(inputs)
        m = _namespaces[kind]
        try:
            if params or bit > 4:
                out = forward(m, *arrays, **params)
            elif bit == 4:  # two inputs, or one: unpacked by hand, which is faster
                out = forward(m, arrays[0], arrays[1])
            else:
                out = forward(m, arrays[0])
        except (ValueError, TypeError, IndexError) as error:
            raise op.explain(arrays, error) from error
        if type(out) is not kind:  # NumPy returns scalars, not arrays, for 0-d results
            out = m.asarray(out)
        if out.dtype is not dtype:
            if keeps_dtype and dtype.kind == "f":
                out = out.astype(dtype, copy=False)
            elif out.dtype.kind != "f":
                constants = bit - 1  # whole numbers and truth values have no gradient
        if mode.anomaly:
            op.watch(arrays, parents, out)
        result = new_tensor(Tensor)
        result.data = out
        if constants == bit - 1 or not mode.grad:
            result.node = None
            return result
        key = constants + bit  # with the number of inputs as the highest bit
        plan = plans.get(key) or op.make_plan(key, parents)
        result.node = node = new_node(Node)
        node.plan = plan
        node.parents = parents
        keep = plan.keep
        if keep is ALL:
            node.inputs = arrays
        elif keep is NONE:
            node.inputs = parents
        else:
            node.inputs = [a if k else p for a, k, p in zip(arrays, keep, parents, strict=True)]
        node.output = out if plan.keep_output else None
        node.params = params
        node.shape = out.shape
        node.dtype = out.dtype
        node.order = next(_order)
        if mode.anomaly:
            node.line = _callers_line()
        return result

    return function


def _callers_line() -> str:
    frame: Any = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def operation(
    name: str,
    forward: Callable[..., Any],
    *rules: Rule | None,
    variadic: Rule | None = None,
    common: Rule | None = None,
    keeps_dtype: bool = True,
    doc: str = "",
) -> Callable[..., Tensor]:
    """Define an operation and enter it in the registry: this is how a user adds one.

    forward(m, *arrays, **params) computes the result in the array namespace `m`.
    rules: one for each input, `rule(m, g, y, *inputs, **params)`, returning the gradient with
        respect to that input; None for an input that is never differentiable.
    variadic: one rule for any number of inputs, which also receives `i`, the input's position.
    common(m, g, y, *inputs, **params): work that the rules share; it is done once, and its result
        takes the place of `g` in every rule.
    keeps_dtype: the result has the dtype of the floating-point inputs (all but a cast).

    Example, x ↦ x³ with derivatives of every order:

        cube = operation("cube", lambda m, x: x * x * x, lambda m, g, _y, x: 3.0 * g * m.square(x))

    Parameters (`axis=...`) are keyword arguments, fixed and not differentiable. See this module's
    text for what a rule may leave to the engine. ValueError: the name is taken.
    """
    if name in REGISTRY:
        raise ValueError(f"an operation named {name!r} exists already; choose another name")
    record = Operation(name, forward, rules, variadic, common, keeps_dtype)
    REGISTRY[name] = record
    raw_forms[name] = forward
    function = _function(record)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    function.__module__ = sys._getframe(1).f_globals["__name__"]  # where it is defined
    return function
