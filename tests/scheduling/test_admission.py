"""Who is admitted: nobody is refused who could be served, and whoever is admitted is served."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import example, given

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.profile import LatencyTable, Profile
from superserve.request import Outcome, Reason, Request
from superserve.scheduling import Finish, Launch, Scheduler, create_policies, create_policy
from superserve.scheduling.admission import Admission, Prediction, Promise
from superserve.scheduling.device_plan import DevicePlan
from superserve.scheduling.mixed_admission import MixedAdmission
from superserve.scheduling.policy import SchedulerView
from superserve.scheduling.waiting import WaitingQueue
from superserve.scheduling.workers import Fleet, Workers
from superserve.simulator import simulate
from superserve.traces.arrivals import gamma
from superserve.traces.trace import Trace
from support.instances import whole_profiles
from support.profiles import bucketed_profiles, make_profile, several_devices, with_shorter


class Job(NamedTuple):
    """A request, in milliseconds from now."""

    due_ms: int
    rows: int = 1
    floor: float = 0.0
    priority: int = 0
    bucket: int = 0


jobs = st.builds(
    Job,
    st.integers(1, 25),
    st.integers(1, 2),
    st.sampled_from([0.0, 0.0, 0.0, 71.0]),
    st.sampled_from([0, 1, 2]),
    bucket=st.just(0),
)
texts = st.builds(
    Job,
    st.integers(1, 25),
    st.integers(1, 2),
    st.sampled_from([0.0, 0.0, 71.0]),
    priority=st.just(0),
    bucket=st.integers(0, 2),
)
ends_ms = st.lists(st.integers(0, 12), min_size=1, max_size=2)
mixed_ends_ms = st.lists(st.integers(0, 12), min_size=1, max_size=3)


class Instance:
    """Workers that are free at some instants, a queue, and an `Admission` that knows them.

    Where there are two profiles, workers are of the one device and the other in turns.
    """

    def __init__(self, profile: Profile | Sequence[Profile], ends: Sequence[int], waiting: Sequence[Job]) -> None:
        profiles = (profile,) if isinstance(profile, Profile) else profile
        policies = [create_policies("drainfit", each) for each in profiles]
        self.tables_of = [[policy.table for policy in each] for each in policies]
        self.devices = [worker % len(profiles) for worker in range(len(ends))]
        self.tables, self.policy = self.tables_of[0], policies[0][-1]
        self.table = self.policy.table
        self.queue = WaitingQueue(lambda floor: self.policy.usable(floor)[0])
        workers = Workers(len(profiles))
        for worker, (end, device) in enumerate(zip(ends, self.devices, strict=True)):
            workers.join(worker, device)
            of_device = workers.fleets[device] if len(profiles) > 1 else Fleet()
            for ends_ns in (workers.commitments, workers.soonest, of_device.commitments, of_device.soonest):
                if end:
                    ends_ns.add(worker, end * NS_PER_MS)
        self.ends = [end * NS_PER_MS for end in ends]
        view = SchedulerView(self.table, self.queue, 0, commitments=workers.commitments, workers=workers.live)
        self.admission = (
            Admission(self.policy, self.queue, view, workers.soonest, tables=self.tables)
            if len(profiles) == 1
            else MixedAdmission(
                self.policy,
                self.queue,
                view,
                workers=workers,
                devices=[DevicePlan(each, 0, fleet) for each, fleet in zip(policies, workers.fleets, strict=True)],
            )
        )
        self.best = self.table.accuracies[-1]
        self.waiting = [self.request(number, job) for number, job in enumerate(waiting)]
        for request in self.waiting:
            self.queue.push(request)

    def request(self, number: int, job: Job, now_ns: int = 0) -> Request:
        deadline_ns = now_ns + job.due_ms * NS_PER_MS
        floor, bucket = min(job.floor, self.best), min(job.bucket, len(self.tables) - 1)
        fastest, live = self.policy.usable(floor)[0], set(self.devices)
        takes_ns = min(self.tables_of[device][bucket].latency_ns[fastest][job.rows] for device in live)
        latest_ns = deadline_ns - takes_ns - 1
        request = Request(number, now_ns, deadline_ns, job.rows, floor, job.priority, bucket)
        request.latest_start_ns = latest_ns
        return request

    def refusal(self, job: Job, now_ns: int = 0) -> Prediction | None:
        """Why one is refused; without time to run alone, it is refused without any prediction."""
        request = self.request(len(self.waiting), job, now_ns)
        if request.latest_start_ns < now_ns:
            return None
        return self.admission.refusal(now_ns, request)

    def some_schedule_serves(self, requests: Sequence[Request]) -> bool:
        """Tries every order, batch and worker: is there a schedule in which all are in time?"""
        return self._serves(tuple(sorted(zip(self.ends, self.devices, strict=True))), frozenset(requests))

    def _serves(self, free: tuple[tuple[int, int], ...], left: frozenset[Request]) -> bool:
        if not left:
            return True
        for count in range(1, len(left) + 1):
            for batch in combinations(sorted(left, key=lambda request: request.id), count):
                rows = sum(request.rows for request in batch)
                if rows > self.table.max_rows:
                    continue
                fastest = max(self.policy.usable(request.min_accuracy)[0] for request in batch)
                bucket = max(request.bucket for request in batch)
                for worker, (start_ns, device) in enumerate(free):
                    end_ns = start_ns + self.tables_of[device][bucket].latency_ns[fastest][rows]
                    if end_ns < min(request.deadline_ns for request in batch):
                        others = (*free[:worker], *free[worker + 1 :])
                        if self._serves(tuple(sorted((*others, (end_ns, device)))), left - set(batch)):
                            return True
        return False


#: The most efficient batch is not the largest, and a batch of three costs more than one of two and one of one.
ODD = make_profile([[5.0, 6.0, 12.0]], (1, 2, 3))
PAIRS = make_profile([[2.0, 3.0], [4.0, 6.0]], (1, 2))


@given(whole_profiles(), ends_ms, st.lists(jobs, max_size=3), jobs)
@example(ODD, [0], [Job(12), Job(12), Job(25)], Job(13))
@example(PAIRS, [12, 1], [Job(4)], Job(6))
@example(PAIRS, [4], [Job(8)], Job(8))
@example(PAIRS, [4, 4], [Job(8), Job(8), Job(8)], Job(8))
@example(PAIRS, [0], [Job(8), Job(8)], Job(8, floor=71.0))
@example(make_profile([[10.0, 19.0]], (1, 2)), [14, 27], [Job(39)], Job(39, rows=2))
def test_nobody_is_refused_whom_a_schedule_serves_with_all_others(
    profile: Profile, ends: list[int], waiting: list[Job], newcomer: Job
) -> None:
    """Whatever waits, in whichever batches, on whichever workers."""
    check_refusal(Instance(profile, ends, waiting), newcomer)


#: What takes the first device 2 ms takes the second one 8, and the other way round with the better subnet.
CROSSED = (make_profile([[2.0, 3.0], [8.0, 12.0]], (1, 2)), make_profile([[8.0, 8.0], [8.0, 8.0]], (1, 2)))


@given(several_devices(bucketed_profiles(whole_profiles()), most=2), mixed_ends_ms, st.lists(jobs, max_size=3), jobs)
@example(CROSSED, [0, 0], [Job(9, rows=2, floor=71.0)], Job(9, rows=2))
@example(CROSSED, [2, 0], [Job(9), Job(9), Job(9)], Job(9))
@example(CROSSED, [0], [Job(8), Job(8)], Job(8, floor=71.0))
def test_nobody_is_refused_whom_a_schedule_on_two_devices_serves(
    devices: Sequence[Profile], ends: list[int], waiting: list[Job], newcomer: Job
) -> None:
    """Whichever of them is the faster, in whatever."""
    check_refusal(Instance(devices, ends, waiting), newcomer)


@given(several_devices(bucketed_profiles(whole_profiles()), most=2), mixed_ends_ms, st.lists(texts, max_size=3), texts)
def test_no_text_is_refused_that_a_schedule_on_two_devices_serves(
    devices: Sequence[Profile], ends: list[int], waiting: list[Job], newcomer: Job
) -> None:
    """Nor of any length."""
    check_refusal(Instance(devices, ends, waiting), newcomer)


@given(st.integers(5, 40), st.integers(0, 60), st.lists(st.integers(0, 12), min_size=2, max_size=6))
@example(11, 5, [0, 0])
def test_whoever_two_devices_are_certain_to_be_late_with_is_refused(due_ms: int, waiting: int, ends: list[int]) -> None:
    """The bound in full: the one serves a row in 2 ms, the other in 8, but nothing within less than 16."""
    fast, slow = make_profile([[4.0, 4.0]], (1, 2)), make_profile([[16.0, 16.0]], (1, 2))
    instance = Instance((fast, slow), ends, [Job(due_ms)] * waiting)
    left_ms = [max(0, due_ms - end) for end in ends]
    served = sum(left_ms[::2]) / 2.0 + (sum(left_ms[1::2]) / 8.0 if due_ms > 16 else 0.0)
    if waiting + 1 > served + 1e-6:
        assert instance.refusal(Job(due_ms)) is not None


def check_refusal(instance: Instance, newcomer: Job) -> None:
    """Whoever is refused could not be served together with all that wait."""
    if instance.refusal(newcomer) is not None:
        request = instance.request(len(instance.waiting), newcomer)
        assert not instance.some_schedule_serves([*instance.waiting, request])


@given(whole_profiles(), ends_ms, st.lists(st.integers(1, 25), max_size=12), st.integers(5, 25))
@example(PAIRS, [0], [12] * 7, 11)
def test_whoever_is_certain_to_be_late_is_refused(
    profile: Profile, ends: list[int], waiting: list[int], newcomer: int
) -> None:
    """The bound, worked out in full: the shortcut for those who are far from it lets nobody by."""
    instance = Instance(profile, ends, [Job(due_ms) for due_ms in waiting])
    ahead = 1 + sum(due_ms <= newcomer for due_ms in waiting)
    times_ms = [(size, instance.table.latency_ns[0][size] / NS_PER_MS) for size in instance.table.batches]
    need_ms = ahead * min(time_ms / size for size, time_ms in times_ms if time_ms < newcomer)
    if need_ms > sum(max(0, newcomer - end) for end in ends) + 1e-6:
        assert instance.refusal(Job(newcomer)) is not None


@given(bucketed_profiles(whole_profiles()), ends_ms, st.lists(texts, max_size=3), texts)
@example(with_shorter(make_profile([[4.0]], (1,)), (8, 0.5, 0.25)), [4], [Job(8), Job(8)], Job(11, bucket=1))
def test_no_text_is_refused_that_a_schedule_serves_with_all_others(
    profile: Profile, ends: list[int], waiting: list[Job], newcomer: Job
) -> None:
    """Whatever lengths they have, each batch taking what its longest does."""
    check_refusal(Instance(profile, ends, waiting), newcomer)


@given(ends_ms, st.lists(jobs, max_size=8), st.lists(jobs, max_size=8), jobs)
def test_the_less_urgent_do_not_count(
    ends: list[int], waiting: list[Job], background: list[Job], newcomer: Job
) -> None:
    """Requests of larger priority numbers never keep one out."""
    urgent = newcomer._replace(priority=2)
    without = Instance(PAIRS, ends, [job._replace(priority=2) for job in waiting])
    beside = Instance(
        PAIRS,
        ends,
        [*(job._replace(priority=2) for job in waiting), *(job._replace(priority=3) for job in background)],
    )
    assert (without.refusal(urgent) is None) == (beside.refusal(urgent) is None)


@given(st.lists(st.integers(3, 12), min_size=1, max_size=2), st.lists(jobs, max_size=12), jobs)
def test_whoever_comes_back_as_told_is_admitted(ends: list[int], waiting: list[Job], newcomer: Job) -> None:
    """If nobody else comes, nothing that waits comes to be due before it, and no worker is free before."""
    waiting = [job for job in waiting if job.due_ms <= newcomer.due_ms]
    instance = Instance(PAIRS, ends, waiting)
    refused = instance.refusal(newcomer)
    if refused is not None and refused.retry_after_ns <= min(instance.ends):
        again = Instance(PAIRS, ends, waiting)
        assert again.refusal(newcomer, now_ns=refused.retry_after_ns) is None


def test_the_arithmetic_is_told() -> None:
    """Five rows in pairs of 3 ms and the own one, 1.5 ms each, from 4 ms on: 13 ms."""
    refused = Instance(PAIRS, [4], [Job(10)] * 5).refusal(Job(12))
    assert refused is not None
    assert refused.promise is Promise.OWN
    assert (refused.rows_ahead, refused.batch_rows, refused.batch_ns) == (5, 2, 3 * NS_PER_MS)
    assert refused.retry_after_ns == pytest.approx(NS_PER_MS, abs=2)
    assert str(refused) == (
        "5 rows are to be served before, and 1 worker takes 3.0 ms for each 2 of them with the fastest subnet: "
        "it would be answered after 13.0 ms at best, and is due in 12.0 ms"
    )


def overloaded(instance: Instance, span_ms: int) -> int:
    """Give up one request per millisecond, for longer than a request has; returns when that was done."""
    for now_ms in range(span_ms + 2):
        instance.admission.given_up(now_ms * NS_PER_MS, instance.request(99, Job(span_ms), now_ms * NS_PER_MS))
    return now_ms * NS_PER_MS


def test_in_overload_a_full_batch_has_to_fit() -> None:
    """Two rows ahead take until 10 ms: enough time for one row alone by 12.5 ms, not for a batch of two."""
    profile = make_profile([[2.0, 3.0]], (1, 2))
    assert Instance(profile, [7], [Job(11)] * 2).refusal(Job(13)) is None
    instance = Instance(profile, [25 + 7], [Job(25 + 11)] * 2)
    now_ns = overloaded(instance, 23)
    assert now_ns == 24 * NS_PER_MS
    refused = instance.refusal(Job(13), now_ns)
    assert refused is not None
    assert refused.promise is Promise.BATCH
    assert refused.retry_after_ns == pytest.approx(NS_PER_MS, abs=2)
    assert "its batch would start after 11.0 ms, and has to within 10.0 ms" in str(refused)
    calm = Instance(profile, [25 + 7], [Job(25 + 11)] * 2)
    assert calm.refusal(Job(13), now_ns) is None


def test_in_overload_those_who_were_there_first_stay_in_time() -> None:
    """A newcomer that is due first would push the last of those that are due later beyond its deadline."""
    profile = make_profile([[2.0, 2.0]], (1, 2))
    for waiting, expected in ((21, Promise.OTHERS), (4, None)):
        instance = Instance(profile, [25], [Job(48)] * waiting)
        now_ns = overloaded(instance, 23)
        refused = instance.refusal(Job(10), now_ns)
        assert (refused and refused.promise) is expected


def test_in_overload_background_leaves_room_for_the_more_urgent_that_will_come() -> None:
    """The same queue, with a millisecond's rhythm of urgent arrivals behind it and without."""
    profile = make_profile([[2.0, 2.0]], (1, 2))
    admitted = []
    for urgent in (True, False):
        instance = Instance(profile, [45], [Job(80)] * 14)
        now_ns = overloaded(instance, 40)
        for number in range(41):
            if urgent or number == 0:
                instance.admission.refusal(number * NS_PER_MS, instance.request(number, Job(40), number * NS_PER_MS))
            instance.admission.refusal(
                number * NS_PER_MS, instance.request(number, Job(40, priority=5), number * NS_PER_MS)
            )
        admitted.append(instance.refusal(Job(40, priority=5), now_ns) is None)
    assert admitted == [False, True]


