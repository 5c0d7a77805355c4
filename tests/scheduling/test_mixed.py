"""Workers of two devices: which of them gets a batch, and what it is planned with.

What always holds is tested in ``test_scheduler.py``, who is admitted in ``test_admission.py``.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from superserve.clock import NS_PER_MS
from superserve.errors import ConfigError
from superserve.profile import LatencyTable, Profile
from superserve.request import Outcome, Reason, Request
from superserve.scheduling import (
    Action,
    Decision,
    Finish,
    Launch,
    MixedScheduler,
    Policy,
    Scheduler,
    SchedulerView,
    Wait,
    create_scheduler,
)
from superserve.simulator import simulate
from superserve.traces.arrivals import base_plus_gamma
from superserve.traces.trace import Trace
from support.profiles import make_profile

FAST = make_profile([[1, 2, 4], [2, 4, 8]], (1, 4, 16))
SLOW = make_profile([[4, 8, 16], [8, 16, 32]], (1, 4, 16))
FIRST, SECOND = 0, 1
"""Devices: the fast one, the slow one; their workers have the same numbers."""


def scheduler_of(policy: str = "maxacc", workers: Sequence[int] = (FIRST, SECOND), **rest: Any) -> Scheduler:
    scheduler = create_scheduler(policy, (FAST, SLOW), overheads_ns=(0, 0), **rest)
    for worker in workers:
        scheduler.on_worker_ready(0, worker, worker)
    return scheduler


def request_of(number: int, slo_ms: float, at_ms: float = 0.0) -> Request:
    at_ns = round(at_ms * NS_PER_MS)
    return Request(number, at_ns, at_ns + round(slo_ms * NS_PER_MS))


def launched(actions: Sequence[Action]) -> list[tuple[int, int, list[int]]]:
    """Worker, subnet and requests of each batch."""
    return [
        (action.worker, action.subnet, [one.id for one in action.requests])
        for action in actions
        if isinstance(action, Launch)
    ]


@pytest.mark.parametrize(
    ("slo_ms", "worker", "subnet"),
    [
        (50.0, SECOND, 1),  # both would run the better one: the fast worker stays free for what comes
        (5.0, FIRST, 1),  # the slow one would run the lesser
        (2.5, FIRST, 1),  # the slow one would run nothing
    ],
)
def test_of_idle_workers_the_slowest_that_serves_it_as_well(slo_ms: float, worker: int, subnet: int) -> None:
    scheduler = scheduler_of()
    assert launched(scheduler.on_arrival(0, request_of(0, slo_ms))) == [(worker, subnet, [0])]


def test_a_batch_is_planned_and_ends_by_the_profile_of_its_worker() -> None:
    """It is the slow one's own time that tells whether it has become slow."""
    scheduler = scheduler_of(workers=(SECOND,))
    for number in range(100):
        (launch,) = scheduler.on_arrival(0, request_of(number, 50.0))
        assert isinstance(launch, Launch)
        assert (launch.device, launch.planned_ns) == (SECOND, 8 * NS_PER_MS)
        scheduler.on_batch_done(0, SECOND, 8 * NS_PER_MS)
    assert not scheduler.slow(SECOND)
    assert scheduler.drift == 1.0


def test_a_worker_that_has_become_slow_for_its_device_is_used_last() -> None:
    """It would be kept busy with what has time, so that the fast one stays free."""
    scheduler = scheduler_of()
    for number in range(2):
        for slo_ms, worker in ((1_000.0, SECOND), (5.0, FIRST)):
            (launch,) = scheduler.on_arrival(0, request_of(10 * number + worker, slo_ms))
            assert isinstance(launch, Launch)
            assert launch.worker == worker
        scheduler.on_batch_done(0, FIRST, 2 * NS_PER_MS)
        scheduler.on_batch_done(0, SECOND, 80 * NS_PER_MS)
    assert scheduler.slow(SECOND)
    assert launched(scheduler.on_arrival(0, request_of(99, 1_000.0))) == [(FIRST, 1, [99])]


def busy_fast() -> Scheduler:
    """The fast worker is busy until 8 ms, the slow one idle."""
    scheduler = scheduler_of("slackfit", workers=(FIRST,))
    for number in range(17):
        scheduler.on_arrival(0, request_of(100 + number, 100.0))
    scheduler.on_batch_done(0, FIRST, 0)
    assert scheduler.queue_depth == 0
    scheduler.on_worker_ready(0, SECOND, SECOND)
    return scheduler


