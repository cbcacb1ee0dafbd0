"""A shorter program that computes the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import prod
from typing import Any

from tinygen.compile.program import Call, Number, Program, Storage, View, leaves, map_leaves

__all__ = ["simplify"]

PURE = ("ufunc", "copy", "reduce", "product", "take")


def simplify(program: Program) -> None:
    """Copies that nobody needs, calls that were made before, and calls whose results nobody reads go."""
    program.calls = _without_copies(program.calls)
    program.calls = _without_repeats(program.calls)
    program.calls = _without_dead(program.calls)


def _without_dead(calls: list[Call]) -> list[Call]:
    """From the end: a call stays if it is seen outside, or writes what a later one reads."""
    read: set[Storage] = set()
    kept: list[Call] = []
    for call in reversed(calls):
        seen = call.kind == "stop" or any(s.kind != "own" for s in call.writes)
        if seen or call.writes & read:
            kept.append(call)
            read |= call.reads
    return kept[::-1]


def _moved(call: Call, to: dict[Storage, View]) -> None:
    """Let the call use other views in the place of storages that were left out."""

    def found(x: Any) -> Any:
        if not isinstance(x, View) or x.storage not in to:
            return x
        base = to[x.storage]
        return x._replace(storage=base.storage, offset=x.offset + base.offset)

    call.args, call.options, call.outs = map_leaves(found, (call.args, call.options, call.outs))


def _without_copies(calls: list[Call]) -> list[Call]:
    """A copy of contiguous elements is the array itself, unless one of the two is written while the
    other is still to be read."""
    written: defaultdict[Storage, list[int]] = defaultdict(list)
    read: defaultdict[Storage, list[int]] = defaultdict(lambda: [-1])
    for i, call in enumerate(calls):
        for places, storages in ((written, call.writes), (read, call.reads)):
            for s in storages:
                places[s].append(i)
    moved: dict[Storage, View] = {}
    kept = []
    for i, call in enumerate(calls):
        _moved(call, moved)
        kept.append(call)
        if _is_whole(call):
            source, to = call.args[0].storage, call.outs[0].storage
            fixed = not any(i < k <= max(read[to]) for k in written[source])
            alone = source.kind == "own" and max(read[source]) <= i
            if written[to][0] == i and fixed and (len(written[to]) == 1 or alone):
                moved[to] = call.args[0]
                written[source] += written[to][1:]
                read[source] += read[to]
                kept.pop()
    return kept


def _is_whole(call: Call) -> bool:
    """True for a copy of contiguous elements of one dtype into all of an array of the program's own."""
    if call.kind != "copy" or not isinstance(call.args[0], View):
        return False
    source, (out,) = call.args[0], call.outs
    alike = (source.dtype, source.shape) == (out.dtype, out.shape)
    whole = out.storage.kind == "own" and out.storage.nbytes == prod(out.shape) * out.dtype.itemsize
    return alike and whole and source.contiguous() and out.contiguous()


def _without_repeats(calls: list[Call]) -> list[Call]:
    """A call with the arguments of an earlier one, whose memory was not written since, is that one."""
    versions: Counter[Any] = Counter()
    times = Counter(s for call in calls for s in call.writes)
    seen: dict[Any, View] = {}
    moved: dict[Storage, View] = {}
    kept = []
    for call in calls:
        _moved(call, moved)
        kept.append(call)
        to = call.outs[0] if call.kind in PURE else None
        if to and to.storage.kind == "own" and times[to.storage] == 1:
            given = [(_told(x), versions[getattr(x, "storage", None)]) for x in leaves(call.args)]
            key = call.name, call.dtypes, repr(call.options), to[1:], *given
            if seen.setdefault(key, to) is not to:
                moved[to.storage] = seen[key]
                kept.pop()
                continue
        versions.update(call.writes)
    return kept


def _told(x: Any) -> Any:
    """What tells an argument from another."""
    return x if isinstance(x, (View, Number)) else (type(x), repr(x))
