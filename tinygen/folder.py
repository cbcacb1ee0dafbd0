"""The folder of a run, and its lock: only one process at a time works in it."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["CHECKPOINT", "is_leftover", "locked"]

CHECKPOINT = "checkpoint.npz"
LOCK = ".lock"
OURS = rf"{re.escape(CHECKPOINT)}|progress\.(npz|png)"  # what is written while a run goes on

_held: dict[Path, int] = {}  # the folders that this process has locked, and the threads that did it


def is_leftover(file: Path) -> bool:
    """Whether the file is a lock or an unfinished file that a killed run left in its folder."""
    return bool(re.fullmatch(rf"\{LOCK}|\.({OURS})\.\d+\.tmp", file.name))


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Inside the `with` block, only this thread of this process works in the folder of a run.

    The system releases the lock when the process ends for any reason. Unfinished files of
    killed runs are removed. A thread may lock a folder again that it has locked already.
    BlockingIOError: another run works in the folder. OSError: there is no such folder, or it cannot
    be written.
    """
    path = Path(folder).resolve()
    if _held.get(path) == threading.get_ident():
        yield
        return
    descriptor = _lock(path)
    try:
        _held[path] = threading.get_ident()
        for file in path.iterdir():
            if is_leftover(file) and file.name != LOCK:
                file.unlink(missing_ok=True)
        yield
    finally:
        _held.pop(path, None)
        with suppress(OSError):  # the folder is gone, or Windows does not delete open files
            (path / LOCK).unlink()
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """The file descriptor that holds the lock of the folder."""
    while True:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _flock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise BlockingIOError(
                errno.EAGAIN, "another run is under way in this folder", str(folder)
            ) from None
        except OSError as error:
            logging.getLogger("tinygen").warning(
                "tinygen: %s cannot be locked (%s): start no second run in it", folder, error
            )
            return descriptor
        # The last owner may have removed the file after it was opened here. Then try again.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK)):
                return descriptor
        os.close(descriptor)


def _flock(descriptor: int) -> None:
    """Lock the file. BlockingIOError: it is locked. OSError: the system or the disk has no locks."""
    if sys.platform == "win32":
        raise OSError("Windows has no flock")
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
