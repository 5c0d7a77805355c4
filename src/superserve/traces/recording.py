"""What ``serve --record DIR`` leaves behind of a model: a trace in segments with what came of each request.

A segment is a canonical trace (`superserve.traces.trace`) with more columns: of each request `REQUEST_COLUMNS`, and of
each batch `BATCH_COLUMNS` with ``batch_`` in front of their names. All stamps count from the start of the recording.
``settings.json`` beside the segments says what the server ran with, its profile included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from superserve.errors import TraceError
from superserve.metrics import NO_SUBNET, RunLog
from superserve.profile import Profile
from superserve.scheduling import TimeoutAction
from superserve.traces.readers.segments import SETTINGS_FILE, load_trace, recorded_folder, segment_files
from superserve.traces.trace import Trace, save_columns

FORMAT: Final = 1

#: Names and typecodes (of the module ``array``, and numpy's) of what is known of a request. ``outcome`` is an
#: `OUTCOME_CODES` value, ``subnet`` an index into the profile or `NO_SUBNET`.
REQUEST_COLUMNS: Final[Mapping[str, str]] = {
    "arrival_ns": "q",
    "slo_ns": "q",
    "priority": "i",
    "rows": "i",
    "min_accuracy": "d",
    "outcome": "B",
    "end_ns": "q",
    "subnet": "h",
    "batch_rows": "i",
}
#: The same of a batch that was answered: ``taken_ns`` in the worker, ``overhead_ns`` everything else from the launch to
#: the instant at which the worker could have its next batch. Answers are written after that.
BATCH_COLUMNS: Final[Mapping[str, str]] = {
    "launched_ns": "q",
    "worker": "i",
    "subnet": "h",
    "rows": "i",
    "taken_ns": "q",
    "overhead_ns": "q",
}
_BATCH: Final = "batch_of_"
_STAMPS: Final = ("arrival_ns", "end_ns", "launched_ns")

#: Requests that may wait for an older one to end, so that segments are in order of arrival.
_MOST_HELD: Final = 500_000
#: Between the last request of a recording and the first one of a server that goes on with it.
_GAP_NS: Final = 1_000_000_000

Columns = dict[str, npt.NDArray[Any]]


class RecordedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server ran with, for one model."""

    format: int = FORMAT
    model: str
    policy: str
    timeout_action: TimeoutAction
    slo_ms: float
    max_queued: int
    workers: int
    emulated: bool
    profile: Profile
    """What was planned with."""


class SegmentWriter:
    """Writes the segments of one folder. What it is given last and is older than what has been written goes on there.

    Args:
        folder: made if it is not there; segments in it are gone on with.
        max_bytes: of all segments together: the oldest are deleted.

    Raises:
        OSError: if the folder cannot be written to.
        TraceError: if there is a segment in it that cannot be read.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes
        self._held: Columns = {}
        self._held_batches: Columns = {}
        self._last_ns = 0
        self.lost = 0
        """Requests that could not be written."""
        self.offset_ns = 0
        """What stamps of this recording are to be moved by, to come behind those that are there."""
        files = segment_files(folder)
        numbers = [int(file.stem) for file in files if file.stem.isdigit()]
        self._numbers = count(max(numbers, default=0) + 1)
        if files:
            self._last_ns = int(Trace.load(files[-1]).arrival_ns[-1])
            self.offset_ns = self._last_ns + _GAP_NS

    def write_settings(self, settings: RecordedSettings) -> None:
        """Write or replace ``settings.json``.

        Raises:
            OSError: if it cannot be written.
        """
        scratch = self._folder / f".{SETTINGS_FILE}.partial"
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=1))
        scratch.replace(self._folder / SETTINGS_FILE)

    def write(self, requests: Columns, batches: Columns, settled_ns: int) -> None:
        """Write a segment.

        Args:
            requests: ended since the last call, in any order.
            batches: the same.
            settled_ns: all requests that arrived before have ended. Those that arrived later wait for the next segment.

        Raises:
            OSError: if it cannot be written: it is lost, and the disk as before.
        """
        known, batches = _behind(self._held, requests), _behind(self._held_batches, batches)
        self._held, self._held_batches = {}, {}
        order = np.argsort(known["arrival_ns"], kind="stable")
        known = {name: column[order] for name, column in known.items()}
        ready = int(np.searchsorted(known["arrival_ns"], settled_ns))
        ready = max(ready, len(order) - _MOST_HELD)
        if ready < len(order):
            self._held = {name: column[ready:] for name, column in known.items()}
        if ready:
            self._write({name: column[:ready] for name, column in known.items()}, batches)
        else:
            self._held_batches = batches

    def close(self) -> None:
        """Write what has been waiting for older requests to end.

        Raises:
            OSError: if it cannot be written.
        """
        held, self._held = self._held, {}
        if held:
            self._write(held, self._held_batches or {name: np.zeros(0, code) for name, code in BATCH_COLUMNS.items()})

    def _write(self, requests: Columns, batches: Columns) -> None:
        # Only where more than may be held had to wait: what comes too late counts from then, its deadline stays.
        late_ns = np.maximum(0, self._last_ns - requests["arrival_ns"])
        requests["arrival_ns"] = requests["arrival_ns"] + late_ns
        requests["slo_ns"] = requests["slo_ns"] - late_ns
        self._last_ns = int(requests["arrival_ns"][-1])
        named = {f"{_BATCH}{name}": column for name, column in batches.items()}
        try:
            save_columns(self._folder / f"{next(self._numbers):06}.npz", {**requests, **named})
        except OSError:
            self.lost += len(requests["arrival_ns"])
            raise
        self._prune()

    def _prune(self) -> None:
        files = segment_files(self._folder)
        sizes = [file.stat().st_size for file in files]
        total = sum(sizes)
        for file, size in zip(files[:-1], sizes, strict=False):
            if total <= self._max_bytes:
                return
            file.unlink()
            total -= size


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a server has recorded of a model: ``log`` has an entry per request of ``trace``."""

    trace: Trace
    log: RunLog
    batches: Columns
    settings: RecordedSettings


