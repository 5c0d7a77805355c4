"""Result rows and run logs made up for tests."""

import numpy as np

from superserve.clock import NS_PER_MS
from superserve.metrics import OUTCOME_CODES, ResultRow, RunLog
from superserve.request import Outcome


def make_row(policy: str, attainment: float, accuracy: float | None, *, emulated: bool = False) -> ResultRow:
    """A row of 1,000 requests with this attainment and mean serving accuracy."""
    served = round(1000 * attainment)
    return ResultRow(
        policy=policy,
        trace="t",
        seed=0,
        workers=1,
        slo_ms=50.0,
        offered=1000,
        served=served,
        late=0,
        expired=1000 - served,
        rejected=0,
        cancelled=0,
        failed=0,
        slo_attainment=attainment,
        mean_serving_accuracy=accuracy,
        goodput_weighted_accuracy=attainment * (accuracy or 0.0),
        measured_accuracy=None,
        p50_ms=20.0,
        p99_ms=45.0,
        mean_batch=4.0,
        emulated=emulated,
    )


def make_log(seed: int, count: int = 400) -> RunLog:
    """A run of ten seconds; one request in ten expires."""
    rng = np.random.default_rng(seed)
    arrival_ns = np.sort(rng.integers(0, 10_000 * NS_PER_MS, count))
    expired = rng.random(count) < 0.1
    return RunLog(
        arrival_ns=arrival_ns,
        end_ns=arrival_ns + rng.integers(5 * NS_PER_MS, 50 * NS_PER_MS, count),
        outcome=np.where(expired, OUTCOME_CODES[Outcome.EXPIRED], OUTCOME_CODES[Outcome.SERVED]).astype(np.uint8),
        subnet=np.where(expired, -1, 0).astype(np.int16),
        accuracy=np.where(expired, np.nan, rng.uniform(70, 80, count)),
        batch_rows=np.where(expired, 0, rng.integers(1, 9, count)).astype(np.int32),
        correct=np.full(count, -1, np.int8),
    )
