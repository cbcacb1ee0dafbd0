"""Tables of numbers in .csv files. It guesses the delimiter, the header and the columns of numbers."""

from __future__ import annotations

import array
import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from tinygen.errors import unknown

# The first of these signs that divides the first line is the delimiter. Texts may have commas, so the
# comma is last.
SIGNS = ";\t|,"
LOOKED_AT = 100  # at most so many rows show which columns hold numbers
LONG = 100_000  # at most so many cells are in these rows, and signs in the text for the delimiter

Record = tuple[int, list[str]]  # the number of its last line, and its cells


def read_csv(
    path: str,
    columns: Sequence[str | int] | None = None,
    label_column: str | int | None = None,
    delimiter: str | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64] | None, str]:
    """The numbers (n, d) of a file, its labels (n,) or None, and the guesses as text ("" if none).

    path: a plain file or a gzip file.
    columns: names, or numbers from 1. By default all columns with numbers, without a first one that
        only counts the rows.
    label_column: a name or a number. Labels that are not whole numbers get numbers in alphabetical
        order.
    delimiter: the sign between cells, or "tab".

    ValueError: it is not a table of numbers. The message names the line.
    """
    guesses: list[str] = []
    try:
        with _open(path) as file:
            sign = _delimiter(file, delimiter, guesses)
            records = _records(path, file, sign)
            head = list(islice(records, 1))
            width = len(head[0][1]) if head else 1
            head += islice(records, max(1, min(LOOKED_AT, LONG // width)))
            rows = [cells for _, cells in head]
            numeric = [j for j in range(width) if any(_is_number(row[j]) for row in rows)]
            if not numeric:
                raise ValueError(
                    f"{path}: holds no numbers between delimiters {sign!r}; delimiter= names another"
                )
            header = _header(rows, numeric, guesses)
            label = None if label_column is None else _number(path, label_column, header, width)
            if columns is not None:
                chosen = [_number(path, column, header, width) for column in columns]
            else:
                chosen = _chosen(rows[bool(header) :], numeric, label, header, guesses)
            values, texts = _cells(path, chain(head[bool(header) :], records), chosen, label)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: truncated or corrupt gzip data: {error}") from error
    labels = None if label is None else _labels(texts, guesses)
    return values, labels, ", ".join(guesses)


def _open(path: str) -> TextIO:
    """The file as text. Bytes that are not UTF-8 become signs that are in no number."""
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    opener: Any = gzip.open if zipped else open
    text: TextIO = opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return text


def _delimiter(file: TextIO, given: str | None, guesses: list[str]) -> str:
    """The sign between cells. If it is not given, it is guessed from the first line."""
    if given is not None:
        if (len(given) != 1 and given != "tab") or given in '"\r\n':
            raise ValueError(f"a delimiter is one sign, such as ; or |, or tab, not {given!r}")
        return "\t" if given == "tab" else given
    lines = file.read(LONG).replace("\0", "").lstrip("\r\n ").splitlines()
    file.seek(0)
    for sign in SIGNS:
        # csv.reader, because a sign in quotes is not a delimiter.
        if lines and len(next(csv.reader(lines[:1], delimiter=sign))) > 1:
            guesses += [f"delimiter {sign!r}"] * (sign != ",")
            return sign
    return ","


def _records(path: str, file: TextIO, sign: str) -> Iterator[Record]:
    """The records that are not blank. ValueError: one has more or fewer cells than the first."""
    reader = csv.reader(file, delimiter=sign, skipinitialspace=True, strict=True)
    width = 0
    try:
        for cells in reader:
            if cells in ([], [""]):
                continue
            if width not in (0, len(cells)):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, "
                    f"but {width} in the lines before"
                )
            width = len(cells)
            yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None


def _header(rows: list[list[str]], numeric: list[int], guesses: list[str]) -> list[str]:
    """The first row if it has no numbers, or if it has years and the second row has not. Else []."""
    over, *below = ([cell for j in numeric if _is_number(cell := row[j])] for row in rows[:2])
    if not over:
        return rows[0]
    if _are_years(over) and not (below and _are_years(below[0])):
        guesses.append("a header of years")
        return rows[0]
    return []


def _are_years(cells: list[str]) -> bool:
    """Whether the cells are two or more years with equal differences."""
    if len(cells) < 2 or not all(re.fullmatch(r"[12]\d{3}", cell.strip()) for cell in cells):
        return False
    steps = set(np.diff([int(cell) for cell in cells]).tolist())
    return len(steps) == 1 and steps != {0}


def _number(path: str, column: str | int, header: list[str], width: int) -> int:
    """The index of a column by its name, or by its number from 1."""
    if column in header:
        return header.index(str(column))
    if str(column).isdecimal() and 1 <= int(column) <= width:
        return int(column) - 1
    raise unknown(f"column of {path}:", column, header or map(str, range(1, width + 1)))


def _chosen(
    rows: list[list[str]],
    numeric: list[int],
    label: int | None,
    header: list[str],
    guesses: list[str],
) -> list[int]:
    """The columns with numbers, without a first one that only counts the rows."""

    def names(columns: list[int]) -> str:
        known = [header[j] if header else "" for j in columns[:5]]
        shown = [
            repr(name) if name else str(j + 1) for name, j in zip(known, columns, strict=False)
        ]
        return ", ".join(shown) + ", ..." * (len(columns) > 5)

    chosen = [j for j in numeric if j != label]
    text = sorted(set(range(len(rows[0]))) - {*numeric, label}) if rows else []
    if text:
        guesses.append(f"without the text of {names(text)}")
    if len(chosen) > 1 and len(rows) > 2:
        first = [row[chosen[0]].strip() for row in rows]
        if any(first == [str(start + i) for i in range(len(rows))] for start in (0, 1)):
            guesses.append(f"without {names(chosen[:1])}, which counts the rows")
            return chosen[1:]
    return chosen


def _cells(
    path: str, records: Iterable[Record], chosen: list[int], label: int | None
) -> tuple[NDArray[np.float64], list[str]]:
    """The numbers in the chosen columns as float64 (n, d), and the texts of the labels."""
    numbers, labels = array.array("d"), []
    for line, cells in records:
        try:
            numbers.extend([float(cells[j]) for j in chosen])
        except ValueError:
            j = next(j for j in chosen if not _is_number(cells[j]))
            raise ValueError(
                f"{path}, line {line}, column {j + 1}: {cells[j][:40]!r} is not a number"
            ) from None
        if label is not None:
            labels.append(cells[label].strip())
    return np.array(numbers).reshape(-1, max(len(chosen), 1)), labels


def _labels(texts: list[str], guesses: list[str]) -> NDArray[np.int64]:
    """Labels as whole numbers. Other labels get the numbers of their alphabetical order."""
    try:
        return np.array([int(text) for text in texts], np.int64)
    except (ValueError, OverflowError):
        names, labels = np.unique(texts, return_inverse=True)
        shown = [f"{i} for {name[:40]!r}" for i, name in enumerate(names[:10].tolist())]
        guesses.append("labels " + ", ".join(shown) + ", ..." * (len(names) > 10))
        return labels.astype(np.int64).reshape(-1)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
