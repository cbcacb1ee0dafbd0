"""Trees: arrays in dicts, lists, tuples and named tuples, nested as deep as one likes.

An array, a Tensor or a number is a leaf. None is a tree without leaves, such as the bias of a layer
that has none.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

__all__ = ["leaves_along", "leaves_of", "like", "tree_map"]


def _inside(tree: Any) -> Sequence[Any] | None:
    """The trees directly inside this one, in order; None for a leaf."""
    if isinstance(tree, dict):
        return list(tree.values())
    return tree if isinstance(tree, (list, tuple)) else () if tree is None else None


def leaves_of(tree: Any) -> list[Any]:
    """The leaves in order. Dicts keep their own order."""
    inside = _inside(tree)
    return [tree] if inside is None else [leaf for part in inside for leaf in leaves_of(part)]


def leaves_along(model: Any, tree: Any, what: str) -> list[Any]:
    """What the tree has in the place of each leaf of the model, in the model's order.

    ValueError: the tree has another structure. The message begins with `what`.
    """
    inside = _inside(model)
    if inside is None:
        return [tree]
    own = _inside(tree)
    fits = type(tree) is type(model) and own is not None and len(own) == len(inside)
    if fits and isinstance(model, dict):
        fits = tree.keys() == model.keys()
        own = [tree[key] for key in model] if fits else own
    if not fits or own is None:
        raise ValueError(f"{what}: {_described(tree)} in the place of {_described(model)}")
    parts = zip(inside, own, strict=True)
    return [leaf for a, b in parts for leaf in leaves_along(a, b, what)]


def _described(tree: Any) -> str:
    kind, inside = type(tree).__name__, _inside(tree)
    if isinstance(tree, dict):
        return f"a {kind} with the keys {', '.join(map(repr, tree))}"
    return kind if tree is None or inside is None else f"a {kind} of {len(inside)}"


def like(model: Any, leaves: Iterable[Any]) -> Any:
    """A tree of the structure of the model with these leaves."""
    return _built(model, iter(leaves))


def _built(tree: Any, rest: Iterator[Any]) -> Any:
    inside = _inside(tree)
    if inside is None:
        return next(rest)
    parts = [_built(part, rest) for part in inside]
    if isinstance(tree, dict):
        new = copy.copy(tree)  # also of a subclass, such as defaultdict
        new.update(zip(tree, parts, strict=True))
        return new
    if hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*parts)
    return None if tree is None else type(tree)(parts)


def tree_map(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """f of every leaf of a tree, as a tree of the same structure.

    A tree is a dict, list, tuple or named tuple of trees, or None, or a leaf: an array, a Tensor or a
    number. others: more trees of this structure, whose leaves are further arguments of f:

        parameters = tg.tree_map(lambda p, g: p - 0.1 * g, parameters, tg.grad(loss)(parameters))

    ValueError: another tree has another structure.
    """
    columns = [
        leaves_of(tree),
        *(leaves_along(tree, t, f"tree {i}") for i, t in enumerate(others, 1)),
    ]
    return like(tree, [f(*leaves) for leaves in zip(*columns, strict=True)])