def test_refused_by_the_scheduler_with_its_prediction() -> None:
    """One worker, 4 ms for a batch of four: of 30 requests that are due in 20 ms, those that fit are admitted."""
    scheduler = Scheduler(create_policy("drainfit", LatencyTable(make_profile([[4.0, 4.0]], (1, 4)))), overhead_ns=0)
    scheduler.on_worker_ready(0, 0)
    actions: list[Any] = []
    for number in range(30):
        actions += scheduler.on_arrival(0, Request(number, 0, 20 * NS_PER_MS + 1))
    refused = [action for action in actions if isinstance(action, Finish)]
    assert len([action for action in actions if isinstance(action, Launch)]) == 1
    assert len(refused) == 30 - 1 - 16, "one runs alone, four batches follow"
    assert {(end.outcome, end.reason) for end in refused} == {(Outcome.REJECTED, Reason.PREDICTED_LATE)}
    assert all(end.prediction is not None for end in refused)


def with_jitter(profile: Profile) -> Profile:
    """Batches take up to half as long again as usual."""
    return msgspec.structs.replace(
        profile,
        dispatch_overhead_us=1000.0,
        dispatch_overhead_mean_us=500.0,
        dispatch_overhead_p99_us=1500.0,
        subnets=tuple(
            msgspec.structs.replace(
                each, p95_us=tuple(1.2 * us for us in each.p50_us), p99_us=tuple(1.5 * us for us in each.p50_us)
            )
            for each in profile.subnets
        ),
    )


