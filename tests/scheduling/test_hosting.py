"""Policies whose workers hold one subnet at a time."""

from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superserve.clock import NS_PER_MS
from superserve.profile import LatencyTable, Profile
from superserve.request import Request
from superserve.scheduling import Bound, Decision, EDFQueue, Policy, SchedulerView, Wait, create_policy
from superserve.scheduling.hosting import Proteus, _mean_accuracy, allocate, serving_rates
from support.profiles import profiles

R_PROFILE = LatencyTable(Profile.load("r-profile"))


class Desk:
    """Arrivals at a steady rate, and decisions at some instants with a request of 36 ms waiting."""

    def __init__(self, policy: str, workers: int = 8) -> None:
        self.policy: Policy = create_policy(policy, R_PROFILE)
        self.queue = EDFQueue()
        ids = tuple(range(workers))
        self.view = SchedulerView(R_PROFILE, self.queue, 0, workers_total=workers, workers=ids, idle=ids)
        self.number = 0

    def load(self, until_ms: int, rate: float) -> None:
        """Requests of one row, evenly spaced, from now on."""
        gap_ns = round(1e9 / rate)
        for at_ns in range(self.view.now_ns, until_ms * NS_PER_MS, gap_ns):
            self.view.arrivals.observe(at_ns, 1, 36 * NS_PER_MS)
            self.view.now_ns = at_ns

    def decide(self, at_ms: float) -> Decision | Wait:
        self.view.now_ns = round(at_ms * NS_PER_MS)
        self.number += 1
        self.queue.push(Request(self.number, self.view.now_ns, self.view.now_ns + 36 * NS_PER_MS))
        decision = self.policy.decide(self.view)
        self.queue.pop()
        return decision

    def subnet(self, at_ms: float) -> str:
        decision = self.decide(at_ms)
        assert isinstance(decision, Decision)
        return R_PROFILE.ids[decision.subnet]


def test_coarse_changes_after_its_delay() -> None:
    """The rate rises to 7,000/s at 1 s; what serves 1.05 times that (r77.64: 7,605/s) does so 100 ms later."""
    desk = Desk("coarse")
    desk.load(1000, 500)
    assert desk.subnet(1000) == "r80.16"
    desk.load(1400, 7000)
    assert desk.subnet(1400) == "r80.16"
    assert desk.subnet(1499) == "r80.16"
    assert desk.subnet(1501) == "r77.64"


def test_coarse_without_delay_is_ideal() -> None:
    """Fig. 1c's fine policy: the same at once."""
    desk = Desk("coarse:0")
    desk.load(1000, 500)
    desk.subnet(1000)
    desk.load(1400, 7000)
    assert desk.subnet(1400) == "r77.64"


def proteus_of(desk: Desk) -> Proteus:
    assert isinstance(desk.policy, Proteus)
    return desk.policy


def test_proteus_follows_demand_at_its_intervals() -> None:
    """All at the best at first; after a solve under load, workers that change wait out the load time."""
    desk = Desk("proteus:2")
    desk.decide(1)
    assert {hosted.subnet for hosted in proteus_of(desk)._hosted.values()} == {5}
    desk.load(66, 10_000)
    first = desk.decide(80)  # the first interval is a thirtieth: 67 ms
    assert first == Wait(180 * NS_PER_MS)
    held = dict(proteus_of(desk)._targets)
    assert max(held.values()) < 5
    desk.load(1900, 100)
    desk.decide(1901)
    assert proteus_of(desk)._targets == held
    desk.decide(2081)
    assert proteus_of(desk)._targets != held


def test_proteus_holds_a_batch_back_until_it_is_full_or_urgent() -> None:
    """One request of 36 ms: alone it takes 4.64 ms at the best subnet, so it may wait for 31.36; ten do not wait."""
    desk = Desk("proteus")
    desk.load(1, 1000)
    assert desk.decide(1) == Wait(32 * NS_PER_MS + 360_000 - 1)
    for number in range(100, 108):  # r80.16 runs 8 rows within half a deadline
        desk.queue.push(Request(number, 0, 37 * NS_PER_MS))
    assert isinstance(desk.decide(1), Decision)


