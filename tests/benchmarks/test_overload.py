"""What the overload benchmark makes of a run."""

import numpy as np
import pytest

from overload import CALM, CALM_S, OVERLOAD, Seen, arrivals, promises, slow_profile
from superserve.clock import NS_PER_S
from superserve.metrics import OUTCOME_CODES, RunLog
from superserve.profile import LatencyTable
from superserve.request import Outcome

OVERLOAD_S = 2.0


def good() -> Seen:
    """One in ten of the overload is admitted and served, everything else is calm."""
    log = RunLog.empty(arrivals(OVERLOAD_S).arrival_ns)
    at_s = log.arrival_ns / NS_PER_S
    during = (at_s >= CALM_S) & (at_s < CALM_S + OVERLOAD_S)
    refused = during & (np.arange(len(log)) % 10 > 0)
    log.outcome[:] = np.where(refused, OUTCOME_CODES[Outcome.REJECTED], OUTCOME_CODES[Outcome.SERVED])
    log.accuracy[:] = np.where(refused, np.nan, np.where(during, 73.82, 79.0))
    count = float((~refused).sum())
    return Seen(log, (CALM_S, CALM_S + OVERLOAD_S), 2.0, count, count, 5000.0, 4990.0, [80.0, 85.0, 84.0])


def broken(seen: Seen) -> list[str]:
    return [promise.words for promise in promises(seen) if not promise.kept]


def with_outcome(outcome: Outcome, every: int, from_s: float = 0.0) -> Seen:
    seen = good()
    served = seen.log.is_outcome(Outcome.SERVED) & (seen.log.arrival_ns >= from_s * NS_PER_S)
    seen.log.outcome[np.flatnonzero(served)[::every]] = OUTCOME_CODES[outcome]
    return seen


def test_a_good_run_keeps_all() -> None:
    assert broken(good()) == []


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (good()._replace(p99_lateness_ms=30.0), "the generator was on time"),
        (good()._replace(rows_run=1e6), "nothing was run that had expired"),
        (good()._replace(refused_in_time=4900.0), "refusals were told within 5 ms (p99)"),
        (good()._replace(resident_mb=[80.0, 200.0]), "memory was bounded"),
        (good()._replace(overload_s=(CALM_S, CALM_S + 2 * OVERLOAD_S)), "ten times too much was offered"),
        (with_outcome(Outcome.EXPIRED, 50), "the admitted were served"),
        (with_outcome(Outcome.REJECTED, 20, CALM_S + OVERLOAD_S + 1.0), "service was normal a second later"),
    ],
)
def test_each_promise_can_be_broken(seen: Seen, name: str) -> None:
    assert name in broken(seen)


def test_it_is_ten_times_what_the_workers_can_do() -> None:
    """By the profile that they are emulated with."""
    table = LatencyTable(slow_profile())
    capacity = 4 * max(size * NS_PER_S / table.latency_ns[0][size] for size in table.batches)
    assert OVERLOAD / capacity == pytest.approx(10, rel=0.05)
    assert capacity > 2 * CALM
