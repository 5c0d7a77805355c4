import numpy as np
import pytest

from superserve.clock import NS_PER_S
from superserve.experiments.dynamics import dynamics
from superserve.metrics import OUTCOME_CODES, RunLog
from superserve.request import Outcome


def make_log(
    arrival_s: list[float], end_s: list[float], outcomes: list[Outcome], accuracy: list[float], rows: list[int]
) -> RunLog:
    n = len(arrival_s)
    return RunLog(
        arrival_ns=(np.array(arrival_s) * NS_PER_S).astype(np.int64),
        end_ns=(np.array(end_s) * NS_PER_S).astype(np.int64),
        outcome=np.array([OUTCOME_CODES[outcome] for outcome in outcomes], np.uint8),
        subnet=np.zeros(n, np.int16),
        accuracy=np.array(accuracy),
        batch_rows=np.array(rows, np.int32),
        correct=np.full(n, -1, np.int8),
    )


def test_bins_count_by_arrival_and_average_by_end() -> None:
    served, late, expired = Outcome.SERVED, Outcome.LATE, Outcome.EXPIRED
    # Four bins of one second.
    log = make_log(
        [0.0, 0.1, 0.2, 1.5, 4.0],
        [0.5, 0.5, 2.5, 2.6, 4.1],
        [served, served, late, expired, served],
        [80.0, 80.0, 90.0, np.nan, 70.0],
        [2, 2, 1, 0, 1],
    )
    series = dynamics(log, bins=4)
    assert series.time_s.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert series.offered.tolist() == [3, 1, 0, 1]
    assert series.served.tolist() == [2, 0, 0, 1]
    assert series.missed.tolist() == [1, 1, 0, 0]
    assert series.accuracy[[0, 3]].tolist() == [80.0, 70.0]
    assert np.isnan(series.accuracy[[1, 2]]).all()
    assert series.batch[[0, 2, 3]].tolist() == [2.0, 1.0, 1.0]
    assert series.waiting.tolist() == [3, 1, 2, 0]


def test_batches_are_averaged_per_batch_not_per_request() -> None:
    """One batch of 3 and one of 1: mean 2, though three of the four requests saw 3."""
    log = make_log([0, 0, 0, 1], [0.1] * 4, [Outcome.SERVED] * 4, [80.0] * 4, [3, 3, 3, 1])
    assert dynamics(log, bins=1).batch.tolist() == [2.0]


def test_nothing_is_lost_or_counted_twice() -> None:
    rng = np.random.default_rng(0)
    arrivals = np.sort(rng.uniform(0, 10, 500)).tolist()
    outcomes = [list(Outcome)[i] for i in rng.integers(0, 6, 500)]
    log = make_log(arrivals, [a + 1 for a in arrivals], outcomes, [80.0] * 500, [1] * 500)
    series = dynamics(log)
    width_s = arrivals[-1] / len(series.time_s)
    assert series.offered.sum() * width_s == pytest.approx(500)
    assert np.allclose(series.served + series.missed, series.offered)


def test_single_request_and_empty_run() -> None:
    one = make_log([0.0], [0.1], [Outcome.SERVED], [80.0], [1])
    assert np.nansum(dynamics(one).accuracy) == 80.0
    with pytest.raises(ValueError, match="no course"):
        dynamics(make_log([], [], [], [], []))
