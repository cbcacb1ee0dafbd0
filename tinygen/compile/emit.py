"""The C++ text of a program: a function for each nest of loops, and one that calls all in order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.compile.fuse import Access, Group, Member
from tinygen.compile.program import Call, Number, Storage, View, views
from tinygen.kernels.signatures import pasted, signatures

__all__ = ["Emitted", "Loops", "expressible"]

FOLDER = Path(__file__).parent
PRELUDE, CPU = ((FOLDER / name).read_text() for name in ("prelude.h", "cpu.h"))
NAMES = {n: kind for kind, n in re.findall(r"^((?:ONE|TWO)\w*)\((\w+), ", PRELUDE, re.MULTILINE)}
"""Functions that have a form in C++, each with what it is of: any numbers, floats, truth values."""

TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double", np.dtype(np.bool_): "bool"}
TYPES |= {np.dtype(f"{name}int{n}"): f"{name or 'i'}{n}" for name in ("", "u") for n in (32, 64)}
WORTH_IT, MOST = 1 << 16, 8  # elements times calls of a part of a loop; parts
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
BOOL = np.dtype(np.bool_)


def expressible(call: Call) -> bool:
    """True if the call can stand in a loop."""
    for v in views(call):
        if v.dtype not in TYPES or any(s % v.dtype.itemsize for s in v.strides):
            return False
    if call.kind == "reduce":
        axes, every = call.options["axis"], tuple(range(len(call.args[0].shape)))
        return call.name == "sum" and axes != () and axes in (every, every[-1:], every[:-1])
    if call.kind not in ("ufunc", "copy") or call.name not in (*NAMES, "where"):
        return False
    kind = NAMES.get(call.name, "")
    takes = FLOATS if "FLOAT" in kind else (BOOL,) if "BIT" in kind else TYPES
    return all(d in takes for d in call.dtypes[:-1]) and all(d in TYPES for d in call.dtypes)


def _constant(x: Any) -> str:
    value = x.item() if isinstance(x, np.generic) else x
    if not isinstance(value, float):
        return f"{int(value)}{'LL' if value < 2**63 else 'ULL'}"
    return value.hex() if abs(value) < np.inf else str(value).replace("nan", "nan_")


def _as(text: str, dtype: np.dtype[Any]) -> str:
    """An expression as a number of that type."""
    return f"({text} != 0)" if dtype == BOOL else f"({TYPES[dtype]})({text})"


def _wide(dtype: np.dtype[Any]) -> str:
    """The type in which a sum of that type is added."""
    return "double" if dtype in FLOATS else TYPES[dtype]


class Loops:
    """The text of one group: a function of the pointers that it walks, and of numbers.

    The outermost loop is cut into parts, so many as its shape alone says. Each has sums of its own over
    columns or all elements, which are added in the order of the parts: so no bit depends on who
    computed which part.
    """

    once, column = "", "j"  # what begins a line that is for a whole row; an element's place in it

    def __init__(self, group: Group, local: set[Storage]) -> None:
        self.group, self.local = group, local
        self.by_row = any(m.role != "full" for m in group.members)
        self.pointers: list[Access] = []
        self.numbers: list[Number] = []
        self.sums: dict[str, tuple[str, int]] = {}  # of a part: name, type and length
        self.head: list[str] = []  # before the loops
        self.foot: list[str] = []  # after them
        self.tail: list[str] = []  # after all parts
        self.known: dict[Access, tuple[Any, str]] = {}  # where a value was computed, and its name
        self.count = 0
        made = {m.out.storage: m.phase for m in group.members if m.role == "full"}
        read = [(a.storage, m.phase) for m in group.members for a in m.args if a]
        later = (s for s, phase in read if s in local and made.get(s, phase) != phase)
        self.kept = list(dict.fromkeys(later))  # of what a later phase reads, a row is kept
        self.dims = self._dims()
        self.parts = self._parts()

    def _dims(self) -> list[tuple[int, int]]:
        """The loops as (length, axis): neighbours that all arrays walk in one go are one."""
        shape, members = self.group.shape or (1,), self.group.members
        walked = [a for m in members for a in m.walked]
        dims = [(shape[0], 0)]
        for axis in range(1, len(shape)):
            (n, before), m = dims[-1], shape[axis]
            joined = all(a.steps[before] == a.steps[axis] * m for a in walked)
            if (self.by_row and axis == len(shape) - 1) or not (joined or n == 1 or m == 1):
                dims.append((m, axis))
            elif m != 1:
                dims[-1] = n * m, axis
        return dims

    def _parts(self) -> int:
        """How many parts are worth a thread's while. A single row whose sum is needed is not cut."""
        members, length = self.group.members, self.dims[0][0]
        if len(self.dims) == 1 and any(m.role == "row" or m.in_row for m in members):
            return 1
        return max(1, min(len(members) * prod(self.group.shape) // WORTH_IT, length, MOST))

    def _at(self, access: Access) -> str:
        """The element that the loops are at: i0, i1, ... of the outer ones, j of a row."""
        if access.storage in self.kept:
            return f"k{self.kept.index(access.storage)}[{self.column}]"
        if access not in self.pointers:
            self.pointers.append(access)
        names = [*(f"i{d}" for d in range(len(self.dims) - 1)), "j"]
        steps = [access.steps[axis] if access.steps else 0 for _, axis in self.dims]
        place = [f"{i} * {step}LL" for i, step in zip(names, steps, strict=True) if step]
        return f"p{self.pointers.index(access)}[{' + '.join(place) or 0}]"

    def _name(self, dtype: np.dtype[Any], text: str, lines: list[str]) -> str:
        self.count += 1
        lines.append(f"const {TYPES[dtype]} v{self.count} = {text};")
        return f"v{self.count}"

    def _argument(self, m: Member, k: int, dtype: Any, where: Any, lines: list[str]) -> str:
        """Argument k as an expression of the dtype; what is loaded is loaded once."""
        x, access = m.call.args[k], m.args[k]
        if isinstance(x, Number):
            self.numbers += [] if x in self.numbers else [x]
            return _as(f"m{self.numbers.index(x)}.{x.field}", dtype)
        if access is None:
            return _as(_constant(x), dtype)
        if self.known.get(access, ("nowhere",))[0] not in (where, "row"):
            text = self._at(access) if access.storage.nbytes else "0"
            self.known[access] = where, self._name(access.dtype, text, lines)
        name = self.known[access][1]
        return name if dtype == access.dtype else _as(name, dtype)

    def _store(self, out: Access, name: str, where: Any, lines: list[str]) -> None:
        self.known[out] = where, name
        if out.storage in self.kept or out.storage not in self.local:
            lines.append(f"{self.once if where == 'row' else ''}{self._at(out)} = {name};")

    def _compute(self, m: Member, where: Any, lines: list[str]) -> None:
        """The lines of an elementwise call."""
        dtypes = m.call.dtypes or (m.out.dtype,) * 2
        args = [self._argument(m, k, dtypes[k], where, lines) for k in range(len(m.args))]
        value = f"({TYPES[dtypes[-1]]})np_{m.call.name}({', '.join(args)})"
        self._store(m.out, self._name(m.out.dtype, _as(value, m.out.dtype), lines), where, lines)

    def _add(self, m: Member, where: Any, lines: list[str]) -> str:
        """The line that adds to a sum; its name."""
        kind, n, name = _wide(m.out.dtype), self.dims[-1][0], f"s{self.group.members.index(m)}"
        place, once = "[j]" if m.role == "column" else "", self.once if where == "row" else ""
        lines.append(f"{once}{name}{place} += {self._argument(m, 0, m.out.dtype, where, lines)};")
        if m.role != "row":
            self.sums[name] = kind, n if m.role == "column" else 1
            self._end(m, kind, n, name)
        return name

    def _end(self, m: Member, kind: str, n: int, name: str) -> None:
        """What a sum that is not of a row needs before the loops, after them, and after all parts."""
        if m.role == "column":
            self.head += [
                f"{kind}* {name} = own->{name};",
                f"memset({name}, 0, sizeof own->{name});",
            ]
            self.tail.append(f"for (i64 j = 0; j < {n}; ++j) {self._at(m.out)} = own->{name}[j];")
        else:
            self.head.append(f"{kind} {name} = 0;")
            self.foot.append(f"own->{name}[0] = {name};")
            self.tail.append(f"{self._at(m.out)} = own->{name}[0];")

    def _phase(self, phase: int) -> list[str]:
        """The loop over a row that does the work of a phase, and what is computed after it."""
        members = [m for m in self.group.members if m.phase == phase]
        body: list[str] = []
        sums: dict[str, Member] = {}
        for m in members:
            if m.call.kind == "reduce" and not m.in_row:
                sums[self._add(m, phase, body)] = m
            elif not m.in_row:
                self._compute(m, phase, body)
        of_rows = {name: m for name, m in sums.items() if m.role == "row"}
        lines = [f"{_wide(m.out.dtype)} {name} = 0;" for name, m in of_rows.items()]
        if body:
            lines += self._loop(body, [name for name, m in sums.items() if m.role != "column"])
        for name, m in of_rows.items():
            lines += self._joined(name)
            self._store(m.out, self._name(m.out.dtype, name, lines), "row", lines)
        for m in members:
            if m.in_row:
                (self._add if m.call.kind == "reduce" else self._compute)(m, "row", lines)
        return lines

    def _loop(self, body: list[str], added: list[str]) -> list[str]:
        """The loop over a row, with what it adds."""
        reduction = f" reduction(+:{', '.join(added)})" if added else ""
        begin, end = ("from", "to") if len(self.dims) == 1 else (0, self.dims[-1][0])
        loop = f"for (i64 j = {begin}; j < {end}; ++j) {{"
        return [f'_Pragma("omp simd{reduction}")', loop, *body, "}"]

    def _joined(self, name: str) -> list[str]:
        """What makes the sum of a row of the sums that its loop has made."""
        return []

    def _inside(self) -> list[str]:
        """The work of all phases, and with it what the text needs around."""
        last = max(m.phase for m in self.group.members)
        return [line for phase in range(-1, last + 1) for line in self._phase(phase)]

    def _walked(self) -> list[str]:
        """The arguments of the function."""
        pointers = [f"{TYPES[a.dtype]}* __restrict p{i}" for i, a in enumerate(self.pointers)]
        return pointers + [f"Slot m{i}" for i in range(len(self.numbers))]

    def text(self) -> str:
        """A function of one part, and one that shares out the parts; # stands for their number."""
        members, n = self.group.members, max(self.dims[-1][0], 1)
        inside = self._inside()
        lengths = enumerate(length for length, _ in self.dims[:-1])
        bounds = [("0", length) if d else ("from", "to") for d, length in lengths]
        loops = [f"for (i64 i{d} = {a}; i{d} < {b}; ++i{d}) {{" for d, (a, b) in enumerate(bounds)]
        kinds = {m.out.storage: TYPES[m.out.dtype] for m in members}
        rows = [
            f"alignas(64) static thread_local {kinds[s]} k{i}[{n}];"
            for i, s in enumerate(self.kept)
        ]
        walked = self._walked()
        names = [argument.split()[-1] for argument in walked]
        sums = " ".join(f"{kind} {name}[{length}];" for name, (kind, length) in self.sums.items())
        joined = [
            f"for (i64 i = 1; i < {self.parts}; ++i)"
            f" for (i64 j = 0; j < {length}; ++j) own->{name}[j] += own[i].{name}[j];"
            for name, (_, length) in self.sums.items()
        ]
        part = [*rows, *self.head, *loops, *inside, *("}" for _ in loops), *self.foot]
        shared = [
            f"static thread_local Sums# sums[{self.parts}];",
            "Sums# *own = sums;",
            f"in_parts(call, {self.parts}, {self.dims[0][0]}, [=](i64 i, i64 from, i64 to) {{",
            f"part#(own + i, from, to, {', '.join(names)});",
            "});",
            *joined,
            *self.tail,
        ]
        return (
            f"struct Sums# {{ {sums} }};\n"
            f"static void part#(Sums# *own, i64 from, i64 to, {', '.join(walked)}) {{\n    "
            + "\n    ".join(part)
            + f"\n}}\nstatic void loops#(void* const* call, {', '.join(walked)}) {{\n    "
            + "\n    ".join(shared)
            + "\n}"
        )


class Emitted:
    """The text of a program. `segments`: numbers of native functions `run0`, `run1`, ..., and between
    them the calls that NumPy makes; `kernels`, whose addresses they take, in order; `stops`, by code.

    bases: of a storage, the number of its base pointer and its offset from there.
    """

    def __init__(self, local: set[Storage], bases: dict[Storage, tuple[int, int]]) -> None:
        self.local, self.bases = local, bases
        self.segments: list[Any] = []
        self.kernels: list[str] = []
        self.stops: list[str] = []
        self.functions: dict[str, int] = {}  # loops that are alike are one function

    def emit(self, nodes: Sequence[Call | Group]) -> str:
        """The text."""
        bodies: list[list[str]] = []
        for node in nodes:
            if (line := self._line(node)) is None:
                self.segments.append(node)
                continue
            if not self.segments or isinstance(self.segments[-1], Call):
                self.segments.append(len(bodies))
                bodies.append([])
            bodies[-1].append(line)
        arguments = "char* const* at, const Slot* numbers, void* const* call"
        parts = [pasted('#include "formulas.h"\n#include "threads.h"\n' + PRELUDE + CPU)]
        parts += self._functions()
        for i, body in enumerate(bodies):
            lines = "\n    ".join(body)
            parts.append(f'extern "C" int run{i}({arguments}) {{\n    {lines}\n    return 0;\n}}')
        return "\n\n".join(parts)

    def _line(self, node: Call | Group) -> str | None:
        """The statement that does the work of a node; None if it has no form here."""
        kind = "loops" if isinstance(node, Group) else node.kind
        line: str | None = getattr(self, f"_{kind}", lambda call: None)(node)
        return line

    def _functions(self) -> list[str]:
        return [text.replace("#", str(i)) for text, i in self.functions.items()]

    def _at(self, x: View | Access, kind: str = "") -> str:
        base, offset = self.bases[x.storage] if x.storage.nbytes else (0, 0)
        return f"({kind or TYPES[x.dtype]}*)(at[{base}] + {offset + x.offset}LL)"

    def _number(self, position: int) -> str:
        return f"numbers[{position}]"

    def _loops(self, group: Group) -> str:
        loops = Loops(group, self.local)
        number = self.functions.setdefault(loops.text(), len(self.functions))
        numbers = [self._number(x.position) for x in loops.numbers]
        return f"loops{number}({', '.join(['call', *map(self._at, loops.pointers), *numbers])});"

    def _stop(self, call: Call) -> str:
        return self._stop_if(f"!*{self._at(call.args[0])}", call.name)

    def _stop_if(self, condition: str, name: str) -> str:
        self.stops.append(name)
        return f"if ({condition}) return {len(self.stops)};"

    def _take(self, call: Call) -> str | None:
        (table, rows), (out,) = call.args, call.outs
        if not all(isinstance(x, View) and x.contiguous() and x.dtype in TYPES for x in call.args):
            return None
        sizes = f"{prod(rows.shape)}, {table.shape[0]}, {prod(table.shape[1:])}"
        done = f"take({self._at(out)}, {self._at(table)}, {self._at(rows)}, {sizes})"
        return self._stop_if(f"!{done}", f"an index out of range at {call.line}")

    def _product(self, call: Call) -> str:
        (a, b), (out,) = call.args, call.outs
        sizes = f"{a.shape[0]}, {b.shape[1]}, {a.shape[1]}"
        read = [(x, *x.as_matrix()) for x in (a, b)]
        sides = ", ".join(f"{self._at(x)}, {lead}, {int(turned)}" for x, lead, turned in read)
        given = f"call, {sizes}, {sides}, {self._at(out)}"
        return f"product<{TYPES[out.dtype]}>({given});" if prod(out.shape) else ";"

    def _kernel(self, call: Call) -> str:
        self.kernels += [] if call.name in self.kernels else [call.name]
        kinds, given = [kind for kind, _ in signatures()[call.name]], []
        for kind, x in zip(kinds, call.args, strict=True):
            if isinstance(x, Number):
                given.append(f"({kind}){self._number(x.position)}.{x.field}")
            elif isinstance(x, View):
                given.append(self._at(x, kind.removesuffix("*")))
            else:
                given.append("nullptr" if x is None else f"({kind}){_constant(x)}")
        return f"{self._function(call.name, kinds)}({', '.join(given)});"

    def _function(self, name: str, kinds: list[str]) -> str:
        """A kernel, as what is called."""
        return f"((void (*)({', '.join(kinds)}))call[{3 + self.kernels.index(name)}])"
