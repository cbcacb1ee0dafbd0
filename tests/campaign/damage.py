"""Damaged files, read through the command line: each loads, or is refused in one line, exit code 2.

A trial takes one good file (a checkpoint of one of the models, data as .npy, .npz, .csv, .csv.gz or
IDX), changes it once or twice at random, and reads it in a process that has little memory and time.
Some changes are blind (bits, spans, lengths); others know the format (members of a zip file, numbers
of a header, values of JSON) and pass its checksums.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import resource
import signal
import struct
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from .small import OPTIONS, model

MEMORY = 3 << 30  # bytes of addresses for a process; a good file of these takes a tenth
SECONDS = 60  # for one file
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
       "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")  # fmt: skip
ODD_VALUES = (
    None, True, -1, 0, 1, 1.5, 10**9, -(10**9), 2**64, 10**30, 1e300, float("nan"), float("inf"), "", "1",
    "VAE", "é", [], [1], [[1]], {}, {"a": 1}, ["VAE"], "/etc/passwd",
)  # fmt: skip
ODD_TEXTS = (
    b"-1", b"0", b"1e300", b"nan", b"inf", b"9" * 30, b"99999999", b"''", b"(", b"[" * 100000, b"\0", b"",
)  # fmt: skip


# -- good files ----------------------------------------------------------------------------------
def make_good(folder: Path) -> list[Path]:
    """A small file of every kind, and of every model."""
    rng = np.random.default_rng(0)
    rows = rng.random((24, 4), dtype=np.float32)
    for name in OPTIONS:
        (folder / name).mkdir()
        model(name, 4).fit(rows, steps=3, batch=8, folder=folder / name)
    np.save(folder / "rows.npy", rows)
    np.savez(folder / "rows.npz", x=rows, y=np.arange(24) % 3)
    np.savez_compressed(folder / "packed.npz", x=rows, y=np.arange(24) % 3)
    text = "a,b,c,d\n" + "\n".join(",".join(f"{v:.3f}" for v in row) for row in rows) + "\n"
    (folder / "rows.csv").write_text(text)
    with gzip.open(folder / "packed.csv.gz", "wt") as file:
        file.write(text)
    (folder / "mnist").mkdir()
    for i, name in enumerate(IDX):
        shape = (24, 4, 4) if i % 2 == 0 else (24,)
        values = rng.integers(0, 10, shape, dtype=np.uint8).tobytes()
        content = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + values
        plain = i < 2
        path = folder / "mnist" / (name if plain else name + ".gz")
        path.write_bytes(content if plain else gzip.compress(content, mtime=0))
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


# -- changes -------------------------------------------------------------------------------------
def blind(rng: np.random.Generator, data: bytes) -> bytes:
    """A change that knows nothing of the format."""
    out, n = bytearray(data), len(data)
    if not n:
        return b"\0"
    # Half of the places are in the first or last 200 bytes, where headers and directories are.
    place = int(rng.integers(n))
    if rng.random() < 0.5:
        place = min(place % 200, n - 1) if rng.random() < 0.5 else max(n - 1 - place % 200, 0)
    length = int(rng.integers(1, 1 + max(n // 4, 1)))
    kind = rng.integers(9)
    if kind == 0:
        out[place] ^= 1 << rng.integers(8)
    elif kind == 1:
        out[place : place + length] = rng.bytes(min(length, n - place))
    elif kind == 2:
        del out[place:]
    elif kind == 3:
        del out[place : place + length]
    elif kind == 4:
        out[place:place] = out[place : place + length]
    elif kind == 5:
        out[place:place] = rng.bytes(int(rng.integers(1, 64)))
    elif kind == 6:
        out[place : place + length] = bytes(min(length, n - place))
    elif kind == 7:
        out[place : place + 4] = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4))[
            rng.integers(3)
        ]
    else:
        return number(rng, data)
    return bytes(out)


def number(rng: np.random.Generator, data: bytes) -> bytes:
    """One of the numbers written in the first 2000 bytes becomes something else."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:2000]))
    if not found:
        return data[:-1]
    start, end = found[rng.integers(len(found))].span()
    return data[:start] + ODD_TEXTS[rng.integers(len(ODD_TEXTS))] + data[end:]


def inside_json(rng: np.random.Generator, text: str) -> str:
    """One value of the JSON text, at any depth, becomes an odd one, or its name is lost."""
    whole = json.loads(text)
    at, place = {"": whole}, ""
    for _ in range(8):
        value = at[place]
        if not isinstance(value, (dict, list)) or not value or (place != "" and rng.random() < 0.3):
            break
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        at, place = value, keys[rng.integers(len(keys))]
    if rng.random() < 0.1:
        del at[place]
    else:
        at[place] = ODD_VALUES[rng.integers(len(ODD_VALUES))]
    return json.dumps(whole)


