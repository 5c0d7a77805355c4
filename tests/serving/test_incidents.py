"""Requests to which something happened are in the log by their ids, and the log is not flooded."""

import logging
import struct
from typing import Any

import pytest

from superserve.clock import NS_PER_MS, ManualClock
from superserve.serving.fake_pool import FakePool
from superserve.serving.incidents import log_waiting_again
from support.serving import Recorder, make_router

LOGGER = "superserve.serving.incidents"


class Bench:
    """A router over a fake pool in virtual time."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock(start_ns=1_000 * NS_PER_MS)
        self.pool = FakePool(1)
        self.router = make_router(self.pool, self.clock, **options)

    def submit(self, name: str, timeout_ms: float = 50.0) -> Any:
        now_ns = self.clock.now_ns()
        return self.router.submit(
            arrival_ns=now_ns,
            deadline_ns=now_ns + int(timeout_ms * NS_PER_MS),
            rows=1,
            min_accuracy=0.0,
            priority=0,
            inputs=[bytes(4), struct.pack("<f", 0.0)],
            responder=Recorder(),
            request_id=name.encode(),
        )


async def test_refused_failed_and_waiting_again(caplog: pytest.LogCaptureFixture) -> None:
    """Refusals are information, failures a warning; those that were answered or given up are not mentioned."""
    bench = Bench()
    await bench.router.start()
    with caplog.at_level(logging.INFO, LOGGER):
        bench.submit("refused", 0.1)
        bench.submit("again")
        gone = bench.submit("gone")
        bench.router.cancel(gone)
        bench.pool.lose(0)
        bench.pool.revive(0)
        bench.pool.fail(0)
        bench.submit("served")
        bench.pool.finish(0)
    assert [(record.levelname, record.getMessage()) for record in caplog.records if record.name == LOGGER] == [
        ("INFO", "request refused: rejected (deadline infeasible on arrival)"),
        ("WARNING", "worker 0: 1 requests of its batch wait again: again"),
        ("WARNING", "request again: failed (worker failed on the batch)"),
    ]
    last = vars(caplog.records[-1])
    assert (last["request_id"], last["outcome"]) == ("again", "failed")


async def test_a_flood_is_cut_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Ten lines at once and ten a second; the next line says how many are missing."""
    bench = Bench()
    await bench.router.start()
    with caplog.at_level(logging.INFO, LOGGER):
        for number in range(1000):
            bench.submit(str(number), 0.1)
        assert len(caplog.records) == 10
        for _ in range(50):
            bench.clock.advance(20 * NS_PER_MS)
            bench.submit("later", 0.1)
    assert len(caplog.records) == 20
    assert caplog.records[10].getMessage().endswith("; 994 others not written")


async def test_many_requests_of_a_batch_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """The first ten ids, and how many there are."""
    with caplog.at_level(logging.INFO, LOGGER):
        log_waiting_again(3, [b"%d" % number for number in range(12)])
        log_waiting_again(3, [])
    (record,) = caplog.records
    assert record.getMessage() == "worker 3: 12 requests of its batch wait again: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