def test_proteus_gives_up_heads_that_would_make_its_batches_small() -> None:
    """A head of 5 ms before a full batch is shed; before fewer requests than that it runs."""
    desk = Desk("proteus")
    desk.load(1, 1000)
    desk.queue.push(Request(99, 0, 6 * NS_PER_MS))
    decision = desk.decide(1)
    assert isinstance(decision, Decision)
    assert (decision.rows, decision.shed) == (1, 0)
    desk.queue.push(Request(98, 0, 6 * NS_PER_MS))
    for number in range(100, 109):
        desk.queue.push(Request(number, 0, 37 * NS_PER_MS))
    decision = desk.decide(1)
    assert isinstance(decision, Decision)
    assert (decision.rows, decision.shed) == (16, 1)


def test_proteus_gives_a_lost_workers_place_away() -> None:
    """A worker that goes or comes makes it solve at once; the one that comes loads first."""
    desk = Desk("proteus")
    desk.decide(1)
    desk.view.workers = desk.view.idle = (0, 1)
    desk.decide(2)
    assert set(proteus_of(desk)._hosted) == {0, 1}
    desk.view.workers, desk.view.idle = (0, 1, 9), (9,)
    assert desk.decide(3) == Wait(103 * NS_PER_MS)


@given(profiles(), st.integers(1, 4), st.floats(0.0, 1.2))
def test_allocation_serves_the_demand_about_as_well_as_any(profile: Profile, workers: int, load: float) -> None:
    """Against every allocation there is: served if it can be, within a worker's share of the best accuracy."""
    table = LatencyTable(profile)
    rates = serving_rates(table, float("inf"), 0)
    demand = load * workers * rates[0].rows_per_ns
    found = allocate(rates, table.accuracies, workers, demand)
    assert len(found) == workers
    enough = [
        held
        for held in combinations_with_replacement(rates, workers)
        if sum(rate.rows_per_ns for rate in held) >= demand
    ]
    if not enough:
        assert found == [0] * workers
        return
    chosen = [next(rate for rate in rates if rate.subnet == subnet) for subnet in found]
    assert sum(rate.rows_per_ns for rate in chosen) >= demand * (1 - 1e-9)
    best = max(_mean_accuracy(held, table.accuracies, demand) for held in enough)
    span = table.accuracies[-1] - table.accuracies[0]
    assert _mean_accuracy(chosen, table.accuracies, demand) >= best - span / workers - 1e-9


@pytest.mark.parametrize(("demand_qps", "expected"), [(0, ["r80.16"] * 4), (99_999, ["r73.82"] * 4)])
def test_allocation_at_the_ends(demand_qps: float, expected: list[str]) -> None:
    """Nothing to do: the best everywhere. Too much: the fastest everywhere."""
    rates = serving_rates(R_PROFILE, 36e6, 0)
    assert [R_PROFILE.ids[subnet] for subnet in allocate(rates, R_PROFILE.accuracies, 4, demand_qps / 1e9)] == expected


def test_coarse_gives_up_heads_that_would_make_its_batches_small() -> None:
    """r80.16 runs 8 rows within half a deadline: a head of 5 ms is shed before 8 others, not before 6."""
    desk = Desk("coarse")
    desk.load(1, 100)
    desk.queue.push(Request(99, 0, 6 * NS_PER_MS))
    for number in range(100, 106):
        desk.queue.push(Request(number, 0, 37 * NS_PER_MS))
    desk.view.now_ns = NS_PER_MS
    assert desk.policy.decide(desk.view) == Decision(5, 1, 0, bound=Bound.NOTHING)
    desk.queue.push(Request(106, 0, 37 * NS_PER_MS))
    desk.queue.push(Request(107, 0, 37 * NS_PER_MS))
    assert desk.policy.decide(desk.view) == Decision(5, 16, 1, bound=Bound.NOTHING)


@pytest.mark.parametrize("name", ["coarse", "proteus"])
def test_late_requests_run_on_the_subnet_that_is_there(name: str) -> None:
    """With timeout_action "delay" a hopeless head is served late; by what its worker holds, for changing takes time."""
    policy = create_policy(name, R_PROFILE, "delay")
    queue = EDFQueue()
    queue.push(Request(0, 0, NS_PER_MS))
    view = SchedulerView(R_PROFILE, queue, 0, workers_idle=1, workers_total=1, workers=(0,), idle=(0,))
    decision = policy.decide(view)
    assert isinstance(decision, Decision)
    assert (decision.subnet, decision.rows, decision.shed) == (5, 16, 0)
