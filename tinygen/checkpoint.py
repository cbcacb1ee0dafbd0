"""Files of arrays and a description: `.npz` without pickle, written whole or not at all."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tinygen.errors import CheckpointError

__all__ = ["prefixed", "read", "replacing", "section", "write"]

FORMAT = "tinygen-2"


def write(path: str | Path, meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write `arrays` by name and `meta` (JSON) to `path`, replacing it in one step.

    The arrays are NumPy's, as every `state_dict` gives them.
    OSError (a full disk, a folder that cannot be written): what was at `path` is still there.
    TypeError: `meta` holds something that JSON cannot.
    """
    try:
        text = json.dumps({"format": FORMAT, **meta})
    except TypeError as error:
        raise TypeError(
            f"{path} cannot describe this model: {error}; use parts known by name"
        ) from None
    content = io.BytesIO()  # in memory first: a zip file does not take a full disk well
    np.savez(content, meta=np.array(text), **arrays)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())  # on the disk before the name points to it


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path; the file written there takes the place of `path` if no error comes.

    OSError names `path`, and what was there is still there.
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

    FileNotFoundError: there is none. CheckpointError: truncated, damaged or not a checkpoint.
    """
    path = Path(path)
    try:
        with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint at {path}") from None
    except (ValueError, KeyError, AttributeError, TypeError, EOFError) as error:
        raise CheckpointError(f"{path} is not a tinygen checkpoint") from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of format {FORMAT}")
    return meta, arrays


def section(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The arrays under `name/`, without that prefix."""
    prefix = name + "/"
    return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}


def prefixed(name: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays with `name/` before their names: the inverse of `section`."""
    return {f"{name}/{k}": v for k, v in arrays.items()}
