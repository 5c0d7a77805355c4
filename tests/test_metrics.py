"""Result rows, against figures worked out by hand."""

import msgspec
import numpy as np
import pytest

from superserve.metrics import OUTCOME_CODES, ResultRow, RunLog, by_class, summarise
from superserve.request import Outcome


def log_of(*entries: tuple[Outcome, float, float, int, int]) -> RunLog:
    """Entries of (outcome, latency ms, accuracy, batch rows, correct)."""
    log = RunLog.empty(np.zeros(len(entries), np.int64))
    for index, (outcome, latency_ms, accuracy, batch, correct) in enumerate(entries):
        log.outcome[index] = OUTCOME_CODES[outcome]
        log.end_ns[index] = round(latency_ms * 1e6)
        log.accuracy[index] = accuracy
        log.batch_rows[index] = batch
        log.correct[index] = correct
    return log


def row_of(log: RunLog) -> ResultRow:
    return summarise(log, policy="p", trace="t", seed=1, workers=2, slo_ms=30.0)


def test_row_by_hand() -> None:
    """Two served (one of a batch of 2 with its late mate), one expired, one rejected."""
    row = row_of(
        log_of(
            (Outcome.SERVED, 10, 80.0, 1, 1),
            (Outcome.SERVED, 20, 70.0, 2, 0),
            (Outcome.LATE, 40, 70.0, 2, 1),
            (Outcome.EXPIRED, 30, np.nan, 0, -1),
            (Outcome.REJECTED, 0, np.nan, 0, -1),
        )
    )
    assert (row.offered, row.served, row.late, row.expired, row.rejected, row.failed) == (5, 2, 1, 1, 1, 0)
    assert row.slo_attainment == pytest.approx(0.4)
    assert row.mean_serving_accuracy == pytest.approx(75.0)
    assert row.goodput_weighted_accuracy == pytest.approx(30.0)
    assert row.measured_accuracy == pytest.approx(50.0)
    assert row.p50_ms == pytest.approx(20.0)
    assert row.mean_batch == pytest.approx(1.5)


def test_nothing_served_has_no_accuracy() -> None:
    """Null, not zero and not NaN; valid JSON."""
    row = row_of(log_of((Outcome.EXPIRED, 1, np.nan, 0, -1)))
    assert row.mean_serving_accuracy is None
    assert row.goodput_weighted_accuracy == 0.0
    assert msgspec.json.decode(msgspec.json.encode(row), type=ResultRow) == row


def test_nothing_offered_is_refused() -> None:
    """No figure is defined."""
    with pytest.raises(ValueError, match="nothing was offered"):
        row_of(log_of())


def test_rows_by_class_divide_the_whole() -> None:
    """Of each class its own figures; none where a trace has no classes."""
    log = log_of(
        (Outcome.SERVED, 10, 80.0, 1, 1), (Outcome.EXPIRED, 30, np.nan, 0, -1), (Outcome.SERVED, 9, 70.0, 1, 0)
    )
    whole = row_of(log)
    assert by_class(log, None, whole) == []
    first, second = by_class(log, np.array([3, 7, 7], np.int32), whole)
    assert (first.policy, first.offered, first.slo_attainment) == ("p, class 3", 1, 1.0)
    assert (second.policy, second.offered, second.slo_attainment) == ("p, class 7", 2, 0.5)
    assert second.mean_serving_accuracy == pytest.approx(70.0)
    assert (second.seed, second.workers, second.slo_ms) == (whole.seed, whole.workers, whole.slo_ms)