def test_service_is_normal_soon_after_an_overload() -> None:
    """Half a second after two seconds of ten times too much, all are served, as accurately as before."""
    profile, capacity, rng = Profile.load("r-profile"), 1e3 * 16 / 8.35, np.random.default_rng(0)
    parts = [
        gamma(part * capacity, 1.0, 1.0, rng).arrival_ns + number * NS_PER_S
        for number, part in enumerate((0.3, 10.0, 10.0, 0.3, 0.3))
    ]
    trace = Trace("overload", np.concatenate(parts))
    log = simulate(trace, profile, policy="drainfit", workers=1, slo_ms=36, overhead_ms=1.0)
    served = log.is_outcome(Outcome.SERVED)
    before, after = trace.arrival_ns < NS_PER_S, trace.arrival_ns > 3.5 * NS_PER_S
    assert served[before].all()
    assert served[after].all()
    assert log.accuracy[after].mean() > log.accuracy[before].mean() - 0.5


@pytest.mark.parametrize("kind", ["alike", "jitter", "mixed deadlines", "mixed priorities"])
def test_the_admitted_are_served_in_overload(kind: str) -> None:
    """Ten times what a worker carries, for two seconds: 99 % of the admitted are in time, and no capacity is lost."""
    profile = Profile.load("r-profile")
    capacity = 1e3 * 16 / 8.35  # one worker: the fastest subnet's batches of 16, with 1 ms of overhead
    rng = np.random.default_rng(0)
    trace = gamma(10 * capacity, 1.0, 2.0, rng)
    if kind == "mixed deadlines":
        trace = Trace(kind, trace.arrival_ns, rng.choice([36, 72, 144], len(trace)).astype(np.int64) * NS_PER_MS)
    if kind == "mixed priorities":
        trace = Trace(kind, trace.arrival_ns, priority=np.where(rng.random(len(trace)) < 0.05, 1, 5).astype(np.int32))
    jitter = kind == "jitter"
    log = simulate(
        trace,
        with_jitter(profile) if jitter else profile,
        policy="drainfit",
        workers=1,
        slo_ms=50 if jitter else 36,
        overhead_ms=None if jitter else 1.0,
    )
    served, rejected = log.is_outcome(Outcome.SERVED), log.is_outcome(Outcome.REJECTED)
    assert served[~rejected].mean() > 0.95
    assert served[~rejected & (trace.arrival_ns > NS_PER_MS * 500)].mean() > 0.995, "after the first half second"
    assert served.sum() / (trace.arrival_ns[-1] / 1e9) > 0.97 * capacity
    if kind == "mixed priorities":
        assert trace.priority is not None
        assert served[trace.priority == 1].mean() > 0.99, "background is refused first"


def test_a_short_text_is_admitted_where_a_long_one_would_be_too_late() -> None:
    """Within 5 ms, on an idle worker: one takes 2 ms, the other 8."""
    profile = with_shorter(make_profile([[8.0]], (1,)), (8, 0.5, 0.25))
    policies = create_policies("drainfit", profile)
    for bucket, admitted in ((0, True), (1, False)):
        scheduler = Scheduler(policies[-1], overhead_ns=0, shorter=policies[:-1])
        scheduler.on_worker_ready(0, 0)
        actions = scheduler.on_arrival(0, Request(0, 0, 5 * NS_PER_MS, bucket=bucket))
        assert isinstance(actions[0], Launch) == admitted
