"""A log of a run as a CSV file: the plainest use of `fit(callback=...)`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from tinygen.checkpoint import replacing

__all__ = ["CsvLog"]

Row = list[Any]


class CsvLog:
    """A callback of `fit` that writes one line for each step: its number and the terms of its losses.

    The first line names them. A number reads back to the same bits. Between the steps the file is
    closed and complete, so it can be read while the run goes on, and a kill loses no line.
    resume: continue the file of a run that is resumed; without a file, begin one. Lines of steps that
        the run takes again are dropped: the file ends as that of a run that never stopped.
    FileExistsError: the file exists, and `resume` was not asked for. ValueError: it has other columns,
    or it ends before the step where the run goes on. The file is left as it was.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path, self.resume = Path(path), resume
        self._columns: Row = []
        self._next = 0  # the step whose line belongs at the end of the file; 0: not known yet
        self._refuse_another()

    def __call__(self, step: int, terms: dict[str, float]) -> None:
        columns = ["step", *terms]
        if step != self._next:
            self._begin(step, columns)
        elif columns != self._columns:
            raise self._other(self._columns, columns)
        _write(self.path, "a", [[step, *terms.values()]])
        self._columns, self._next = columns, step + 1

    def _begin(self, step: int, columns: Row) -> None:
        """Leave in the file the names of the columns and the steps before this one."""
        self._refuse_another()
        rows = _read(self.path) if self.path.exists() else []
        if rows and rows[0] != columns:
            raise self._other(rows[0], columns)
        steps = [row[0] for row in rows]
        if str(step) in steps:
            rows = rows[: steps.index(str(step))]
        elif steps[1:] and steps[-1] != str(step - 1):
            raise ValueError(f"{self.path} ends with step {steps[-1]}; the run goes on with {step}")
        with replacing(self.path) as temporary:
            _write(temporary, "w", rows or [columns])

    def _refuse_another(self) -> None:
        if not self.resume and self.path.exists():
            raise FileExistsError(
                f"{self.path} exists: CsvLog(path, resume=True) continues it, or choose another file"
            )

    def _other(self, own: Row, columns: Row) -> ValueError:
        return ValueError(f"{self.path} has the columns {own}, this run has {columns}")


def _read(path: Path) -> list[Row]:
    with open(path, newline="", encoding="utf-8") as file:
        whole = [line for line in file if line.endswith("\n")]  # a kill may cut the last one
    return list(filter(None, csv.reader(whole)))  # without empty lines


def _write(path: Path, mode: str, rows: list[Row]) -> None:
    with open(path, mode, newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
