"""Simulated batches take what recorded ones took at that time."""

from typing import Any

import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.metrics import RunLog
from superserve.simulator import simulate
from superserve.simulator.recorded_times import ENOUGH, RecordedTimes
from superserve.traces.trace import Trace
from support.profiles import make_profile

#: Batch 1 takes 2 or 6 ms, batch 4 takes 4 or 12 ms.
PROFILE = make_profile([[2.0, 4.0], [6.0, 12.0]], batches=(1, 4))


def recorded(
    subnet: npt.ArrayLike, rows: npt.ArrayLike, taken_ms: npt.ArrayLike, launched_s: npt.ArrayLike
) -> RecordedTimes:
    launched_ns = (np.asarray(launched_s) * NS_PER_S).astype(np.int64)
    batches: dict[str, npt.NDArray[Any]] = {
        "launched_ns": launched_ns,
        "subnet": np.asarray(subnet, np.int16),
        "rows": np.asarray(rows, np.int32),
        "taken_ns": (np.asarray(taken_ms) * NS_PER_MS).astype(np.int64),
        "overhead_ns": launched_ns // 1000,
    }
    return RecordedTimes(PROFILE, batches)


def test_a_slow_second_is_slow_again() -> None:
    """Before, in and after it; the first batch stands for all that comes before it."""
    seconds = np.arange(3 * ENOUGH)
    taken_ms = np.where((seconds >= 40) & (seconds < 50), 8.0, 3.0)
    times = recorded(np.zeros(len(seconds)), np.full(len(seconds), 4), taken_ms, seconds + 1)
    found = [times.latency_ns(int(at * NS_PER_S), 0, 4) / NS_PER_MS for at in (0, 1, 40.9, 41, 50.9, 51, 10_000)]
    assert found == [3.0, 3.0, 3.0, 8.0, 8.0, 3.0, 3.0]
    assert times.overhead_ns(7 * NS_PER_S) == 7 * NS_PER_MS


def test_a_batch_looks_at_those_of_its_cell() -> None:
    """Two cells that are slower than profiled by different factors; partial batches are between their neighbours."""
    n = 2 * ENOUGH
    subnet, rows = np.tile([0, 1], n), np.tile([1, 4], n)
    times = recorded(subnet, rows, np.where(subnet == 0, 3.0, 24.0), np.arange(2 * n))
    at_ns = n * NS_PER_S
    assert times.latency_ns(at_ns, 0, 1) == 3 * NS_PER_MS
    assert times.latency_ns(at_ns, 1, 4) == 24 * NS_PER_MS
    assert times.latency_ns(at_ns, 1, 3) == 20 * NS_PER_MS


def test_cells_that_hardly_ran_look_at_others() -> None:
    """First at the rest of their subnet, then at everything."""
    rows = np.r_[np.ones(ENOUGH), 4]
    times = recorded(np.zeros(ENOUGH + 1), rows, np.r_[np.full(ENOUGH, 3.0), 8.0], np.arange(ENOUGH + 1))
    assert times.latency_ns(0, 0, 4) == 6 * NS_PER_MS
    assert times.latency_ns(0, 1, 4) == 18 * NS_PER_MS
    assert times.latency_ns(ENOUGH * NS_PER_S, 1, 4) == 24 * NS_PER_MS


def test_a_run_takes_them() -> None:
    """Latency and overhead of a simulated request are those recorded at its time; a given overhead is used instead."""
    times = recorded(np.zeros(ENOUGH), np.ones(ENOUGH), np.arange(ENOUGH) + 1.0, np.arange(ENOUGH))
    trace = Trace("t", np.array([3, 7]) * NS_PER_S + 1)

    def taken_ms(overhead_ms: float | None) -> list[float]:
        log: RunLog = simulate(
            trace, PROFILE, policy="fixed:smallest", workers=1, slo_ms=50.0, times=times, overhead_ms=overhead_ms
        )
        return [float(value) / NS_PER_MS for value in log.end_ns - log.arrival_ns]

    assert taken_ms(None) == [4.0 + 3.0, 8.0 + 7.0]
    assert taken_ms(0.5) == [4.5, 8.5]
