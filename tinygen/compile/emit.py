"""The C++ text of a program: a function for each nest of loops, and one that calls all in order."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isnan, prod
from typing import Any

import numpy as np

from tinygen.compile.fuse import Access, Group
from tinygen.compile.program import Call, Number, Storage, View
from tinygen.kernels.signatures import FOLDER, pasted, signatures

__all__ = ["Emitted", "emit", "expressible"]

TYPES = {
    np.dtype(np.float32): "float", np.dtype(np.float64): "double", np.dtype(np.int64): "i64",
    np.dtype(np.int32): "i32", np.dtype(np.uint32): "u32", np.dtype(np.uint64): "u64",
    np.dtype(np.bool_): "bool",
}  # fmt: skip
FLOATS = ("f", "d")
FORMS = {
    "add": "{0} + {1}", "subtract": "{0} - {1}", "multiply": "{0} * {1}", "divide": "{0} / {1}",
    "negative": "-{0}", "positive": "{0}", "absolute": "absolute({0})", "square": "{0} * {0}",
    "sqrt": "square_root({0})", "exp": "exp_of({0})", "expm1": "expm1_of({0})", "log": "log_of({0})",
    "log1p": "log1p_of({0})", "sin": "sin_of({0})", "cos": "cos_of({0})", "tanh": "tanh_of({0})",
    "erf": "erf_of({0})", "ndtr": "ndtr_of({0})", "sign": "sign_of({0})",
    "power": "power_of({0}, {1})", "maximum": "larger({0}, {1})", "minimum": "smaller({0}, {1})",
    "greater": "{0} > {1}", "greater_equal": "{0} >= {1}", "less": "{0} < {1}",
    "less_equal": "{0} <= {1}", "equal": "{0} == {1}", "not_equal": "{0} != {1}",
    "logical_not": "!{0}", "logical_and": "{0} && {1}", "logical_or": "{0} || {1}",
    "isfinite": "finite({0})", "isinf": "infinite({0})", "isnan": "{0} != {0}",
    "where": "{0} ? {1} : {2}",
}  # fmt: skip
OF_FLOATS = ["sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf", "ndtr", "power", "divide", "sign", "isfinite", "isinf", "isnan", "absolute", "square"]  # fmt: skip
OF_BITS = {"bitwise_and": "{0} && {1}", "bitwise_or": "{0} || {1}", "invert": "!{0}"}
BLOCK = 1024  # elements of a row that are added in their own type
ROWS = 64  # rows that are added in their own type
SCRATCH = 1 << 15  # bytes of a row that may lie on the stack


# -- what can be said in C++ -------------------------------------------------------------------------
def expressible(call: Call) -> bool:
    """True if the call can stand in a loop."""
    views = [x for x in (*call.args, *call.outs) if isinstance(x, View)]
    if any(v.dtype not in TYPES or any(s % v.dtype.itemsize for s in v.strides) for v in views):
        return False
    if call.kind == "copy":
        return True
    if call.kind == "ufunc":
        whole = any(d.char not in FLOATS for d in call.dtypes)
        if call.name in OF_BITS:
            return all(d == bool for d in call.dtypes)
        return call.name in FORMS and not (
            (call.name in OF_FLOATS and any(d.char not in FLOATS for d in call.dtypes[:-1]))
            or (whole and any(d not in TYPES for d in call.dtypes))
        )  # fmt: skip
    if call.kind != "reduce":
        return False
    axes, ndim = call.options["axis"], len(call.args[0].shape)
    out, given = call.outs[0].dtype, call.args[0].dtype
    if call.name != "sum" and (
        given.char not in FLOATS or axes != (ndim - 1,) or not call.args[0].shape[-1]
    ):
        return False
    return (
        bool(axes) and axes in (tuple(range(ndim))[-1:], tuple(range(len(axes)))) and out in TYPES
    )


def _native(node: Call | Group) -> bool:
    """True if the node has a form in C++."""
    if isinstance(node, Group) or node.kind in ("product", "kernel", "stop"):
        return True
    if node.kind != "take":
        return False
    table, rows = node.args
    whole = isinstance(table, View) and isinstance(rows, View)
    return (
        whole and table.contiguous() and rows.contiguous() and {table.dtype, rows.dtype} <= {*TYPES}
    )


def _constant(x: Any, dtype: np.dtype[Any]) -> str:
    """A number as the type of an array."""
    kind = TYPES[dtype]
    value = x.item() if isinstance(x, np.generic) else x
    if isinstance(value, float):
        if isnan(value):
            return f"({kind})NAN"
        if value in (inf, -inf):
            return f"({kind}){'-' if value < 0 else ''}INFINITY"
        return f"({kind}){value.hex()}" if dtype != bool else str(value != 0).lower()
    if isinstance(value, bool):
        return f"({kind}){int(value)}"
    return f"({kind}){value}LL" if abs(value) < 2**63 else f"({kind}){value}ULL"


def _as(text: str, of: np.dtype[Any], to: np.dtype[Any]) -> str:
    """An expression of one type as another."""
    if of == to:
        return text
    return f"({text} != 0)" if to == bool else f"({TYPES[to]})({text})"


# -- loops -------------------------------------------------------------------------------------------
class _Loops:
    """The text of one group: a function of the pointers that it walks."""

    def __init__(self, group: Group, local: set[Storage]) -> None:
        self.group, self.local = group, local
        self.pointers: list[Access] = []  # the arguments of the function
        self.numbers: list[Number] = []
        self.written: set[Storage] = set()
        self.dims = self._dims()
        self.head: list[str] = []  # before the loops
        self.tail: list[str] = []  # after them
        self.values: dict[Access, tuple[int, str]] = {}  # phase and name of what is known
        self.count = 0

    def _dims(self) -> list[tuple[int, tuple[int, ...]]]:
        """The loops, (length, places of the shape): neighbours that all arrays walk in one go are one."""
        shape, group = self.group.shape, self.group
        if not shape:
            return [(1, ())]
        whole = all(role == "full" for role in group.roles)
        cut = {len(shape) - 1} if not whole else set()
        for call, role in zip(group.calls, group.roles, strict=True):
            if role == "column":
                cut.add(len(call.options["axis"]))
        dims: list[tuple[int, tuple[int, ...]]] = [(shape[0], (0,))]
        walked = [a for args, out in group.accesses for a in (*args, out) if a is not None]
        for axis in range(1, len(shape)):
            (n, places), m = dims[-1], shape[axis]
            joined = all(a.strides[places[-1]] == a.strides[axis] * m for a in walked)
            if axis in cut or not (joined or n == 1 or m == 1):
                dims.append((m, (axis,)))
            elif m != 1:
                dims[-1] = (n * m, (axis,))
        return dims

    def _step(self, access: Access, dim: int) -> int:
        """Elements from one step of a loop to the next."""
        places = self.dims[dim][1]
        return access.strides[places[0]] // access.dtype.itemsize if places else 0

    def _name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def pointer(self, access: Access) -> int:
        if access not in self.pointers:
            self.pointers.append(access)
        return self.pointers.index(access)

    def place(self, access: Access, inner: bool) -> str:
        """The element that the loops are at: in row scope, or in the innermost loop."""
        k = self.pointer(access)
        step = self._step(access, -1) if inner else 0
        return f"q{k}[{'j' if step == 1 else f'j * {step}' if step else '0'}]"

    def text(self) -> str:
        """The body of the function."""
        group = self.group
        last = max(group.phases)
        inside = [*self.row(-1)]
        for phase in range(last + 1):
            inside += self.loop(phase) + self.row(phase)
        rows = self.dims[:-1]
        lines = [*self.head]
        starts = []
        for k, access in enumerate(self.pointers):
            offset = " + ".join(
                f"i{d} * {self._step(access, d)}" for d in range(len(rows)) if self._step(access, d)
            )
            const = "" if access.storage in self.written else "const "
            starts.append(
                f"{const}{TYPES[access.dtype]}* const q{k} = p{k}{' + ' if offset else ''}{offset};"
            )
        for d, (n, _) in enumerate(rows):
            lines.append(f"for (i64 i{d} = 0; i{d} < {n}; ++i{d}) {{")
        lines += [*starts, *inside, *self.every_rows, *("}" for _ in rows), *self.tail]
        return "\n    ".join(lines)

    every_rows: tuple[str, ...] = ()

    def argument(self, x: Any, access: Access | None, dtype: np.dtype[Any], phase: int, inner: bool,
                 lines: list[str]) -> str:  # fmt: skip
        """An argument of a call as an expression of the dtype; what is loaded is loaded once."""
        if isinstance(x, Number):
            if x not in self.numbers:
                self.numbers.append(x)
            kind = "whole" if x.whole else "number"
            return f"({TYPES[dtype]})m{self.numbers.index(x)}.{kind}"
        if access is None:
            return _constant(x, dtype)
        known = self.values.get(access)
        if known is None or (inner and known[0] not in (phase, ROW)):
            name = self._name("v")
            source = self.place(access, inner)
            if not access.storage.nbytes:  # of no elements
                source = "0"
            elif access.storage in self.local:
                source = f"{self.scratch[access.storage]}[j]"
            lines.append(f"const {TYPES[access.dtype]} {name} = {source};")
            known = self.values[access] = (phase if inner else ROW, name)
        return _as(known[1], access.dtype, dtype)

    scratch: dict[Storage, str]

    def expression(self, k: int, phase: int, inner: bool, lines: list[str]) -> str:
        call, (args, out) = self.group.calls[k], self.group.accesses[k]
        dtypes = call.dtypes or (out.dtype,) * (len(args) + 1)
        parts = [
            self.argument(x, a, d, phase, inner, lines)
            for x, a, d in zip(call.args, args, dtypes, strict=False)
        ]
        form = {**FORMS, **OF_BITS, "copy": "{0}"}[call.name]
        kind = dtypes[-1] if call.name != "where" else out.dtype
        return _as(f"({TYPES[kind]})({form.format(*parts)})", kind, out.dtype)

    def loop(self, phase: int) -> list[str]:
        """The loop over a row that does the work of a phase."""
        group, n = self.group, self.dims[-1][0]
        members = [k for k, p in enumerate(group.phases) if p == phase and not self._in_row(k)]
        if not members:
            return []
        body: list[str] = []
        sums: list[tuple[str, str, int]] = []
        for k in members:
            call, role, (args, out) = group.calls[k], group.roles[k], group.accesses[k]
            if call.kind != "reduce":
                name = self._name("v")
                body.append(
                    f"const {TYPES[out.dtype]} {name} = {self.expression(k, phase, True, body)};"
                )
                self.store(out, name, phase, body)
                continue
            value = self.argument(call.args[0], args[0], out.dtype, phase, True, body)
            if role == "column":
                body.append(f"{self.column(k)}[{self._column_index(k)}] += {value};")
                continue
            if call.name == "sum":
                name = self._name("s")
                sums.append((name, TYPES[out.dtype], k))
                body.append(f"{name} += {value};")
            else:
                name = self._name("s")
                better = ">" if call.name == "max" else "<"
                sums.append((name, TYPES[out.dtype], k))
                body.append(f"const {TYPES[out.dtype]} x{name} = {value};")
                body.append(
                    f"{name} = x{name} {better} {name} || x{name} != x{name} ? x{name} : {name};"
                )
        extremes = [k for _, _, k in sums if group.calls[k].name != "sum"]
        added = [s for s in sums if group.calls[s[2]].name == "sum"]
        blocked = n > BLOCK and bool(added)
        lines = []
        for name, kind, k in sums:
            start = (
                "0"
                if group.calls[k].name == "sum"
                else f"{'-' if group.calls[k].name == 'max' else ''}INFINITY"
            )
            wide = "double" if blocked and kind == "float" and start == "0" else kind
            lines.append(f"{wide} {'w' if blocked and start == '0' else ''}{name} = {start};")
        reduction = f" reduction(+:{', '.join(name for name, _, _ in added)})" if added else ""
        pragma = "" if extremes else f'_Pragma("omp simd{reduction}")'
        inner = [
            f"for (i64 j = {'b' if blocked else '0'}; j < {'e' if blocked else n}; ++j) {{",
            *body,
            "}",
        ]
        if pragma:
            inner.insert(0, pragma)
        if blocked:
            lines.append(f"for (i64 b = 0; b < {n}; b += {BLOCK}) {{")
            lines.append(f"const i64 e = b + {BLOCK} < {n} ? b + {BLOCK} : {n};")
            lines += [f"{kind} {name} = 0;" for name, kind, _ in added]
            lines += [*inner, *(f"w{name} += {name};" for name, _, _ in added), "}"]
        else:
            lines += inner
        for name, kind, k in sums:
            final = f"w{name}" if blocked and group.calls[k].name == "sum" else name
            if group.roles[k] == "total":
                total = self.total(k)
                lines.append(f"{total} += {final};")
                continue
            out = group.accesses[k][1]
            done = self._name("v")
            lines.append(f"const {TYPES[out.dtype]} {done} = ({TYPES[out.dtype]}){final};")
            self.store(out, done, ROW, lines)
        return lines

    def row(self, phase: int) -> list[str]:
        """What is computed once for every row after the loop of a phase."""
        lines: list[str] = []
        for k, p in enumerate(self.group.phases):
            if p == phase and self._in_row(k):
                call, role, (args, out) = (
                    self.group.calls[k],
                    self.group.roles[k],
                    self.group.accesses[k],
                )
                if role == "total":
                    value = self.argument(call.args[0], args[0], out.dtype, ROW, False, lines)
                    lines.append(f"{self.total(k)} += {value};")
                    continue
                name = self._name("v")
                lines.append(
                    f"const {TYPES[out.dtype]} {name} = {self.expression(k, ROW, False, lines)};"
                )
                self.store(out, name, ROW, lines)
        return lines

    def _in_row(self, k: int) -> bool:
        call, role = self.group.calls[k], self.group.roles[k]
        if role == "total":
            return call.args[0].shape != self.group.shape
        return role == "row" and call.kind != "reduce"

    def store(self, out: Access, name: str, phase: int, lines: list[str]) -> None:
        self.values[out] = (phase, name)
        if out.storage not in self.local:
            self.written.add(out.storage)
            lines.append(f"{self.place(out, phase != ROW)} = {name};")
        elif out.storage in self.scratch:
            lines.append(f"{self.scratch[out.storage]}[j] = {name};")

    def column(self, k: int) -> str:
        """The sums of the columns so far: of some rows in their own type, added to the whole after."""
        out = self.group.accesses[k][1]
        self.written.add(out.storage)
        n, kind, step = self.dims[-1][0], TYPES[out.dtype], self._step(out, -1)
        name, pointer = f"c{k}", f"p{self.pointer(out)}"
        inner = "j" if step == 1 else f"j * {step}"
        kept = [d for d in range(len(self.dims) - 1) if self._step(out, d)]
        if kept:  # more than one axis is left: added where they lie
            loops = "".join(f"for (i64 i{d} = 0; i{d} < {self.dims[d][0]}; ++i{d}) " for d in kept)
            place = " + ".join([*(f"i{d} * {self._step(out, d)}" for d in kept), inner])
            self.head.append(f"{loops}for (i64 j = 0; j < {n}; ++j) {pointer}[{place}] = 0;")
            return f"q{self.pointer(out)}"
        self.head.append(f"for (i64 j = 0; j < {n}; ++j) {pointer}[{inner}] = 0;")
        rows = prod(m for m, _ in self.dims[:-1])
        if rows <= ROWS or kind != "float":
            return f"q{self.pointer(out)}"
        self.head.append(
            f"static thread_local float {name}[{n}]; memset({name}, 0, sizeof {name}); i64 r{k} = 0;"
        )
        flush = (
            f"for (i64 j = 0; j < {n}; ++j) {{ {pointer}[{inner}] += {name}[j]; {name}[j] = 0; }}"
        )
        self.every_rows = (*self.every_rows, f"if (++r{k} % {ROWS} == 0) {{ {flush} }}")
        self.tail.append(flush)
        return name

    def _column_index(self, k: int) -> str:
        step = self._step(self.group.accesses[k][1], -1)
        scratch = any(f"r{k} =" in line for line in self.head)
        return "j" if scratch or step == 1 else f"j * {step}"

    def total(self, k: int) -> str:
        out = self.group.accesses[k][1]
        self.written.add(out.storage)
        wide = "double" if out.dtype.kind == "f" else TYPES[out.dtype]
        self.head.append(f"{wide} z{k} = 0;")
        self.tail.append(f"p{self.pointer(out)}[0] = ({TYPES[out.dtype]})z{k};")
        return f"z{k}"


ROW = -2  # where a value is known: in the whole row


def _scratch(group: Group, local: set[Storage]) -> set[Storage]:
    """Local arrays that a later phase reads: their row is kept."""
    made: dict[Storage, int] = {}
    crossing: set[Storage] = set()
    for role, phase, (args, out) in zip(group.roles, group.phases, group.accesses, strict=True):
        for a in args:
            if a is not None and a.storage in made and made[a.storage] != phase:
                crossing.add(a.storage)
        if role == "full":
            made[out.storage] = phase
    return crossing & local


# -- the whole ---------------------------------------------------------------------------------------
class Emitted:
    """The text of a program. `segments`: numbers of native functions `run0`, `run1`, ..., and between
    them the calls that NumPy makes; `kernels`: whose addresses the function takes, by their order."""

    def __init__(self) -> None:
        self.text = ""
        self.segments: list[int | Call] = []
        self.kernels: list[str] = []
        self.stops: list[str] = []


def emit(nodes: Sequence[Call | Group], local: set[Storage], place: dict[Storage, int],
         offsets: dict[Storage, int]) -> Emitted:  # fmt: skip
    """The text; `place`: which base pointer a storage lies at, 0 being the program's own block."""
    made = Emitted()
    functions: dict[str, str] = {}
    bodies: list[list[str]] = []

    def at(storage: Storage, offset: int, kind: str) -> str:
        return f"({kind}*)(at[{place.get(storage, 0)}] + {offsets.get(storage, 0) + offset}LL)"

    for node in nodes:
        if not _native(node):
            assert isinstance(node, Call)
            made.segments.append(node)
            continue
        if not made.segments or not isinstance(made.segments[-1], int):
            made.segments.append(len(bodies))
            bodies.append([])
        if isinstance(node, Group):
            bodies[-1].append(_group(node, local, functions, at))
        else:
            bodies[-1].append(_single(node, made, at))
    runs = [
        f'extern "C" int run{i}(char* const* at, const Slot* numbers, void* const* call) {{\n    '
        + "\n    ".join(body) + "\n    return 0;\n}"
        for i, body in enumerate(bodies)
    ]  # fmt: skip
    prelude = '#include "formulas.h"\n' + (FOLDER.parent / "compile" / "prelude.h").read_text()
    made.text = "\n\n".join(
        [pasted(prelude), *(f"static void {name}{body}" for body, name in functions.items()), *runs]
    )
    return made


