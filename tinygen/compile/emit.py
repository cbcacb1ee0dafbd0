"""The C++ text of a program: a function for each nest of loops, and one that calls all in order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.compile.fuse import Access, Group, Member
from tinygen.compile.program import Call, Number, Storage, View, views
from tinygen.kernels.signatures import pasted, signatures

__all__ = ["Emitted", "emit", "expressible"]

PRELUDE = (Path(__file__).parent / "prelude.h").read_text()
NAMES = {
    name: kind for kind, name in re.findall(r"^((?:ONE|TWO)\w*)\((\w+), ", PRELUDE, re.MULTILINE)
}
"""Functions that have a form in C++, each with what it is of: any numbers, floats, truth values."""

TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double", np.dtype(np.bool_): "bool"}
TYPES |= {np.dtype(f"{name}int{n}"): f"{name or 'i'}{n}" for name in ("", "u") for n in (32, 64)}
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
BOOL = np.dtype(np.bool_)


def expressible(call: Call) -> bool:
    """True if the call can stand in a loop."""
    for v in views(call):
        if v.dtype not in TYPES or any(s % v.dtype.itemsize for s in v.strides):
            return False
    if call.kind == "reduce":
        axes, ndim = call.options["axis"], len(call.args[0].shape)
        every = tuple(range(ndim))
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


class _Loops:
    """The text of one group: a function of the pointers that it walks, and of numbers."""

    def __init__(self, group: Group, local: set[Storage]) -> None:
        self.group, self.local = group, local
        self.pointers: list[Access] = []
        self.numbers: list[Number] = []
        self.written = {m.out.storage for m in group.members}
        self.head: list[str] = []  # before the loops
        self.tail: list[str] = []  # after them
        self.known: dict[Access, tuple[Any, str]] = {}  # where a value was computed, and its name
        self.names = accumulate(iter(int, 1), lambda n, _: n + 1)  # 0, 1, 2, ...
        made = {m.out.storage: m.phase for m in group.members if m.role == "full"}
        crossing = (
            a
            for m in group.members
            for a in m.args
            if a and made.get(a.storage, m.phase) != m.phase
        )
        self.kept = dict.fromkeys(a.storage for a in crossing if a.storage in local)  # rows of them
        self.dims = self._dims()

    def _dims(self) -> list[tuple[int, int]]:
        """The loops as (length, axis): neighbours that all arrays walk in one go are one."""
        shape, members = self.group.shape, self.group.members
        rows = any(m.role != "full" for m in members)
        walked = [a for m in members for a in (*m.args, m.out) if a]
        dims = [(1, 0)] if not shape else [(shape[0], 0)]
        for axis in range(1, len(shape)):
            (n, before), m = dims[-1], shape[axis]
            joined = all(a.steps[before] == a.steps[axis] * m for a in walked)
            if (rows and axis == len(shape) - 1) or not (joined or n == 1 or m == 1):
                dims.append((m, axis))
            elif m != 1:
                dims[-1] = n * m, axis
        return dims

    def _at(self, access: Access) -> str:
        """The element that the loops are at: i0, i1, ... of the outer ones, j of a row."""
        if access not in self.pointers:
            self.pointers.append(access)
        steps = [access.steps[axis] if access.steps else 0 for _, axis in self.dims]
        names = [*(f"i{d}" for d in range(len(steps) - 1)), "j"]
        place = [f"{i} * {step}LL" if step != 1 else i for i, step in zip(names, steps, strict=True) if step]
        return f"p{self.pointers.index(access)}[{' + '.join(place) or 0}]"

    def _argument(
        self, k: int, m: Member, dtype: np.dtype[Any], where: Any, lines: list[str]
    ) -> str:
        """Argument k as an expression of the dtype; what is loaded is loaded once."""
        x, access = m.call.args[k], m.args[k]
        if isinstance(x, Number):
            if x not in self.numbers:
                self.numbers.append(x)
            return _as(f"m{self.numbers.index(x)}.{'whole' if x.whole else 'number'}", dtype)
        if access is None:
            return _as(_constant(x), dtype)
        known = self.known.get(access)
        if known is None or known[0] not in (where, "row"):
            kept = (
                f"k{[*self.kept].index(access.storage)}[j]" if access.storage in self.kept else None
            )
            known = (
                where,
                self._name(
                    access.dtype, kept or self._at(access) if access.storage.nbytes else "0", lines
                ),
            )
            self.known[access] = known
        return known[1] if dtype == access.dtype else _as(known[1], dtype)

    def _name(self, dtype: np.dtype[Any], text: str, lines: list[str]) -> str:
        name = f"v{next(self.names)}"
        lines.append(f"const {TYPES[dtype]} {name} = {text};")
        return name

    def _compute(self, m: Member, where: Any, lines: list[str]) -> None:
        """The lines of an elementwise call, or of the addition to a sum."""
        if m.call.kind == "reduce":
            kind = "double" if m.out.dtype in FLOATS else TYPES[m.out.dtype]
            n, total = self.dims[-1][0], f"s{self.group.members.index(m)}"
            start = f"{kind} {total} = 0;"
            if m.role == "column":
                start = (
                    f"static thread_local {kind} {total}[{n}]; memset({total}, 0, sizeof {total});"
                )
                self.tail.append(f"for (i64 j = 0; j < {n}; ++j) {self._at(m.out)} = {total}[j];")
            elif m.role == "total":
                self.tail.append(f"{self._at(m.out)} = {total};")
            if m.role != "row":
                self.head.append(start)
            sign = "[j]" if m.role == "column" else ""
            lines.append(f"{total}{sign} += {self._argument(0, m, m.out.dtype, where, lines)};")
            return
        dtypes = m.call.dtypes or (m.out.dtype,) * 2
        args = [self._argument(k, m, dtypes[k], where, lines) for k in range(len(m.args))]
        value = f"({TYPES[dtypes[-1]]})np_{m.call.name}({', '.join(args)})"
        self._store(m.out, self._name(m.out.dtype, _as(value, m.out.dtype), lines), where, lines)

    def _store(self, out: Access, name: str, where: Any, lines: list[str]) -> None:
        self.known[out] = where, name
        if out.storage in self.kept:
            lines.append(f"k{[*self.kept].index(out.storage)}[j] = {name};")
        if out.storage not in self.local:
            lines.append(f"{self._at(out)} = {name};")

    def _phase(self, phase: int) -> list[str]:
        """The loop over a row that does the work of a phase, and what is computed after it."""
        members = [m for m in self.group.members if m.phase == phase]
        body: list[str] = []
        for m in members:
            if not m.in_row:
                self._compute(m, phase, body)
        sums = [
            (f"s{self.group.members.index(m)}", m)
            for m in members
            if m.call.kind == "reduce" and not m.in_row
        ]
        added = [name for name, m in sums if m.role != "column"]
        lines = [f"{'double' if m.out.dtype in FLOATS else TYPES[m.out.dtype]} {name} = 0;"
                 for name, m in sums if m.role == "row"]  # fmt: skip
        if body:
            reduction = f" reduction(+:{', '.join(added)})" if added else ""
            lines.append(f'_Pragma("omp simd{reduction}")')
            lines += [f"for (i64 j = 0; j < {self.dims[-1][0]}; ++j) {{", *body, "}"]
        for name, m in sums:
            if m.role == "row":
                self._store(m.out, self._name(m.out.dtype, name, lines), "row", lines)
        for m in members:
            if m.in_row:
                self._compute(m, "row", lines)
        return lines

    def text(self) -> str:
        """The function without its name."""
        last = max(m.phase for m in self.group.members)
        inside = [line for phase in range(-1, last + 1) for line in self._phase(phase)]
        loops = [
            f"for (i64 i{d} = 0; i{d} < {n}; ++i{d}) {{" for d, (n, _) in enumerate(self.dims[:-1])
        ]
        kinds = {m.out.storage: TYPES[m.out.dtype] for m in self.group.members}
        rows = [f"alignas(64) static thread_local {kinds[s]} k{i}[{max(self.dims[-1][0], 1)}];"
                for i, s in enumerate(self.kept)]  # fmt: skip
        pointers = [f"{'' if a.storage in self.written else 'const '}{TYPES[a.dtype]}* __restrict p{i}"
                    for i, a in enumerate(self.pointers)]  # fmt: skip
        arguments = ", ".join([*pointers, *(f"Slot m{i}" for i in range(len(self.numbers)))])
        lines = [*rows, *self.head, *loops, *inside, *("}" for _ in loops), *self.tail]
        return f"({arguments}) {{\n    " + "\n    ".join(lines) + "\n}"


class Emitted:
    """The text of a program. `segments`: numbers of native functions `run0`, `run1`, ..., and between
    them the calls that NumPy makes; `kernels`, whose addresses they take, in order; `stops`, by code."""

    def __init__(self, local: set[Storage], bases: dict[Storage, tuple[int, int]]) -> None:
        self.local, self.bases = local, bases
        self.segments: list[int | Call] = []
        self.kernels: list[str] = []
        self.stops: list[str] = []
        self.functions: dict[str, str] = {}  # loops that are alike are one function
        self.bodies: list[list[str]] = []

    @property
    def text(self) -> str:
        runs = [
            f'extern "C" int run{i}(char* const* at, const Slot* numbers, void* const* call) {{\n    '
            + "\n    ".join([*body, "return 0;\n}"]) for i, body in enumerate(self.bodies)
        ]  # fmt: skip
        loops = [f"static void {name}{text}" for text, name in self.functions.items()]
        return "\n\n".join([pasted('#include "formulas.h"\n' + PRELUDE), *loops, *runs])

    def add(self, node: Call | Group) -> None:
        line = (
            self._loops(node)
            if isinstance(node, Group)
            else FORMS.get(node.kind, _none)(self, node)
        )
        if line is None:
            assert isinstance(node, Call)
            self.segments.append(node)
            return
        if not self.segments or isinstance(self.segments[-1], Call):
            self.segments.append(len(self.bodies))
            self.bodies.append([])
        self.bodies[-1].append(line)

    def at(self, x: View | Access, kind: str = "") -> str:
        base, offset = self.bases[x.storage] if x.storage.nbytes else (0, 0)
        return f"({kind or TYPES[x.dtype]}*)(at[{base}] + {offset + x.offset}LL)"

    def _loops(self, group: Group) -> str:
        loops = _Loops(group, self.local)
        name = self.functions.setdefault(loops.text(), f"loops{len(self.functions)}")
        numbers = [f"numbers[{x.position}]" for x in loops.numbers]
        return f"{name}({', '.join([*map(self.at, loops.pointers), *numbers])});"

    def stop_if(self, condition: str, name: str) -> str:
        self.stops.append(name)
        return f"if ({condition}) return {len(self.stops)};"

    def take(self, call: Call) -> str | None:
        (table, rows), (out,) = call.args, call.outs
        if not all(isinstance(x, View) and x.contiguous() and x.dtype in TYPES for x in call.args):
            return None
        sizes = f"{rows.size}, {table.shape[0]}, {prod(table.shape[1:])}"
        done = f"take({self.at(out)}, {self.at(table)}, {self.at(rows)}, {sizes})"
        return self.stop_if(f"!{done}", f"an index out of range at {call.line}")

    def product(self, call: Call) -> str:
        (a, b), (out,) = call.args, call.outs
        (m, k), n, kind = a.shape, b.shape[1], TYPES[out.dtype]
        sides = ", ".join(f"{self.at(x)}, {_as_read(x)}" for x in (a, b))
        given = f"call[{FLOATS.index(out.dtype)}], {m}, {n}, {k}, {sides}, {self.at(out)}"
        return f"product<{kind}>({given});" if out.size else ";"

    def kernel(self, call: Call) -> str:
        if call.name not in self.kernels:
            self.kernels.append(call.name)
        kinds = [kind for kind, _ in signatures()[call.name]]
        given = []
        for kind, x in zip(kinds, call.args, strict=True):
            if isinstance(x, Number):
                given.append(f"({kind})numbers[{x.position}].{'whole' if x.whole else 'number'}")
            elif isinstance(x, View):
                given.append(self.at(x, kind.removesuffix("*")))
            else:
                given.append("nullptr" if x is None else f"({kind}){_constant(x)}")
        function = f"(void (*)({', '.join(kinds)}))call[{2 + self.kernels.index(call.name)}]"
        return f"({function})({', '.join(given)});"


def _none(made: Emitted, call: Call) -> None:
    """What has no form in C++."""


FORMS: dict[str, Any] = {
    "take": Emitted.take, "product": Emitted.product, "kernel": Emitted.kernel,
    "stop": lambda made, call: made.stop_if(f"!*{made.at(call.args[0])}", call.name),
}  # fmt: skip


def _as_read(x: View) -> str:
    """How BLAS reads a matrix: from row to row, and whether its rows are columns."""
    (rows, columns), (down, right), size = x.shape, x.strides, x.dtype.itemsize
    if (right == size or columns == 1) and (rows == 1 or down >= columns * size):
        return f"{max(down // size if rows > 1 else columns, columns, 1)}, false"
    return f"{max(right // size if columns > 1 else rows, rows, 1)}, true"


def emit(
    nodes: Sequence[Call | Group], local: set[Storage], bases: dict[Storage, tuple[int, int]]
) -> Emitted:
    """The text; `bases`: of a storage, the number of its base pointer and its offset from there."""
    made = Emitted(local, bases)
    for node in nodes:
        made.add(node)
    return made
