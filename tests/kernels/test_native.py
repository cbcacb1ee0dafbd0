"""The C++ form of the kernels: compiled once, kept where only the user can write, and never a crash.

Where it matters who is called and how often, a script stands in for the compiler: it hands out a
library that was compiled once for all tests.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import pwd
import re
import select
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygen
from tinygen.kernels import dispatch, native, philox
from tinygen.kernels.signatures import inlined

pytestmark = [
    pytest.mark.cpu_only("the C++ form of the kernels"),
    pytest.mark.skipif(
        sys.platform == "win32", reason="the stand-in for the compiler is a shell's"
    ),
]

ROOT = Path(tinygen.__file__).parents[1]
AS_ROOT = os.getuid() == 0
USED = """
import json, sys
from tinygen import kernels
from tinygen.random import Generator
if "wait" in sys.argv:
    print("ready", flush=True)
    input()
bits, normals = Generator(3).bits(9).tolist(), Generator(3).normal(9).tolist()
print(json.dumps([bits, normals, kernels.description("cpu")]))
"""
"""A program that uses the kernels."""


class Built(NamedTuple):
    """A library, and the compiler that made it."""

    path: Path
    compiler: list[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The kernels, compiled into a cache that was empty."""
    try:
        compiler = native._compiler()
    except native.Unavailable as reason:
        if os.environ.get("TINYGEN_KERNELS") == "native":
            raise
        pytest.skip(f"no C++ form of the kernels: {reason}")
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        native.load()
    (path,) = libraries(cache)
    return Built(path, compiler)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no wish for a form."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TINYGEN_KERNELS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "cache"


class Compiler:
    """A script in the place of the compiler, which counts its runs."""

    def __init__(self, folder: Path, body: str, version: str = "fake 1.0") -> None:
        self.path, self._log = folder / "compiler", folder / "runs"
        self.path.write_text(f"""#!/bin/sh
if [ "$1" = --version ]; then echo {shlex.quote(version)}; exit; fi
echo run >> {shlex.quote(str(self._log))}
while [ "$1" != -o ]; do shift; done
{body}
""")
        self.path.chmod(0o700)

    @property
    def runs(self) -> int:
        return len(self._log.read_text().split()) if self._log.exists() else 0


@pytest.fixture
def compiler(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """It writes the library piece by piece."""
    library = shlex.quote(str(built.path))
    script = Compiler(tmp_path, f'head -c 9999 {library} > "$2"; tail -c +10000 {library} >> "$2"')
    monkeypatch.setenv("CXX", str(script.path))
    return script


def libraries(cache: Path) -> list[Path]:
    """All that is in the cache: libraries and nothing else."""
    found = list((cache / "tinygen" / "kernels").iterdir())
    assert all(re.fullmatch(r"kernels-[0-9a-f]{32}\.so", path.name) for path in found), found
    return found


def works(launch: Callable[..., None]) -> bool:
    out = np.empty(9, np.uint32)
    launch("fill_bits", out, 9, 3, 5, None)
    return bool((out == philox.bits(9, 3, 5)).all())


def loaded() -> bool:
    """Load the kernels and use them."""
    return works(native.load()[0])


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=60, **options
    )


def right_numbers(output: str) -> str:
    """Raise unless the program printed the right numbers; the form that computed them."""
    bits, normals, form = json.loads(output)
    assert bits == philox.bits(9, 3, 0).tolist()
    expected = philox.normal(9, 3, 0, 0.0, 1.0, np.dtype(np.float32))
    np.testing.assert_allclose(normals, expected, rtol=1e-6)
    return form


# -- the cache ------------------------------------------------------------------------------------


def test_compiled_once_for_all_processes(compiler, cache):
    for _ in range(2):
        done = run("-c", USED)
        assert (done.returncode, done.stderr) == (0, "")
        (path,) = libraries(cache)
        assert right_numbers(done.stdout) == f"C++ (fake 1.0, {path})"
        assert compiler.runs == 1


