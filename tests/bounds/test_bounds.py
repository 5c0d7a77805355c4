"""Optima against each other and against brute force; bounds above optima; policies below them."""

from itertools import pairwise, permutations, product

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from superserve.bounds.costs import BatchCosts, Capacity, Envelope
from superserve.bounds.distance import accuracy_bound, with_bound
from superserve.bounds.exact import exact_optimum
from superserve.bounds.fluid import fluid_bound, taut_string, worker_times
from superserve.bounds.one_worker import single_worker_optimum
from superserve.bounds.windows import mixed_bound
from superserve.clock import NS_PER_MS
from superserve.errors import UsageError
from superserve.metrics import summarise
from superserve.profile import Profile
from superserve.request import Outcome
from superserve.scheduling import policy_names
from superserve.simulator import simulate
from superserve.traces.arrivals import base_plus_gamma
from superserve.traces.trace import Trace
from support.instances import deadlines, instances, whole_profiles
from support.profiles import make_profile

R_PROFILE = Profile.load("r-profile")


def brute_force(trace: Trace, costs: BatchCosts) -> float:
    """One worker, any order of requests, cut into any batches at any subnets, each started as soon as possible."""
    arrivals, dues = trace.arrival_ns.tolist(), deadlines(trace).tolist()
    best = 0.0
    for served in range(1, len(trace) + 1):
        for order in permutations(range(len(trace)), served):
            for cuts in product([False, True], repeat=served - 1):
                ends = [0, *(place for place, cut in enumerate(cuts, 1) if cut), served]
                batches = [order[low:high] for low, high in pairwise(ends)]
                best = max(best, play(batches, arrivals, dues, costs))
    return best


def play(batches: list[tuple[int, ...]], arrivals: list[int], dues: list[int], costs: BatchCosts) -> float:
    states = [(0, 0.0)]
    for batch in batches:
        if len(batch) > costs.max_rows:
            return 0.0
        ready, due = max(arrivals[i] for i in batch), min(dues[i] for i in batch)
        states = [
            (max(free, ready) + int(costs.time_ns[s, len(batch)]), value + len(batch) * float(costs.accuracies[s]))
            for free, value in states
            for s in range(len(costs.accuracies))
            if max(free, ready) + costs.time_ns[s, len(batch)] <= due
        ]
    return max((value for _, value in states), default=0.0)


@given(whole_profiles(), instances(mixed=False), st.integers(0, 1))
@settings(max_examples=60)
def test_integer_program_agrees_with_dynamic_program(profile: Profile, trace: Trace, overhead_ms: int) -> None:
    """Two independent ways to the optimum of one worker."""
    costs = BatchCosts.of(profile, overhead_ms * NS_PER_MS)
    value, schedule = exact_optimum(trace.arrival_ns, deadlines(trace), costs, 1)
    assert value == pytest.approx(single_worker_optimum(trace.arrival_ns, deadlines(trace), costs))
    assert all(before.end_ns <= after.start_ns for before, after in pairwise(schedule))


@given(whole_profiles(), instances(mixed=True))
@settings(max_examples=25)
def test_integer_program_agrees_with_brute_force(profile: Profile, trace: Trace) -> None:
    """Mixed deadlines, where batches need not be consecutive."""
    trace = Trace("tiny", trace.arrival_ns[:4], None if trace.slo_ns is None else trace.slo_ns[:4])
    costs = BatchCosts.of(profile, 0)
    assert exact_optimum(trace.arrival_ns, deadlines(trace), costs, 1)[0] == pytest.approx(brute_force(trace, costs))


def test_a_batch_waits_for_its_last_member() -> None:
    """The paper's constraint as printed would start both at 0 and serve two requests at batch 2; in truth one fits."""
    costs = BatchCosts.of(make_profile([[4.0, 4.0]], (1, 2)), 0)
    arrival_ns = np.array([0, 2], np.int64) * NS_PER_MS
    assert exact_optimum(arrival_ns, arrival_ns + 5 * NS_PER_MS, costs, 1)[0] == 70.0


