"""The CUDA kernels compile for every architecture, and fit into the registers and the instructions an
element that are recorded for them.

No GPU is needed: nvcc does it, and NVRTC, the compiler that CuPy uses, from its wheel
(``pip install nvidia-cuda-nvrtc nvidia-cuda-nvdisasm``). After a kernel has changed, or the compiler has,

    python -m tests.kernels.test_cuda_compile

writes ``cuda_registers.txt`` and ``cuda_instructions.txt`` anew; what changed is worth a look.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import sass
from tests.support.cuda_on_cpu import FROM_CUPY, cached
from tinygen.kernels import cuda
from tinygen.kernels.signatures import signatures

pytestmark = pytest.mark.cpu_only("nothing runs here")

ARCHITECTURES = ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"]
TABLE = Path(__file__).parent / "cuda_registers.txt"
INSTRUCTIONS = Path(__file__).parent / "cuda_instructions.txt"
COUNTED = ["sm_80", "sm_90", "sm_100", "sm_120"]
MOST_REGISTERS = 80  # with any compiler: then a multiprocessor holds 768 threads

# The bytes of an argument, as declared and as PTX has it.
DECLARED_BYTES = {"float": 4, "i32": 4, "u32": 4, "double": 8, "i64": 8, "u64": 8}
DECLARED_BYTES["Table"] = cuda.TABLE.itemsize
PTX_BYTES = {"b8": 1, "f32": 4, "u32": 4, "b32": 4, "f64": 8, "u64": 8, "b64": 8}
PARAMETER = re.compile(r"\.param (?:\.align \d+ )?\.(\w+) \w+(?:\[(\d+)\])?")


class Resources(NamedTuple):
    """What one kernel takes on one architecture: registers, and bytes where they did not suffice."""

    registers: int
    local: int


# -- compilers -------------------------------------------------------------------------------------


class Nvcc:
    """The compiler of the CUDA toolkit."""

    def __init__(self) -> None:
        self.program = shutil.which("nvcc")
        if self.program is None:
            raise OSError("there is no nvcc")
        version = re.search(r"release .*, V(\S+)", self._run(["--version"]))
        self.version = f"nvcc {version[1]}"

    def assembly(self, source: str, options: Sequence[str]) -> str:
        """The PTX of a source."""
        return self._compile(source, [*options, "--ptx", "-arch=compute_75"])[0].decode()

    def report(self, source: str, options: Sequence[str], architecture: str) -> str:
        """What ptxas says about the machine code of a source."""
        options = [*options, "--cubin", f"-arch={architecture}", "--ptxas-options=-v"]
        return self._compile(source, options)[1]

    def code(self, source: str, options: Sequence[str], architecture: str) -> bytes:
        """The machine code of a source."""
        return self._compile(source, [*options, "--cubin", f"-arch={architecture}"])[0]

    def _compile(self, source: str, options: Sequence[str]) -> tuple[bytes, str]:
        with tempfile.TemporaryDirectory() as folder:
            text, output = Path(folder, "kernels.cu"), Path(folder, "kernels.out")
            text.write_text(source)
            log = self._run([*options, "-Werror=all-warnings", "-o", str(output), str(text)])
            return output.read_bytes(), log

    def _run(self, arguments: Sequence[str]) -> str:
        done = subprocess.run([self.program, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nvcc {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr


class Nvrtc:
    """The library that CuPy compiles with."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("nvidia")
        folders = [Path(folder) for folder in spec.submodule_search_locations] if spec else []
        found = {path.name: path for folder in folders for path in folder.glob("*/lib/libnvrtc*")}
        if not found:
            raise OSError("there is no NVRTC wheel")
        # The library looks for its built-in headers by name: they have to be there before it is.
        for name in sorted(found, key=lambda name: "builtins" not in name):
            self._library = ctypes.CDLL(str(found[name]), mode=ctypes.RTLD_GLOBAL)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"nvrtc {major.value}.{minor.value}"

    def assembly(self, source: str, options: Sequence[str]) -> str:
        """The PTX of a source."""
        return self._compile(source, [*options, "-arch=compute_75"], "PTX").rstrip(b"\0").decode()

    def report(self, source: str, options: Sequence[str], architecture: str) -> str:
        """What ptxas says about the machine code of a source."""
        options = [*options, f"-arch={architecture}", "--ptxas-options=-v"]
        return self._compile(source, options, "ProgramLog").rstrip(b"\0").decode()

    def code(self, source: str, options: Sequence[str], architecture: str) -> bytes:
        """The machine code of a source."""
        return self._compile(source, [*options, f"-arch={architecture}"], "CUBIN")

    def _compile(self, source: str, options: Sequence[str], result: str) -> bytes:
        program = ctypes.c_void_p()
        text = source.encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text, b"kernels.cu", 0, None, None)
        try:
            encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            code = self._library.nvrtcCompileProgram(program, len(options), encoded)
            if code:
                raise RuntimeError(self._get("ProgramLog", program).rstrip(b"\0").decode())
            return self._get(result, program)
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _get(self, result: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{result}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{result}", program, text)
        return text.raw[: size.value]

    def _call(self, name: str, *arguments: object) -> None:
        if code := self._library[name](*arguments):
            raise RuntimeError(f"{name} failed with code {code}")


# -- what they report ------------------------------------------------------------------------------


def resources(report: str) -> dict[str, Resources]:
    """Each kernel's resources, from the report of ptxas."""
    _, *entries = re.split(r"Compiling entry function '(\w+)'", report)
    return {
        name: Resources(
            int(re.search(r"Used (\d+) registers", text)[1]),
            sum(int(size) for size in re.findall(r"(\d+) bytes (?:stack|spill)", text)),
        )
        for name, text in zip(entries[::2], entries[1::2], strict=True)
    }


def compile_all(compiler: Nvcc | Nvrtc) -> dict[str, dict[str, Resources]]:
    """Each kernel's resources on each architecture; two compilations run at a time."""
    source, options = cuda.source(), [*cuda.OPTIONS, *FROM_CUPY]

    def report(name: str) -> str:
        return cached(
            [compiler.version, name, *options, source],
            lambda path: path.write_text(compiler.report(source, options, name)),
        ).read_text()

    with ThreadPoolExecutor(2) as pool:
        return dict(
            zip(ARCHITECTURES, map(resources, pool.map(report, ARCHITECTURES)), strict=True)
        )


def entry_points(assembly: str) -> dict[str, list[int]]:
    """The bytes of each argument of each kernel in a PTX text."""
    return {
        name: [PTX_BYTES[kind] * int(count or 1) for kind, count in PARAMETER.findall(arguments)]
        for name, arguments in re.findall(r"\.visible \.entry (\w+)\(([^)]*)\)", assembly)
    }


def declared_entry_points() -> dict[str, list[int]]:
    """The same as the Python side has it: an address has 8 bytes."""
    return {
        name: [8 if kind.endswith("*") else DECLARED_BYTES[kind] for kind, _ in arguments]
        for name, arguments in signatures().items()
    }


# -- the table -------------------------------------------------------------------------------------


def table_text(version: str, used: dict[str, dict[str, Resources]]) -> str:
    """The table as it stands in its file."""
    width = max(map(len, signatures()))

    def line(name: str, cells: Iterable[object]) -> str:
        return f"{name:{width}}" + "".join(f"{cell!s:>8}" for cell in cells)

    rows = [
        line(kernel, (used[name][kernel].registers for name in ARCHITECTURES))
        for kernel in signatures()
    ]
    title = "# Registers of each kernel, as test_cuda_compile.py writes and checks them."
    return "\n".join([title, version, line("", ARCHITECTURES), *rows, ""])


def read_table(text: str) -> tuple[str, dict[str, dict[str, int]]]:
    """The compiler's version, and the registers of each kernel on each architecture."""
    _, version, heads, *rows = text.splitlines()
    names = heads.split()
    registers = {
        kernel: dict(zip(names, map(int, cells), strict=True))
        for kernel, *cells in (row.split() for row in rows)
    }
    return version, registers


# -- instructions an element -----------------------------------------------------------------------

BUDGET = {"squared_error": 62.0, "noise_step": 62.0}
"""At most, on sm_90 and with any compiler: what an H200 issues while it moves an element's 8 bytes at
90 % of a copy's rate."""


def count_all(compiler: Nvcc | Nvrtc) -> dict[str, dict[str, float]]:
    """Instructions an element of each kernel that is counted, on each architecture."""
    source, options = cuda.source(), [*cuda.OPTIONS, *FROM_CUPY]

    def code(name: str) -> bytes:
        return cached(
            [compiler.version, "code", name, *options, source],
            lambda path: path.write_bytes(compiler.code(source, options, name)),
        ).read_bytes()

    with ThreadPoolExecutor(2) as pool:
        codes = pool.map(code, COUNTED)
        return dict(zip(COUNTED, map(sass.instructions, codes), strict=True))


def instructions_text(version: str, counts: dict[str, dict[str, float]]) -> str:
    """The table of instructions as it stands in its file."""
    title = "# Instructions an element of kernels, as test_cuda_compile.py writes and checks them."
    rows = [
        f"{kernel:32}" + "".join(f"{counts[name][kernel]:8.2f}" for name in COUNTED)
        for kernel in sass.WIDE
    ]
    heads = " " * 32 + "".join(f"{name:>8}" for name in COUNTED)
    return "\n".join([title, version, heads, *rows, ""])


# -- tests -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[Nvcc, Nvrtc])
def compiler(request):
    try:
        return request.param()
    except OSError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def used(compiler):
    return compile_all(compiler)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_and_keeps_all_in_registers(used, architecture):
    assert used[architecture].keys() == signatures().keys()
    assert not {kernel: taken for kernel, taken in used[architecture].items() if taken.local}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_registers_are_no_more_than_recorded(compiler, used, architecture):
    version, table = read_table(TABLE.read_text())
    assert table.keys() == signatures().keys(), "to be written anew"
    exact = version == compiler.version
    too_many = {
        kernel: f"{taken.registers}, recorded {table[kernel][architecture]}"
        for kernel, taken in used[architecture].items()
        if taken.registers > (table[kernel][architecture] if exact else MOST_REGISTERS)
    }
    assert not too_many


@pytest.fixture(scope="module")
def counts(compiler):
    try:
        sass.disassembler()
    except OSError as reason:
        pytest.skip(str(reason))
    return count_all(compiler)


def test_instructions_are_within_the_budget(counts):
    too_many = {k: counts["sm_90"][k] for k, most in BUDGET.items() if counts["sm_90"][k] > most}
    assert not too_many


def test_instructions_are_no_more_than_recorded(compiler, counts):
    _, version, heads, *rows = INSTRUCTIONS.read_text().splitlines()
    table = {kernel: dict(zip(heads.split(), map(float, row), strict=True))
             for kernel, *row in map(str.split, rows)}  # fmt: skip
    assert table.keys() == sass.WIDE.keys(), "to be written anew"
    slack = 1.001 if version == compiler.version else 1.15
    more = {
        (kernel, name): f"{counts[name][kernel]:.2f}, recorded {number}"
        for kernel, row in table.items()
        for name, number in row.items()
        if counts[name][kernel] > number * slack
    }
    assert not more


LOOP = """
.text.f:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/              @P0 BRA `(.L_x_2) ;
        /*0030*/                   MUFU.RSQ R9, R8 ;
        /*0040*/                   FADD R4, R4, R9 ;
.L_x_2:
        /*0050*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*0060*/              @!P1 BRA `(.L_x_1) ;
        /*0070*/                   EXIT ;
"""


def test_the_way_through_a_loop_is_counted():
    """Four elements in four instructions; with noise drawn, in six."""
    code = sass.code(LOOP)
    assert sass.of_element("fill_bits", code) == 1.0
    assert sass.of_element("noise_step", code) == 1.5


@pytest.fixture(scope="module")
def assembly(compiler):
    return compiler.assembly(cuda.source(), cuda.OPTIONS)


def test_compiled_arguments_are_those_declared(assembly):
    assert entry_points(assembly) == declared_entry_points()


def test_kernels_of_float_do_not_compute_in_double(assembly):
    """A constant without its f would widen what it meets, and a GPU has few units for doubles."""
    _, *entries = re.split(r"\.visible \.entry (\w+)", assembly)
    widening = {
        name for name, text in zip(entries[::2], entries[1::2], strict=True) if ".f64" in text
    }
    doubles = {
        name
        for name, arguments in signatures().items()
        if any("double" in kind for kind, _ in arguments)
    }
    assert widening == doubles


ARITHMETIC = """
extern "C" __global__ void f(float* x) { x[0] = sqrtf(x[1] * x[2] + x[3]) / x[4]; }
"""


def test_arithmetic_is_that_of_the_cpu(compiler):
    """Products and sums are rounded one by one, roots and quotients to the nearest number."""
    text = compiler.assembly(ARITHMETIC, [*cuda.OPTIONS, *FROM_CUPY])
    assert "fma" not in text
    assert "sqrt.rn" in text
    assert "div.rn" in text


def test_table_is_read_as_it_is_written():
    used = {
        name: {kernel: Resources(i + j, 0) for j, kernel in enumerate(signatures())}
        for i, name in enumerate(ARCHITECTURES)
    }
    version, table = read_table(table_text("nvcc 1.2.3", used))
    assert version == "nvcc 1.2.3"
    assert {
        (kernel, name): cell for kernel, row in table.items() for name, cell in row.items()
    } == {(kernel, name): used[name][kernel].registers for name in used for kernel in used[name]}


def test_a_compiler_shows_the_error(compiler):
    with pytest.raises(RuntimeError, match=r"kernels.cu\(1\).*oops"):
        compiler.assembly("__global__ void f() { oops; }", [])


SPILLS = """
extern "C" __global__ void __launch_bounds__(1024) hungry(float* x) {
    float a[128];
    for (int i = 0; i < 128; ++i) a[i] = x[i * 1024];
    __syncthreads();
    for (int i = 0; i < 128; ++i) x[i] = a[127 - i] * a[i];
}
extern "C" __global__ void modest(float* x) {}
"""


def test_spilled_registers_are_seen(compiler):
    used = resources(compiler.report(SPILLS, [], "sm_80"))
    assert used["hungry"].local > 0
    assert used["modest"].local == 0


if __name__ == "__main__":
    compiler = Nvcc() if shutil.which("nvcc") else Nvrtc()
    TABLE.write_text(table_text(compiler.version, compile_all(compiler)))
    INSTRUCTIONS.write_text(instructions_text(compiler.version, count_all(compiler)))