def _group(group: Group, local: set[Storage], functions: dict[str, str], at: Any) -> str:
    if not prod(group.shape) and all(role == "full" for role in group.roles):
        return ";"
    loops = _Loops(group, local)
    n, crossing = loops.dims[-1][0], _scratch(group, local)
    loops.scratch = {s: f"k{i}" for i, s in enumerate(sorted(crossing, key=lambda s: s.name))}
    kinds = {out.storage: TYPES[out.dtype] for _, out in group.accesses}
    loops.head += [
        f"alignas(64) static thread_local {kinds[s]} {name}[{max(n, 1)}];"
        for s, name in loops.scratch.items()
    ]
    body = loops.text()
    arguments = [
        f"{'' if a.storage in loops.written else 'const '}{TYPES[a.dtype]}* __restrict p{k}"
        for k, a in enumerate(loops.pointers)
    ] + [f"Slot m{k}" for k in range(len(loops.numbers))]
    text = f"({', '.join(arguments)}) {{\n    {body}\n}}"
    name = functions.setdefault(text, f"loops{len(functions)}")
    given = [at(a.storage, a.offset, TYPES[a.dtype]) for a in loops.pointers]
    given += [f"numbers[{x.position}]" for x in loops.numbers]
    return f"{name}({', '.join(given)});"


