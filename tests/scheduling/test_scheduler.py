"""What the scheduler promises, whatever happens."""

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.profile import LatencyTable, Profile
from superserve.request import Outcome, Reason, Request
from superserve.scheduling import Action, Finish, Launch, Scheduler, SchedulerLimits, create_policy
from support.profiles import bucketed_profiles, make_profile, profiles, several_devices
from support.watched import Watched, WatchedWorkers

POLICIES = (
    "drainfit",
    "slackfit",
    "slackfit:32",
    "maxacc",
    "maxbatch",
    "fixed:smallest",
    "fixed:middle",
    "fixed:largest",
    "slackfit-42",
    "infaas",
    "infaas:70",
    "coarse",
    "coarse:0",
    "proteus",
    "proteus:0.01",
)
#: Those that plan for workers of several devices.
ANYWHERE = [name for name in POLICIES if not name.startswith(("coarse", "proteus"))]

#: Profiles by device, and a policy.
GIVEN: st.SearchStrategy[tuple[Sequence[Profile], str]] = st.one_of(
    st.tuples(st.tuples(bucketed_profiles(profiles())), st.sampled_from(POLICIES)),
    st.tuples(several_devices(bucketed_profiles(profiles())), st.sampled_from(ANYWHERE)),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Throws events at a scheduler in any order; `Watched` checks every promise after each."""

    workers = Bundle("workers")

    @initialize(given=GIVEN, action=st.sampled_from(["reject", "delay"]))
    def start(self, given: tuple[Sequence[Profile], str], action: Any) -> None:
        devices, name = given
        self.fleet = WatchedWorkers()
        self.watched = Watched(devices, name, action, self.fleet)
        self.devices = len(devices)
        self.now_ns = 0
        self.next_worker = 0

    @rule(pick=st.integers(0, 2), overlaps=st.booleans(), target=workers)
    @precondition(lambda self: self.next_worker < 4)
    def worker_ready(self, pick: int, overlaps: bool) -> int:
        worker = self.next_worker
        self.next_worker += 1
        self.fleet.idle.add(worker)
        if overlaps:
            self.fleet.overlapping.add(worker)
            self.watched.scheduler.on_worker_overlaps(worker, overlaps=True)
        self.watched.apply(
            self.now_ns, self.watched.scheduler.on_worker_ready(self.now_ns, worker, pick % self.devices)
        )
        return worker

    @rule(
        slo_ms=st.floats(0.1, 60.0),
        rows=st.integers(1, 16),
        floor=st.sampled_from([0.0, 0.0, 0.0, 71.0, 73.0, 99.0]),
        priority=st.integers(0, 3),
        bucket=st.integers(0, 2),
    )
    def arrive(self, slo_ms: float, rows: int, floor: float, priority: int, bucket: int) -> None:
        self.watched.arrive(self.now_ns, slo_ms, rows, floor, priority, bucket)

    @rule(pick=st.integers(0, 1_000))
    def cancel(self, pick: int) -> None:
        self.watched.cancel(self.now_ns, pick)

    @rule(pick=st.integers(0, 3), failed=st.booleans(), slowness=st.sampled_from([0.5, 1.0, 1.5, 20.0]))
    @precondition(lambda self: self.fleet.busy)
    def batch_ends(self, pick: int, failed: bool, slowness: float) -> None:
        watched, scheduler = self.watched, self.watched.scheduler
        worker = self.fleet.busy[pick % len(self.fleet.busy)]
        _, launch = self.fleet.end(worker)
        taken_ns = watched.taken_ns(launch, slowness)
        if failed:
            watched.apply(self.now_ns, scheduler.on_batch_failed(self.now_ns, worker))
        else:
            watched.apply(self.now_ns, scheduler.on_batch_done(self.now_ns, worker, taken_ns))
        assert all(request.id in watched.ended for request in launch.requests) or (failed and launch.overdue)

    @rule(pick=st.integers(0, 3))
    @precondition(lambda self: self.fleet.running)
    def batch_overdue(self, pick: int) -> None:
        watched, scheduler = self.watched, self.watched.scheduler
        worker = self.fleet.running[pick % len(self.fleet.running)]
        if scheduler.workers > 1:
            self.fleet.overdue.add(worker)
        watched.apply(self.now_ns, scheduler.on_batch_overdue(self.now_ns, worker))

    @rule(worker=consumes(workers))
    def worker_lost(self, worker: int) -> None:
        watched = self.watched
        lost = self.fleet.lose(worker)
        watched.apply(self.now_ns, watched.scheduler.on_worker_lost(self.now_ns, worker))
        for _, launch in lost:
            watched.check_loss(self.now_ns, launch)

    @rule(worker=workers, overlaps=st.booleans())
    def worker_overlaps(self, worker: int, overlaps: bool) -> None:
        (self.fleet.overlapping.add if overlaps else self.fleet.overlapping.discard)(worker)
        self.watched.scheduler.on_worker_overlaps(worker, overlaps=overlaps)

    @rule(worker=workers, overhead_ms=st.sampled_from([0.1, 0.1, 5.0, 30.0]), times=st.integers(1, 16))
    def batches_cost(self, worker: int, overhead_ms: float, times: int) -> None:
        scheduler = self.watched.scheduler
        for _ in range(times):
            scheduler.observe_overhead(round(overhead_ms * NS_PER_MS), worker, scheduler._workers.devices[worker])

    @rule(resident=st.sets(st.integers(0, 4)))
    @precondition(lambda self: self.devices == 1)
    def replan(self, resident: set[int]) -> None:
        self.watched.replan(self.now_ns, resident)

    @rule(pick=st.integers(0, 3), requests=st.integers(2, 6))
    @precondition(lambda self: self.watched.scheduler._workers.room)
    def a_batch_nearly_ends_while_others_wait(self, pick: int, requests: int) -> None:
        for _ in range(requests):
            self.watched.arrive(self.now_ns, 60.0, 1, 0.0, 0)
        room = self.watched.scheduler._workers.room
        if room:
            ends_ns = sorted(room.values())
            self.time_passes((ends_ns[pick % len(ends_ns)] - self.now_ns) / NS_PER_MS)

    @rule(delta_ms=st.floats(0.0, 20.0))
    def time_passes(self, delta_ms: float) -> None:
        until_ns = self.now_ns + max(0, round(delta_ms * NS_PER_MS))
        while (timer_ns := self.watched.scheduler.next_timer()) is not None and timer_ns <= until_ns:
            self.now_ns = max(self.now_ns, timer_ns)
            self.watched.tick(self.now_ns)
        self.now_ns = until_ns

    @invariant()
    def promises_hold(self) -> None:
        self.watched.check()

    def teardown(self) -> None:
        if hasattr(self, "watched"):
            self.watched.stop(self.now_ns)


SchedulerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSchedulerContract = SchedulerMachine.TestCase


def scheduler_of(policy: str = "slackfit", **limits: int) -> Scheduler:
    table = LatencyTable(make_profile([[1, 2, 4], [2, 4, 8], [4, 8, 16]], (1, 4, 16)))
    return Scheduler(create_policy(policy, table), overhead_ns=0, limits=SchedulerLimits(**limits))


def request_of(number: int, arrival_ms: float = 0.0, slo_ms: float = 20.0, **rest: Any) -> Request:
    arrival_ns = round(arrival_ms * NS_PER_MS)
    return Request(number, arrival_ns, arrival_ns + round(slo_ms * NS_PER_MS), **rest)


def finishes(actions: Sequence[Action]) -> list[tuple[int, Outcome, Reason]]:
    return [(a.request.id, a.outcome, a.reason) for a in actions if isinstance(a, Finish)]


def test_rejects_without_a_worker() -> None:
    """With nobody to serve it, a request is refused at once."""
    assert finishes(scheduler_of().on_arrival(0, request_of(0))) == [(0, Outcome.REJECTED, Reason.NO_WORKER)]


def test_rejects_when_the_queue_is_full() -> None:
    """The bound counts waiting requests; the running one is not among them."""
    scheduler = scheduler_of(max_queued=1)
    scheduler.on_worker_ready(0, 0)
    scheduler.on_arrival(0, request_of(0))
    scheduler.on_arrival(0, request_of(1))
    assert finishes(scheduler.on_arrival(0, request_of(2))) == [(2, Outcome.REJECTED, Reason.QUEUE_FULL)]
    assert scheduler.retry_after_s() == pytest.approx(0.004)


def test_rejects_what_cannot_be_met_on_arrival() -> None:
    """The fastest cell takes 1 ms: a latency must be strictly below the slack."""
    scheduler = scheduler_of()
    scheduler.on_worker_ready(0, 0)
    rejected = scheduler.on_arrival(0, request_of(0, slo_ms=1.0))
    assert finishes(rejected) == [(0, Outcome.REJECTED, Reason.INFEASIBLE)]
    assert [type(action) for action in scheduler.on_arrival(0, request_of(1, slo_ms=1.001))] == [Launch]


def test_expires_exactly_when_certain() -> None:
    """A waiting request is answered at the first instant at which even the fastest cell would miss."""
    scheduler = scheduler_of()
    scheduler.on_worker_ready(0, 0)
    scheduler.on_arrival(0, request_of(0))
    scheduler.on_arrival(0, request_of(1, slo_ms=10.0))
    assert scheduler.next_timer() == 9 * NS_PER_MS
    assert not scheduler.on_timer(9 * NS_PER_MS - 1)
    assert finishes(scheduler.on_timer(9 * NS_PER_MS)) == [(1, Outcome.EXPIRED, Reason.EXPIRED)]
    assert scheduler.next_timer() is None


def test_lost_worker_gives_back_what_still_fits() -> None:
    """Of a lost batch, the request with slack runs again first under its old deadline, the other one fails."""
    scheduler = scheduler_of()
    scheduler.on_worker_ready(0, 0)
    scheduler.on_arrival(0, request_of(9, slo_ms=50.0))
    scheduler.on_arrival(0, request_of(0, slo_ms=30.0))
    scheduler.on_arrival(0, request_of(1, slo_ms=60.0))
    (_, launch) = scheduler.on_batch_done(20 * NS_PER_MS, 0, NS_PER_MS)
    assert isinstance(launch, Launch)
    assert [request.id for request in launch.requests] == [0, 1]
    lost = scheduler.on_worker_lost(29 * NS_PER_MS, 0)
    assert finishes(lost) == [(0, Outcome.FAILED, Reason.WORKER_LOST)]
    (again,) = scheduler.on_worker_ready(30 * NS_PER_MS, 0)
    assert isinstance(again, Launch)
    assert [request.id for request in again.requests] == [1]


def overdue_scheduler() -> tuple[Scheduler, Sequence[Action]]:
    """Two workers; the batch of requests 0 and 1 on worker 0 is overdue at 29 ms: 0 has no time left, 1 has."""
    scheduler = scheduler_of()
    for worker in range(2):
        scheduler.on_worker_ready(0, worker)
    for number in (8, 9):
        scheduler.on_arrival(0, request_of(number, slo_ms=50.0))
    scheduler.on_arrival(0, request_of(0, slo_ms=30.0))
    scheduler.on_arrival(0, request_of(1, slo_ms=60.0))
    (_, launch) = scheduler.on_batch_done(20 * NS_PER_MS, 0, NS_PER_MS)
    assert isinstance(launch, Launch)
    assert [request.id for request in launch.requests] == [0, 1]
    scheduler.on_batch_done(20 * NS_PER_MS, 1, NS_PER_MS)
    return scheduler, scheduler.on_batch_overdue(29 * NS_PER_MS, 0)


def test_an_overdue_batch_runs_again_where_there_is_time() -> None:
    """The other request still has its one chance; the worker is not counted on meanwhile."""
    scheduler, (again,) = overdue_scheduler()
    assert isinstance(again, Launch)
    assert (again.worker, [request.id for request in again.requests]) == (1, [1])
    assert (scheduler.workers, scheduler.busy, scheduler.unfinished) == (1, 2, 2)


def test_the_first_answer_wins_if_it_is_the_overdue_one() -> None:
    """It ends all of its requests; the second run answers nobody, and both workers are there again."""
    scheduler, _ = overdue_scheduler()
    first = scheduler.on_batch_done(30 * NS_PER_MS, 0, 10 * NS_PER_MS)
    assert finishes(first) == [(0, Outcome.SERVED, Reason.ANSWERED), (1, Outcome.SERVED, Reason.ANSWERED)]
    assert not scheduler.on_batch_done(31 * NS_PER_MS, 1, NS_PER_MS)
    assert (scheduler.workers, scheduler.busy, scheduler.unfinished) == (2, 0, 0)


def test_the_first_answer_wins_if_it_is_the_second_run() -> None:
    """What comes after it ends only what nobody else has answered: here late."""
    scheduler, _ = overdue_scheduler()
    second = scheduler.on_batch_done(30 * NS_PER_MS, 1, NS_PER_MS)
    assert finishes(second) == [(1, Outcome.SERVED, Reason.ANSWERED)]
    overdue = scheduler.on_batch_done(31 * NS_PER_MS, 0, 10 * NS_PER_MS)
    assert finishes(overdue) == [(0, Outcome.LATE, Reason.ANSWERED)]


def test_an_answer_ends_what_waits_to_run_again() -> None:
    """A request that has been answered is in no queue, and is not run a second time."""
    scheduler = scheduler_of()
    for worker in range(2):
        scheduler.on_worker_ready(0, worker)
    scheduler.on_arrival(0, request_of(0, slo_ms=50.0))
    scheduler.on_arrival(0, request_of(1, slo_ms=60.0))
    assert not scheduler.on_batch_overdue(5 * NS_PER_MS, 0), "the other worker is busy"
    assert scheduler.queue_depth == 1
    assert finishes(scheduler.on_batch_done(6 * NS_PER_MS, 0, 6 * NS_PER_MS)) == [(0, Outcome.SERVED, Reason.ANSWERED)]
    assert scheduler.queue_depth == 0
    assert finishes(scheduler.on_batch_done(7 * NS_PER_MS, 1, 7 * NS_PER_MS)) == [(1, Outcome.SERVED, Reason.ANSWERED)]


def test_a_worker_lost_with_an_overdue_batch_fails_only_what_had_no_time_left() -> None:
    """The other request runs already, on another worker, and is told that it has cost one."""
    scheduler, _ = overdue_scheduler()
    assert finishes(scheduler.on_worker_lost(40 * NS_PER_MS, 0)) == [(0, Outcome.FAILED, Reason.WORKER_LOST)]
    (served,) = scheduler.on_batch_done(41 * NS_PER_MS, 1, NS_PER_MS)
    assert isinstance(served, Finish)
    assert (served.request.id, served.request.losses) == (1, 1)


def test_the_only_worker_is_waited_for() -> None:
    """Nobody else could run its batch."""
    scheduler = scheduler_of()
    scheduler.on_worker_ready(0, 0)
    scheduler.on_arrival(0, request_of(0))
    assert not scheduler.on_batch_overdue(5 * NS_PER_MS, 0)
    assert scheduler.workers == 1
    assert finishes(scheduler.on_batch_done(6 * NS_PER_MS, 0, NS_PER_MS)) == [(0, Outcome.SERVED, Reason.ANSWERED)]


def test_cancelled_in_flight_is_not_answered() -> None:
    """A cancelled request of a running batch ends as cancelled; its batch-mate is served."""
    scheduler = scheduler_of()
    scheduler.on_worker_ready(0, 0)
    scheduler.on_arrival(0, request_of(9))
    requests = [request_of(0), request_of(1)]
    for request in requests:
        scheduler.on_arrival(0, request)
    scheduler.on_batch_done(NS_PER_MS, 0, NS_PER_MS)
    assert finishes(scheduler.on_cancel(NS_PER_MS, requests[0])) == [(0, Outcome.CANCELLED, Reason.CLIENT_GONE)]
    assert finishes(scheduler.on_batch_done(2 * NS_PER_MS, 0, NS_PER_MS)) == [(1, Outcome.SERVED, Reason.ANSWERED)]
    assert not scheduler.on_cancel(2 * NS_PER_MS, requests[0])


def test_delay_serves_late_instead_of_refusing() -> None:
    """With timeout_action "delay" a hopeless request is run by the fastest subnet and ends as late."""
    table = LatencyTable(make_profile([[5.0], [9.0]], (1,)))
    scheduler = Scheduler(create_policy("slackfit", table, "delay"), overhead_ns=0)
    scheduler.on_worker_ready(0, 0)
    (launch,) = scheduler.on_arrival(0, request_of(0, slo_ms=1.0))
    assert isinstance(launch, Launch)
    assert launch.subnet == 0
    assert scheduler.next_timer() is None
    assert finishes(scheduler.on_batch_done(5 * NS_PER_MS, 0, 5 * NS_PER_MS)) == [(0, Outcome.LATE, Reason.ANSWERED)]


def uneven_scheduler() -> Scheduler:
    """Two workers, of which worker 1 takes ten times as long: both idle at 100 ms. The fastest cell takes 1 ms."""
    scheduler = scheduler_of("maxacc")
    scheduler.on_worker_ready(0, 0)
    scheduler.on_worker_ready(0, 1)
    for number in range(4):
        (launch,) = scheduler.on_arrival(0, request_of(100 + number, slo_ms=1_000.0))
        assert isinstance(launch, Launch)
        planned_ns = scheduler.policy.table.latency_ns[launch.subnet][launch.rows]
        scheduler.on_batch_done(100 * NS_PER_MS, launch.worker, planned_ns * (10 if launch.worker else 1))
    return scheduler


def test_a_slow_worker_is_used_last_and_for_what_it_can_still_do() -> None:
    """Both would do; the first one gets the work, the slow one a cheaper subnet: its slack counts for a tenth."""
    scheduler = uneven_scheduler()
    (first,) = scheduler.on_arrival(100 * NS_PER_MS, request_of(0, 100.0, 50.0))
    (second,) = scheduler.on_arrival(100 * NS_PER_MS, request_of(1, 100.0, 30.0))
    assert isinstance(first, Launch)
    assert isinstance(second, Launch)
    assert (first.worker, first.subnet) == (0, 2)
    assert (second.worker, second.subnet) == (1, 1)


def test_a_slow_worker_gives_nothing_up() -> None:
    """It cannot answer within 8 ms, but the other one can as soon as it is free: the request waits for that."""
    scheduler = uneven_scheduler()
    scheduler.on_arrival(100 * NS_PER_MS, request_of(0, 100.0, 50.0))
    assert not scheduler.on_arrival(100 * NS_PER_MS, request_of(1, 100.0, 8.0))
    assert scheduler.next_timer() is not None
    assert not scheduler.on_timer(102 * NS_PER_MS)
    _, launch = scheduler.on_batch_done(104 * NS_PER_MS, 0, 4 * NS_PER_MS)
    assert isinstance(launch, Launch)
    assert (launch.worker, [request.id for request in launch.requests]) == (0, [1])


def test_a_slow_machine_is_planned_with() -> None:
    """After batches that took 1.5 times what the profile says, a deadline that only the profile holds is refused."""
    table = LatencyTable(make_profile([[10.0], [20.0]], (1,)))
    scheduler = Scheduler(create_policy("maxacc", table), overhead_ns=0)
    now_ns = 0
    scheduler.on_worker_ready(now_ns, 0)
    for number in range(60):
        (launch,) = scheduler.on_arrival(now_ns, request_of(number, arrival_ms=now_ns / NS_PER_MS, slo_ms=100.0))
        assert isinstance(launch, Launch)
        now_ns += 30 * NS_PER_MS
        scheduler.on_batch_done(now_ns, 0, 30 * NS_PER_MS)
    (launch,) = scheduler.on_arrival(now_ns, request_of(60, arrival_ms=now_ns / NS_PER_MS, slo_ms=25.0))
    assert isinstance(launch, Launch)
    assert launch.subnet == 0, "20 ms by the profile, 30 ms by experience"
    scheduler.on_batch_done(now_ns, 0, 15 * NS_PER_MS)
    refused = scheduler.on_arrival(now_ns, request_of(61, arrival_ms=now_ns / NS_PER_MS, slo_ms=12.0))
    assert finishes(refused) == [(61, Outcome.REJECTED, Reason.INFEASIBLE)]


@pytest.mark.parametrize("learned", ["overhead", "drift"])
def test_a_machine_that_was_slow_is_not_refused_work_for_good(learned: str) -> None:
    """What was learned leaves no time for anything: it is forgotten by and by, until a batch can tell what holds."""
    scheduler = scheduler_of()
    scheduler.on_worker_ready(0, 0)
    now_ns = 0
    for number in range(600):
        scheduler.on_arrival(now_ns, request_of(number, now_ns / NS_PER_MS, 1_000_000.0))
        launch = scheduler.running(0)
        assert launch is not None
        planned_ns = scheduler.policy.table.latency_ns[launch.subnet][launch.rows]
        now_ns += 100 * NS_PER_MS
        scheduler.on_batch_done(now_ns, 0, 60 * planned_ns if learned == "drift" else planned_ns)
        if learned == "overhead":
            scheduler.observe_overhead(100 * NS_PER_MS, 0)
    asked = [
        scheduler.on_arrival(at_ns, request_of(number, at_ns / NS_PER_MS))
        for number, at_ns in enumerate(range(now_ns, now_ns + NS_PER_S, 10 * NS_PER_MS), 600)
    ]
    assert isinstance(asked[0][0], Finish), "refused at first"
    assert any(isinstance(actions[0], Launch) for actions in asked if actions), "within a second"


def test_a_far_worker_gets_what_it_can_bring_back_in_time() -> None:
    """Its way takes 30 ms: what has less is left to the near one, which is planned as if the other were not there."""
    scheduler = scheduler_of()
    scheduler.on_worker_ready(0, near := 0)
    scheduler.on_worker_ready(0, far := 1)
    for _ in range(8):
        for worker, overhead_ms in ((near, 0.2), (far, 30.0)):
            scheduler.observe_overhead(round(overhead_ms * NS_PER_MS), worker)
    assert scheduler.slow(far)
    assert scheduler.planned_overhead_ns < NS_PER_MS
    first, second, third = request_of(0, 0.0, 25.0), request_of(1, 0.0, 25.0), request_of(2, 0.0, 500.0)
    scheduler.on_arrival(0, first)
    to_near = scheduler.running(near)
    assert to_near is not None
    assert to_near.overhead_ns == scheduler.planned_overhead_ns
    assert not scheduler.on_arrival(0, second), "it waits for the near one"
    scheduler.on_batch_done(2 * NS_PER_MS, near, to_near.planned_ns)
    to_near = scheduler.running(near)
    assert to_near is not None
    assert to_near.requests == [second]
    scheduler.on_arrival(2 * NS_PER_MS, third)
    to_far = scheduler.running(far)
    assert to_far is not None
    assert to_far.overhead_ns >= 30 * NS_PER_MS
    scheduler.on_worker_lost(3 * NS_PER_MS, near)
    assert scheduler.planned_overhead_ns >= 30 * NS_PER_MS


def test_a_deadline_that_no_machine_could_meet_makes_nothing_forgotten() -> None:
    """Half a millisecond, where the fastest subnet is profiled with one."""
    scheduler = scheduler_of()
    scheduler.on_worker_ready(0, 0)
    scheduler.observe_overhead(5 * NS_PER_MS, 0)
    planned_ns = scheduler.planned_overhead_ns
    for number in range(100):
        now_ms = 1000.0 * number
        (action,) = scheduler.on_arrival(round(now_ms * NS_PER_MS), request_of(number, now_ms, 0.5))
        assert isinstance(action, Finish)
    assert scheduler.planned_overhead_ns == planned_ns > 0


def test_requests_that_are_late_when_they_come_are_refused_and_confuse_nobody() -> None:
    """As when reading one takes longer than its deadline is: the rate is still known, and the next one is served."""
    scheduler = scheduler_of("drainfit")
    scheduler.on_worker_ready(0, 0)
    for number in range(100):
        refused = scheduler.on_arrival(number * 5 * NS_PER_MS, request_of(number, number * 5.0 - 100.0))
        assert finishes(refused) == [(number, Outcome.REJECTED, Reason.INFEASIBLE)]
    (launch,) = scheduler.on_arrival(500 * NS_PER_MS, request_of(100, 500.0))
    assert isinstance(launch, Launch)
