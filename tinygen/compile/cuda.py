"""The CUDA text of a program: a function for each nest of loops, and a kernel for each launch.

Its formulas, and those of the kernels that stand in it whole (kernels.cu), are those of the CPU's.
Arguments of kernels are addresses alone. The numbers of a run lie in a table on the device, so that a
graph, which keeps the arguments of its launches, has those of the day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinygen.compile.emit import FOLDER, PRELUDE, TYPES, Emitted, Loops, expressible
from tinygen.compile.fuse import Access, Group, Launch, Member
from tinygen.compile.program import Call, Program, Storage, View
from tinygen.errors import CompileError
from tinygen.kernels import cuda
from tinygen.kernels.signatures import inlined, pasted

__all__ = ["Kernel", "Kernels", "fits_in_loop", "in_loops"]

GPU = (FOLDER / "gpu.h").read_text()
THREADS = 256
PARTS = 32  # that have sums of their own: over columns, or all elements
UNROLLED = 8  # elements of a row that one thread has


@dataclass
class Kernel:
    """A launch: its name, and where its arguments are: (a storage, or the word for a table; an offset)."""

    name: str
    blocks: int
    arguments: list[tuple[Any, int]]


FLOAT = np.dtype(np.float32)
ADAM = ("adam_mean", "adam_square", "adam_parameter", "adam_average")  # in gpu.h


def in_loops(calls: Sequence[Call]) -> list[Call]:
    """The calls with Adam's kernels as elementwise ones, so that they join the loop that clips their
    gradient. The formulas are the kernel's own."""
    made: list[Call] = []
    for call in calls:
        if call.name != "adam" or call.kind != "kernel":
            made.append(call)
            continue
        p, g, mean, square, average, _, *c = call.args
        parts = [(*c[:2], mean, g), (*c[2:4], square, g), (*c[4:8], p, mean, square)]
        parts += [] if average is None else [(c[8], average, p)]
        outs = [mean, square, p, average]
        for name, args, out in zip(ADAM, parts, outs, strict=False):
            dtypes = (FLOAT,) * (len(args) + 1)
            made.append(
                Call("ufunc", call.function, args, [out], name, line=call.line, dtypes=dtypes)
            )
    return made


def fits_in_loop(call: Call) -> bool:
    """Whether a call can stand in a loop of the text."""
    return call.name in ADAM or expressible(call)