def _single(call: Call, made: Emitted, at: Any) -> str:
    """A product, a kernel, rows by number, or a stop."""

    def view(x: View, kind: str | None = None) -> str:
        return at(x.storage, x.offset, kind or TYPES[x.dtype])

    def stop_if(condition: str, name: str) -> str:
        made.stops.append(name)
        return f"if ({condition}) return {len(made.stops)};"

    if call.kind == "stop":
        return stop_if(f"!*{view(call.args[0])}", call.name)
    if call.kind == "take":
        (table, rows), (out,) = call.args, call.outs
        columns = prod(table.shape[1:])
        done = f"take({view(out)}, {view(table)}, {view(rows)}, {rows.size}, {table.shape[0]}, {columns})"
        return stop_if(f"!{done}", f"an index out of range at {call.line}")
    if call.kind == "product":
        (a, b), (out,) = call.args, call.outs
        (m, k), n, kind = a.shape, b.shape[1], TYPES[out.dtype]
        if not m or not n:
            return ";"
        place = 0 if kind == "float" else 1
        sides = ", ".join(f"{view(x)}, {_leading(x)}" for x in (a, b))
        return f"product<{kind}>(call[{place}], {m}, {n}, {k}, {sides}, {view(out)});"
    if call.name not in made.kernels:
        made.kernels.append(call.name)
    kinds = [kind for kind, _ in signatures()[call.name]]
    given = []
    for kind, x in zip(kinds, call.args, strict=True):
        if isinstance(x, View):
            given.append(view(x, kind.removesuffix("*")))
        elif isinstance(x, Number):
            given.append(f"({kind})numbers[{x.position}].{'whole' if x.whole else 'number'}")
        elif x is None:
            given.append("nullptr")
        else:
            dtype = next(d for d, name in TYPES.items() if name == kind)
            given.append(_constant(x, dtype))
    return f"((void (*)({', '.join(kinds)}))call[{2 + made.kernels.index(call.name)}])({', '.join(given)});"


def _leading(x: View) -> str:
    """How BLAS reads a matrix: from row to row, and whether its rows are columns."""
    (rows, columns), (down, right), size = x.shape, x.strides, x.dtype.itemsize
    if (right == size or columns == 1) and (rows == 1 or down >= columns * size):
        return f"{max(down // size if rows > 1 else columns, columns, 1)}, false"
    return f"{max(right // size if columns > 1 else rows, rows, 1)}, true"