def test_what_one_worker_cannot_serve_is_left_to_another() -> None:
    """Due in 4 ms, it takes the slow worker as long; the next one runs there meanwhile."""
    scheduler = busy_fast()
    assert not scheduler.on_arrival(0, request_of(0, 4.0))
    assert launched(scheduler.on_arrival(0, request_of(1, 50.0))) == [(SECOND, 1, [1])]
    assert scheduler.queue_depth == 1
    assert launched(scheduler.on_batch_done(2 * NS_PER_MS, FIRST, 2 * NS_PER_MS)) == [(FIRST, 0, [0])]


def test_it_is_given_up_when_no_device_could_serve_it() -> None:
    """The fastest cell of the fast one takes 1 ms."""
    scheduler = busy_fast()
    scheduler.on_arrival(0, request_of(0, 4.0))
    assert not finished(scheduler.on_timer(3 * NS_PER_MS - 1))
    assert finished(scheduler.on_timer(3 * NS_PER_MS)) == [(0, Outcome.EXPIRED, Reason.EXPIRED)]


def finished(actions: Sequence[Action]) -> list[tuple[int, Outcome, Reason]]:
    return [(one.request.id, one.outcome, one.reason) for one in actions if isinstance(one, Finish)]


def test_when_the_last_worker_of_a_device_goes_what_only_it_could_serve_ends() -> None:
    """Within 4 ms the slow one answers nothing; what is due later waits on."""
    scheduler = busy_fast()
    scheduler.on_arrival(0, request_of(1, 4.0))
    scheduler.on_arrival(0, request_of(0, 50.0))
    scheduler.on_arrival(0, request_of(2, 40.0))
    scheduler.on_worker_lost(0, FIRST)
    due_ns = scheduler.next_timer()
    assert due_ns is not None
    assert due_ns <= NS_PER_MS
    assert finished(scheduler.on_timer(due_ns)) == [(1, Outcome.EXPIRED, Reason.EXPIRED)]
    assert finished(scheduler.on_arrival(NS_PER_MS, request_of(3, 4.0, 1.0))) == [
        (3, Outcome.REJECTED, Reason.INFEASIBLE)
    ]


def test_when_a_faster_device_comes_there_is_time_for_more() -> None:
    """Waiting for the slow one it would have expired at 6 ms."""
    scheduler = scheduler_of("slackfit", workers=(SECOND,))
    scheduler.on_arrival(0, request_of(0, 100.0))
    scheduler.on_arrival(0, request_of(1, 110.0))
    (expires_ns,) = {scheduler.next_timer()}
    scheduler.on_worker_ready(0, FIRST, FIRST)
    scheduler.on_arrival(0, request_of(2, 120.0))
    assert expires_ns == 106 * NS_PER_MS
    assert scheduler.next_timer() == 119 * NS_PER_MS


def test_each_device_has_its_own_overhead() -> None:
    """What the batches of the slow one cost on the way does not make the other's plans worse."""
    scheduler = scheduler_of()
    for _ in range(500):
        scheduler.observe_overhead(20 * NS_PER_MS, SECOND, SECOND)
    assert launched(scheduler.on_arrival(0, request_of(0, 2.5))) == [(FIRST, 1, [0])]
    assert not launched(scheduler.on_arrival(0, request_of(1, 20.0)))
    assert launched(scheduler.on_arrival(0, request_of(2, 30.0))) == [(SECOND, 1, [2])]


class Spy(Policy):
    """Notes what it is shown."""

    name = "spy"
    seen: list[tuple[float, float]]

    def decide(self, view: SchedulerView) -> Decision:
        """See `Policy.decide`."""
        self.seen.append(view.capacity)
        return Decision(0, 1)


def test_workers_are_counted_in_workers_like_the_one_at_hand() -> None:
    """The fast one serves four times as many rows: one slow and a fast one are five slow ones, or one and a quarter."""
    policies = [[Spy(LatencyTable(profile))] for profile in (FAST, SLOW)]
    seen: list[tuple[float, float]] = []
    for (policy,) in policies:
        policy.seen = seen
    scheduler = MixedScheduler(policies, overheads_ns=(0, 0))
    scheduler.on_worker_ready(0, FIRST, FIRST)
    scheduler.on_arrival(0, request_of(0, 100.0))
    scheduler.on_worker_ready(0, SECOND, SECOND)
    scheduler.on_arrival(0, request_of(1, 100.0))
    assert seen == [(1.0, 0.0), (5.0, 4.0 * NS_PER_MS)], "the fast one is busy for 1 ms, which is worth 4 of the other"