def test_only_the_user_can_write(compiler, cache):
    mask = os.umask(0)
    try:
        assert loaded()
    finally:
        os.umask(mask)
    (path,) = libraries(cache)
    for private, mode in ((cache / "tinygen", 0o700), (path.parent, 0o700), (path, 0o600)):
        status = private.lstat()
        assert stat.S_IMODE(status.st_mode) == mode and status.st_uid == os.getuid(), private


CHANGES: dict[str, Callable[[pytest.MonkeyPatch, Path], Any]] = {
    "source": lambda patch, _: patch.setattr(native, "inlined", lambda name: inlined(name) + "\n"),
    "flags": lambda patch, _: patch.setattr(native, "FLAGS", (*native.FLAGS, "-g")),
    "version": lambda patch, library: Compiler(library.parent, f"cat {library} > $2", "fake 2.0"),
    "processor": lambda patch, _: patch.setattr(native, "_processor", lambda: "another"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_compiled_anew(change, built, cache, monkeypatch, tmp_path):
    library = tmp_path / "library.so"
    library.write_bytes(built.path.read_bytes())
    compiler = Compiler(tmp_path, f"cat {library} > $2")
    monkeypatch.setenv("CXX", str(compiler.path))
    assert loaded() and loaded() and compiler.runs == len(libraries(cache)) == 1
    CHANGES[change](monkeypatch, library)
    assert loaded() and loaded() and compiler.runs == len(libraries(cache)) == 2
    monkeypatch.undo()


def test_processes_that_start_at_once(compiler, cache):
    """All find an empty cache; each makes what it needs, and one library is left."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", USED, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(8)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert right_numbers(output).startswith("C++")
    assert len(libraries(cache)) == 1 and 1 <= compiler.runs <= 8


UNTRUSTED: dict[str, Callable[[Path], Any]] = {
    "a link": lambda path: path.symlink_to(path.rename(path.with_name("elsewhere"))),
    "writable by the group": lambda path: path.chmod(0o620),
    "writable by all": lambda path: path.chmod(0o602),
    "of another user": lambda path: os.chown(path, 12345, -1),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path, 0o700)),
}


@pytest.mark.parametrize("kind", UNTRUSTED)
def test_what_others_may_have_written_is_not_loaded(kind, compiler, cache):
    """However right it looks, it is compiled again, and replaced."""
    if kind == "of another user" and not AS_ROOT:
        pytest.skip("only root can give files away")
    assert loaded() and loaded() and compiler.runs == 1
    (path,) = libraries(cache)
    UNTRUSTED[kind](path)
    assert loaded() and loaded() and compiler.runs == 2
    status = path.lstat()
    assert stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == os.getuid()


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda library: b"",
    "text": lambda library: b"garbage " * 1000,
    "half": lambda library: library[: len(library) // 2],
    "its first page": lambda library: library[:4096],
    "zeros after the first page": lambda library: library[:4096].ljust(len(library), b"\0"),
}


def with_digest(library: bytes) -> bytes:
    return library + hashlib.sha256(library).digest()


def test_what_was_checked_is_what_is_loaded(compiler, cache, monkeypatch):
    """Even if the folder is another user's, who swaps the file in between."""
    assert run("-c", USED).returncode == 0  # elsewhere: a process loads a name once
    (path,) = libraries(cache)
    load_library = native.ctypes.CDLL

    def swap_and_load(name: str) -> Any:
        path.unlink()
        path.write_bytes(with_digest(b"another user's"))
        return load_library(name)

    monkeypatch.setattr(native.ctypes, "CDLL", swap_and_load)
    assert loaded() and compiler.runs == 1


def test_a_whole_file_that_cannot_be_loaded_is_replaced(compiler, cache):
    assert loaded()
    (path,) = libraries(cache)
    path.unlink()
    path.write_bytes(with_digest(b"text"))
    path.chmod(0o700)
    assert loaded() and loaded() and compiler.runs == 2


def test_what_cannot_be_loaded_is_not_kept(built, cache, tmp_path, monkeypatch):
    """A compiler that fails once and says nothing."""
    compiler = Compiler(
        tmp_path, f'[ -e {tmp_path}/done ] && cat {built.path} > "$2" || echo > "$2"'
    )
    monkeypatch.setenv("CXX", str(compiler.path))
    with pytest.raises(native.Unavailable, match="cannot be loaded"):
        native.load()
    assert libraries(cache) == []
    (tmp_path / "done").touch()
    assert loaded() and compiler.runs == 2 and len(libraries(cache)) == 1


@pytest.mark.parametrize("refused", ["", "/proc"])
def test_a_cache_may_be_mounted_noexec(refused, compiler, cache, tmp_path, monkeypatch):
    """And memory may be forbidden: then a file of this process alone is loaded."""
    load_library = native.ctypes.CDLL

    def load_elsewhere(name: str) -> Any:
        if name.startswith(str(cache)) or (refused and name.startswith(refused)):
            raise OSError(f"{name}: failed to map segment from shared object")
        return load_library(name)

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(native.ctypes, "CDLL", load_elsewhere)
    assert loaded() and loaded() and compiler.runs == 1
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_library_is_no_crash(kind, compiler, built, cache):
    """A disk was full, or the power went: at worst NumPy computes, and says so in a line."""
    assert loaded()
    (path,) = libraries(cache)
    path.unlink()  # this process has the old file open
    path.write_bytes(BROKEN[kind](built.path.read_bytes()))
    path.chmod(0o700)
    done = run("-c", USED)
    assert done.returncode == 0, done
    form = right_numbers(done.stdout)
    assert done.stderr == "" if form.startswith("C++") else len(done.stderr.splitlines()) == 1


def test_killed_while_compiling(built, cache, tmp_path, monkeypatch, compiler):
    """Nothing has the library's name before it is whole."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    slow = f'head -c 9999 {built.path} > "$2"; echo $$ > {fifo}; exec tail -f /dev/null'
    text = compiler.path.read_text()
    Compiler(tmp_path, slow)
    process = subprocess.Popen([sys.executable, "-c", USED], start_new_session=True)
    half = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert select.select([half], [], [], 60)[0]
        compiling = int(os.read(half, 99))
    finally:
        os.close(half)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    os.kill(compiling, signal.SIGKILL)
    assert libraries(cache) == []
    compiler.path.write_text(text)
    assert loaded() and len(libraries(cache)) == 1


def test_interrupted_while_compiling(compiler, cache, monkeypatch):
    def interrupt(command: list[str], text: str = "") -> str:
        if text:
            raise KeyboardInterrupt
        return "fake 1.0"

    monkeypatch.setattr(native, "_run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        native.load()
    assert libraries(cache) == []


# -- no place to keep it --------------------------------------------------------------------------


def nobody(user: int) -> Any:
    raise KeyError(f"getpwuid(): uid not found: {user}")


def no_home(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """As in a container that runs under a number."""
    patch.delenv("XDG_CACHE_HOME")
    patch.delenv("HOME", raising=False)
    patch.setattr(pwd, "getpwuid", nobody)


def home_is_no_folder(patch: pytest.MonkeyPatch, cache: Path) -> None:
    patch.delenv("XDG_CACHE_HOME")
    patch.setenv("HOME", os.devnull)


def kernels_is(make: Callable[[Path], Any]) -> Callable[[pytest.MonkeyPatch, Path], None]:
    def prepare(patch: pytest.MonkeyPatch, cache: Path) -> None:
        (cache / "tinygen").mkdir(parents=True)
        make(cache / "tinygen" / "kernels")

    return prepare


PLACES: dict[str, Callable[[pytest.MonkeyPatch, Path], Any]] = {
    "the cache is no folder": lambda patch, cache: patch.setenv("XDG_CACHE_HOME", os.devnull),
    "the cache cannot be made": lambda patch, cache: patch.setenv("XDG_CACHE_HOME", "/dev/null/x"),
    "home is no folder": home_is_no_folder,
    "no home": no_home,
    "a file": kernels_is(lambda path: path.write_text("")),
    "a link": kernels_is(lambda path: path.symlink_to(path.parents[2], target_is_directory=True)),
    "writable by the group": kernels_is(lambda path: (path.mkdir(), path.chmod(0o770))),
    "writable by all": kernels_is(lambda path: (path.mkdir(), path.chmod(0o707))),
    "read-only": kernels_is(lambda path: (path.mkdir(), path.chmod(0o500))),
    "of another user": lambda patch, cache: patch.setattr(os, "getuid", lambda: 12345),
    "in a folder of another user": lambda patch, cache: (
        (cache / "tinygen" / "kernels").mkdir(mode=0o700, parents=True),
        os.chown(cache / "tinygen", 12345, -1),
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_without_a_private_folder_it_is_compiled_for_the_process(
    place, compiler, cache, monkeypatch, tmp_path
):
    if place == "read-only" and AS_ROOT:
        pytest.skip("root can write everywhere")
    if place == "in a folder of another user" and not AS_ROOT:
        pytest.skip("only root can give files away")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    PLACES[place](monkeypatch, cache)
    assert loaded() and loaded() and compiler.runs == 2
    assert list(temporary.iterdir()) == [] and list(tmp_path.rglob("*.so")) == []


def test_what_cannot_be_kept_is_used_all_the_same(compiler, cache, monkeypatch):
    """A disk that is full; another thing of that name."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        launch, what = native.load()
    assert works(launch) and "for this process alone: [Errno 28] No space left on device" in what
    assert libraries(cache) == []
    assert loaded()
    (path,) = libraries(cache)
    path.unlink()
    path.mkdir()
    launch, what = native.load()
    assert works(launch) and "for this process alone: [Errno 21] Is a directory" in what


def full(*args: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_a_relative_cache_is_none(compiler, cache, monkeypatch, tmp_path):
    """The XDG Base Directory Specification: paths must be absolute, others are to be ignored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert loaded()
    assert not (tmp_path / "relative").exists()


# -- no library -----------------------------------------------------------------------------------


def script(body: str) -> Callable[[pytest.MonkeyPatch, Path], Any]:
    return lambda patch, folder: patch.setenv("CXX", str(Compiler(folder, body).path))


def no_compiler(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.delenv("CXX", raising=False)
    patch.setenv("PATH", str(folder))


def not_a_program(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "text").write_text("this is no program")
    (folder / "text").chmod(0o700)
    patch.setenv("CXX", str(folder / "text"))


def hanging(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setattr(native, "LIMIT", 0.3)
    script("exec sleep 20")(patch, folder)


def without_symbols(patch: pytest.MonkeyPatch, folder: Path) -> None:
    library = folder / "empty.so"
    command = [*native._compiler(), "-shared", "-fPIC", "-x", "c++", "-", "-o", str(library)]
    subprocess.run(command, input="int nothing;", text=True, check=True)
    script(f'cat {library} > "$2"')(patch, folder)


def no_temporary_folder(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """A container whose disk is read-only."""
    script("exit")(patch, folder)
    patch.setenv("XDG_CACHE_HOME", os.devnull)
    patch.setattr(tempfile, "tempdir", str(folder / "nowhere"))


# name: what is wrong, and the reason given
PROBLEMS: dict[str, tuple[Callable[[pytest.MonkeyPatch, Path], Any], str]] = {
    "none": (no_compiler, r"no C\+\+ compiler: c\+\+, g\+\+, clang\+\+ not found"),
    "nonsense": (lambda patch, _: patch.setenv("CXX", "no-such c++"), r"\$CXX is 'no-such c\+\+'"),
    "blank": (lambda patch, _: patch.setenv("CXX", "  "), r"\$CXX is '  '"),
    "a quote": (lambda patch, _: patch.setenv("CXX", "g++ 'a"), r"\$CXX"),
    "not a program": (not_a_program, "text does not run: .*Exec format error"),
    "no version": (lambda patch, _: patch.setenv("CXX", "false"), "false failed: no message"),
    "fails": (
        script("echo In file: >&2; echo 'x.cpp:1:2: error: bad luck' >&2; exit 1"),
        "compiler failed: x.cpp:1:2: error: bad luck"),
    "fails without a word": (script("exit 3"), "compiler failed: no message"),
    "killed": (script("kill -9 $$"), "compiler failed"),
    "hangs": (hanging, "compiler does not run: .*timed out after 0.3 seconds"),
    "makes nothing": (script("exit 0"), "compiler made nothing"),
    "makes text": (script('echo text > "$2"'), "kernels cannot be loaded: "),
    "makes something else": (without_symbols, r"cannot be loaded: .*undefined symbol: fill_bits"),
    "no temporary folder": (no_temporary_folder, "No such file or directory"),
}  # fmt: skip


@pytest.fixture
def problem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A reason why there is no C++ form."""
    prepare, reason = PROBLEMS[request.param]
    if prepare is without_symbols:
        request.getfixturevalue("built")  # or there is no compiler
    prepare(monkeypatch, tmp_path)
    return reason


problems = pytest.mark.parametrize("problem", PROBLEMS, indirect=True)


def found() -> tuple[Any, str]:
    """The form of the kernels, found anew."""
    return dispatch._found.__wrapped__("cpu")


@problems
def test_without_a_library_numpy_computes_and_says_so_in_a_line(problem, cache, caplog):
    with caplog.at_level(logging.DEBUG):
        launch, form = found()
    assert list(cache.rglob("tmp*")) == []
    assert launch is None and re.search(f"^NumPy: .*{problem}", form)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("tinygen", logging.WARNING)
    line = record.getMessage()
    assert re.search(problem, line) and line.endswith("; NumPy computes instead")
    assert "\n" not in line


@problems
def test_a_library_that_was_asked_for_is_missed(problem, monkeypatch, caplog):
    monkeypatch.setenv("TINYGEN_KERNELS", "native")
    with pytest.raises(RuntimeError, match=f"^TINYGEN_KERNELS=native, but .*{problem}"):
        found()
    assert not caplog.records


def test_what_a_slow_compiler_has_started_ends_with_it(tmp_path, monkeypatch):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    alive = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(native, "LIMIT", 0.3)
    script(f"exec 2> {fifo} > {fifo}; sleep 30 & wait")(monkeypatch, tmp_path)
    with pytest.raises(native.Unavailable, match="timed out"):
        native.load()
    try:
        assert select.select([alive], [], [], 10)[0] and os.read(alive, 1) == b""
    finally:
        os.close(alive)


def test_no_compiler_is_asked_for_numpy(monkeypatch, compiler, cache, caplog):
    monkeypatch.setenv("TINYGEN_KERNELS", "numpy")
    assert found() == (None, "NumPy, as TINYGEN_KERNELS asks")
    assert compiler.runs == 0 and not cache.exists() and not caplog.records


def test_a_form_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("TINYGEN_KERNELS", "natve")
    with pytest.raises(ValueError, match=r"'natve'; did you mean 'native'.*known: native, numpy"):
        found()


def test_a_program_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = run("-c", USED)
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1
    assert right_numbers(done.stdout).startswith("NumPy: no C++ compiler: $CXX is 'no-such")


def test_info_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = run("-m", "tinygen", "info")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("kernels")]
    if not lines:
        pytest.skip("`info` does not tell the form of the kernels yet")
    assert "NumPy" in lines[0] and "no-such-compiler" in lines[0]


def test_import_compiles_nothing(compiler, cache):
    done = run("-c", "import tinygen, sys; print('tinygen.kernels.native' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert compiler.runs == 0 and not cache.exists()


# -- calls ----------------------------------------------------------------------------------------
GOOD = {"y": np.zeros((4, 6), np.float32), "xt": np.ones((4, 6), np.float32)}
REST = (24, 1.0, 1.0, -9.0, 9.0, 1.0, 1.0, 0.0, 1, 2, None)
WRONG: dict[str, Callable[[np.ndarray], Any]] = {
    "float64": lambda x: x.astype(np.float64),
    "int32": lambda x: x.astype(np.int32),
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "every second": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "transposed": np.asfortranarray,
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
}


@pytest.fixture(scope="module")
def launch(built: Built) -> Callable[..., None]:
    return native._open(built.path.read_bytes())


@pytest.mark.parametrize("kind", [*WRONG, "read-only"])
@pytest.mark.parametrize("place", range(3))
def test_a_wrong_array_is_refused(launch, place, kind):
    arrays = [np.full((4, 6), float(k), np.float32) for k in range(3)]  # y, xt, output
    if kind == "read-only":
        arrays[place].flags.writeable = False
    else:
        arrays[place] = WRONG[kind](arrays[place])
    before = [a.tobytes() for a in arrays]
    if kind == "read-only" and place:  # which is only read
        launch("denoise_step", *arrays, *REST)
        assert (arrays[0] == 4).all()
        return
    with pytest.raises(TypeError):
        launch("denoise_step", *arrays, *REST)
    assert [a.tobytes() for a in arrays] == before


def test_wrong_arguments_are_refused(launch):
    y = np.zeros(4, np.float32)
    for arguments in [(y,), (y, "4", 1, 2, None), (y, 4, 1.5, 2, None), (4, 4, 1, 2, None)]:
        with pytest.raises((TypeError, AttributeError)):
            launch("fill_bits", *arguments)
    assert (y == 0).all()
    with pytest.raises(KeyError):
        launch("no_such_kernel")


# -- speed ----------------------------------------------------------------------------------------


def marked_loops(source: str) -> Iterator[range]:
    """The lines of every loop that is marked VECTORISED."""
    lines = source.split("\n")
    for start in (i + 1 for i, line in enumerate(lines) if line.strip() == "VECTORISED"):
        depth, end = 0, start
        while True:
            depth += lines[end].count("{") - lines[end].count("}")
            if depth == 0 and lines[end].endswith((";", "}")):
                break
            end += 1
        yield range(start + 1, end + 2)  # compilers count from 1


@pytest.mark.skipif(platform.machine() not in native.X86, reason="-march names x86 processors")
@pytest.mark.parametrize("processor", ["haswell", "skylake-avx512"])  # AVX2, AVX-512
def test_loops_marked_vectorised_are(built, processor):
    """As GCC reports it, in every function that a loop is inlined into. Nothing runs here, so that
    it does not matter which processor this machine has."""
    version = subprocess.run([*built.compiler, "--version"], capture_output=True, text=True).stdout
    if "Free Software Foundation" not in version:
        pytest.skip("only GCC reports its loops in this way")
    source = inlined("kernels.cpp")
    flags = [f"-march={processor}", *native._processor_flags()[1:], "-fopt-info-vec-all"]
    command = [*built.compiler, *native.FLAGS, *flags, "-x", "c++", "-", "-o", os.devnull]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    assert done.returncode == 0
    reports = re.findall(
        r"^\S*:(\d+):\d+: (optimized: +loop vectorized|missed: +couldn't vectorize loop)",
        done.stderr,
        re.MULTILINE,
    )
    loops = list(marked_loops(source))
    assert len(loops) == source.count("VECTORISED\n") > 20
    slow = []
    for loop in loops:
        verdicts = {verdict.split(":")[0] for line, verdict in reports if int(line) in loop}
        if verdicts != {"optimized"}:
            slow.append(source.split("\n")[loop[0] - 1 : loop[-1]])
    assert not slow
