"""What the scaling benchmark makes of its runs."""

import numpy as np
import pytest

from scale_out import CALM, CALM_S, GROWN, START_S, TARGET, WORKERS, load, most_per_s, parts, scaled, table_of
from superserve.clock import NS_PER_S
from superserve.metrics import OUTCOME_CODES, RunLog
from superserve.profile import LatencyTable, Profile
from superserve.request import Outcome


def test_the_load_grows_beyond_what_the_largest_subnet_can_do() -> None:
    """Fourfold; the workers that come can do it, with room to spare."""
    table = LatencyTable(Profile.load("r-profile"))
    at_s = load(table).arrival_ns / NS_PER_S
    before, after = (at_s < CALM_S).sum() / CALM_S, ((at_s >= CALM_S) & (at_s < CALM_S + START_S)).sum() / START_S
    assert after / before == pytest.approx(GROWN, rel=0.05)
    assert before < WORKERS * most_per_s(table) < after < TARGET * scaled() * most_per_s(table) * 1.05


def test_spans_are_told_apart() -> None:
    """All served in calm, half of the rest until the workers are there, at the accuracy of those that were served."""
    log = RunLog.empty(np.arange(0, 60 * NS_PER_S, NS_PER_S // 10))
    at_s = log.arrival_ns / NS_PER_S
    waits = (at_s >= CALM_S) & (at_s < CALM_S + START_S)
    missed = waits & (np.arange(len(log)) % 2 > 0)
    log.outcome[:] = np.where(missed, OUTCOME_CODES[Outcome.EXPIRED], OUTCOME_CODES[Outcome.SERVED])
    log.accuracy[:] = np.where(missed, np.nan, np.where(waits, 75.0, 80.0))
    found = parts("some", log)
    assert [(part.offered, part.slo_attainment, part.accuracy) for part in found] == [
        (100, 1.0, 80.0),
        (300, 0.5, 75.0),
        (190, 1.0, 80.0),
    ]
    assert "| `some` | until they are there | 300 | 0.5000 | 75.00 |" in table_of(found)


def test_calm_is_calm() -> None:
    """Half of what the largest subnet can do: nothing has to be given up."""
    assert CALM * GROWN > 1 > CALM