@given(whole_profiles(), instances(mixed=True) | instances(mixed=False), st.integers(1, 3))
@settings(max_examples=100)
def test_bounds_are_never_below_the_optimum(profile: Profile, trace: Trace, workers: int) -> None:
    """Fluid and priced bound, any deadlines, any number of workers."""
    costs, capacity = BatchCosts.of(profile, 0), Capacity.constant(workers)
    optimum, _ = exact_optimum(trace.arrival_ns, deadlines(trace), costs, workers)
    window = float((deadlines(trace) - trace.arrival_ns).max())
    fluid = fluid_bound(trace.arrival_ns, deadlines(trace), costs.envelope(window), capacity)
    mixed = mixed_bound(trace.arrival_ns, deadlines(trace), costs, capacity)
    assert optimum <= mixed + 1e-6
    assert mixed <= fluid + 1e-6


@given(
    whole_profiles(), instances(mixed=True) | instances(mixed=False), st.integers(1, 2), st.sampled_from(policy_names())
)
@settings(max_examples=200)
def test_no_policy_beats_the_optimum(profile: Profile, trace: Trace, workers: int, name: str) -> None:
    """Every registered policy, simulated without jitter and overhead."""
    policy = "fixed:middle" if name == "fixed" else name
    log = simulate(trace, profile, policy=policy, workers=workers, slo_ms=1, overhead_ms=0)
    row = summarise(log, policy=policy, trace="tiny", seed=0, workers=workers, slo_ms=1)
    optimum, _ = exact_optimum(trace.arrival_ns, deadlines(trace), BatchCosts.of(profile, 0), workers)
    assert row.goodput_weighted_accuracy * len(trace) <= optimum + 1e-6


def test_too_large_instances_are_refused() -> None:
    """Instead of a solver that runs for minutes."""
    arrival_ns = np.arange(30, dtype=np.int64) * 777_777
    slo_ns = np.arange(30, 0, -1) * 10_000_001
    with pytest.raises(UsageError, match="coarser"):
        exact_optimum(arrival_ns, arrival_ns + slo_ns, BatchCosts.of(R_PROFILE, 0), 2)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5)), min_size=1, max_size=30))
def test_taut_string_is_the_shortest_curve(gates: list[tuple[float, float]]) -> None:
    """Inside its gates; it bends up only where an upper gate holds it, and down only where a lower one does."""
    low = np.array([0.0, *(value for value, _ in gates), 0.5])
    high = low + np.array([0.0, *(width for _, width in gates), 0.0])
    curve = taut_string(low, high)
    assert (curve >= low - 1e-9).all()
    assert (curve <= high + 1e-9).all()
    bends, inner = np.diff(curve, 2), slice(1, -1)
    assert curve[inner][bends > 1e-6] == pytest.approx(high[inner][bends > 1e-6], abs=1e-9)
    assert curve[inner][bends < -1e-6] == pytest.approx(low[inner][bends < -1e-6], abs=1e-9)


def test_work_is_shared_equally_until_a_deadline_forbids() -> None:
    """By hand: requests at 0 and 4 ms, due 10 ms later, share [0, 14]; time that nobody can use is cut out."""

    def shares(arrivals_ms: list[float], slo_ms: float, workers: float = 1.0) -> list[float]:
        arrival_ns = np.array(arrivals_ms) * NS_PER_MS
        due_ns = arrival_ns + slo_ms * NS_PER_MS
        times = worker_times(arrival_ns.astype(np.int64), due_ns.astype(np.int64), Capacity.constant(workers))
        return [round(value / NS_PER_MS, 6) for value in times.tolist()]

    assert shares([0, 4], 10) == [7, 7]
    assert shares([0, 8], 10) == [9, 9]
    assert shares([0, 4], 5) == [4.5, 4.5]
    assert shares([0, 20], 5) == [5, 5]
    assert shares([0, 20], 5, workers=2.5) == [12.5, 12.5]
    assert shares([0, 0, 0, 9], 10) == [3.333333, 3.333333, 3.333333, 9]


