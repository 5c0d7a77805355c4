"""The bound on whole batches: above optima and policies at any prices, and below what lets batches be cut up."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from superserve.bounds.batched import batched_bound
from superserve.bounds.cells import Cells
from superserve.bounds.costs import BatchCosts, Capacity, Stamps
from superserve.bounds.distance import accuracy_bound
from superserve.bounds.exact import exact_optimum
from superserve.bounds.fluid import fluid_bound, fluid_prices
from superserve.bounds.offers import offers
from superserve.bounds.one_worker import single_worker_optimum
from superserve.bounds.relaxations import InOrder, OneByOne
from superserve.clock import NS_PER_MS
from superserve.metrics import summarise
from superserve.profile import Profile
from superserve.scheduling import policy_names
from superserve.simulator import simulate
from superserve.traces.arrivals import base_plus_gamma
from superserve.traces.trace import Trace
from support.instances import deadlines, instances, whole_profiles
from support.profiles import make_profile

R_PROFILE = Profile.load("r-profile")


@given(whole_profiles(), instances(mixed=True) | instances(mixed=False), st.integers(1, 3), st.floats(0, 100))
@settings(max_examples=150)
def test_never_below_the_optimum(profile: Profile, trace: Trace, workers: int, per_ms: float) -> None:
    """Both relaxations, begun at any price."""
    costs, capacity, due_ns = BatchCosts.of(profile, 0), Capacity.constant(workers), deadlines(trace)
    optimum, _ = exact_optimum(trace.arrival_ns, due_ns, costs, workers)
    for in_order in {False, bool((np.diff(due_ns) >= 0).all())}:
        bound, _ = batched_bound(
            trace.arrival_ns,
            due_ns,
            costs,
            capacity,
            lambda instants_ns: np.full(len(instants_ns), per_ms / NS_PER_MS),
            in_order=in_order,
        )
        assert bound >= optimum - 1e-6


@given(whole_profiles(), instances(mixed=True) | instances(mixed=False), st.integers(1, 3), st.integers(0, 999))
@settings(max_examples=150)
def test_any_prices_at_all_give_a_bound(profile: Profile, trace: Trace, workers: int, seed: int) -> None:
    """Wild ones, cell by cell, and few offers that cover many subnets."""
    costs, due_ns = BatchCosts.of(profile, 0), deadlines(trace)
    optimum, _ = exact_optimum(trace.arrival_ns, due_ns, costs, workers)
    cells = Cells.over(trace.arrival_ns, due_ns)
    rng = np.random.default_rng(seed)
    prices = rng.choice([0.0, 1.0, 10.0, 1000.0], cells.count) * rng.random(cells.count) / NS_PER_MS
    paid = float(workers * cells.cell_ns * prices.sum())
    for relaxation in [OneByOne] + [InOrder] * bool((np.diff(due_ns) >= 0).all()):
        gain = relaxation(trace.arrival_ns, due_ns, cells, offers(costs, 1)).gain(prices, with_busy=True)
        assert paid + gain.total >= optimum - 1e-6


@given(
    whole_profiles(), instances(mixed=True) | instances(mixed=False), st.integers(1, 3), st.sampled_from(policy_names())
)
@settings(max_examples=150)
def test_no_policy_passes_the_bound(profile: Profile, trace: Trace, workers: int, name: str) -> None:
    """Every registered policy, with an overhead; the bound is what tables are made with."""
    policy = "fixed:middle" if name == "fixed" else name
    log = simulate(trace, profile, policy=policy, workers=workers, slo_ms=1, overhead_ms=0.5)
    row = summarise(log, policy=policy, trace="tiny", seed=0, workers=workers, slo_ms=1)
    bound = accuracy_bound(trace, profile, workers=workers, slo_ms=1, overhead_ms=0.5)
    assert row.goodput_weighted_accuracy <= bound + 1e-6


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("policy", ["slackfit", "drainfit"])
def test_no_policy_passes_the_bound_on_a_long_trace(policy: str, mixed: bool) -> None:
    """Bursts, latencies drawn from quantiles, late answers: two workers, SLOs of about one batch."""
    rng = np.random.default_rng(1)
    arrivals = base_plus_gamma(200, 600, 16, 1.5, rng).arrival_ns
    slo_ns = rng.choice([20, 40], len(arrivals)) * NS_PER_MS if mixed else None
    trace = Trace("bursts", arrivals, slo_ns)
    for action in ("reject", "delay"):
        log = simulate(trace, R_PROFILE, policy=policy, workers=2, slo_ms=20, overhead_ms=2, timeout_action=action)
        row = summarise(log, policy=policy, trace="t", seed=0, workers=2, slo_ms=20)
        assert row.goodput_weighted_accuracy <= accuracy_bound(trace, R_PROFILE, workers=2, slo_ms=20, overhead_ms=2)


def test_short_deadlines_leave_no_time_to_fill_a_batch() -> None:
    """One worker, SLO below the slowest cell: most of what the fluid bound promises is out of reach."""
    trace = base_plus_gamma(100, 500, 8, 2, np.random.default_rng(0))
    costs, capacity = BatchCosts.of(R_PROFILE, 4 * NS_PER_MS), Capacity.constant(1)
    due_ns = trace.arrival_ns + 15 * NS_PER_MS
    envelope = costs.envelope(15e6)
    fluid = fluid_bound(trace.arrival_ns, due_ns, envelope, capacity) / len(trace)
    prices = fluid_prices(trace.arrival_ns, due_ns, envelope, capacity)
    found = {
        in_order: batched_bound(trace.arrival_ns, due_ns, costs, capacity, prices, in_order=in_order)[0] / len(trace)
        for in_order in (True, False)
    }
    optimum = single_worker_optimum(trace.arrival_ns, due_ns, costs) / len(trace)
    assert optimum <= found[True] < optimum + 0.5 * (fluid - optimum)
    assert found[True] < found[False] < fluid


def test_offers_cover_every_subnet() -> None:
    """At every size: the line of an offer lies above each subnet's value that it stands for; no more than allowed."""
    profile = make_profile([[float(2 + s), 3.0 + 1.5 * s] for s in range(20)], (1, 2))
    costs = BatchCosts.of(profile, 0)
    few = offers(costs, 4)
    assert [offer.rows for offer in few] == [1] * 4 + [2] * 4
    for rows in (1, 2):
        for time_ns, accuracy in zip(costs.time_ns[:, rows].tolist(), costs.accuracies.tolist(), strict=True):
            assert any(
                offer.least_ns <= time_ns <= offer.most_ns
                and offer.value + offer.slope * (time_ns - offer.least_ns) >= rows * accuracy - 1e-9
                for offer in few
                if offer.rows == rows
            )


