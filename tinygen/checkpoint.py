"""Checkpoints: `.npz` files of arrays and a description. They hold no pickle.

Weights alone go to other libraries, and come from them, as `.safetensors` files.
A file is written completely or not at all.
"""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinygen import npz
from tinygen.errors import CheckpointError, pip_install

__all__ = [
    "WRONG_VALUES", "prefixed", "read", "read_safetensors", "replacing", "section", "write",
    "write_safetensors",
]  # fmt: skip

FORMAT = "tinygen-2"
FIELDS: dict[str, tuple[type, ...]] = {  # the fields of a description and their types
    "model": (str,), "config": (dict,),
    "settings": (dict,), "data": (list,), "step": (int,), "batches": (int,), "rng": (list,),
    "sittings": (list,), "run": (dict,), "image_shape": (list, type(None)),
}  # fmt: skip
WRONG_VALUES = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError, RecursionError
)  # fmt: skip
"""The errors that follow if an undamaged file holds wrong values."""


def write(path: str | Path, meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write NumPy `arrays` by name and `meta` (as JSON) to `path`. It replaces the file in one step.

    OSError: a full disk, or a folder that cannot be written; the old file at `path` is intact.
    TypeError: `meta` holds something that JSON cannot represent.
    """
    try:
        text = json.dumps({"format": FORMAT, **meta})
    except TypeError as error:
        raise TypeError(
            f"{path} cannot describe this model: {error}; use parts known by name"
        ) from None
    content = io.BytesIO()  # in memory first, because zipfile handles a full disk badly
    np.savez(content, meta=np.array(text), **arrays)
    _replace(path, content.getvalue())


def _replace(path: str | Path, content: bytes) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # the content is on the disk before the file gets its name


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to. If there is no error, the file then replaces the one at `path`.

    OSError: the message names `path`; the old file is intact.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        kept = "; the file that was there is intact" if path.exists() else ""
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write {path}: {reason}{kept}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """The description and the arrays of a file that `write` made.

    It needs no more memory than the size of the file.
    FileNotFoundError: no such file. CheckpointError: it is truncated, damaged, of another format, or
    not a checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    with open(path, "rb") as file:
        try:
            return _parse(file)
        except Exception as error:  # NumPy, zipfile and json may raise anything on a damaged file
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CheckpointError(
                f"{path} is not a tinygen checkpoint, or it is damaged: {reason}"
            ) from error


def _parse(file: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    with zipfile.ZipFile(file) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an odd header: it is read, or an error says more
        members = npz.members(archive)
        # `write` does not compress. So a small file that would expand to a large one is refused.
        sizes = sum(m.file_size for m in members.values())
        if (
            any(m.compress_type for m in members.values())
            or sizes > os.fstat(file.fileno()).st_size
        ):
            raise ValueError("its members are compressed, or larger than the file")
        if sizes > npz.free_memory():
            raise MemoryError(f"{sizes / 1e9:.2g} GB do not fit into the memory that is free")
        meta = json.loads(npz.read_member(archive, members.pop("meta")).item())
        if not isinstance(meta, dict) or "format" not in meta:
            raise ValueError("it does not say its format")
        if meta["format"] != FORMAT:
            raise ValueError(f"its format is {meta['format']!r}, this version reads {FORMAT!r}")
        for name, kinds in FIELDS.items():
            value = meta.get(name, kinds[0]())
            if type(value) not in kinds or (type(value) is int and value < 0):
                raise ValueError(f"its {name} is {value!r}")
        arrays = {name: npz.read_member(archive, member) for name, member in members.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} holds {array.dtype}, not numbers")
    return meta, arrays


def section(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The arrays whose names begin with `name/`, by the rest of their names."""
    prefix = name + "/"
    return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}


def prefixed(name: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with `name/` added before their names. It is the inverse of `section`."""
    return {f"{name}/{k}": v for k, v in arrays.items()}


# -- weights for other libraries -----------------------------------------------------------------
def write_safetensors(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write NumPy `arrays` by name, such as a `state_dict()`, to a `.safetensors` file.

    It replaces the file at `path` in one step. OSError: as `write`. ModuleNotFoundError: the package
    safetensors is not installed.
    """
    in_order = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    _replace(path, _safetensors().save(in_order))


def read_safetensors(path: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a `.safetensors` file by name, for `load_state_dict`.

    FileNotFoundError: no such file. CheckpointError: it is damaged, not of this format, or holds
    numbers that NumPy does not have. ModuleNotFoundError: the package safetensors is not installed.
    """
    library, content = _safetensors(), Path(path).read_bytes()
    try:
        arrays: dict[str, np.ndarray[Any, Any]] = library.load(content)
    except KeyError as error:
        raise CheckpointError(
            f"{path} holds numbers of type {error}, which NumPy does not have: write it with F32"
        ) from error
    except Exception as error:  # the library's own
        raise CheckpointError(
            f"{path} is no safetensors file, or it is damaged: {error}"
        ) from error
    return arrays


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ModuleNotFoundError(
            f".safetensors files need a package: {pip_install('safetensors')}"
        ) from None
    return safetensors.numpy
