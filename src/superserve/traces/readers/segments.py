"""Recorded traces: a canonical file, or a folder of numbered segments as ``serve --record`` writes it."""

import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from superserve.errors import TraceError
from superserve.traces.trace import OPTIONAL_COLUMNS, Trace

#: Beside the segments that a server has recorded: what it ran with.
SETTINGS_FILE: Final = "settings.json"


def recorded_folder(path: Path) -> Path | None:
    """The folder with what a server has recorded: the path itself, or the one folder for a model in it; None if none.

    Raises:
        TraceError: if there are several; the message names them.
    """
    if (path / SETTINGS_FILE).is_file():
        return path
    found = sorted(file.parent for file in path.glob(f"*/{SETTINGS_FILE}"))
    if len(found) > 1:
        raise TraceError(f"trace {path}: several models were recorded here; name one: {', '.join(map(str, found))}")
    return found[0] if found else None


def segment_files(folder: Path) -> list[Path]:
    """The segments of a folder, in their order."""
    found = [(_number(file), file) for file in folder.glob("*.npz") if not file.name.startswith(".")]
    return [file for number, file in sorted(found) if number >= 0]


def load_trace(path: Path) -> Trace:
    """A canonical trace file, or the segments of a folder end to end.

    A folder that holds nothing but the recorded folder of a model stands for that one. Segments are the .npz files
    whose names end in a number, in its order; their stamps share one origin, the start of the recording. Files whose
    names start with a dot are not yet complete and left out.

    Raises:
        TraceError: if there is nothing to read, a segment starts before the one before it ends, or not all of them
            have the same columns; the message names the file.
    """
    if not path.is_dir():
        return Trace.load(path)
    path = recorded_folder(path) or path
    files = segment_files(path)
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
