"""Operation: a function and its derivative in one record, and the Node it leaves in the graph.

    logistic = operation("logistic",
        lambda m, x: 1 / (1 + m.exp(-x)),      # forward, in the namespace m
        lambda m, g, y, _x: g * y * (1 - y))   # derivative: namespace, output gradient, output, inputs

There is one derivative rule for each input, each a function `rule(m, g, y, *inputs, **params)`
that returns the gradient with respect to that input. What a rule leaves to the engine:

- the sum over broadcast axes, and the cast to the input's dtype;
- inputs that need no gradient: their rules are not called;
- memory: an argument whose name begins with `_` is not kept for the backward pass. In its place
  the rule gets a stand-in, of which it may use `.shape` and `.dtype` (None for an input that is a
  constant, whose own rule is not called).
  `y` is kept by the same convention, as an array: a node never holds its output's Tensor.

Arrays that are constants of a graph are kept as they are, not copied: do not change them before the
backward pass. Anomaly mode notices where one was.

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
from typing import Any

import numpy as np

from tinygen.autodiff.modes import RECORD, WATCH, modes
from tinygen.autodiff.tensor import Tensor, as_array, is_number
from tinygen.backend import (
    _namespaces,
    is_gpu_array,
    namespace_for,
    namespace_of,
    raw_forms,
    to_device,
)  # fmt: skip
from tinygen.errors import NonFiniteError

__all__ = ["REGISTRY", "Node", "Operation", "operation"]

Rule = Callable[..., Any]

REGISTRY: dict[str, Operation] = {}
"""Every operation by name."""

_PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
_ENGINE = tuple(f"{_PACKAGE}{part}{os.sep}" for part in ("autodiff", "ops"))
_order = count(0, -1)


class Node:
    """One application of an operation: what the backward pass needs to know of it.

    `parents[i]` is the node of input i: a Node, a Leaf, or None for a constant. `inputs[i]` is the
    array if a rule needs it, else `parents[i]` as a stand-in for its shape. Freed: inputs is None.
    """

    __slots__ = (
        "_line", "_name", "digests", "dtype", "inputs", "order", "output", "params", "parents", "plan",
        "shape",
    )  # fmt: skip

    plan: Plan
    parents: Sequence[Any]
    inputs: Sequence[Any] | None
    output: Any
    params: dict[str, Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: int  # nodes are numbered downwards as they are made: each has less than its inputs
    digests: list[int]  # of what is kept, as it was (in anomaly mode only)

    def __repr__(self) -> str:
        return f"<{self.op.name} {self.dtype}{list(self.shape)}>"

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


def digests(node: Node) -> list[int]:
    """A number for each input that a node keeps, then for its output, that changes with the values."""
    kept = (*(node.inputs or ()), node.output)
    arrays = [a if isinstance(a, np.ndarray) or is_gpu_array(a) else None for a in kept]
    return [0 if a is None else hash(to_device(a, "cpu").tobytes()) for a in arrays]


ALL, NONE = (True,), (False,)  # marks: all inputs are kept, none is; compared by identity


class Plan:
    """What to keep and which rules to run, given which inputs need a gradient."""

    __slots__ = ("common", "keep", "keep_output", "op", "rules")

    def __init__(
        self,
        op: Operation,
        keep: tuple[bool, ...],
        keep_output: bool,
        rules: list[tuple[int, Rule]],
    ) -> None:
        self.op = op
        self.keep = keep  # for each input; ALL and NONE are known by identity
        self.keep_output = keep_output
        self.rules = rules
        self.common = op.common


class Operation:
    """A differentiable function of arrays; call it with Tensors, arrays or numbers.

    Floating-point inputs of different widths meet at the widest; integers join the floats' dtype,
    or are taken as float64 where all are integers but the result is none (`whole`);
    Python and NumPy scalars take the dtype of the Tensors, and a Tensor without axes that of arrays
    with axes. All inputs must live on one device.
    """

    def __init__(
        self,
        name: str,
        forward: str | Callable[..., Any],
        rules: Sequence[Rule | None],
        variadic: Rule | None,
        common: Rule | None,
        keeps_dtype: bool,
        whole: bool,
        module: str,
    ) -> None:
        self.name = name
        self.module = module
        self._forward = forward
        self.rules = rules
        self.variadic = variadic
        self.common = common
        self.keeps_dtype = keeps_dtype
        self.whole = whole
        # A rule of ours returns a new array, or one that `backward` recognises; others may not.
        self.trusted = module.startswith("tinygen.") and common is None
        self.plans: dict[int, Plan] = {}
        self.calls: dict[type, Callable[..., Any]] = {}

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    def forward(self, m: Any, *arrays: Any, **params: Any) -> Any:
        """The result for raw arrays, in the namespace m."""
        if isinstance(self._forward, str):
            return getattr(m, self._forward)(*arrays, **params)
        return self._forward(m, *arrays, **params)

    def call_for(self, kind: type) -> Callable[..., Any]:
        """`forward` for arrays of one type: the library's own function, or ours bound to it."""
        m = _namespaces[kind]
        call = self._forward
        self.calls[kind] = getattr(m, call) if isinstance(call, str) else partial(call, m)
        return self.calls[kind]

    def collect(self, inputs: Sequence[Any]) -> tuple[list[Any], list[Any], type, Any, int]:
        """Arrays and nodes of any inputs, the type and dtype of the arrays, the key of the plan."""
        parents = [x.node if isinstance(x, Tensor) else None for x in inputs]
        key = (1 << len(inputs)) + sum(1 << i for i, p in enumerate(parents) if p is None)
        if all(isinstance(x, Tensor) for x in inputs):
            arrays = [x.data for x in inputs]
            kind, dtype = type(arrays[0]), arrays[0].dtype
            if all(type(a) is kind and a.dtype == dtype for a in arrays):
                return arrays, parents, kind, dtype, key
        arrays, kind, dtype = self.settle(inputs)
        return arrays, parents, kind, dtype, key

    def settle(self, inputs: Sequence[Any]) -> tuple[list[Any], type, np.dtype[Any]]:
        """Bring mixed inputs to one array type and one dtype, which the strongest inputs decide.

        Floats are stronger than integers; then arrays with axes (rank 2) than lists and than Tensors
        without axes (1), and those than numbers (0).
        """
        arrays: list[Any] = [
            x if isinstance(x, (bool, int, float, np.generic)) else as_array(x) for x in inputs
        ]
        ranks = []
        for i, (x, array) in enumerate(zip(inputs, arrays, strict=True)):
            if self.rules and self.rules[i] is None:
                ranks.append(-1)  # the condition of `where`: it keeps a dtype of its own
            elif is_number(x) or not (array.ndim or isinstance(x, Tensor)):
                ranks.append(0)
            else:  # a list of numbers is no more decided than a number, but has axes
                ranks.append(2 if array.ndim and not isinstance(x, (list, tuple)) else 1)
        m, alone = self._common_namespace(inputs, arrays), max(ranks) <= 0  # numbers alone
        # Lists and a condition, which may be a number, become arrays where the others are.
        arrays = [
            m.asarray(as_array(a)) if r or alone else a for a, r in zip(arrays, ranks, strict=True)
        ]
        pairs = list(zip(arrays, ranks, strict=True))
        top = max((r for a, r in pairs if r > 0 and a.dtype.kind == "f"), default=max(ranks))
        dtypes = {a.dtype for a, r in pairs if r == top}
        dtype = np.result_type(*({d for d in dtypes if d.kind == "f"} or dtypes))
        for i, (array, rank) in enumerate(pairs):
            if rank == top or (rank > 0 and dtype.kind == "f"):
                arrays[i] = array if array.dtype == dtype else array.astype(dtype)
            elif rank == 0 and is_gpu_array(array):  # a number that nobody waits for
                arrays[i] = array.astype(dtype) if dtype.kind == "f" else array
            elif rank == 0:
                arrays[i] = float(array) if dtype.kind == "f" else np.asarray(array).item()
        return arrays, type(arrays[ranks.index(top)]), dtype

    def _common_namespace(self, inputs: Sequence[Any], arrays: Sequence[Any]) -> Any:
        """The namespace of the arrays and Tensors; numbers and lists are nowhere in particular."""
        devices = {
            namespace_of(a).device
            for x, a in zip(inputs, arrays, strict=True)
            if not (is_number(x) or isinstance(x, (list, tuple)))
        }
        if len(devices) > 1:
            raise TypeError(
                f"{self.name}: inputs on {' and '.join(sorted(devices))}; move them to one device, "
                'as in x.to("gpu")'
            )
        return namespace_for(devices.pop() if devices else "cpu")

    def make_plan(self, key: int, parents: Sequence[Any]) -> Plan:
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
            code = getattr(function, "__code__", None)
            if code is None:
                raise TypeError(f"{self.name}: a rule is a plain function, not {function!r}")
            names = code.co_varnames[2 : min(code.co_argcount, n + 3)]  # y, then the inputs
            if code.co_flags & 0x04:  # *inputs
                rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
                names += (rest,) * (n + 1 - len(names))
            if len(names) != n + 1:
                raise TypeError(
                    f"{self.name}: a rule takes (m, g, y, {n} inputs); this one takes "
                    f"({', '.join(code.co_varnames[: code.co_argcount])})"
                )
            keep_output |= not names[0].startswith("_")
            keep = [k or not a.startswith("_") for k, a in zip(keep, names[1:], strict=True)]
        kept = ALL if all(keep) else tuple(keep) if any(keep) else NONE
        plan = Plan(self, kept, keep_output, rules)
        self.plans[key] = plan
        return plan

    def explain(self, arrays: Sequence[Any], error: Exception) -> Exception:
        what = ", ".join(
            f"{a.dtype}{list(a.shape)}" if hasattr(a, "shape") else repr(a) for a in arrays
        )
        kind = next(k for k in (ValueError, IndexError, TypeError) if isinstance(error, k))
        return kind(f"{self.name}({what}): {error}")

    def watch(self, arrays: Sequence[Any], parents: Sequence[Any], out: Any) -> None:
        """Anomaly mode: raise if this operation made a NaN or infinity, or was given a NaN."""
        m = namespace_of(out)
        if m.isfinite(out).all():
            return
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
    calls, plans, keeps_dtype, whole = op.calls, op.plans, op.keeps_dtype, op.whole
    arity = len(op.rules)
    new_tensor, new_node, flags_of_blocks = Tensor.__new__, Node.__new__, modes.get

    def function(*inputs: Any, **params: Any) -> Tensor:
        # Which inputs need a gradient is a number: 1, then from the last input to the first a bit
        # that is 1 for a constant. It is the key of what to keep, and all ones mean: no gradient.
        n = len(inputs)
        if n != arity and op.variadic is None:
            raise TypeError(f"{op.name} takes {arity} inputs, {n} were given")
        arrays: Sequence[Any]
        parents: Sequence[Any]
        plain = False
        if n == 2:  # the common cases by hand: two Tensors alike, a Tensor and a number
            a, b = inputs
            if type(a) is Tensor:
                x, p = a._data, a.node
                kind, dtype = type(x), x.dtype
                if type(b) is Tensor:
                    y, q = b._data, b.node
                    plain = y.dtype is dtype and type(y) is kind
                elif type(b) is float or type(b) is int:
                    y, q, plain = b, None, True
                if plain:
                    arrays, parents = (x, y), (p, q)
                    key = 4 + (p is None) + 2 * (q is None)
        elif n == 1 and type(a := inputs[0]) is Tensor:
            x, p = a._data, a.node
            kind, dtype, plain = type(x), x.dtype, True
            arrays, parents = (x,), (p,)
            key = 2 + (p is None)
        if not plain:
            arrays, parents, kind, dtype, key = op.collect(inputs)
        constant = not key & (key + 1)
        if constant and not whole and dtype.kind != "f":  # before the arithmetic: it would overflow
            dtype = np.dtype(np.float64)
            arrays = [a.astype(dtype) if type(a) is kind else a for a in arrays]
        call = calls.get(kind) or op.call_for(kind)
        try:
            if params or n > 2:
                out = call(*arrays, **params)
            elif n == 2:
                out = call(arrays[0], arrays[1])
            else:
                out = call(arrays[0])
        except (ValueError, TypeError, IndexError) as error:
            raise op.explain(arrays, error) from error
        if type(out) is not kind:  # NumPy's 0-d results are scalars; `to` changes the library
            out = (_namespaces.get(type(out)) or _namespaces[kind]).asarray(out)
        if out.dtype is not dtype:
            if out.dtype.kind not in "fiub":
                raise TypeError(
                    f"the forward function of {op.name} made {out.dtype} instead of numbers; "
                    "is its return missing?"
                )
            if keeps_dtype and dtype.kind == "f":
                out = out.astype(dtype, copy=False)
            else:
                dtype = out.dtype
                constant |= dtype.kind != "f"  # whole numbers and truth values have no gradient
        flags = flags_of_blocks()[-1]
        if flags & WATCH:
            op.watch(arrays, parents, out)
        result = new_tensor(Tensor)
        result._data = out
        if constant or not flags & RECORD:
            result.node = None
            return result
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
        node.dtype = dtype
        node.order = next(_order)
        if flags & WATCH:
            node.line, node.digests = _callers_line(), digests(node)
        return result

    return function


