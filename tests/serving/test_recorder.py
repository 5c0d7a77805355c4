"""What is recorded of a server is what came of its requests; what cannot be written costs the record alone."""

import errno
import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from superserve.clock import NS_PER_MS, NS_PER_S, ManualClock
from superserve.errors import ConfigError
from superserve.metrics import OUTCOME_CODES
from superserve.request import Outcome
from superserve.serving import recorder as recorder_module
from superserve.serving.config import RecordConfig
from superserve.serving.fake_pool import FakePool
from superserve.serving.recorder import Recorder as RunRecorder
from superserve.serving.router import Pending
from superserve.traces.readers.segments import segment_files
from superserve.traces.recording import Columns, Recorded, RecordedSettings, load_recorded
from superserve.traces.trace import save_columns
from support.serving import PROFILE, Recorder, make_router


class Bench:
    """A router that records, over a fake pool in virtual time."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.clock = ManualClock(start_ns=5_000 * NS_PER_MS)
        self.pool = FakePool(1)
        self.folder = folder
        settings = RecordedSettings(
            model="tiny",
            policy="slackfit",
            timeout_action="reject",
            slo_ms=50.0,
            max_queued=100,
            workers=0,
            emulated=False,
            profile=PROFILE,
        )
        self.recorder = RunRecorder(folder / "tiny", settings, RecordConfig(**config), self.clock)
        self.router = make_router(self.pool, self.clock, recorder=self.recorder)

    async def started(self) -> "Bench":
        await self.router.start()
        return self

    def submit(self, timeout_ms: float = 50.0, *, rows: int = 1, floor: float = 0.0, priority: int = 0) -> Pending:
        now_ns = self.clock.now_ns()
        return self.router.submit(
            arrival_ns=now_ns,
            deadline_ns=now_ns + int(timeout_ms * NS_PER_MS),
            rows=rows,
            min_accuracy=floor,
            priority=priority,
            inputs=[bytes(4 * rows), struct.pack("<f", 0.0) * rows],
            responder=Recorder(),
        )

    def pass_ms(self, ms: float) -> None:
        self.clock.advance(int(ms * NS_PER_MS))

    def serve(self, timeout_ms: float = 50.0, taken_ms: float = 1.0) -> None:
        """A request alone, from its arrival to its answer."""
        self.submit(timeout_ms)
        self.pass_ms(taken_ms)
        self.pool.finish(0, infer_ns=int(taken_ms * NS_PER_MS))

    async def recorded(self) -> Recorded:
        """Stop, and read what is there."""
        await self.router.stop()
        found = load_recorded(self.folder)
        assert found is not None
        return found


async def test_every_end_is_recorded_in_order_of_arrival(tmp_path: Path) -> None:
    """Served, late, refused, cancelled: arrivals and deadlines as they came, and what each ended by."""
    bench = await Bench(tmp_path).started()
    bench.pass_ms(3.0)
    bench.submit(50.0, rows=2, priority=3, floor=70.5)
    bench.pass_ms(1.0)
    bench.submit(40.0)
    bench.submit(0.5)
    gone = bench.submit(30.0)
    bench.pass_ms(4.0)
    bench.router.cancel(gone)
    bench.pool.finish(0, infer_ns=4 * NS_PER_MS)
    bench.pass_ms(40.0)
    bench.pool.finish(0, infer_ns=39 * NS_PER_MS)
    found = await bench.recorded()
    ms = [3, 4, 4, 4]
    assert (found.trace.arrival_ns / NS_PER_MS).tolist() == ms
    assert found.trace.slo_ns is not None
    assert sorted((found.trace.slo_ns / NS_PER_MS).tolist()) == [0.5, 30.0, 40.0, 50.0]
    by_slo = dict(zip((found.trace.slo_ns / NS_PER_MS).tolist(), range(4), strict=True))
    first, late, refused, cancelled = (by_slo[slo] for slo in (50.0, 40.0, 0.5, 30.0))
    names = list(Outcome)
    outcomes = [names[found.log.outcome[index]] for index in (first, late, refused, cancelled)]
    assert outcomes == [Outcome.SERVED, Outcome.LATE, Outcome.REJECTED, Outcome.CANCELLED]
    assert [float(found.log.end_ns[index]) / NS_PER_MS for index in (first, late, refused, cancelled)] == [8, 48, 4, 8]
    assert found.log.subnet[[first, late, refused, cancelled]].tolist() == [1, 1, -1, -1]
    np.testing.assert_array_equal(found.log.accuracy[[first, refused]], [71.0, np.nan])
    assert found.trace.rows is not None
    assert found.trace.priority is not None
    assert found.trace.min_accuracy is not None
    values = (found.trace.rows[first], found.trace.priority[first], found.trace.min_accuracy[first])
    assert values == (2, 3, 70.5)
    assert {name: column.tolist() for name, column in found.batches.items()} == {
        "launched_ns": [3 * NS_PER_MS, 8 * NS_PER_MS],
        "worker": [0, 0],
        "subnet": [1, 1],
        "rows": [2, 1],
        "taken_ns": [4 * NS_PER_MS, 39 * NS_PER_MS],
        "overhead_ns": [NS_PER_MS, NS_PER_MS],
    }
    assert (found.settings.workers, found.settings.profile) == (1, PROFILE)


async def test_segments_are_in_order_though_requests_end_in_another(tmp_path: Path) -> None:
    """A request that is still waiting holds those that came after it back until it has ended."""
    bench = await Bench(tmp_path, segment_s=1.0).started()
    bench.serve()
    bench.submit(10_000.0)  # runs and does not end yet
    bench.pass_ms(5.0)
    bench.submit(0.1)
    bench.pass_ms(1_500.0)
    bench.pool.finish(0)
    bench.pass_ms(1_500.0)
    found = await bench.recorded()
    assert len(found.trace) == 3
    assert (np.diff(found.trace.arrival_ns) >= 0).all()
    assert len(segment_files(tmp_path / "tiny")) == 2
    assert [list(Outcome)[code].value for code in found.log.outcome] == ["served", "served", "rejected"]


async def test_a_server_goes_on_behind_what_is_there(tmp_path: Path) -> None:
    """After a restart: new segments, later stamps, nothing of the old ones lost."""
    for _ in range(3):
        bench = await Bench(tmp_path).started()
        bench.pass_ms(2.0)
        bench.serve()
        found = await bench.recorded()
    assert (found.trace.arrival_ns / NS_PER_MS).tolist() == [2, 1004, 2006]
    assert [file.name for file in segment_files(tmp_path / "tiny")] == ["000001.npz", "000002.npz", "000003.npz"]


async def test_the_oldest_segments_go(tmp_path: Path) -> None:
    """All of them together stay within their bound."""
    bench = await Bench(tmp_path, segment_s=1.0, max_bytes=10_000).started()
    for _ in range(20):
        bench.serve()
        bench.pass_ms(1_100.0)
        drained(bench)
    found = await bench.recorded()
    files = segment_files(tmp_path / "tiny")
    assert sum(file.stat().st_size for file in files) <= 10_000
    assert files[-1].name == "000020.npz"
    assert len(found.trace) == len(files) > 1


async def test_a_full_disk_costs_the_record_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log however long it lasts, a count, all answers, and the record goes on when there is room."""
    bench = await Bench(tmp_path, segment_s=1.0).started()

    def full(path: Path, columns: Columns) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("superserve.traces.recording.save_columns", full)
    with caplog.at_level(logging.WARNING, "superserve.serving.recorder"):
        for _ in range(3):
            bench.serve()
            bench.pass_ms(1_100.0)
            drained(bench)
        monkeypatch.setattr("superserve.traces.recording.save_columns", save_columns)
        bench.serve()
        found = await bench.recorded()
    assert bench.router.outcomes[Outcome.SERVED] == 4
    assert bench.recorder.lost == 3
    assert len(found.trace) == 1
    assert [record.message.count("No space left") for record in caplog.records] == [1]


