"""The kernels on the CPU: compiled on first use, kept for the next time, called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.kernels.signatures import inlined, signatures

__all__ = ["Unavailable", "load"]

FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-shared",
    # Fused multiply-adds only where the source writes them: the same bits as on a GPU.
    "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd",
)  # fmt: skip
X86 = ("x86_64", "amd64", "AMD64")
LIMIT = 120.0  # seconds for the compiler


class Unavailable(Exception):
    """There is no C++ build; the message says why, in a line."""


def load() -> tuple[Callable[..., None], str]:
    """`launch(name, *arguments)` for the compiled kernels, and a line that says what was compiled.

    Arguments are those of kernels.h: arrays for pointers (or None), and numbers. TypeError: an
    array of another type, or not contiguous.
    """
    compiler = _compiler()
    source = inlined("kernels.cpp")
    command = [*compiler, *FLAGS, *_processor_flags()]
    key = hashlib.sha256("\0".join([source, *command, _version(compiler), _processor()]).encode())
    name = f"kernels-{key.hexdigest()[:32]}.so"
    folder = _private_folder()
    try:
        if folder is None:  # nowhere to keep it: compile for this process alone
            with tempfile.TemporaryDirectory(prefix="tinygen-") as temporary:
                return _open(_build(command, source, Path(temporary) / name)), _version(compiler)
        path = folder / name
        if not _trustworthy(path):
            _build(command, source, path)
    except OSError as error:  # a full disk, no temporary folder, something else of that name
        raise Unavailable(f"the compiled kernels cannot be kept: {error}") from error
    return _open(path), f"{_version(compiler)}, {path}"


def _compiler() -> list[str]:
    """The C++ compiler's command: $CXX, or the first of the usual names."""
    chosen = os.environ.get("CXX")
    for name in [chosen] if chosen else ["c++", "g++", "clang++"]:
        try:
            command = shlex.split(name)
        except ValueError:  # a quote that is not closed
            break
        if command and shutil.which(command[0]):
            return command
    raise Unavailable(
        f"no C++ compiler: {f'$CXX is {chosen!r}' if chosen else 'c++, g++, clang++ not found'}"
    )


def _version(compiler: list[str]) -> str:
    """The first line of `compiler --version`."""
    return _run([*compiler, "--version"]).split("\n", 1)[0].strip()


def _processor_flags() -> list[str]:
    if platform.machine() in X86:
        return ["-march=native", "-mprefer-vector-width=512"]
    return ["-mcpu=native"]


def _processor() -> str:
    """What -march=native depends on: a cache may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(kept)))


def _build(command: list[str], source: str, path: Path) -> Path:
    """Compile into a file of its own, then give it its name: others see all of it or nothing.

    The digest of the library stands behind it, where the loader does not look.
    """
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        _run([*command, "-x", "c++", "-", "-o", temporary], source)
        library = Path(temporary).read_bytes()
        with open(temporary, "wb") as file:
            file.write(library + hashlib.sha256(library).digest())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o700)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _run(command: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, errors="replace", timeout=LIMIT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise Unavailable(f"{command[0]} failed: {lines[0].strip()}")
    return done.stdout


# -- the cache: a library is code, so only what this user wrote may be loaded ----------------------
def _private_folder() -> Path | None:
    """The folder of compiled kernels, or None if there is none that only this user can write."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "")
        folder = (base if base.is_absolute() else Path.home() / ".cache") / "tinygen"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = folder / "kernels"
        private.mkdir(mode=0o700, exist_ok=True)
        return (
            private
            if _ours(private.lstat(), stat.S_ISDIR) and os.access(private, os.W_OK)
            else None
        )
    except (OSError, RuntimeError):  # not writable; no home
        return None


def _trustworthy(path: Path) -> bool:
    """True for a whole file that nobody else could have written. (Loading half of one may crash.)"""
    try:
        if not _ours(path.lstat(), stat.S_ISREG):
            return False
        content = path.read_bytes()
    except OSError:
        return False
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _ours(status: os.stat_result, kind: Callable[[int], bool]) -> bool:
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return kind(status.st_mode) and mine and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


# -- calls ---------------------------------------------------------------------------------------
_NUMBERS: dict[str, Any] = {
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "i64": ctypes.c_longlong,
    "u64": ctypes.c_ulonglong,
}
_DTYPES = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "i64": np.dtype(np.int64),
    "u32": np.dtype(np.uint32),
    "u64": np.dtype(np.uint64),
}
_memory = (ctypes.c_char * 0).from_buffer  # a third of the cost of `array.ctypes.data`


def _open(path: Path) -> Callable[..., None]:
    try:
        library = ctypes.CDLL(str(path))
        functions = {name: getattr(library, name) for name in signatures()}
    except (OSError, AttributeError) as error:
        raise Unavailable(f"{path} cannot be loaded: {error}") from error
    for name, function in functions.items():
        function.restype = None
        function.argtypes = [_argument_type(kind) for kind, _ in signatures()[name]]

    def launch(name: str, *arguments: Any) -> None:
        try:
            functions[name](*arguments)
        except ctypes.ArgumentError as error:
            raise TypeError(f"{name}: {error}") from None

    return launch


def _argument_type(kind: str) -> Any:
    """What ctypes converts an argument with: a number's type, or a check of an array's."""
    if not kind.endswith("*"):
        return _NUMBERS[kind]
    dtype = _DTYPES[kind.removeprefix("const ").removesuffix("*")]
    written = not kind.startswith("const ")

    class Pointer:
        @staticmethod
        def from_param(array: Any) -> Any:
            if array is None:
                return None
            if array.dtype is not dtype and array.dtype != dtype:
                raise TypeError(f"an array of {array.dtype} for a kernel's {kind}")
            try:
                return _memory(array)
            except TypeError:  # read-only
                if written or not array.flags.c_contiguous:
                    raise
                return ctypes.c_void_p(array.ctypes.data)

    return Pointer
