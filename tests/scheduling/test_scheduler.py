"""What the scheduler promises, whatever happens."""

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from superserve.clock import NS_PER_MS
from superserve.profile import LatencyTable, Profile
from superserve.request import Outcome, Reason, Request, RequestState
from superserve.scheduling import Action, Finish, Launch, Scheduler, SchedulerLimits, create_policy
from support.profiles import make_profile, profiles

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
#: They leave a worker without work while it loads a subnet, or until its batch is full.
WAITING = ("proteus", "proteus:0.01")
MAX_QUEUED = 12


class SchedulerMachine(RuleBasedStateMachine):
    """Throws events at a scheduler in any order and checks every promise after each."""

    workers = Bundle("workers")

    @initialize(profile=profiles(), name=st.sampled_from(POLICIES), action=st.sampled_from(["reject", "delay"]))
    def start(self, profile: Profile, name: str, action: Any) -> None:
        self.table = LatencyTable(profile)
        self.name = name
        self.policy = create_policy(name, self.table, action)
        self.action = action
        self.overhead_ns = NS_PER_MS // 2
        self.scheduler = Scheduler(
            self.policy, overhead_ns=self.overhead_ns, limits=SchedulerLimits(max_queued=MAX_QUEUED)
        )
        self.now_ns = 0
        self.requests: list[Request] = []
        self.ended: dict[int, Finish] = {}
        self.running: dict[int, Launch] = {}
        self.idle: set[int] = set()
        self.next_worker = 0

    def apply(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Launch):
                self.check_launch(action)
            else:
                assert action.request.id not in self.ended, "a request ended twice"
                self.ended[action.request.id] = action

    def check_launch(self, launch: Launch) -> None:
        assert launch.worker in self.idle, "launched on a worker that is not idle"
        self.idle.remove(launch.worker)
        self.running[launch.worker] = launch
        assert launch.requests
        assert launch.rows == sum(request.rows for request in launch.requests) <= self.table.max_rows
        assert launch.subnet in self.policy.subnets
        keys = [(request.deadline_ns, request.id) for request in launch.requests]
        assert keys == sorted(keys), "a batch is in deadline order"
        waiting = [r for r in self.requests if r.state is RequestState.QUEUED]
        assert all((r.deadline_ns, r.id) > keys[-1] for r in waiting), "the batch is the most urgent run of the queue"
        for request in launch.requests:
            assert request.id not in self.ended, "launched a request that has ended"
            assert request.min_accuracy <= self.table.accuracies[launch.subnet]
            if self.action == "reject":
                done_ns = self.now_ns + self.overhead_ns + self.table.latency_ns[launch.subnet][request.rows]
                assert done_ns < request.deadline_ns, "launched a request that was certain to miss"
        if self.action == "reject":
            done_ns = self.now_ns + self.overhead_ns + self.table.latency_ns[launch.subnet][launch.rows]
            assert done_ns < launch.requests[0].deadline_ns, "the head misses by the profile"

    @rule(worker_count=st.integers(1, 3), target=workers)
    @precondition(lambda self: self.next_worker < 4)
    def worker_ready(self, worker_count: int) -> int:  # noqa: ARG002
        worker = self.next_worker
        self.next_worker += 1
        self.idle.add(worker)
        self.apply(self.scheduler.on_worker_ready(self.now_ns, worker))
        return worker

    @rule(
        slo_ms=st.floats(0.1, 60.0),
        rows=st.integers(1, 16),
        floor=st.sampled_from([0.0, 0.0, 0.0, 71.0, 73.0, 99.0]),
        priority=st.integers(0, 3),
    )
    def arrive(self, slo_ms: float, rows: int, floor: float, priority: int) -> None:
        deadline_ns = self.now_ns + round(slo_ms * NS_PER_MS)
        rows = min(rows, self.table.max_rows)
        request = Request(len(self.requests), self.now_ns, deadline_ns, rows, floor, priority)
        self.requests.append(request)
        self.apply(self.scheduler.on_arrival(self.now_ns, request))

    @rule(pick=st.integers(0, 1_000))
    @precondition(lambda self: self.requests)
    def cancel(self, pick: int) -> None:
        self.apply(self.scheduler.on_cancel(self.now_ns, self.requests[pick % len(self.requests)]))

    @rule(pick=st.integers(0, 3), failed=st.booleans(), slowness=st.sampled_from([0.5, 1.0, 1.5, 20.0]))
    @precondition(lambda self: self.running)
    def batch_ends(self, pick: int, failed: bool, slowness: float) -> None:
        worker = sorted(self.running)[pick % len(self.running)]
        launch = self.running.pop(worker)
        self.idle.add(worker)
        if failed:
            self.apply(self.scheduler.on_batch_failed(self.now_ns, worker))
        else:
            taken_ns = round(slowness * self.table.latency_ns[launch.subnet][launch.rows])
            self.apply(self.scheduler.on_batch_done(self.now_ns, worker, taken_ns))
        assert all(request.id in self.ended for request in launch.requests)

    @rule(worker=consumes(workers))
    def worker_lost(self, worker: int) -> None:
        launch = self.running.pop(worker, None)
        self.idle.discard(worker)
        self.apply(self.scheduler.on_worker_lost(self.now_ns, worker))
        for request in launch.requests if launch else ():
            ended = self.ended.get(request.id)
            if ended is not None and ended.reason is Reason.WORKER_LOST:
                assert self.action == "reject"
                assert self.now_ns > request.latest_start_ns, "lost a request that had slack left"

    @rule(delta_ms=st.floats(0.0, 20.0))
    def time_passes(self, delta_ms: float) -> None:
        self.advance(self.now_ns + round(delta_ms * NS_PER_MS))

    def advance(self, until_ns: int) -> None:
        while (timer_ns := self.scheduler.next_timer()) is not None and timer_ns <= until_ns:
            self.now_ns = max(self.now_ns, timer_ns)
            self.apply(self.scheduler.on_timer(self.now_ns))
            assert self.scheduler.next_timer() != timer_ns, "a timer that is due forever"
        self.now_ns = until_ns

    @invariant()
    def every_request_is_somewhere(self) -> None:
        running = {request.id for launch in self.running.values() for request in launch.requests}
        for request in self.requests:
            ended = request.id in self.ended
            assert ended == (request.state is RequestState.DONE)
            if request.state is RequestState.RUNNING:
                assert request.id in running
        assert self.scheduler.queue_depth <= MAX_QUEUED + 4 * 16
        assert self.scheduler.unfinished == len(self.requests) - len(self.ended)

    @invariant()
    def no_worker_idles_while_work_waits(self) -> None:
        if self.idle and self.scheduler.queue_depth:
            assert self.name in WAITING
            assert self.scheduler.next_timer() is not None, "waits for nothing"

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.apply(self.scheduler.on_stop(self.now_ns))
        assert len(self.ended) == len(self.requests), "a request without an outcome"
        for finish in self.ended.values():
            if finish.outcome is Outcome.SERVED:
                assert finish.launch is not None


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