class _Loops(Loops):
    """The loops of a group as a function that all threads of a grid run.

    Without sums every thread has elements of its own. With sums a team of threads, at most a block,
    has rows of its own, and a thread of it always the same columns: so what one phase leaves for the
    next are numbers of that thread. The sums of a row are added by its team in a fixed order; sums over
    rows by the block that ends last, in the order of the teams.
    """

    once, column = "if (first) ", "c"

    def __init__(self, group: Group, local: set[Storage]) -> None:
        super().__init__(group, local)
        self.width = self.dims[-1][0]
        self.lanes = min(THREADS, 1 << max(self.width - 1, 0).bit_length())
        self.lengths = [length for length, _ in self.dims]
        rows, teams = prod(self.lengths[:-1]), THREADS // self.lanes
        self.rows, self.teams, self.steps = rows, teams, max(1, -(-self.width // self.lanes))
        apart = any(m.role in ("column", "total") for m in group.members)
        most = max(1, PARTS // teams) if apart else rows
        self.blocks = max(1, min(-(-rows // teams), most))
        if not self.by_row:
            self.blocks = -(-prod(self.lengths) // THREADS)

    def _loop(self, body: list[str], added: list[str]) -> list[str]:
        if self.by_row:
            unroll = ["UNROLL"] if self.steps <= UNROLLED else []
            loop = f"for (int c = 0; c < {self.steps}; ++c) {{"
            place = f"const i64 j = lane + c * {self.lanes};"
            return [*unroll, loop, place, f"if (!live || j >= {self.width}) break;", *body, "}"]
        kind, n = ("u32" if prod(self.lengths) < 2**31 else "u64"), prod(self.lengths)
        begin, step = f"blockIdx.x * ({kind})THREADS + threadIdx.x", f"gridDim.x * ({kind})THREADS"
        loop = f"for ({kind} e = {begin}; e < {n}; e += {step}) {{"
        return [loop, *self._places("e", self.lengths, kind), *body, "}"]

    def _places(self, number: str, lengths: list[int], kind: str) -> list[str]:
        """The place in each loop of the element, or row, of this number."""
        names = [f"i{d}" for d in range(len(lengths))]
        if not self.by_row:
            names[-1] = "j"
        places, inside = [], 1
        for d in reversed(range(len(lengths))):
            cut = f" % {max(lengths[d], 1)}" if d else ""
            places.append(f"const i64 {names[d]} = ({kind})({number} / {max(inside, 1)}){cut};")
            inside *= lengths[d]
        return places

    def _joined(self, name: str) -> list[str]:
        return [f"{name} = sum_of_team<{self.lanes}>({name});"]

    def _end(self, m: Member, kind: str, n: int, name: str) -> None:
        if m.role == "column":
            zero = f"for (int j = lane; j < {n}; j += {self.lanes}) {name}[j] = 0;"
            self.head += [f"{kind}* {name} = own->{name};", zero]
        else:
            self.head.append(f"{kind} {name} = 0;")
            self.foot += [*self._joined(name), f"if (lane == 0) own->{name}[0] = {name};"]
        n = self.sums[name][1]
        sums = f"for (int p = 0; p < {self.blocks * self.teams}; ++p) s += sums[p].{name}[j];"
        loop = f"for (int j = threadIdx.x; j < {n}; j += THREADS) {{"
        self.tail += [loop, f"{kind} s = 0;", sums, f"{self._at(m.out)} = s;", "}"]

    @property
    def scratch(self) -> int:
        """Bytes of the sums of all parts."""
        return 8 * self.blocks * self.teams * sum(length for _, length in self.sums.values())

    def text(self) -> str:
        """The function; # stands for its number."""
        inside = self._inside()
        walked = self._walked()
        if self.by_row:
            kinds = {m.out.storage: TYPES[m.out.dtype] for m in self.group.members}
            kept = [f"{kinds[s]} k{i}[{self.steps}];" for i, s in enumerate(self.kept)]
            own = [f"Sums# *own = sums + blockIdx.x * {self.teams} + team;"] if self.sums else []
            step = self.blocks if self.sums else "(i64)gridDim.x"
            loop = (
                f"for (i64 base = blockIdx.x * {self.teams}LL; base < {self.rows};"
                f" base += {step} * {self.teams}LL) {{"
            )
            inside = [
                f"const int lane = threadIdx.x % {self.lanes}, team = threadIdx.x / {self.lanes};",
                *own,
                *self.head,
                loop,
                f"const bool live = base + team < {self.rows}, first = live && lane == 0;",
                f"const i64 row = live ? base + team : {max(self.rows - 1, 0)};",
                *self._places("row", self.lengths[:-1], "i64"),
                *kept,
                *inside,
                "}",
                *self.foot,
                *(
                    [f"if (last_block(arrived, {self.blocks})) {{", *self.tail, "}"]
                    if self.sums
                    else []
                ),
            ]
        sums = " ".join(f"{kind} {name}[{length}];" for name, (kind, length) in self.sums.items())
        declared = f"struct Sums# {{ {sums} }};\n" if self.sums else ""
        if self.sums:
            walked += ["char* scratch", "u32* arrived"]
            begin = [f"if (blockIdx.x >= {self.blocks}) return;", "Sums# *sums = (Sums#*)scratch;"]
            inside = [*begin, *inside]
        body = "\n    ".join(inside)
        return f"{declared}static __device__ void loops#({', '.join(walked)}) {{\n    {body}\n}}"


class Kernels(Emitted):
    """The text of a program, and its launches in order. `scratch`: bytes that the sums of parts need.

    A launch that writes outside the program after a stop does nothing once the stop was met.
    """

    def __init__(self, program: Program, launches: Sequence[Launch], local: set[Storage]) -> None:
        super().__init__(local, {})
        self.scratch = 0
        self.texts: dict[str, int] = {}
        self.given: list[tuple[Any, int]] = []
        for launch in launches:
            self._launch(launch)
        whole = "#define KERNEL(name) static __device__ void name\n" + inlined("kernels.cu")
        headers = whole if self.kernels else pasted('#include "formulas.h"\n')
        parts = [
            "#pragma nv_diag_suppress 177  // unused",
            headers,
            PRELUDE,
            GPU,
            *self._functions(),
        ]
        parts += [text.replace("#", str(i)) for text, i in self.texts.items()]
        self.text = "\n\n".join([*parts, _post(program)])

    def _launch(self, launch: Launch) -> None:
        """Enter a launch, or a call that is none of a kernel of the text."""
        node: Any = launch.nodes[0]
        self.given, self.blocks, self.used, self.counters = [], 1, 0, 0
        guarded = bool(self.stops) and any(x.storage.kind == "outside" for x in launch.outs)
        lines = [self._line(node) for node in launch.nodes]
        if None in lines:
            if guarded:
                raise CompileError(
                    f"{node.line}: {node.name} writes outside the step after something that may end it"
                )
            self.segments += launch.nodes
            return
        if not self.given:
            return  # all arrays are empty
        guard = [f"if ({self._given('stopped', 0, 'Stopped*')}->code) return;"] if guarded else []
        names = [f"u64 q{i}" for i in range(len(self.given))]
        body = "\n    ".join([*guard, *lines])  # type: ignore[list-item]
        text = (
            f'extern "C" __global__ void __launch_bounds__(256) launch#({", ".join(names)}) {{\n'
            f"    {body}\n}}"
        )
        number = self.texts.setdefault(text, len(self.texts))
        self.segments.append(Kernel(f"launch{number}", self.blocks, self.given))

    def _given(self, where: Any, offset: int, kind: str) -> str:
        """An argument of the launch: the address of a place."""
        if (where, offset) not in self.given:
            self.given.append((where, offset))
        return f"(({kind})q{self.given.index((where, offset))})"

    def _at(self, x: View | Access, kind: str = "") -> str:
        kind = f"{kind or TYPES[x.dtype]}*"
        if not x.storage.nbytes:
            return f"(({kind})nullptr)"
        if x.storage.kind == "result":  # its address is known at the run
            return f"(({kind})(*{self._given(x.storage, 0, 'char* const*')} + {x.offset}))"
        return self._given(x.storage, x.offset, kind)

    def _number(self, position: int) -> str:
        return f"(*{self._given('table', 8 * (1 + position), 'const Slot*')})"

    def _loops(self, group: Group) -> str:
        loops = _Loops(group, self.local)
        number = self.functions.setdefault(loops.text(), len(self.functions))
        given = [self._at(p) for p in loops.pointers]
        given += [self._number(x.position) for x in loops.numbers]
        if loops.sums:
            given.append(self._given("scratch", self.used, "char*"))
            given.append(self._given("arrived", 4 * self.counters, "u32*"))
            self.used, self.counters = self.used + loops.scratch, self.counters + 1
            self.scratch = max(self.scratch, self.used)
        self.blocks = max(self.blocks, loops.blocks)
        return f"loops{number}({', '.join(given)});"

    def _stop_if(self, condition: str, name: str) -> str:
        self.stops.append(name)
        stopped, run = self._given("stopped", 0, "Stopped*"), self._given("table", 0, "const u64*")
        return f"if ({condition}) stop({stopped}, {len(self.stops)}, *{run});"

    def _stop(self, call: Call) -> str:
        return self._stop_if(f"single() && !*{self._at(call.args[0])}", call.name)

    def _take(self, call: Call) -> str | None:
        self.blocks = max(self.blocks, -(-prod(call.outs[0].shape) // THREADS))
        return super()._take(call)

    def _product(self, call: Call) -> str | None:  # type: ignore[override]
        return None  # cuBLAS launches it

    def _kernel(self, call: Call) -> str:
        work = -(-cuda._size_of(call.name)(call.args) // cuda.PER_BLOCK)
        self.blocks = max(self.blocks, work)
        return super()._kernel(call)

    def _function(self, name: str, kinds: list[str]) -> str:
        return name


def _post(program: Program) -> str:
    """The kernel that puts what is of one run into the table, and copies the arguments of the step."""
    count = 1 + len(program.numbers) + len(program.results)
    given = [f"u64 v{i}" for i in range(count)]
    places = [f"((u64*)table)[{i}] = v{i};" for i in range(count)]
    for i, argument in enumerate(program.arguments):
        given += [f"u64 to{i}", f"u64 from{i}"]
        places.append(f"copy(to{i}, from{i}, {argument.nbytes});")
    places.insert(count, "}")
    body = "\n    ".join(["if (blockIdx.x == 0 && threadIdx.x == 0) {", *places])
    return (
        f'extern "C" __global__ void __launch_bounds__(256) post(u64 table, {", ".join(given)}) {{\n'
        f"    {body}\n}}"
    )
