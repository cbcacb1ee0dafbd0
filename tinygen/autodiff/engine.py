"""The engine in three parts: Tensors, operations, and the backward pass.

A **Tensor** is an array with a `node`, its place in the graph of a computation. An **operation** is
a function of arrays with a derivative rule for each input; each call of it makes a Node. **Backward**
visits the nodes from the newest to the oldest and applies their rules: this is the chain rule.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count
from threading import RLock
from typing import Any, Concatenate, ParamSpec

import numpy as np

from tinygen.autodiff import anomaly
from tinygen.autodiff.array_face import ArrayFace, as_leaf, as_method, operators_of_numpy
from tinygen.autodiff.modes import RECORD, WATCH, enable_grad, modes
from tinygen.autodiff.promotion import (
    array_on,
    as_array,
    conform,
    explained,
    listed,
    settle,
    shape_of,
)
from tinygen.backend import namespace_for, namespace_of, raw_forms, to_device, vocabulary

_order = count(0, -1)  # numbers for nodes, counting down: a node's is smaller than its inputs'
_adding = RLock()  # held while gradients are added to leaves, because threads may share leaves


# == A Tensor and its place in the graph ===========================================================
class Source:
    """A place in the graph that gradients flow to, with the shape and dtype of its array."""

    __slots__ = ("dtype", "name", "shape")

    def __init__(self, array: Any, name: str | None = None) -> None:
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype
        self.name = name

    def __repr__(self) -> str:
        what = self.op.name if isinstance(self, Node) else "leaf"
        return f"<{what} {self.dtype}{list(self.shape)}>"


class Leaf(Source):
    """The place of a Tensor that requires a gradient and is not a result: `grad` collects it."""

    __slots__ = ("grad",)

    def __init__(self, array: Any, name: str | None = None) -> None:
        if array.dtype.kind != "f":
            raise TypeError(
                f"only floating-point Tensors have gradients, this is {array.dtype}; pass dtype=float"
            )
        super().__init__(array, name)
        self.grad: Tensor | None = None


class Node(Source):
    """One call of an operation: all that the backward pass needs to know about it.

    `parents[i]` is the place of input i, None for a constant. Nodes link to nodes, never to Tensors:
    so an array that nothing needs is freed at once. `kept` has values for the rules; None once freed.
    """

    __slots__ = ("digests", "kept", "line", "op", "order", "params", "parents", "plan")
    kept: dict[str, Any] | None
    digests: dict[str, int]

    def __init__(self, op: Operation, plan: Plan, parents: Any, params: Any, out: Any) -> None:
        self.shape, self.dtype, self.name = out.shape, out.dtype, None
        self.op, self.plan, self.parents, self.params = op, plan, parents, params
        self.order, self.line, self.digests = next(_order), "", {}  # two are for anomaly mode


class Tensor(ArrayFace):
    """An n-dimensional array with a place in the graph of a computation, its `node`:

        None      a constant     no gradient flows to it
        a Leaf    a leaf         `backward` adds its gradient to `.grad`
        a Node    the result of an operation

    `data` is the NumPy or CuPy array itself. Only that of a leaf may change, between computations.
    """

    __slots__ = ("__weakref__", "node")

    def __init__(self, data: Any, node: Source | None = None) -> None:
        if not hasattr(data, "dtype"):
            raise TypeError(f"make a Tensor of a {type(data).__name__} with tg.tensor(...)")
        self._data, self.node = data, node

    @property
    def is_leaf(self) -> bool:
        """True for a Tensor that requires a gradient and is not the result of an operation."""
        return isinstance(self.node, Leaf)

    @property
    def requires_grad(self) -> bool:
        """True for leaves and for results computed from them. Set it on leaves and constants only."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self._only_without_history("setting requires_grad of")
        if value != self.requires_grad:
            self.node = Leaf(self.data) if value else None

    def backward(
        self,
        gradient: Any = None,
        *,
        inputs: Iterable[Tensor] | None = None,
        retain_graph: bool = False,
        create_graph: bool = False,
    ) -> None:
        """Add the gradient of this Tensor with respect to every leaf to that leaf's `.grad`.

        gradient: of the quantity of interest with respect to this Tensor; 1 if it is one number.
        inputs: the only leaves to compute for. One that has no part in this Tensor keeps its `.grad`.
        retain_graph: the values kept are not freed. create_graph: the gradients are differentiable,
            at the price of a cycle in memory (see `tg.gradients`).
        ValueError: no graph, a wrong shape, a history freed before, an input that is no leaf.
        """
        if create_graph:
            warnings.warn(
                "create_graph=True leaves a cycle: x.grad = None frees it, tg.gradients has none",
                stacklevel=2,
            )
        wanted = None if inputs is None else {as_leaf(x).node for x in inputs}
        found = propagate(self, gradient, wanted, retain_graph or create_graph, create_graph)
        with _adding:
            for leaf, g in found.items():
                own = g.astype(g.dtype) if create_graph else g  # two leaves may share g
                leaf.grad = own if leaf.grad is None else leaf.grad + own


