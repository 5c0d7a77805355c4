"""Columns of CSV files, compressed or not, with errors that say where."""

import csv
import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from superserve.errors import TraceError


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """A text file, decompressed if it is gzip whatever its name.

    Raises:
        TraceError: if it cannot be read.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with TextIOWrapper(gzip.GzipFile(fileobj=raw) if packed else raw, "utf-8", newline="") as text:
                yield text
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"trace {path}: not a readable CSV file: {error}") from None


def find_column(path: Path, header: Sequence[str], wanted: Sequence[str]) -> int:
    """Position of the first of some column names that the header has.

    Raises:
        TraceError: if it has none of them.
    """
    for name in wanted:
        if name in header:
            return header.index(name)
    raise TraceError(f"trace {path}, line 1: no column {' or '.join(wanted)}; its columns are {', '.join(header)}")


def read_column(path: Path, *wanted: str) -> tuple[str, npt.NDArray[np.float64]]:
    """The first of some columns that a file has: its name and values, float64.

    Blank cells before the first and after the last value are left out: columns of one table may cover other spans.

    Raises:
        TraceError: for a missing column, a cell that is no number of at least 0, or a blank between values.
    """
    with open_text(path) as text:
        lines = csv.reader(text)
        header = [name.strip() for name in next(lines, [])]
        index = find_column(path, header, wanted)
        name = header[index]
        values = [_cell(path, number, name, line, index) for number, line in enumerate(lines, 2) if line]
    column = np.array(values)
    known = np.flatnonzero(~np.isnan(column))
    if not len(known):
        raise TraceError(f"trace {path}: column {name} has no values")
    column = column[known[0] : known[-1] + 1]
    if np.isnan(column).any():
        line = 2 + int(known[0]) + int(np.flatnonzero(np.isnan(column))[0])
        raise TraceError(f"trace {path}, line {line}, column {name}: blank between values; write 0 for nothing")
    return name, column


def _cell(path: Path, line: int, name: str, cells: Sequence[str], index: int) -> float:
    text = cells[index].strip() if index < len(cells) else ""
    if not text:
        return np.nan
    return parse_number(path, line, name, text)


def parse_number(path: Path, line: int, column: str, text: str) -> float:
    """A cell as a finite number of at least 0.

    Raises:
        TraceError: if it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value < np.inf:
        raise TraceError(f"trace {path}, line {line}, column {column}: {text!r} is not a number of at least 0")
    return value