def test_capacity_follows_losses() -> None:
    """Four workers, two of them gone after 10 ms: worker time adds up piece by piece."""
    capacity = Capacity((0, 10), (4.0, 2.0))
    assert capacity.work_ns(np.array([0, 5, 10, 20])).tolist() == [0, 20, 40, 60]


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(1, 100)), min_size=1, max_size=8), st.floats(0.01, 50))
def test_surplus_is_the_conjugate(points: list[tuple[float, float]], price: float) -> None:
    """The most of f(t) - price x t is found at a corner; and the envelope covers every point, concavely."""
    times, values = np.array(points).T
    envelope = Envelope.of(times, values)
    grid = np.concatenate([envelope.time_ns, np.linspace(0, 12, 200)])
    assert envelope.surplus(np.array([price]))[0] == pytest.approx((envelope(grid) - price * grid).max(), abs=1e-9)
    assert (envelope(times) >= values - 1e-9).all()
    assert (np.diff(envelope.slopes) <= 1e-9).all()


def test_envelope_counts_only_batches_that_fit_the_window() -> None:
    """16 rows at 7.35 ms cost 0.459 ms each; within 5 ms the 9 rows of 4.58 ms are the cheapest."""
    costs = BatchCosts.of(R_PROFILE, 0)
    assert costs.envelope(36e6).time_ns[1] == pytest.approx(7.35e6 / 16, rel=1e-3)
    narrow = costs.envelope(5e6)
    assert 4.18e6 / 8 > narrow.time_ns[1] > 7.35e6 / 16
    assert costs.envelope(1e6).accuracy.tolist() == [0.0]


def test_mixed_deadlines_are_bounded_more_tightly() -> None:
    """Against deadlines put off until they are in order of arrival; and one SLO gives the fluid bound itself."""
    rng = np.random.default_rng(0)
    trace = base_plus_gamma(200, 3000, 200, 2, rng)
    slo_ns = rng.choice([20, 200], len(trace)) * NS_PER_MS
    costs, capacity = BatchCosts.of(R_PROFILE, 0), Capacity.constant(8)
    due_ns = trace.arrival_ns + slo_ns
    fluid = fluid_bound(trace.arrival_ns, due_ns, costs.envelope(200e6), capacity)
    assert mixed_bound(trace.arrival_ns, due_ns, costs, capacity) < fluid - 0.01 * len(trace)


def test_the_bound_knows_that_overheads_pass_while_other_batches_run() -> None:
    """Five batches of 4 ms within 22 ms: with 1 ms before each of them, the last one would be late."""
    profile = make_profile([[4.0]], (1,))
    overlapping = msgspec.structs.replace(profile, device=msgspec.structs.replace(profile.device, overlaps=True))
    trace = Trace("at once", np.zeros(5, np.int64))
    served, bounds = [], []
    for one in (profile, overlapping):
        log = simulate(trace, one, policy="slackfit", workers=1, slo_ms=22, overhead_ms=1, timeout_action="delay")
        served.append(int(log.is_outcome(Outcome.SERVED).sum()))
        bounds.append(accuracy_bound(trace, one, workers=1, slo_ms=22, overhead_ms=1))
    assert served == [4, 5]
    assert bounds == [pytest.approx(70.0 * 4 / 5), pytest.approx(70.0)]


def test_rows_get_their_distance() -> None:
    """Near the published bound of the lambda = 7,050 cell (78.46 by a fluid argument), and above SlackFit by little."""
    trace = base_plus_gamma(1500, 5550, 2, 5, np.random.default_rng(0))
    bound = accuracy_bound(trace, R_PROFILE, workers=8, slo_ms=36, overhead_ms=0)
    assert bound == pytest.approx(78.5, abs=0.1)
    log = simulate(trace, R_PROFILE, policy="slackfit", workers=8, slo_ms=36, overhead_ms=0)
    row = with_bound(
        summarise(log, policy="slackfit", trace="t", seed=0, workers=8, slo_ms=36), trace, R_PROFILE, overhead_ms=0
    )
    assert row.distance_to_bound == pytest.approx(bound - row.goodput_weighted_accuracy)
    assert 0.1 < (row.distance_to_bound or 0.0) < 0.8


def test_the_optimum_of_one_worker_can_be_given_up() -> None:
    """Infinity, which no policy passes either, instead of minutes."""
    arrival_ns = np.arange(200, dtype=np.int64) * NS_PER_MS
    costs = BatchCosts.of(R_PROFILE, 0)
    assert single_worker_optimum(arrival_ns, arrival_ns + 36 * NS_PER_MS, costs, 10) == np.inf
    assert single_worker_optimum(arrival_ns, arrival_ns + 36 * NS_PER_MS, costs) < 80.2 * 200
