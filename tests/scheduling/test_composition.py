"""One plan for subnets that run on two engines."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from superserve.clock import NS_PER_MS
from superserve.profile import LatencyTable, Profile
from superserve.request import Request
from superserve.scheduling import Finish, Launch, Scheduler, create_policies
from superserve.scheduling.composition import compose_policies, composed
from support.profiles import bucketed_profiles, make_profile, profiles
from support.watched import halved

SLOW = make_profile([[4.0, 8.0], [6.0, 12.0], [9.0, 18.0]], batches=(1, 4))


def test_resident_subnets_have_the_times_of_the_fast_engine_and_others_their_own() -> None:
    composition = composed(SLOW, halved(SLOW), {0, 2}, range(3))
    table = LatencyTable(composition.profile)
    assert composition.subnets == (0, 2)  # the middle one takes 6 ms, and the largest 4.5
    assert [table.latency_ns[subnet][1] for subnet in composition.subnets] == [2 * NS_PER_MS, 4.5 * NS_PER_MS]
    assert composed(SLOW, halved(SLOW), (), range(3)).profile == SLOW


def test_a_policy_for_one_subnet_keeps_it_however_slow_it_is() -> None:
    (policy,) = compose_policies("fixed:middle", SLOW, halved(SLOW), {2})
    assert list(policy.subnets) == [1]
    assert policy.table.latency_ns[1][1] == 6 * NS_PER_MS


@given(bucketed_profiles(profiles()), st.data())
def test_what_remains_is_a_front_in_the_times_of_the_engines(slow: Profile, data: st.DataObject) -> None:
    slow = slow.repaired()
    fast = halved(slow)
    resident = data.draw(st.sets(st.integers(0, len(slow.subnets) - 1)))
    composition = composed(slow, fast, resident, range(len(slow.subnets)))
    assert composition.subnets[-1] == len(slow.subnets) - 1  # the most accurate one always
    for bucket, of_slow, of_fast in zip(composition.profile.buckets, slow.buckets, fast.buckets, strict=True):
        for subnet in composition.subnets:
            own = (of_fast if subnet in resident else of_slow).subnets[subnet]
            assert bucket.subnets[subnet].p99_us == own.p99_us  # nothing that runs is planned faster than it is
    for below, above in pairwise(composition.subnets):
        cells = [
            (bucket.subnets[below].p99_us[cell], bucket.subnets[above].p99_us[cell])
            for bucket in composition.profile.buckets
            for cell in range(len(slow.batches))
        ]
        assert any(low < high for low, high in cells)


@given(bucketed_profiles(profiles()), st.sampled_from(["drainfit", "slackfit", "maxacc", "infaas", "fixed:smallest"]))
def test_with_nothing_resident_nothing_changes(slow: Profile, name: str) -> None:
    before = create_policies(name, slow)
    after = compose_policies(name, slow.repaired(), halved(slow), ())
    for old, new in zip(before, after, strict=True):
        worth = [subnet for subnet in old.subnets if subnet in new.subnets]
        assert list(new.subnets) == worth
        assert all(old.table.latency_ns[subnet] == new.table.latency_ns[subnet] for subnet in worth)


def scheduler(resident: set[int], floor: float = 0.0, deadline_ms: float = 100.0) -> Scheduler:
    """One with a busy worker, and one request that waits."""
    found = Scheduler(compose_policies("drainfit", SLOW, halved(SLOW), resident)[-1], overhead_ns=0)
    found.on_worker_ready(0, 0)
    for number, due_ms in enumerate((min(deadline_ms, 5.0), deadline_ms)):
        found.on_arrival(0, Request(number, 0, round(due_ms * NS_PER_MS), 1, 0.0 if number == 0 else floor, 0, 0))
    assert found.queue_depth == 1
    return found


@pytest.mark.parametrize(
    ("resident", "after", "floor", "bears"),
    [
        ({0, 2}, {0}, 0.0, True),
        ({0, 2}, {0}, 72.0, False),  # who waits for the largest was promised its fast times
        ({0}, {2}, 0.0, False),
        ({0}, {0, 2}, 72.0, True),
        ({1}, {1}, 0.0, True),
    ],
)
def test_a_plan_is_borne_that_makes_nobodys_fastest_subnet_slower(
    resident: set[int],
    after: set[int],
    floor: float,
    bears: bool,
) -> None:
    policies = compose_policies("drainfit", SLOW, halved(SLOW), after)
    assert scheduler(resident, floor).bears(policies) is bears
    idle = Scheduler(compose_policies("drainfit", SLOW, halved(SLOW), resident)[-1], overhead_ns=0)
    assert idle.bears(policies)


def test_a_new_plan_holds_for_what_waits() -> None:
    found = scheduler(set(), deadline_ms=10.0)
    (waiting,) = found._queue
    assert waiting.latest_start_ns == 6 * NS_PER_MS - 1
    found.replan(NS_PER_MS, compose_policies("drainfit", SLOW, halved(SLOW), {0}))
    assert waiting.latest_start_ns == 8 * NS_PER_MS - 1
    assert found.next_timer() == 8 * NS_PER_MS
    (answered, launched) = found.on_batch_done(7 * NS_PER_MS, 0, NS_PER_MS)
    assert isinstance(answered, Finish)
    assert isinstance(launched, Launch)
    assert (launched.subnet, launched.planned_ns) == (0, 2 * NS_PER_MS)
    assert answered.request is not waiting


def test_what_was_planned_with_is_remembered() -> None:
    found = scheduler(set())
    first = found.policy
    found.replan(5, compose_policies("drainfit", SLOW, halved(SLOW), {0}))
    assert found.plan_at(4).policy is first
    assert found.plan_at(5).policy is found.policy is not first
