"""The kernels on the CPU: compiled on first use, kept for the next time, called through ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tinygen.kernels.signatures import inlined, signatures

__all__ = ["Unavailable", "compiled", "library", "load", "loaded"]

library: ctypes.CDLL | None = None
"""The compiled kernels, once they are loaded."""

FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-shared",
    # Fused multiply-adds only where the source writes them: the same bits as on a GPU.
    "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-pthread",
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
    return compiled("kernels", inlined("kernels.cpp"), _open)


def compiled(name: str, source: str, opened: Callable[[bytes], Any]) -> tuple[Any, str]:
    """What `opened` makes of the library of a C++ source, and a line that says what was compiled.

    The library comes from the cache, if it is there. Unavailable: there is no compiler, or it fails.
    """
    compiler = _compiler()
    command = [*compiler, *FLAGS, *_processor_flags()]
    version = _version(compiler)
    key = hashlib.sha256("\0".join([source, *command, version, _processor()]).encode())
    folder = _private_folder()
    path = folder and folder / f"{name}-{key.hexdigest()[:32]}.so"
    if path and (kept := _read(path)):
        with suppress(Unavailable):  # else whatever it is, a new one may be better
            return opened(kept), f"{version}, {path}"
    try:
        library = _build(command, source)
        made = opened(library)
    except OSError as error:  # a full disk, no temporary folder
        raise Unavailable(f"the {name} cannot be compiled: {error}") from error
    try:
        if path:
            _keep(library, path)
    except OSError as error:  # a full disk, something else of that name
        return made, f"{version}, for this process alone: {error}"
    return made, f"{version}, {path}" if path else version


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


def _build(command: list[str], source: str) -> bytes:
    """The library that the compiler makes."""
    with tempfile.TemporaryDirectory(prefix="tinygen-") as folder:
        path = Path(folder) / "kernels.so"
        _run([*command, "-x", "c++", "-", "-o", str(path)], source)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise Unavailable(f"{command[0]} made nothing") from None


def _run(command: list[str], text: str = "") -> str:
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise Unavailable(f"{command[0]} does not run: {error}") from error
    with process:
        try:
            output, errors = process.communicate(text, LIMIT)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{command[0]} does not run: {error}") from error
        finally:
            if process.returncode is None:  # too slow, or Ctrl-C: it ends with all that it started
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
    if process.returncode:
        lines = [line for line in errors.splitlines() if "error" in line] or ["no message"]
        raise Unavailable(f"{command[0]} failed: {lines[0].strip()}")
    return output


# -- the cache: a library is code, so only what this user wrote may be loaded ----------------------
def _private_folder() -> Path | None:
    """The folder of compiled kernels, or None if there is none that only this user can write."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "")
        folder = (base if base.is_absolute() else Path.home() / ".cache") / "tinygen"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = folder / "kernels"
        private.mkdir(mode=0o700, exist_ok=True)
        ours = _ours(folder.stat(), stat.S_ISDIR) and _ours(private.lstat(), stat.S_ISDIR)
        return private if ours and os.access(private, os.W_OK) else None
    except (OSError, RuntimeError):  # not writable; no home
        return None


def _keep(library: bytes, path: Path) -> None:
    """Write a file of its own, then give it its name: others see all of it or nothing.

    The digest of the library stands behind it.
    """
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(library + hashlib.sha256(library).digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    """The library in a whole file that nobody else could have written. (Loading half of one may
    crash.) What is read here is loaded, whatever becomes of the file."""
    flags = getattr(os, "O_NOFOLLOW", 0)  # no link
    flags |= getattr(os, "O_NONBLOCK", 0)  # no wait for a pipe
    try:
        with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
            if not _ours(os.fstat(file.fileno()), stat.S_ISREG):
                return None
            content = file.read()
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    library = content[:-size]
    return library if hashlib.sha256(library).digest() == content[-size:] else None


def _ours(status: os.stat_result, kind: Callable[[int], bool]) -> bool:
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return kind(status.st_mode) and mine and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


# -- calls ---------------------------------------------------------------------------------------
class _Row(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p * 5), ("n", ctypes.c_longlong))


class Table(ctypes.Structure):
    """`Table` of functions.h; from rows of arrays of float32."""

    _fields_ = (("rows", ctypes.c_longlong), ("row", _Row * 64))

    @classmethod
    def from_param(cls, rows: Any) -> Table:
        table = cls(len(rows))
        for entry, arrays in zip(table.row, rows, strict=False):
            entry.at[: len(arrays)] = [x if x is None else x.ctypes.data for x in arrays]
            entry.n = arrays[0].size
        return table


_NUMBERS: dict[str, Any] = {
    "Table": Table,
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


def loaded(
    library: bytes | BinaryIO, load: Callable[[str], ctypes.CDLL] = lambda path: ctypes.CDLL(path)
) -> ctypes.CDLL:
    """A library from its bytes or its file, which may be large: it is copied by parts.

    It is loaded from memory, or else from a folder of this process alone: caches may be mounted noexec.
    """
    source = io.BytesIO(library) if isinstance(library, bytes) else library
    if hasattr(os, "memfd_create"):
        with suppress(OSError):  # forbidden, or no /proc
            # It stays open: the loader takes the same name for the same library.
            handle = os.memfd_create("tinygen")
            with open(handle, "wb", closefd=False) as file:
                shutil.copyfileobj(source, file, 1 << 20)
            return load(f"/proc/self/fd/{handle}")
    with tempfile.TemporaryDirectory(prefix="tinygen-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "kernels.so"
        source.seek(0)
        with path.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        return load(str(path))


def _open(content: bytes) -> Callable[..., None]:
    global library
    try:
        opened = loaded(content)
        functions = {name: getattr(opened, name) for name in signatures()}
    except (OSError, AttributeError) as error:
        raise Unavailable(f"the compiled kernels cannot be loaded: {error}") from error
    for name, function in functions.items():
        function.restype = None
        function.argtypes = [_argument_type(kind) for kind, _ in signatures()[name]]
    library = opened

    def launch(name: str, *arguments: Any) -> None:
        try:
            functions[name](*arguments)
        except ctypes.ArgumentError as error:
            raise TypeError(f"{name}: {error}") from None

    launch.functions = functions  # type: ignore[attr-defined]
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