def test_an_offer_is_never_dearer_than_a_larger_batch() -> None:
    """Three rows in 2 ms, of which two are late, serve one in 2 ms, though a batch of one takes 5."""
    costs = BatchCosts.of(make_profile([[5.0, 4.0, 2.0]], (1, 2, 3)), 0)
    assert [offer.least_ns for offer in offers(costs.padded())] == [2 * NS_PER_MS] * 3


def test_consecutive_batches_by_hand() -> None:
    """Requests at 0, 1 and 9 ms, due 4 ms later, at 10 a millisecond: one batch of two (3 ms), one of one (2 ms)."""
    costs = BatchCosts.of(make_profile([[2.0, 3.0]], (1, 2)), 0)
    arrival_ns: Stamps = np.array([0, 1, 9], np.int64) * NS_PER_MS
    due_ns = arrival_ns + 4 * NS_PER_MS
    cells = Cells.over(arrival_ns, due_ns)
    prices = np.full(cells.count, 10.0 / NS_PER_MS)
    gain = InOrder(arrival_ns, due_ns, cells, offers(costs)).gain(prices, with_busy=True)
    # The last cell is cut off by the last deadline, and what lies beyond costs nothing.
    assert gain.total == pytest.approx(140 - 30 + 70 - 20, abs=0.1)
    assert gain.busy.sum() * cells.cell_ns == pytest.approx(5 * NS_PER_MS, rel=0.03)
    alone = OneByOne(arrival_ns, due_ns, cells, offers(costs)).gain(prices, with_busy=False)
    assert alone.total == pytest.approx(gain.total, abs=0.1)


@pytest.mark.parametrize("relaxation", [InOrder, OneByOne])
@pytest.mark.parametrize(("per_ms", "most"), [(0.0, 79.0), (2.0, 79.0 - 2.0 * 20.0)])
def test_an_offer_for_many_subnets_gains_what_the_best_of_them_does(
    relaxation: type[InOrder | OneByOne], per_ms: float, most: float
) -> None:
    """Twenty subnets in one offer, one request with time for all: the most accurate one takes 20 ms for 79 %."""
    costs = BatchCosts.of(make_profile([[1.0 + number] for number in range(20)], (1,)), 0)
    costs = BatchCosts(costs.time_ns, np.linspace(60.0, 79.0, 20) if per_ms == 0.0 else np.linspace(22.0, 79.0, 20))
    (offer,) = offers(costs, 1)
    arrival_ns: Stamps = np.zeros(1, np.int64)
    due_ns = arrival_ns + 30 * NS_PER_MS
    cells = Cells.over(arrival_ns, due_ns)
    prices = np.full(cells.count, per_ms / NS_PER_MS)
    assert relaxation(arrival_ns, due_ns, cells, [offer]).gain(prices, with_busy=False).total >= most - 0.1