# == An operation ==================================================================================
class Rule:
    """A derivative. It is called with the values that the names of its arguments stand for."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.names = tuple(inspect.getargs(function.__code__).args)  # faster than its signature

    def __call__(self, known: dict[str, Any]) -> Any:
        return self.function(*map(known.__getitem__, self.names))


class Plan:
    """The rules to run and the values to keep for them, if the inputs in `needs` need a gradient."""

    def __init__(self, op: Operation, needs: Sequence[bool]) -> None:
        names = [op.each] * len(needs) if op.each else op.inputs
        self.rules = [(i, op.rules[n]) for i, n in enumerate(names) if needs[i] and n in op.rules]
        used = [rule for _, rule in self.rules] + ([op.shared] if op.shared else [])
        asked = {name for rule in used for name in rule.names}
        inputs = list(enumerate(op.inputs))
        self.arrays = [(i, name) for i, name in inputs if name in asked]
        self.shapes = [(i, f"{name}_shape") for i, name in inputs if f"{name}_shape" in asked]
        self.output, self.also = "y" in asked, op.also in asked


class Operation:
    """A function of arrays and its derivatives. The decorator `operation` makes it."""

    def __init__(
        self,
        forward: Callable[..., Any],
        rules: dict[str, Callable[..., Any] | None],
        each: str | None = None,
        shared: Callable[..., Any] | None = None,
        also: str | None = None,
        keeps_dtype: bool = True,
        whole: bool = False,
    ) -> None:
        with_m = inspect.signature(forward)
        without_m = list(with_m.parameters.values())[1:]
        self.signature = with_m.replace(parameters=without_m, return_annotation=Tensor)
        self.name, self.forward = forward.__name__.strip("_"), forward
        self.names = tuple(self.signature.parameters)
        self.inputs = self.names[: len(rules)]
        self.defaults = {p.name: p.default for p in without_m if p.default is not p.empty}
        self.apart = [i for i, name in enumerate(self.inputs) if rules.get(name) is None]
        self.rules = {name: Rule(rule) for name, rule in rules.items() if rule is not None}
        self.shared = None if shared is None else Rule(shared)
        self.each, self.also, self.keeps_dtype, self.whole = each, also, keeps_dtype, whole
        self.inputs_alone = -1 if each or self.inputs != self.names else len(self.inputs)
        self.plans: dict[tuple[bool, ...], Plan] = {}
        self.calls: set[tuple[Any, ...]] = set()  # numbers and names of arguments that fit

    def __repr__(self) -> str:
        return f"<operation {self.name}{self.signature}>"

    def apply(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The result as a Tensor. It has a Node in the graph if an input requires a gradient."""
        plain = not kwargs and len(args) == self.inputs_alone
        inputs, params = (args, {}) if plain else self._bind(args, kwargs)
        arrays, m, dtype = settle(self.name, inputs, self.apart, self.whole)
        try:
            out = self.forward(m, *([arrays] if self.each else arrays), **params)
        except (ValueError, TypeError, IndexError) as error:
            raise explained(self.name, arrays, error) from error
        out, also = out if self.also else (out, None)
        if not getattr(out, "ndim", 0) or out.dtype != dtype:
            out = conform(self.name, out, m, dtype if self.keeps_dtype else None)
        parents = [x.node if isinstance(x, Tensor) else None for x in inputs]
        flags = modes.get()[-1]
        if flags & WATCH:
            anomaly.check_result(self.name, arrays, parents, out)
        if not any(parents) or not flags & RECORD or out.dtype.kind != "f":
            return Tensor(out)
        needs = tuple(map(bool, parents))
        plan = self.plans.get(needs) or self.plans.setdefault(needs, Plan(self, needs))
        node = Node(self, plan, parents, params, out)
        kept = node.kept = {}
        for i, name in plan.arrays:
            kept[name] = arrays if self.each else arrays[i]
        for i, name in plan.shapes:
            kept[name] = shape_of(arrays if self.each else arrays[i])
        if plan.output:
            kept["y"] = out
        if plan.also:
            kept[str(self.also)] = also
        if flags & WATCH:
            node.line, node.digests = anomaly.callers_line(), anomaly.digests(kept)
        return Tensor(out, node)

    def _bind(self, args: Any, kwargs: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """The inputs, and all parameters by name."""
        if (call := (len(args), *kwargs)) not in self.calls:
            self.signature.bind(*args, **kwargs)  # raises Python's TypeError
            self.calls.add(call)
        params = {**self.defaults, **dict(zip(self.names, args, strict=False)), **kwargs}
        inputs = [params.pop(name) for name in self.inputs]
        return (listed(self.name, inputs[0]) if self.each else inputs), params


# == Backward ======================================================================================
def _walk(
    root: Source, seed: Any, wanted: set[Any] | None, retain: bool, create_graph: bool
) -> dict[Any, Any]:
    """The chain rule, from the newest node to the oldest: gradients by source.

    They are raw arrays, or Tensors under create_graph. A node has a smaller number than its inputs.
    So the waiting node with the smallest number is the newest. Every node that used its output has
    been visited, and the gradient of its output is complete.
    """
    useful = None if wanted is None else _leading_to(wanted, root)
    arrived: dict[Any, Any] = {root: seed}  # the sums of the gradients so far
    waiting = [(root.order, root)] if isinstance(root, Node) else []
    found: dict[Any, Any] = {}
    while waiting:
        node = heappop(waiting)[1]
        g = arrived.pop(node)
        if wanted is not None and node in wanted:
            found[node] = g
        for source, d in _pull(node, g, create_graph, useful):
            if source in arrived:
                arrived[source] = arrived[source] + d
                continue
            arrived[source] = d
            if isinstance(source, Node):
                heappush(waiting, (source.order, source))
        if not retain:
            node.kept = None
    # The gradients that are left belong to leaves.
    return found | {s: g for s, g in arrived.items() if wanted is None or s in wanted}


def _pull(
    node: Node, g: Any, create_graph: bool, useful: set[Any] | None
) -> Iterator[tuple[Source, Any]]:
    """The gradients of one node's inputs, by its rules, from the gradient g of its output."""
    if node.kept is None:
        raise ValueError(
            f"the history of {node.op.name} was freed by an earlier backward pass; "
            "pass retain_graph=True to the first one"
        )
    watching = modes.get()[-1] & WATCH
    if watching:
        anomaly.check_unchanged(node)
    m = vocabulary if create_graph else namespace_of(g)
    known = {"m": m, "g": g, **node.params, **(_as_tensors(node) if create_graph else node.kept)}
    if node.op.shared:
        known["g"] = node.op.shared(known)
    for i, rule in node.plan.rules:
        source: Any = node.parents[i]
        if useful is not None and source not in useful:
            continue
        if node.op.each:
            known["i"] = i
        try:
            d = rule.function(*map(known.__getitem__, rule.names))
            if d.shape != source.shape:
                d = _unbroadcast(m, d, source.shape, node.op.name, i)
        except (TypeError, AttributeError) as error:
            raise TypeError(f"the derivative of {node.op.name}, input {i}: {error}") from error
        if d.dtype != source.dtype:
            d = d.astype(source.dtype)
        if watching:
            anomaly.check_derivative(node.op.name, i, as_array(d), node.line)
        yield source, d


def _as_tensors(node: Node) -> dict[str, Any]:
    """The values that the node keeps, as Tensors with their places in the graph."""

    def in_graph(value: Any, source: Source | None) -> Any:
        return value if source is None else Tensor(value, source)

    kept = dict(node.kept or {})
    for i, name in node.plan.arrays:
        if node.op.each:
            kept[name] = [in_graph(x, p) for x, p in zip(kept[name], node.parents, strict=True)]
        else:
            kept[name] = in_graph(kept[name], node.parents[i])
    if "y" in kept:
        kept["y"] = Tensor(kept["y"], node)
    return kept | ({node.op.also: None} if node.op.also else {})


def _unbroadcast(m: Any, d: Any, shape: tuple[int, ...], name: str, i: int) -> Any:
    """Sum `d` over the axes along which an input of this shape was broadcast."""
    extra = len(d.shape) - len(shape)
    if extra < 0 or any(n not in (1, k) for n, k in zip(shape, d.shape[extra:], strict=True)):
        what = f"the derivative of {name}, input {i},"
        raise ValueError(f"{what} has shape {d.shape}, the input has shape {shape}")
    ones = (a + extra for a, n in enumerate(shape) if n == 1 and d.shape[a + extra] != 1)
    return m.sum(d, axis=(*range(extra), *ones), keepdims=True).reshape(shape)


def ancestors(root: Source) -> Iterable[Source]:
    """`root` and every source that it depends on, each once. There is no recursion."""
    seen: set[Any] = {None}
    stack: list[Any] = [root]
    while stack:
        source = stack.pop()
        if source not in seen:
            seen.add(source)
            yield source
            stack.extend(getattr(source, "parents", ()))


def _leading_to(wanted: set[Any], root: Source) -> set[Any]:
    """The wanted sources and the nodes on the way from `root` to them. Only these need gradients."""
    nodes = [s for s in ancestors(root) if isinstance(s, Node)]
    useful = set(wanted)
    for node in sorted(nodes, key=lambda n: -n.order):  # oldest first: parents before children
        if any(parent in useful for parent in node.parents):
            useful.add(node)
    return useful


def propagate(
    output: Tensor, gradient: Any, wanted: set[Any] | None, retain: bool, create_graph: bool
) -> dict[Any, Tensor]:
    """Gradients of `output` by source: for the `wanted` ones, or for every leaf if None."""
    if output.node is None:
        raise ValueError(
            "this Tensor has no graph: nothing it was computed from requires a gradient "
            "(or it was computed under no_grad)"
        )
    seed = _seed(output, gradient)
    if create_graph:
        with enable_grad():
            return _walk(output.node, seed, wanted, retain, create_graph)
    found = _walk(output.node, seed.data, wanted, retain, create_graph)
    for source, g in found.items():
        # A copy, because a rule may return a view or an array that is used elsewhere.
        found[source] = Tensor(namespace_of(g).array(g))
    return found


def _seed(output: Tensor, gradient: Any) -> Tensor:
    if gradient is None:
        if output.size != 1:
            raise ValueError(
                f"the gradient of a Tensor of shape {output.shape} needs a `gradient` of that shape; "
                "reduce the Tensor to one number first (.sum(), .mean()), or pass one"
            )
        return Tensor(namespace_of(output.data).ones_like(output.data))
    raw = array_on(output.device, gradient, "backward: the gradient", "the output")
    seed = gradient if isinstance(gradient, Tensor) else Tensor(raw)
    if seed.shape != output.shape:
        raise ValueError(f"gradient has shape {seed.shape}, the output has shape {output.shape}")
    return seed if seed.dtype == output.dtype else seed.astype(output.dtype)


# == How Tensors and operations are made ===========================================================
def tensor(
    data: Any,
    *,
    requires_grad: bool = False,
    dtype: Any = None,
    name: str | None = None,
    device: str | None = None,
) -> Tensor:
    """A new Tensor with a copy of `data` (array, nested list, number or Tensor).

    Operations do not copy a plain array, as in `t * array`. So change that array only after the
    backward pass. `detect_anomaly` finds an array that was changed too early.

    dtype: by default as in NumPy: an array keeps its dtype, Python floats become float64.
    device: "cpu" or "gpu"; by default the device of `data`.
    requires_grad: whether the new Tensor is a leaf.
    TypeError: `data` are not numbers, or integers are to have a gradient. DeviceError: no usable GPU.
    """
    array = as_array(data)
    m = namespace_of(array) if device is None else namespace_for(device)
    array = as_array(m.array(to_device(array, m.device), dtype=dtype))
    return Tensor(array, Leaf(array, name) if requires_grad else None)


REGISTRY: dict[str, Operation] = {}
"""Every operation by name."""

P = ParamSpec("P")


def operation(
    *,
    each: str | None = None,
    shared: Callable[..., Any] | None = None,
    also: str | None = None,
    keeps_dtype: bool = True,
    whole: bool = False,
    method: str | None = None,
    operator: str | None = None,
    **rules: Callable[..., Any] | None,
) -> Callable[[Callable[Concatenate[Any, P], Any]], Callable[P, Tensor]]:
    """Make an operation from a function of arrays `f(m, x, ..., axis=...)`; m is their namespace.

        @tg.operation(x=lambda g, x: 3.0 * g * x * x)
        def cube(m, x):
            "x³"
            return x * x * x

    rules: the derivative in each input, under the input's name; None for an input without one. The
        inputs are the first arguments of f. A derivative is a function that returns the gradient of
        its input. It names what it needs as arguments: `g`, the gradient of the output; `y`, the
        output; an input or a parameter; `x_shape`, the shape of input x; `m`, the namespace. Values
        that no rule names are not kept in memory. The engine sums over broadcast axes, casts to the
        input's dtype, and skips inputs that need no gradient. Use only functions that NumPy and
        tinygen share: then the same rule builds its own graph under `create_graph=True`.
    shared: work that all rules share. It is done once, and its result replaces `g` in each rule.
    each: the name of an argument that is a list of inputs. Its rule may take `i`, the position.
    also: f returns a pair: the result, and a value that rules get by this name (None under
        create_graph).
    keeps_dtype: the result gets the dtype that the floating-point inputs share. False for a cast.
    whole: if all inputs are integers, they stay integers, as in a sum. False makes them float64.
    method, operator: the name of the method of Tensor; the root of its operator, as in `__add__`.

    TypeError: a rule names something that does not exist. ValueError: the name is taken.
    """

    def define(forward: Callable[Concatenate[Any, P], Any]) -> Callable[P, Tensor]:
        record = Operation(forward, rules, each, shared, also, keeps_dtype, whole)
        _check(record, rules)
        REGISTRY[record.name] = record
        raw_forms[record.name] = forward if also is None else lambda *a, **k: forward(*a, **k)[0]

        @functools.wraps(forward)
        def function(*args: Any, **kwargs: Any) -> Tensor:
            return record.apply(args, kwargs)

        function.__signature__ = record.signature  # type: ignore[attr-defined]
        return public(function, method, operator)

    return define


def _check(record: Operation, rules: dict[str, Any]) -> None:
    used = [*record.rules.values(), *([record.shared] if record.shared else [])]
    asked = {name for rule in used for name in rule.names}
    shapes = {f"{name}_shape" for name in record.inputs}
    known = {"m", "g", "y", "i", record.also, *record.names, *shapes}
    if unknown := {*rules}.difference(record.inputs) | asked.difference(known):
        raise TypeError(
            f"the rules of {record.name}{record.signature} name {', '.join(sorted(unknown))}; a rule "
            "is named by one of the first arguments, and asks for arguments, m, g and y"
        )
    before = REGISTRY.get(record.name)  # allowed from the same module: a cell may run twice
    if before and before.forward.__module__ != record.forward.__module__:
        raise ValueError(f"an operation named {record.name!r} exists already; choose another name")


def public(function: Any, method: str | None = None, operator: str | None = None) -> Any:
    """Enter a function in the vocabulary, unless its name begins with an underscore.

    It also becomes the given method and operator of Tensor.
    """
    name = function.__name__
    if not name.startswith("_"):
        setattr(vocabulary, name, function)
        if not hasattr(Tensor, name):
            setattr(Tensor, name, as_method(name, function))
    if method:
        setattr(Tensor, method, function)
    if operator:
        setattr(Tensor, f"__{operator}__", function)
        setattr(Tensor, f"__r{operator}__", lambda a, b: function(b, a))
        operators_of_numpy[name] = function
    return function
