"""A shorter program that computes the same."""

from __future__ import annotations

from collections import Counter
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
    written: dict[Storage, list[int]] = {}
    read: dict[Storage, list[int]] = {}
    for i, call in enumerate(calls):
        for s in call.writes:
            written.setdefault(s, []).append(i)
        for s in call.reads:
            read.setdefault(s, []).append(i)
    moved: dict[Storage, View] = {}
    kept = []
    for i, call in enumerate(calls):
        _moved(call, moved)
        if _is_whole(call):
            source, to = call.args[0], call.outs[0].storage
            of_source, of_copy = (written.setdefault(s, []) for s in (source.storage, to))
            last, last_of_copy = (max(read.setdefault(s, [i])) for s in (source.storage, to))
            fixed = not any(i < k <= last_of_copy for k in of_source)
            own = source.storage.kind == "own" and last <= i
            if of_copy[0] == i and fixed and (len(of_copy) == 1 or own):
                moved[to] = source
                of_source += of_copy[1:]
                read[source.storage] += read[to]
                continue
        kept.append(call)
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
    versions: Counter[Storage] = Counter()
    times = Counter(s for call in calls for s in call.writes)
    seen: dict[Any, View] = {}
    moved: dict[Storage, View] = {}
    kept = []
    for call in calls:
        _moved(call, moved)
        if (
            call.kind in PURE
            and call.outs[0].storage.kind == "own"
            and times[call.outs[0].storage] == 1
        ):
            (out,) = call.outs
            given = [(_told(x), versions[getattr(x, "storage", None)]) for x in leaves(call.args)]  # type: ignore[index]
            key = call.name, call.dtypes, repr(call.options), out[1:], *given
            if key in seen:
                moved[out.storage] = seen[key]
                continue
            seen[key] = out
        versions.update(call.writes)
        kept.append(call)
    return kept


def _told(x: Any) -> Any:
    """What tells an argument from another."""
    return x if isinstance(x, (View, Number)) else (type(x), repr(x))
