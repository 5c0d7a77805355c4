"""Azure Functions 2019: invocations per function and minute.

The official release has one file a day, ``invocations_per_function_md.anon.d01.csv`` to ``d14``, with the columns
HashOwner, HashApp, HashFunction, Trigger, 1, ..., 1440 (Shahrad et al., ATC 2020; CC-BY 4.0).
"""

import csv
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from superserve.errors import TraceError
from superserve.traces.readers.table import open_text, parse_number, read_column
from superserve.traces.squeeze import Counts

#: One day of the official release.
_DAY_FILES: Final = "invocations_per_function_md.anon.d*.csv*"
_KEYS: Final = ("HashOwner", "HashApp", "HashFunction", "Trigger")
_MINUTE_S: Final = 60.0
#: Functions added up at a time: 6 MB of numbers.
_CHUNK: Final = 500


def read_azure_functions(source: Path, column: str | None = None) -> Counts:
    """Invocations per minute, summed over all functions.

    Args:
        source: a day's file, a folder with several (joined in order of their days), a table with the column
            ``minute_of_day`` and ready sums, or an .npz file with ``counts`` (functions, minutes) and optionally
            ``multiplicity`` (functions): how often each row counts.
        column: which sum of a table to take; by default the first.

    Raises:
        TraceError: if it is none of these; the message names file, line and column.
    """
    if source.is_dir():
        days = sorted(source.glob(_DAY_FILES))
        if not days:
            raise TraceError(f"trace {source}: no file {_DAY_FILES} in this folder")
        return Counts.regular(np.concatenate([_read_day(day) for day in days]), _MINUTE_S)
    if source.suffix == ".npz":
        return Counts.regular(_read_archive(source), _MINUTE_S)
    header = _header(source)
    if header[:1] == ["minute_of_day"]:
        return Counts.regular(read_column(source, column or (header[1:2] or ["a sum"])[0])[1], _MINUTE_S)
    return Counts.regular(_read_day(source), _MINUTE_S)


def _header(path: Path) -> list[str]:
    with open_text(path) as text:
        return [name.strip() for name in next(csv.reader(text), [])]


def _read_day(path: Path) -> npt.NDArray[np.float64]:
    header = _header(path)
    keys, minutes = header[: len(_KEYS)], header[len(_KEYS) :]
    if tuple(keys) != _KEYS or not minutes or not all(minute.isdecimal() for minute in minutes):
        raise TraceError(
            f"trace {path}, line 1: the columns must be {', '.join(_KEYS)} and then minutes, as in the official files"
        )
    total = np.zeros(len(minutes))
    with open_text(path) as text:
        next(text)
        for first, lines in _chunks(text):
            total += _sum_lines(path, first, lines, minutes)
    return total


def _chunks(text: IO[str]) -> Iterator[tuple[int, list[str]]]:
    first = 2
    while lines := list(islice(text, _CHUNK)):
        yield first, lines
        first += len(lines)


def _sum_lines(path: Path, first: int, lines: list[str], minutes: list[str]) -> npt.NDArray[np.float64]:
    columns = range(len(_KEYS), len(_KEYS) + len(minutes))
    try:
        values = np.loadtxt(lines, np.float64, delimiter=",", usecols=columns, comments=None, ndmin=2)
    except ValueError:
        values = np.full((1, 1), np.nan)
    if not np.isfinite(values).all() or (values < 0).any():
        _refuse(path, first, lines, minutes)
    return np.asarray(values.sum(0), np.float64)


def _refuse(path: Path, first: int, lines: list[str], minutes: list[str]) -> None:
    """Find the cell that does not fit and say where it is."""
    for number, cells in enumerate(csv.reader(lines), first):
        if len(cells) != len(_KEYS) + len(minutes):
            raise TraceError(
                f"trace {path}, line {number}: {len(cells)} cells under {len(_KEYS) + len(minutes)} columns; is the "
                "file cut off?"
            )
        for minute, text in zip(minutes, cells[len(_KEYS) :], strict=True):
            parse_number(path, number, minute, text)
    raise TraceError(f"trace {path}, lines {first} to {first + len(lines) - 1}: cannot be read as numbers")


def _read_archive(path: Path) -> npt.NDArray[np.float64]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise TraceError(f"trace {path}: not a readable .npz file: {error}") from None
    counts = columns.get("counts")
    if counts is None or counts.ndim != 2:
        raise TraceError(f"trace {path}: needs an array 'counts' (functions, minutes); it has {sorted(columns)}")
    multiplicity = columns.get("multiplicity", np.ones(len(counts)))
    if multiplicity.shape != counts.shape[:1]:
        raise TraceError(f"trace {path}: 'multiplicity' must have one value per row of 'counts'")
    return np.asarray(multiplicity.astype(np.float64) @ counts, np.float64)