def load_recorded(path: Path) -> Recorded | None:
    """What was recorded in a folder; None if the path is another trace.

    Raises:
        TraceError: if it cannot be read; the message names the file.
    """
    folder = recorded_folder(path)
    if folder is None:
        return None
    file = folder / SETTINGS_FILE
    try:
        settings = msgspec.json.decode(file.read_bytes(), type=RecordedSettings)
    except (OSError, msgspec.MsgspecError) as error:
        raise TraceError(f"{file}: {error}") from None
    if settings.format != FORMAT:
        raise TraceError(f"{file}: format {settings.format} is not {FORMAT}: record again")
    trace = load_trace(folder)
    columns = _joined(segment_files(folder))
    subnet = columns["subnet"]
    accuracies = np.array([one.accuracy for one in settings.profile.subnets])
    if len(subnet) and subnet.max() >= len(accuracies):
        raise TraceError(f"{folder}: a request was answered by subnet {subnet.max()}, of {len(accuracies)} in {file}")
    log = RunLog.empty(trace.arrival_ns)
    log.end_ns[:] = columns["end_ns"]
    log.outcome[:] = columns["outcome"]
    log.subnet[:] = subnet
    log.accuracy[:] = np.where(subnet == NO_SUBNET, np.nan, accuracies[subnet])
    log.batch_rows[:] = columns["batch_rows"]
    batches = {name: columns[f"{_BATCH}{name}"] for name in BATCH_COLUMNS}
    return Recorded(_plain(trace), log, batches, settings)


def _joined(files: list[Path]) -> Columns:
    wanted = [*REQUEST_COLUMNS, *(f"{_BATCH}{name}" for name in BATCH_COLUMNS)]
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in wanted}
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as archive:
                for name in wanted:
                    parts[name].append(archive[name])
        except (OSError, ValueError, KeyError) as error:
            raise TraceError(f"trace {file}: not a segment of a recording: {error}") from None
    return {name: np.concatenate(part) for name, part in parts.items()}


def _plain(trace: Trace) -> Trace:
    """The same without columns that say nothing."""
    columns = {name: column for name, column in trace.optional().items() if column is not None}
    usual = {"rows": 1, "min_accuracy": 0, "priority": 0}
    kept = {name: column for name, column in columns.items() if name not in usual or (column != usual[name]).any()}
    return Trace(trace.name, trace.arrival_ns, **kept)


def _behind(first: Columns, second: Columns) -> Columns:
    """Two parts of the same columns, end to end; the first may have none."""
    return {name: np.concatenate([first[name], column]) if first else column for name, column in second.items()}


def moved(columns: Columns, by_ns: int) -> Columns:
    """The same with all stamps later."""
    return {name: column + by_ns if name in _STAMPS else column for name, column in columns.items()}
