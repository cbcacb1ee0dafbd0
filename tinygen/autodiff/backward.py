"""The backward pass: from one output to the gradients of everything it depends on.

Nodes are numbered downwards as they are made, so a node always has a smaller number than its
inputs. Taking the smallest number, the newest node, first therefore means that its gradient is
complete: everything that uses it came later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from threading import RLock
from typing import Any

from tinygen.autodiff.modes import WATCH, enable_grad, modes
from tinygen.autodiff.operation import NONE, Node, digests
from tinygen.autodiff.tensor import Leaf, Tensor, array_on, check_tensor
from tinygen.backend import namespace_of
from tinygen.errors import NonFiniteError

__all__ = ["backward", "gradients"]

tensor_namespace: Any = None
"""The module `tinygen.ops`, in which rules compute under create_graph; it stands above and sets this."""

Source = Node | Leaf
"""What a gradient belongs to."""

_adding = RLock()
"""Held while gradients are added to those of leaves: threads may share a leaf."""


def backward(
    output: Tensor, gradient: Any, *, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """See `Tensor.backward`."""
    table = propagate(output, gradient, None, retain_graph or create_graph, create_graph)
    with _adding:
        for leaf, g in table.items():
            if leaf.grad is None:
                # Under create_graph two leaves may share g: each gets a buffer of its own.
                leaf.grad = g.astype(g.dtype) if create_graph else g
            elif create_graph or leaf.grad.node is not None:
                leaf.grad = leaf.grad + g
            else:
                leaf.grad._data += g._data  # the engine owns this buffer


def gradients(
    output: Tensor,
    inputs: Tensor | Sequence[Tensor],
    gradient: Any = None,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> Any:
    """The gradient of `output` with respect to each of `inputs`; no `.grad` is touched.

    `inputs` may be leaves or results of operations; the answer is a Tensor for one Tensor, else a
    list. An input that `output` does not depend on has a gradient of zeros. With `create_graph`
    the gradients can be differentiated again. ValueError: as for `Tensor.backward`; TypeError:
    `output`, or one of `inputs`, is no Tensor.
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


def propagate(
    output: Tensor, gradient: Any, wanted: set[Any] | None, retain: bool, create_graph: bool
) -> dict[Any, Tensor]:
    """Gradients of `output` by source: for the `wanted` ones, or for every leaf if None."""
    root = output.node
    if root is None:
        raise ValueError(
            "this Tensor has no graph: nothing it was computed from requires a gradient "
            "(or it was computed under no_grad)"
        )
    seed = _seed(output, gradient)
    if create_graph:
        with enable_grad():
            return _walk(root, seed, wanted, retain, tensor_namespace)
    raw = _walk(root, seed.data, wanted, retain, namespace_of(output.data))
    return {source: Tensor(g) for source, g in raw.items()}


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


def _walk(root: Source, seed: Any, wanted: set[Any] | None, retain: bool, m: Any) -> dict[Any, Any]:
    """The traversal. Gradients are Tensors if `m` is tinygen.ops, else raw arrays."""
    raw, anomaly = m is not tensor_namespace, bool(modes.get()[-1] & WATCH)
    useful = None if wanted is None else _leading_to(wanted, root)
    table: dict[Any, Any] = {root: seed}  # gradients so far, by source
    owned: set[Any] = set()  # whose buffer was made here, and may be added to in place
    found: dict[Any, Any] = {}
    moved = False  # by `to`, somewhere between the output and here: then `m` is looked up
    heap: list[tuple[int, Node]] = []
    if isinstance(root, Node):
        heap.append((root.order, root))
    while heap:
        node = heappop(heap)[1]
        g = table.pop(node)
        if wanted is not None and node in wanted:
            found[node] = g.copy() if raw else g  # the walk goes on with g
        if moved:
            m = namespace_of(g)
        values, y = node.inputs, node.output
        params, parents = node.params, node.parents
        if values is None:
            raise ValueError(
                f"the history of {node.op.name} was freed by an earlier backward pass; "
                "pass retain_graph=True to the first one"
            )
        if anomaly:
            _check_unchanged(node)
        if not raw:
            values, y = _as_tensors(node)
        plan = node.plan
        n = len(values)
        if params:
            n = 0  # called in the general way
            if plan.keep is NONE and plan.op.variadic:
                values = ()  # of none too many: n of them for each of n rules would take n² steps
            moved = moved or (raw and "device" in params)
        if plan.common is not None:
            g = plan.common(m, g, y, *values, **params)
        for i, rule in plan.rules:
            parent = parents[i]
            if useful is not None and parent not in useful:
                continue
            try:
                if n == 2:  # unpacked by hand, which is faster
                    d = rule(m, g, y, values[0], values[1])
                elif n == 1:
                    d = rule(m, g, y, values[0])
                else:
                    d = rule(m, g, y, *values, **params)
                differs = d.shape != parent.shape
            except (TypeError, AttributeError) as error:
                raise TypeError(f"the derivative of {plan.op.name}, input {i}: {error}") from error
            if differs:
                d = _unbroadcast(m, d, parent, node, i)
            if d.dtype is not parent.dtype and d.dtype != parent.dtype:
                d = d.astype(parent.dtype)
            if anomaly:
                _watch(d, node, i)
            before = table.get(parent)
            if before is None:
                if type(parent) is Node:
                    heappush(heap, (parent.order, parent))
                elif raw:  # a leaf's gradient is nobody else's array
                    if not (plan.op.trusted and _is_fresh(d, g, values, y)):
                        d = d.copy()
                    owned.add(parent)
                table[parent] = d
            elif parent in owned:
                before += d
                table[parent] = before
            else:
                table[parent] = before + d
                if raw:
                    owned.add(parent)
        if not retain:
            node.inputs = node.output = None
    if isinstance(root, Leaf) and raw:
        table[root] = seed.copy()
    # What is left in the table belongs to leaves.
    found.update(table if wanted is None else {s: g for s, g in table.items() if s in wanted})
    return {s: namespace_of(g).asarray(g) for s, g in found.items()} if raw else found


