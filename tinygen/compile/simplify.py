"""A shorter program that computes the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tinygen.compile.program import Call, Number, Program, Storage, View, leaves, map_leaves

__all__ = ["simplify"]


def simplify(program: Program) -> None:
    """Copies that nobody needs, calls that were made before, and calls whose results nobody reads go."""
    program.calls = _without_copies(program)
    program.calls = _without_repeats(program)
    program.calls = _without_dead(program)


def _without_dead(program: Program) -> list[Call]:
    """From the end: a call stays if it is seen outside, or writes what a later one reads."""
    read: set[Storage] = {r.storage for r in program.results}
    kept: list[Call] = []
    for call in reversed(program.calls):
        if call.lasting or call.writes & read:
            kept.append(call)
            read |= call.reads
    return kept[::-1]


def _replaced(call: Call, moved: dict[Storage, View]) -> None:
    """Let the call read at the views in place of the storages that were left out."""

    def found(x: Any) -> Any:
        if not isinstance(x, View) or x.storage not in moved:
            return x
        to = moved[x.storage]
        return x._replace(storage=to.storage, offset=x.offset + to.offset)

    call.args, call.options = map_leaves(found, call.args), map_leaves(found, call.options)
    call.settle()


def _without_copies(program: Program) -> list[Call]:
    """A copy of contiguous elements is the array itself, unless one of the two is written later."""
    written: dict[Storage, list[int]] = {}
    read_last: dict[Storage, int] = {r.storage: len(program.calls) for r in program.results}
    for i, call in enumerate(program.calls):
        for s in call.writes:
            written.setdefault(s, []).append(i)
        for s in call.reads:
            read_last[s] = i
    moved: dict[Storage, View] = {}
    kept = []
    for i, call in enumerate(program.calls):
        _replaced(call, moved)
        if call.kind == "copy" and _is_whole(call) and len(written[call.outs[0].storage]) == 1:
            source, to = call.args[0], call.outs[0].storage
            changes = [k for k in written.get(source.storage, ()) if i < k <= read_last.get(to, i)]
            if not changes:
                moved[to] = source
                read_last[source.storage] = max(read_last[source.storage], read_last.get(to, i))
                continue
        kept.append(call)
    return kept


def _is_whole(call: Call) -> bool:
    """True for a copy of contiguous elements of one dtype into all of an array of the program's own."""
    source, (out,) = call.args[0], call.outs
    return (
        isinstance(source, View)
        and out.storage.kind == "own"
        and (source.dtype, source.shape) == (out.dtype, out.shape)
        and out.storage.nbytes == out.size * out.dtype.itemsize
        and source.contiguous()
        and out.contiguous()
    )


def _without_repeats(program: Program) -> list[Call]:
    """A call with the arguments of an earlier one, whose memory was not written since, is that one."""
    versions: Counter[Storage] = Counter()
    times = Counter(s for call in program.calls for s in call.writes)
    results = {r.storage for r in program.results}
    seen: dict[Any, View] = {}
    moved: dict[Storage, View] = {}
    kept = []
    for call in program.calls:
        _replaced(call, moved)
        pure = call.kind in ("ufunc", "copy", "reduce", "product") and len(call.outs) == 1
        out = call.outs[0] if pure else None
        if (
            out
            and out.storage.kind == "own"
            and times[out.storage] == 1
            and out.storage not in results
        ):
            key = (call.kind, call.name, call.dtypes, *map(repr_of, call.options.items()), out.dtype,
                   out.shape, out.strides, *((repr_of(x), versions[x.storage] if isinstance(x, View)
                   else 0) for x in leaves(call.args)))  # fmt: skip
            if key in seen:
                moved[out.storage] = seen[key]
                continue
            seen[key] = out
        for s in call.writes:
            versions[s] += 1
        kept.append(call)
    return kept


def repr_of(x: Any) -> Any:
    """What tells two arguments apart."""
    return x if isinstance(x, (View, Number)) else (type(x), repr(x))