def drained(bench: Bench) -> None:
    """Wait until the thread has written what it was given."""
    bench.recorder._waiting.join()


async def test_a_disk_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be handed over is left out and counted; nobody waits for it."""
    monkeypatch.setattr(recorder_module, "_MOST_WAITING", 0)
    bench = Bench(tmp_path, segment_s=1.0)
    bench.recorder._waiting.maxsize = 1
    await bench.started()
    bench.recorder._waiting.put(None)  # the thread ends: a disk that takes nothing any more
    thread = bench.recorder._thread
    assert thread is not None
    thread.join()
    for _ in range(3):
        bench.serve()
        bench.pass_ms(1_100.0)
    assert bench.recorder.lost == 2
    bench.recorder._waiting.get()
    await bench.router.stop()


async def test_a_folder_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    """A file in its place, a segment that is none: the message names the option and the place."""
    (tmp_path / "tiny").write_text("a file")
    bench = Bench(tmp_path)
    with pytest.raises(ConfigError, match=r"--record.*tiny"):
        await bench.started()
    await bench.router.stop()
    other = tmp_path / "other"
    (other / "tiny").mkdir(parents=True)
    (other / "tiny/000001.npz").write_bytes(b"garbage")
    bench = Bench(other)
    with pytest.raises(ConfigError, match=r"000001\.npz"):
        await bench.started()
    await bench.router.stop()


async def test_only_what_comes_while_it_serves_is_recorded(tmp_path: Path) -> None:
    """Requests that are refused before the start and after the end leave nothing behind."""
    bench = Bench(tmp_path)
    bench.submit()
    bench.clock.advance(3600 * NS_PER_S)
    await bench.started()
    bench.serve()
    found = await bench.recorded()
    bench.submit()
    bench.clock.advance(3600 * NS_PER_S)
    assert len(found.trace) == 1
    assert bench.recorder.lost == 0


async def test_nothing_is_written_without_requests(tmp_path: Path) -> None:
    """Settings alone; a trace that is empty is none."""
    bench = await Bench(tmp_path).started()
    bench.clock.advance(3600 * NS_PER_S)
    await bench.router.stop()
    assert [file.name for file in (tmp_path / "tiny").iterdir()] == ["settings.json"]


def test_codes_fit_their_column() -> None:
    """One byte per outcome."""
    assert max(OUTCOME_CODES.values()) < 256
