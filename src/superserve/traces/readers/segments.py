"""Recorded traces: a canonical file, or a folder of numbered segments as ``serve --record`` writes it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from superserve.errors import TraceError
from superserve.traces.trace import OPTIONAL_COLUMNS, Trace


def load_trace(path: Path) -> Trace:
    """A canonical trace file, or the segments of a folder end to end.

    Segments are the .npz files whose names end in a number, in its order; their stamps share one origin, the start of
    the recording. Files whose names start with a dot are not yet complete and left out.

    Raises:
        TraceError: if there is nothing to read, a segment starts before the one before it ends, or not all of them
            have the same columns; the message names the file.
    """
    if not path.is_dir():
        return Trace.load(path)
    found = [(_number(file), file) for file in path.glob("*.npz") if not file.name.startswith(".")]
    files = [file for number, file in sorted(found) if number >= 0]
    if not files:
        raise TraceError(f"trace {path}: no numbered .npz segments in this folder")
    segments = [Trace.load(file) for file in files]
    _check_joints(files, segments)
    return Trace(
        path.name,
        np.concatenate([segment.arrival_ns for segment in segments]),
        **{name: _joined(path, name, [segment.optional()[name] for segment in segments]) for name in OPTIONAL_COLUMNS},
    )


def _number(file: Path) -> int:
    digits = re.search(r"(\d+)$", file.stem)
    return int(digits[1]) if digits else -1


def _check_joints(files: list[Path], segments: list[Trace]) -> None:
    last_ns = 0
    for file, segment in zip(files, segments, strict=True):
        if not len(segment):
            continue
        if segment.arrival_ns[0] < last_ns:
            raise TraceError(
                f"trace {file}: starts before the segment before it ends; segments of one folder count from the start "
                "of one recording"
            )
        last_ns = int(segment.arrival_ns[-1])


def _joined(path: Path, name: str, columns: list[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
    given = [column for column in columns if column is not None]
    if not given:
        return None
    if len(given) < len(columns):
        raise TraceError(f"trace {path}: column {name} is in some segments only; leave it out or give it everywhere")
    return np.concatenate(given)
