"""DrainFit: what it looks at beyond the head's slack."""

import numpy as np
import pytest

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.experiments.shapes import synthetic_profile
from superserve.metrics import summarise
from superserve.profile import LatencyTable, Profile
from superserve.request import Request
from superserve.scheduling import Bound, Decision, EDFQueue, SchedulerView, create_policy
from superserve.scheduling.arrivals import ArrivalEstimate
from superserve.simulator import simulate
from superserve.traces.arrivals import base_plus_gamma
from support.profiles import make_profile

R_PROFILE = Profile.load("r-profile")
SLO_NS = 36 * NS_PER_MS


def choose(table: LatencyTable, waiting: int, *, age_ms: float = 0.0, per_deadline: int = 0) -> Decision:
    """What one worker of four runs when so many requests wait, the oldest for ``age_ms``.

    ``per_deadline`` is how many arrived in each deadline before, evenly.
    """
    arrivals = ArrivalEstimate()
    now_ns = 10 * SLO_NS
    for instant in np.linspace(0, now_ns, 10 * per_deadline, dtype=int).tolist():
        arrivals.observe(instant, 1, SLO_NS)
    queue = EDFQueue()
    for number, age in enumerate(np.linspace(age_ms, 0.0, waiting)):
        arrived_ns = now_ns - round(age * NS_PER_MS)
        queue.push(Request(number, arrived_ns, arrived_ns + SLO_NS))
    view = SchedulerView(
        table, queue, 0, now_ns, workers_idle=1, workers_total=4, arrivals=arrivals, workers=(0, 1, 2, 3), idle=(0,)
    )
    decision = create_policy("drainfit", table).decide(view)
    assert isinstance(decision, Decision)
    return decision


def test_alone_a_request_gets_the_most_accurate_subnet() -> None:
    assert choose(LatencyTable(R_PROFILE), 1).subnet == 5


def test_the_longer_the_queue_the_cheaper_the_subnet() -> None:
    chosen = [choose(LatencyTable(R_PROFILE), waiting).subnet for waiting in (16, 100, 150, 200, 250)]
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] > chosen[-1] == 0


def test_arrivals_in_sight_count_like_waiting_requests() -> None:
    table = LatencyTable(R_PROFILE)
    assert choose(table, 16, per_deadline=220).subnet < choose(table, 16).subnet


@pytest.mark.parametrize(("per_deadline", "rows"), [(60, 8), (100, 16)])
def test_small_batches_while_a_queue_stands_only_if_they_shorten_it(per_deadline: int, rows: int) -> None:
    """With 16 ms of slack left, 8 rows of a better subnet keep up with 60 arrivals a deadline, not with 100."""
    table = LatencyTable(synthetic_profile("gpu", 100))
    assert choose(table, 40, age_ms=20.0, per_deadline=per_deadline).rows == rows


def test_smooth_load_is_served_in_full_batches_at_full_accuracy() -> None:
    """Half of what the middle subnet carries, which the best one carries, too, in batches of 16 but not of 8.

    A queue that stands at batches of 8 keeps itself alive: this cell once ended 0.8 points below its bound of 80.
    """
    trace = base_plus_gamma(3_700.0, 3_700.0, 1.0, 1.5, np.random.default_rng(0))
    profile = synthetic_profile("gpu", 100)
    log = simulate(trace, profile, policy="drainfit", workers=16, slo_ms=34.9, overhead_ms=1.0, seed=0)
    row = summarise(log, policy="drainfit", trace="smooth", seed=0, workers=16, slo_ms=34.9)
    assert row.slo_attainment == 1.0
    assert row.goodput_weighted_accuracy > 79.9


def test_the_typical_rate_forgets_bursts() -> None:
    """One request a millisecond, and a thousand at once in the middle: the median window sees the former."""
    arrivals = ArrivalEstimate()
    for millisecond in range(400):
        for _ in range(1_000 if millisecond == 200 else 1):
            arrivals.observe(millisecond * NS_PER_MS, 1, 20 * NS_PER_MS)
    assert arrivals.typical_rows == pytest.approx(20, abs=2)
    assert max(arrivals.bursts) > 1_000


def test_in_overload_a_batch_reaches_the_floor_of_the_request_that_leads_it() -> None:
    """The head is given up for a batch of the many behind it, of which the first has a floor, unlike the head.

    The scheduler found nothing to launch and lost the worker. Found by life 12 of ``tests/deterministic``.
    """
    table = LatencyTable(make_profile([[2.0, 3.0, 5.0, 8.0], [3.5, 4.5, 6.5, 9.0]], (1, 2, 4, 8)))
    queue = EDFQueue()
    queue.push(Request(0, 0, 5 * NS_PER_MS // 2))
    queue.push(Request(1, 0, 10 * NS_PER_MS, 1, 71.0))
    for number in range(2, 12):
        queue.push(Request(number, 0, 18 * NS_PER_MS))
    view = SchedulerView(table, queue, 0, workers_idle=1, workers_total=2, workers=(0, 1), idle=(0,))
    view.commitments.add(1, NS_PER_S)
    decision = create_policy("drainfit", table).decide(view)
    assert decision == Decision(1, 8, shed=1, bound=Bound.OVERLOAD)


def test_a_batch_holds_the_rows_of_its_head_though_smaller_requests_were_given_up_before_it() -> None:
    """As above; found by life 419."""
    table = LatencyTable(make_profile([[2.0, 3.0, 5.0, 8.0]], (1, 2, 4, 8)))
    queue = EDFQueue()
    queue.push(Request(0, 0, NS_PER_MS))
    queue.push(Request(1, 0, 50 * NS_PER_MS, 3))
    view = SchedulerView(table, queue, 0, workers_idle=1, workers_total=1, workers=(0,), idle=(0,))
    decision = create_policy("drainfit", table).decide(view)
    assert decision == Decision(0, 4, shed=1, bound=Bound.NOTHING)


def _after_bursts(rows: int) -> Decision:
    """What runs for one request after every other window brought so many rows at once."""
    arrivals = ArrivalEstimate()
    for window in range(64):
        for _ in range(rows if window % 2 else 1):
            arrivals.observe(window * SLO_NS // 2, 1, SLO_NS)
    now_ns = 40 * SLO_NS
    queue = EDFQueue()
    queue.push(Request(0, now_ns, now_ns + SLO_NS))
    view = SchedulerView(
        LatencyTable(R_PROFILE), queue, 0, now_ns, workers_idle=1, workers_total=1, arrivals=arrivals, idle=(0,)
    )
    decision = create_policy("drainfit", view.table).decide(view)
    assert isinstance(decision, Decision)
    return decision


def test_a_decision_says_what_kept_it_from_more_accuracy() -> None:
    table, many = LatencyTable(R_PROFILE), LatencyTable(synthetic_profile("gpu", 100))
    assert choose(table, 1).bound is Bound.NOTHING
    assert choose(table, 1, age_ms=33.0).bound is Bound.SLACK
    assert choose(table, 120, per_deadline=4).bound is Bound.DRAIN
    assert choose(many, 40, age_ms=20.0, per_deadline=100).bound is Bound.STANDING
    assert choose(table, 2_000, per_deadline=4).bound is Bound.OVERLOAD
    assert _after_bursts(1).bound is Bound.NOTHING
    assert _after_bursts(150).bound is Bound.BURST