def _callers_line() -> str:
    """The innermost line outside the package; run as a program, the innermost outside the engine."""
    frame: Any = sys._getframe(1)
    inside = None
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_PACKAGE, "<frozen")):
            return f"{file}:{frame.f_lineno}"
        if inside is None and not file.startswith(_ENGINE):
            inside = f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return inside or "an unknown line"


def operation(
    name: str,
    forward: str | Callable[..., Any],
    *rules: Rule | None,
    variadic: Rule | None = None,
    common: Rule | None = None,
    keeps_dtype: bool = True,
    whole: bool = False,
    doc: str = "",
) -> Callable[..., Tensor]:
    """Define an operation and enter it in the registry: this is how a user adds one.

    forward(m, *arrays, **params) computes the result in the array namespace `m`; a string is the
        name of a function of NumPy's that does.
    rules: one for each input, `rule(m, g, y, *inputs, **params)`, returning the gradient with
        respect to that input; None for an input that is never differentiable.
    variadic: one rule for any number of inputs, which also receives `i`, the input's position.
    common(m, g, y, *inputs, **params): work that the rules share; it is done once, and its result
        takes the place of `g` in every rule.
    keeps_dtype: the result has the dtype of the floating-point inputs (all but a cast).
    whole: whole numbers alone are computed with as they are, as a sum of them is; else as float64.

    Example, x ↦ x³ with derivatives of every order:

        cube = operation("cube", lambda m, x: x * x * x, lambda m, g, _y, x: 3.0 * g * m.square(x))

    Parameters (`axis=...`) are keyword arguments, fixed and not differentiable. See this module's
    text for what a rule may leave to the engine. ValueError: the name is taken.
    """
    module = sys._getframe(1).f_globals["__name__"]  # where it is defined
    if name in REGISTRY and REGISTRY[name].module != module:  # a notebook's cell may run again
        raise ValueError(f"an operation named {name!r} exists already; choose another name")
    record = Operation(name, forward, rules, variadic, common, keeps_dtype, whole, module)
    REGISTRY[name] = record
    raw_forms[name] = record.forward
    function = _function(record)
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    function.__module__ = module
    return function