def inside_array(rng: np.random.Generator, data: bytes) -> bytes:
    """The array of a .npy file with other values, shape or type."""
    array = np.load(io.BytesIO(data))
    if array.dtype.kind == "U":
        return _npy(np.array(inside_json(rng, str(array))))
    kind = rng.integers(7)
    if kind == 0:
        array = array.astype(
            ("f8", "f2", "i1", "c8", "U8", "?", ">f4", "M8[s]", "V4")[rng.integers(9)]
        )
    elif kind == 1:
        array = array[None]
    elif kind == 2:
        array = array[:0] if array.ndim else array[None]
    elif kind == 3:
        array = array.reshape(-1)
    elif kind == 4:
        array = np.asfortranarray(array).T
    elif array.size:
        array = array.copy()
        odd = (np.nan, np.inf, 1e300, -1e30, 3.4e38, -1, 2**40)[rng.integers(7)]
        with np.errstate(all="ignore"):
            array.flat[int(rng.integers(array.size))] = np.array(odd).astype(array.dtype)
        if kind == 6:
            array.flat[:] = array.flat[0]
    return _npy(array)


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def inside_zip(rng: np.random.Generator, data: bytes) -> bytes:
    """A whole zip file with one member changed, dropped, doubled, renamed or packed otherwise."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = list(members)[rng.integers(len(members))]
    if rng.random() < 0.4 and "meta.npy" in members:
        name = "meta.npy"
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]
    packed = zipfile.ZIP_STORED
    kind = rng.integers(8)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members["more/" + name] = members[name]
    elif kind == 2:
        members = {f"{k[:-4]}x" if k == name else k: v for k, v in members.items()}
    elif kind == 3:
        packed = methods[rng.integers(4)]
        members[name] = inside_array(rng, members[name])
    elif kind == 4:
        members[name] = blind(rng, members[name])
    elif kind == 5:
        members["bomb.npy"] = _npy(np.zeros(1 << 22, np.uint8))
        packed = zipfile.ZIP_DEFLATED
    else:
        members[name] = inside_array(rng, members[name])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packed) as file:
        for key, value in members.items():
            file.writestr(key, value)
    return out.getvalue()


def damaged(rng: np.random.Generator, path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".npz" and rng.random() < 0.7:
        data = inside_zip(rng, data)
    elif path.suffix == ".npy" and rng.random() < 0.5:
        return inside_array(rng, data)
    elif path.suffix == ".gz" and rng.random() < 0.7:
        return gzip.compress(blind(rng, gzip.decompress(data)), mtime=0)
    else:
        data = blind(rng, data)
    return blind(rng, data) if rng.random() < 0.15 else data


# -- reading -------------------------------------------------------------------------------------
def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def commands(good: Path, path: Path, here: Path) -> list[list[str]]:
    """What a user would do with the file."""
    if "mnist" in good.parts:
        return [["explain", "ae", "--data", "mnist", "--data-dir", str(here)]]
    if good.name != "checkpoint.npz":
        return [["explain", "ae", "--data", str(path)]]
    return [["info", str(path)], ["sample", str(path), "--n", "2", "--out", str(here / "s.npy")]]


def told(command: list[str]) -> str | None:
    """What is wrong with how the command line ends, None if nothing is."""
    from tinygen.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(command)
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        return f"{' '.join(command)}: {traceback.format_exc(-2)}"
    lines = err.getvalue().splitlines()
    good = status == 0 or (status == 2 and len(lines) == 1 and lines[0].startswith("tinygen: "))
    return None if good else f"{' '.join(command)}: exit code {status}, {lines}"


def resumed(good: Path, path: Path) -> str | None:
    """What is wrong with how a run resumes from the checkpoint, None if nothing is."""
    rows = np.random.default_rng(0).random((24, 4), dtype=np.float32)
    try:
        model(good.parent.name, 4).fit(rows, steps=3, batch=8, folder=path.parent, resume=True)
    except (ValueError, ArithmeticError, MemoryError) as error:
        return None if "\n" not in str(error) else f"resume: {error}"
    except BaseException:
        return f"resume: {traceback.format_exc(-2)}"
    return None


def _out_of_time(*_) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


def trial(files: list[Path], seed: int, number: int) -> str | None:
    """One damaged file, read in every way; what is wrong, with the files named."""
    rng = np.random.default_rng([seed, number])
    checkpoints = [f for f in files if f.name == "checkpoint.npz"]
    others = [f for f in files if f.name != "checkpoint.npz"]
    good = (checkpoints, others)[number % 2][
        rng.integers((len(checkpoints), len(others))[number % 2])
    ]
    signal.signal(signal.SIGALRM, _out_of_time)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a second line
        here = Path(folder)
        path = here / good.name
        if "mnist" in good.parts:
            for other in good.parent.iterdir():
                (here / other.name).write_bytes(other.read_bytes())
        path.write_bytes(damaged(rng, good))
        signal.alarm(SECONDS)
        problems = [told(command) for command in commands(good, path, here)]
        if good.name == "checkpoint.npz":
            problems.append(resumed(good, path))
        signal.alarm(0)
    problems = [p for p in problems if p]
    return f"{good.parent.name}/{good.name}: " + "\n".join(problems) if problems else None


def trials(seed: int, numbers: Iterable[int]) -> Iterator[tuple[int, str | None]]:
    with tempfile.TemporaryDirectory() as folder:
        files = make_good(Path(folder))
        with ProcessPoolExecutor(2, get_context("spawn"), _limit) as pool:
            yield from zip(
                numbers, pool.map(partial(trial, files, seed), numbers, chunksize=10), strict=True
            )
