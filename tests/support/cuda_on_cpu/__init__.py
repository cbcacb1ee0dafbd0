"""CUDA on a CPU: g++ compiles the text of the kernels, and the threads run one after another.

``build`` gives the kernels of a source; ``Kernels.launch`` runs one. What a GPU would not notice
raises here: an argument of a wrong type, an unaligned pointer, too many threads in a block, a
barrier that not every thread reaches. With ``sanitize=True`` the address and undefined-behaviour
sanitizers are compiled in: such kernels load only in a process that has ``sanitizer_environment``.

What this cannot show: anything between threads that run at the same time, except that the order
of the threads must not matter (run forwards and backwards), and the GPU's own arithmetic.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygen.kernels.native import Table

__all__ = [
    "COMPILER",
    "FROM_CUPY",
    "Kernels",
    "LaunchError",
    "Prototype",
    "build",
    "cached",
    "flushing",
    "run_kernel_source",
    "sanitizer_environment",
]

COMPILER = shutil.which("g++")
FROM_CUPY = ("-ftz=true",)
"""What CuPy adds to the options of every kernel."""

_HEADER = (Path(__file__).parent / "cuda.h").read_text()
_FLAGS = ["-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-strict-aliasing"]
_FLAGS += ["-ffp-contract=off", "-Wno-unknown-pragmas"]
_SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

_VISIBLE = '__attribute__((visibility("default")))'

_SCALARS = {
    "float": (np.float32, ctypes.c_float),
    "double": (np.float64, ctypes.c_double),
    "i32": (np.int32, ctypes.c_int32),
    "u32": (np.uint32, ctypes.c_uint32),
    "i64": (np.int64, ctypes.c_int64),
    "u64": (np.uint64, ctypes.c_uint64),
    "Table": (np.void, lambda table: Table.from_buffer_copy(table.tobytes())),
}


class LaunchError(RuntimeError):
    """A launch that a GPU would refuse, or that would never end there."""


class Prototype(NamedTuple):
    """A kernel as it is declared: (type, name) of each argument; threads that a block may have."""

    arguments: list[tuple[str, str]]
    max_threads: int


def _find_prototypes(preprocessed: str) -> dict[str, Prototype]:
    """The kernels that are defined in a text without macros."""
    kernel = re.compile(
        r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\(\s*(\d+)[^()]*\)\s*)?'
        r"(\w+)\s*\(([^()]*)\)\s*\{"
    )
    return {
        name: Prototype([_argument(text) for text in arguments.split(",")], int(bound or 1024))
        for bound, name, arguments in kernel.findall(preprocessed)
    }


def _argument(text: str) -> tuple[str, str]:
    """("const float*", "x") of "const float * __restrict__ x"."""
    declared, name = re.fullmatch(r"\s*(.*?)\s*(\w+)\s*", text.replace("__restrict__", "")).groups()
    kind = re.sub(r"\s*\*", "*", " ".join(declared.split()))
    if kind.removeprefix("const ").removesuffix("*") not in _SCALARS:
        raise TypeError(f"a kernel's argument has the type {kind!r}; known are {list(_SCALARS)}")
    return kind, name


# asm("mul.wide.u32 %0, %1, %2;" : "=l"(p) : "r"(a), "r"(b));
_ASSEMBLY = re.compile(r'\basm\s*\(\s*"([\w.]+) [%\d, ]+;"\s*:\s*"=\w"\((\w+)\)\s*:([^;]*)\);')


def _function_of_assembly(found: re.Match[str]) -> str:
    """``p = ptx::mul_wide_u32(a, b);`` of an instruction of PTX; cuda.h has the function."""
    operands = re.findall(r'"\w"\(([^()]+)\)', found[3])
    return f"{found[2]} = ptx::{found[1].replace('.', '_')}({', '.join(operands)});"


def _entry_point(name: str, prototype: Prototype) -> str:
    """The C function that ctypes calls: it runs a grid of the kernel."""
    declared = "".join(f", {kind} {argument}" for kind, argument in prototype.arguments)
    passed = ", ".join(argument for _, argument in prototype.arguments)
    return (
        f'extern "C" {_VISIBLE}\n'
        f"const char* run_{name}(unsigned blocks_, unsigned threads_, int backward_{declared}) {{\n"
        f"    return cuda_on_cpu::run(blocks_, threads_, backward_, [&] {{ {name}({passed}); }});\n"
        "}\n"
    )


class Kernels:
    """The kernels of one source, compiled for the CPU. ``prototypes`` says how each is declared."""

    def __init__(self, library: Path) -> None:
        # PyDLL keeps the lock of the interpreter: there is only one grid at a time.
        self._library = ctypes.PyDLL(str(library))
        text = ctypes.c_char_p.in_dll(self._library, "prototypes").value
        self.prototypes = {name: Prototype(*entry) for name, entry in json.loads(text).items()}

    def launch(
        self, name: str, grid: int, block: int, args: Sequence[Any], order: str = "forward"
    ) -> None:
        """Run a kernel: ``grid`` blocks of ``block`` threads, in the order given.

        An argument is a contiguous NumPy array for a pointer (or a Python int, its address, whose
        type nobody checks; or ``np.uintp(0)``, null), and a NumPy scalar of the declared type for
        a value.
        """
        self.prepared(name, grid, block, args, order)()

    def prepared(
        self, name: str, grid: int, block: int, args: Sequence[Any], order: str = "forward"
    ) -> Callable[[], None]:
        """The launch with its arguments checked, which it keeps as addresses and numbers."""
        if name not in self.prototypes:
            raise KeyError(f"no kernel {name!r}; there are {sorted(self.prototypes)}")
        if order not in ("forward", "backward"):
            raise ValueError(f"order must be 'forward' or 'backward', got {order!r}")
        arguments, max_threads = self.prototypes[name]
        if not (1 <= grid < 2**31 and 1 <= block <= max_threads):
            raise LaunchError(f"{name}: a grid of {grid} blocks of {block} threads is none")
        if len(args) != len(arguments):
            raise TypeError(f"{name} takes {len(arguments)} arguments, got {len(args)}")
        run = self._library[f"run_{name}"]
        run.restype = ctypes.c_char_p
        values = [
            _pass(name, *declared, arg) for declared, arg in zip(arguments, args, strict=True)
        ]
        numbers = ctypes.c_uint(grid), ctypes.c_uint(block), ctypes.c_int(order == "backward")

        def launch() -> None:
            if message := run(*numbers, *values):
                raise LaunchError(f"{name}: {message.decode()}")

        return launch


def _pass(kernel: str, declared: str, name: str, arg: Any) -> Any:
    """The argument as ctypes has it, if it is what the kernel declares."""
    dtype, value_type = _SCALARS[declared.removeprefix("const ").removesuffix("*")]
    problem = f"{kernel}: argument {name} is a {declared}, got "
    if not declared.endswith("*"):
        if isinstance(arg, np.ndarray) and arg.size == 1:  # CuPy passes it by value
            arg = arg[()]
        if type(arg) is not dtype:
            raise TypeError(problem + f"{arg!r} of type {type(arg).__name__}")
        return value_type(arg)
    if isinstance(arg, np.ndarray):
        if arg.dtype != dtype or not arg.flags.c_contiguous:
            raise TypeError(problem + f"an array of {arg.dtype}, strides {arg.strides}")
        if not (arg.flags.writeable or declared.startswith("const ")):
            raise TypeError(problem + "a read-only array")
        arg = arg.ctypes.data
    if type(arg) is not int and not (type(arg) is np.uintp and arg == 0):
        raise TypeError(problem + f"{arg!r} of type {type(arg).__name__}")
    if arg % dtype().itemsize:
        raise TypeError(problem + f"the address {arg:#x}, which is not aligned")
    return ctypes.c_void_p(int(arg))


def build(
    source: str, options: Sequence[str] = (), sanitize: bool = False, only: Sequence[str] = ()
) -> Kernels:
    """Compile CUDA source with g++. The same text is compiled once per machine.

    Of the CUDA compiler's options ``-D...``, ``-std=...`` and ``-ftz=true`` have a meaning here.
    ``only`` names the kernels that are wanted (if empty: all), which is faster for a few.
    """
    flags = [*_FLAGS, *(_SANITIZE if sanitize else [])]
    flags += [option for option in options if re.match("-D|-std=", option)]
    if "-ftz=true" in options:
        flags.append("-DFLUSH_TO_ZERO")
    version = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True)
    parts = [_HEADER, source, *flags, *only, version.stdout, Path(__file__).read_text()]
    return Kernels(cached(parts, lambda path: _compile(source, flags, only, path)))


_REGISTER = f"""
#ifdef __SSE__
#include <xmmintrin.h>
extern "C" {_VISIBLE} unsigned read() {{ return _mm_getcsr(); }}
extern "C" {_VISIBLE} void write(unsigned flags) {{ _mm_setcsr(flags); }}
#else
extern "C" {_VISIBLE} unsigned read() {{ return 0; }}
extern "C" {_VISIBLE} void write(unsigned) {{}}
#endif
"""


@contextmanager
def flushing() -> Iterator[None]:
    """Inside the block, subnormal numbers are 0 for this thread, as for kernels with -ftz=true."""
    path = cached([_REGISTER, *_FLAGS], lambda path: _gpp([*_FLAGS, "-o", str(path)], _REGISTER))
    register = ctypes.PyDLL(str(path))
    before = register.read()
    register.write(before | 0x8040)
    try:
        yield
    finally:
        register.write(before)


def cached(parts: Sequence[str], make: Callable[[Path], object]) -> Path:
    """The file that ``make`` writes: once per machine for the same parts, whole or not at all."""
    path = _cache() / hashlib.sha256("\0".join(parts).encode()).hexdigest()
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            finished = Path(folder) / "finished"
            make(finished)
            os.replace(finished, path)
    return path


def _cache() -> Path:
    """The folder of what was compiled, which is loaded from: so it must be ours alone."""
    folder = Path(tempfile.gettempdir()) / f"tinygen-cuda-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o22:
        raise PermissionError(f"{folder} is not a folder that only this user can write")
    return folder


def _compile(source: str, flags: list[str], only: Sequence[str], output: Path) -> None:
    # Here the source's own macros are expanded, and the words of CUDA stay as they are.
    cuda = ["-D__CUDACC__", "-D__CUDACC_RTC__", "-D__CUDA_ARCH__=900"]
    text = _gpp(["-E", *flags, *cuda], f'#line 1 "kernels.cu"\n{source}')
    prototypes = _find_prototypes(text)
    prototypes = {name: prototypes[name] for name in only or prototypes}
    # What is static is compiled only if it is called: so kernels that are not wanted cost nothing.
    text = re.sub(r'extern\s+"C"\s+__global__', "static inline", text)
    text = _ASSEMBLY.sub(_function_of_assembly, text)
    spoil = r"\g<0> cuda_on_cpu::spoil(&\1, sizeof \1);"
    text = re.sub(r"__shared__\s[^;]*?(\w+)\s*(?:\[[^;]*\])?\s*;", spoil, text)
    parts = [_HEADER, text, '#line 1 "entry points"']
    parts += [_entry_point(name, prototype) for name, prototype in prototypes.items()]
    listed = json.dumps(json.dumps(prototypes))
    parts.append(f'extern "C" {{ {_VISIBLE} const char* prototypes = {listed}; }}')
    _gpp([*flags, "-o", str(output)], "\n".join(parts))


def _gpp(arguments: list[str], text: str) -> str:
    command = [COMPILER, *arguments, "-x", "c++", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def sanitizer_environment() -> dict[str, str]:
    """The variables with which a Python process can load sanitized kernels, and modules as here."""
    libraries = ["libasan.so", "libstdc++.so"]  # the second for the exceptions, which asan watches
    paths = [
        subprocess.run(
            [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in libraries
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


class _Module:
    """What a stand-in for ``cupy.RawModule`` needs."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def get_function(self, name: str) -> Callable[..., None]:
        """The kernel, called as CuPy's are: ``kernel((grid,), (block,), args)``."""
        prepared = self.prepared(name)
        return lambda grid, block, args: prepared(grid, block, args)()

    def prepared(self, name: str) -> Callable[..., Callable[[], None]]:
        """The same, whose launch is still to be called."""
        if name not in self._kernels.prototypes:
            raise KeyError(f"no kernel {name!r}; there are {sorted(self._kernels.prototypes)}")

        def kernel(
            grid: tuple[int, ...],
            block: tuple[int, ...],
            args: Sequence[Any],
            order: str = "forward",
        ) -> Any:
            (blocks,), (threads,) = grid, block
            return self._kernels.prepared(name, blocks, threads, args, order)

        return kernel


def run_kernel_source(code: str, options: Sequence[str] = ()) -> _Module:
    """For a stand-in of CuPy: ``run_kernel_source(code, options).get_function(name)``.

    The function is called as ``kernel((grid,), (block,), args)``. For a pointer pass the NumPy
    array behind the stand-in's array, then its dtype, contiguity and alignment are checked (or its
    address as an int, then only the alignment is; or ``np.uintp(0)`` for null); for a value a NumPy
    scalar of the very type that the kernel declares. Anything else raises TypeError, which names
    the kernel and the argument.
    """
    return _Module(build(code, options))
