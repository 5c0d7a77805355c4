"""Records what came of the requests of a model, for ``superserve simulate``.

The event loop appends numbers to columns; a thread of its own writes them. A disk that is slow, full or gone costs the
record, never an answer.
"""

import asyncio
import logging
import queue
import threading
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from superserve.clock import NS_PER_S, Clock, Timer
from superserve.errors import ConfigError, TraceError
from superserve.metrics import NO_SUBNET, OUTCOME_CODES
from superserve.request import Outcome, Request
from superserve.scheduling import Launch, Scheduler
from superserve.serving.config import RecordConfig
from superserve.serving.decisions import Ending
from superserve.traces.recording import (
    BATCH_COLUMNS,
    REQUEST_COLUMNS,
    Columns,
    RecordedSettings,
    SegmentWriter,
    moved,
)

_logger = logging.getLogger(__name__)

#: A segment ends at so many requests, too: with its successors on their way to the disk it takes some 12 MB.
_MOST_REQUESTS: Final = 50_000
#: Segments that may wait for the disk; one more is lost.
_MOST_WAITING: Final = 3
#: How long a server that stops waits for the disk.
_STOP_S: Final = 10.0

_SERVED: Final = OUTCOME_CODES[Outcome.SERVED]
_LATE: Final = OUTCOME_CODES[Outcome.LATE]


class _Piece:
    """What has ended since the last segment, in stamps of the server's clock."""

    def __init__(self) -> None:
        self.requests: dict[str, array[Any]] = {name: array(code) for name, code in REQUEST_COLUMNS.items()}
        self.batches: dict[str, array[Any]] = {name: array(code) for name, code in BATCH_COLUMNS.items()}
        self.settled_ns = 0

    def __len__(self) -> int:
        return len(self.requests["arrival_ns"])

    def add(self, requests: Sequence[Request], outcomes: list[int], end_ns: int, subnet: int, batch_rows: int) -> None:
        """Requests that ended together."""
        columns, number = self.requests, len(requests)
        columns["arrival_ns"].fromlist([request.arrival_ns for request in requests])
        columns["slo_ns"].fromlist([request.deadline_ns - request.arrival_ns for request in requests])
        columns["priority"].fromlist([request.priority for request in requests])
        columns["rows"].fromlist([request.rows for request in requests])
        columns["min_accuracy"].fromlist([request.min_accuracy for request in requests])
        columns["outcome"].fromlist(outcomes)
        columns["end_ns"].fromlist([end_ns] * number)
        columns["subnet"].fromlist([subnet] * number)
        columns["batch_rows"].fromlist([batch_rows] * number)

    def add_batch(self, launch: Launch) -> None:
        """A batch that was answered."""
        columns = self.batches
        columns["launched_ns"].append(launch.launched_ns)
        columns["worker"].append(launch.worker)
        columns["subnet"].append(launch.subnet)
        columns["rows"].append(launch.rows)
        columns["taken_ns"].append(launch.taken_ns)
        columns["overhead_ns"].append(launch.around_ns)


class Recorder:
    """Writes what came of the requests of a model into a folder, segment by segment.

    Args:
        folder: the model's.
        settings: what it is served with; the number of workers is filled in at the start.
        config: bounds.
        clock: time and timers.
    """

    def __init__(self, folder: Path, settings: RecordedSettings, config: RecordConfig, clock: Clock) -> None:
        self._folder = folder
        self._settings = settings
        self._config = config
        self._clock = clock
        self._piece = _Piece()
        self._waiting: queue.Queue[_Piece | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._scheduler: Scheduler | None = None
        self._timer: Timer | None = None
        self._start_ns = 0
        self._writer: SegmentWriter | None = None
        self._dropped = 0

    @property
    def lost(self) -> int:
        """Requests that could not be recorded."""
        return self._dropped + (0 if self._writer is None else self._writer.lost)

    async def start(self, scheduler: Scheduler) -> None:
        """Begin to record the requests of a scheduler, whose workers are there.

        Raises:
            ConfigError: if the folder cannot be used.
        """
        try:
            writer = await asyncio.to_thread(self._open, scheduler.workers)
        except (OSError, TraceError) as error:
            raise ConfigError(f"--record (record.folder): {self._folder} cannot be used: {error}") from None
        self._scheduler, self._writer = scheduler, writer
        self._start_ns = self._clock.now_ns() - writer.offset_ns
        self._thread = threading.Thread(target=self._write, args=(writer,), name="superserve-record", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Write what is left, within some seconds; idempotent."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        self._hand_over()
        await asyncio.to_thread(self._finish, thread)

    def answered(self, launch: Launch, requests: Sequence[Request]) -> None:
        """A batch has answered these of its requests."""
        ended_ns = launch.ended_ns
        outcomes = [_SERVED if ended_ns <= request.deadline_ns else _LATE for request in requests]
        self._piece.add(requests, outcomes, ended_ns, launch.subnet, launch.rows)
        self._piece.add_batch(launch)
        self._grown()

    def ended(self, ending: Ending) -> None:
        """A request ended without an answer. Those that come before the start or after the stop are not recorded."""
        if self._thread is None:
            return
        self._piece.add((ending.request,), [OUTCOME_CODES[ending.outcome]], ending.at_ns, NO_SUBNET, 0)
        self._grown()

    def _open(self, workers: int) -> SegmentWriter:
        writer = SegmentWriter(self._folder, self._config.max_bytes)
        writer.write_settings(msgspec.structs.replace(self._settings, workers=workers))
        return writer

    def _grown(self) -> None:
        if len(self._piece) >= _MOST_REQUESTS:
            self._hand_over()
        elif self._timer is None:
            due_ns = self._clock.now_ns() + int(self._config.segment_s * NS_PER_S)
            self._timer = self._clock.call_at(due_ns, self._hand_over)

    def _hand_over(self) -> None:
        """Give what there is to the thread."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        piece, self._piece = self._piece, _Piece()
        if not piece:
            return
        assert self._scheduler is not None, "it has been started"
        oldest_ns = self._scheduler.oldest_arrival_ns()
        piece.settled_ns = self._clock.now_ns() + 1 if oldest_ns is None else oldest_ns
        try:
            self._waiting.put_nowait(piece)
        except queue.Full:
            if not self._dropped:
                _logger.warning("recording: %s takes too long to write: requests are left out", self._folder)
            self._dropped += len(piece)

    def _finish(self, thread: threading.Thread) -> None:
        try:
            self._waiting.put(None, timeout=_STOP_S)
        except queue.Full:
            return
        thread.join(_STOP_S)

    def _write(self, writer: SegmentWriter) -> None:
        """What the thread does."""
        failing = False
        while (piece := self._waiting.get()) is not None:
            requests = moved(_columns(piece.requests), -self._start_ns)
            batches = moved(_columns(piece.batches), -self._start_ns)
            try:
                writer.write(requests, batches, piece.settled_ns - self._start_ns)
                failing = False
            except OSError as error:
                if not failing:  # once, however long it lasts
                    _logger.warning("recording: %s cannot be written, requests are left out: %s", self._folder, error)
                failing = True
            self._waiting.task_done()
        try:
            writer.close()
        except OSError as error:
            _logger.warning("recording: %s cannot be written: %s", self._folder, error)


def _columns(arrays: Mapping[str, "array[Any]"]) -> Columns:
    return {name: np.frombuffer(column, dtype=column.typecode) for name, column in arrays.items()}