def _as_tensors(node: Node) -> tuple[list[Any], Tensor | None]:
    """The kept values of `node` as Tensors in their places in the graph."""
    values = []
    for value, parent in zip(node.inputs or (), node.parents, strict=True):
        constant_or_stand_in = parent is None or value is parent
        values.append(value if constant_or_stand_in else Tensor(value, parent))
    return values, None if node.output is None else Tensor(node.output, node)


def _leading_to(wanted: set[Any], root: Source) -> set[Any]:
    """The sources between `root` and the wanted ones: gradients of others need not be computed."""
    nodes = [s for s in ancestors(root) if isinstance(s, Node)]
    useful = set(wanted)
    for node in sorted(nodes, key=lambda n: -n.order):  # oldest first: parents before children
        if any(parent in useful for parent in node.parents):
            useful.add(node)
    return useful


def ancestors(root: Source) -> Iterable[Source]:
    """`root` and every source it depends on, each once, without recursion."""
    seen: set[Any] = {None}
    stack: list[Any] = [root]
    while stack:
        source = stack.pop()
        if source in seen:
            continue
        seen.add(source)
        yield source
        if isinstance(source, Node):
            stack.extend(source.parents)


def _unbroadcast(m: Any, d: Any, parent: Source, node: Node, i: int) -> Any:
    """Sum `d` over the axes along which the input was broadcast."""
    shape = parent.shape
    extra = len(d.shape) - len(shape)
    fits = extra >= 0 and all(n in (1, k) for n, k in zip(shape, d.shape[extra:], strict=True))
    if not fits:
        raise ValueError(
            f"the derivative of {node.op.name} with respect to input {i} has shape {d.shape}, "
            f"the input has shape {shape}"
        )
    ones = tuple(a + extra for a, n in enumerate(shape) if n == 1 and d.shape[a + extra] != 1)
    axes = tuple(range(extra)) + ones
    return m.reshape(m.sum(d, axis=axes, keepdims=True), shape)


def _is_fresh(d: Any, g: Any, values: Any, y: Any) -> bool:
    """True if `d` was computed by the rule: not a view, not an array that others hold."""
    return (
        getattr(d, "base", True) is None
        and d is not g
        and d is not y
        and all(d is not v for v in values)
    )


def _check_unchanged(node: Node) -> None:
    """Anomaly mode: ValueError if an array that `node` keeps is not what it was."""
    before = getattr(node, "digests", None)  # None: it was made outside the block
    if before is not None and before != (now := digests(node)):
        i = next(i for i, (a, b) in enumerate(zip(before, now, strict=True)) if a != b)
        raise ValueError(
            f"{'the output' if i == len(node.parents) else f'input {i}'} of {node.op.name} was changed "
            f"after the operation and before backward; it was called at {node.line}"
        )


def _watch(d: Any, node: Node, i: int) -> None:
    data = d.data if isinstance(d, Tensor) else d
    m = namespace_of(data)
    if not m.isfinite(data).all():
        made = "NaN" if m.isnan(data).any() else "an infinity"
        raise NonFiniteError(
            f"the derivative of {node.op.name} with respect to input {i} made {made} "
            f"(shape {list(data.shape)}); the operation was called at {node.line or 'an unknown line'}"
        )