class Patient(Policy):
    """Leaves every worker idle until 5 ms."""

    name = "patient"

    def decide(self, view: SchedulerView) -> Decision | Wait:
        """See `Policy.decide`."""
        return Decision(0, 1) if view.now_ns >= 5 * NS_PER_MS else Wait(5 * NS_PER_MS)


def test_a_policy_may_let_workers_wait() -> None:
    """It is asked again when the time has come."""
    scheduler = MixedScheduler([[Patient(LatencyTable(profile))] for profile in (FAST, SLOW)], overheads_ns=(0, 0))
    for worker in (FIRST, SECOND):
        scheduler.on_worker_ready(0, worker, worker)
    assert not scheduler.on_arrival(0, request_of(0, 50.0))
    assert scheduler.next_timer() == 5 * NS_PER_MS
    assert launched(scheduler.on_timer(5 * NS_PER_MS)) == [(SECOND, 0, [0])]


@pytest.mark.parametrize("policy", ["drainfit", "slackfit"])
def test_two_devices_that_are_alike_are_as_one(policy: str) -> None:
    """The same answers at the same time, as long as nothing is given up."""
    profile = Profile.load("r-profile")
    trace = base_plus_gamma(500, 1500, 4, 2, np.random.default_rng(0))
    one = simulate(trace, profile, policy=policy, workers=4, slo_ms=36, overhead_ms=1)
    two = simulate(trace, (profile, profile), policy=policy, workers=(2, 2), slo_ms=36, overhead_ms=1)
    assert one.is_outcome(Outcome.SERVED).all()
    assert one.end_ns.tobytes() == two.end_ns.tobytes()
    assert one.subnet.tobytes() == two.subnet.tobytes()


@pytest.mark.parametrize("policy", ["drainfit", "slackfit"])
def test_slower_workers_add_what_they_can(policy: str) -> None:
    """4,000 requests/s: the fast one serves 3,200 of them at most, and four slow ones as many again."""
    trace = base_plus_gamma(1000, 3000, 4, 1, np.random.default_rng(0))
    attained = {
        workers: simulate(trace, (FAST, SLOW), policy=policy, workers=workers, slo_ms=40, overhead_ms=1)
        .is_outcome(Outcome.SERVED)
        .mean()
        for workers in ((1, 4), (1, 0))
    }
    assert attained[1, 4] > 0.99
    assert attained[1, 0] < 0.8


def test_workers_of_two_devices_by_hand() -> None:
    """Two requests at once: 2 ms on the fast worker and 8 ms on the slow one, and each has 1 ms of overhead."""
    trace = Trace("t", np.zeros(2, np.int64))
    log = simulate(trace, (FAST, SLOW), policy="fixed:largest", workers=(1, 1), slo_ms=50, overhead_ms=1)
    assert sorted(log.end_ns.tolist()) == [3 * NS_PER_MS, 9 * NS_PER_MS]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (make_profile([[1, 2, 4]], (1, 4, 16)), "differ in subnets"),
        (make_profile([[1, 2], [2, 4]], (1, 4)), "differ in largest batch"),
        (msgspec.structs.replace(FAST, subnets=FAST.subnets[::-1]), "differ in subnets"),
    ],
)
def test_profiles_of_other_models_are_refused(other: Profile, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        create_scheduler("drainfit", (FAST, other), overheads_ns=(0, 0))


def test_a_policy_that_holds_state_plans_for_one_device() -> None:
    with pytest.raises(ConfigError, match="workers of one device only"):
        create_scheduler("proteus", (FAST, SLOW), overheads_ns=(0, 0))


def test_simulated_workers_are_counted_by_device() -> None:
    with pytest.raises(ConfigError, match="2 profiles but 1 numbers of workers"):
        simulate(Trace("t", np.zeros(1, np.int64)), (FAST, SLOW), policy="drainfit", workers=3, slo_ms=50)
