"""A scheduler whose promises are checked whenever it wants something done."""

from collections.abc import Collection, Sequence

import msgspec

from superserve.clock import NS_PER_MS
from superserve.profile import Profile, SubnetProfile
from superserve.request import Outcome, Reason, Request, RequestState
from superserve.scheduling import (
    Action,
    Finish,
    Launch,
    SchedulerLimits,
    SharedWorkers,
    TimeoutAction,
    create_policies,
    create_scheduler,
)
from superserve.scheduling.composition import compose_policies
from support.profiles import with_factors

#: They leave a worker without work while it loads a subnet, or until its batch is full.
WAITING = ("proteus", "proteus:0.01")
MAX_QUEUED = 12


class WatchedWorkers:
    """The workers of one scheduler or several, and what each of them has to run, in order.

    Attributes:
        idle: kept up here and by whoever tells schedulers of workers.
        overlapping: those that take a second batch; kept up by whoever tells of them.
        overdue: those whose batches are given up waiting for.
    """

    def __init__(self) -> None:
        self.idle: set[int] = set()
        self.overlapping: set[int] = set()
        self.overdue: set[int] = set()
        self._flights: dict[int, list[tuple[Watched, Launch]]] = {}

    @property
    def busy(self) -> list[int]:
        """Those that have batches, overdue ones among them."""
        return sorted(self._flights)

    @property
    def running(self) -> list[int]:
        """Those that have batches which are not overdue."""
        return [worker for worker in self.busy if worker not in self.overdue]

    def of(self, watched: "Watched") -> list[Launch]:
        """The batches of a model."""
        return [launch for flights in self._flights.values() for model, launch in flights if model is watched]

    def first(self, worker: int) -> "tuple[Watched, Launch]":
        """What a worker answers next, and whose it is."""
        return self._flights[worker][0]

    def launched(self, watched: "Watched", launch: Launch) -> None:
        """A worker gets a batch, which it must be there for."""
        worker = launch.worker
        if worker in self.idle:
            self.idle.remove(worker)
            self._flights[worker] = []
        else:
            assert worker in self.overlapping, "launched on a worker that is not idle"
            assert worker not in self.overdue, "launched on a worker that does not answer"
            assert len(self._flights[worker]) == 1, "launched on a worker that has two batches"
            _, running = self.first(worker)
            suspects = [request for one in (running, launch) for request in one.requests if request.losses]
            assert not suspects, "a request that was lost shares its worker"
        self._flights[worker].append((watched, launch))

    def end(self, worker: int) -> "tuple[Watched, Launch]":
        """A worker is through with the first of its batches."""
        ended = self._flights[worker].pop(0)
        if not self._flights[worker]:
            del self._flights[worker]
            self.idle.add(worker)
            self.overdue.discard(worker)
        return ended

    def lose(self, worker: int) -> "list[tuple[Watched, Launch]]":
        """A worker is gone."""
        for workers in (self.idle, self.overdue, self.overlapping):
            workers.discard(worker)
        return self._flights.pop(worker, [])


class Watched:
    """A scheduler, its requests and what became of them.

    Args:
        profile: of its model; several, if workers are of several devices.
        policy: a policy's name.
        action: what becomes of hopeless requests.
        workers: its own, or those that it shares.
        shared: workers that it shares.
    """

    def __init__(
        self,
        profile: Profile | Sequence[Profile],
        policy: str,
        action: TimeoutAction,
        workers: WatchedWorkers,
        shared: SharedWorkers | None = None,
    ) -> None:
        profiles = (profile,) if isinstance(profile, Profile) else tuple(profile)
        self.overhead_ns = NS_PER_MS // 2
        self.scheduler = create_scheduler(
            policy,
            profiles,
            overheads_ns=[self.overhead_ns] * len(profiles),
            timeout_action=action,
            limits=SchedulerLimits(max_queued=MAX_QUEUED),
            shared=shared,
        )
        self._name, self._profile = policy, profiles[0].repaired()
        self.policy = self.scheduler.policy
        self.table = self.policy.table
        self.tables = [[one.table for one in create_policies(policy, each, action)] for each in profiles]
        self.mixed = len(profiles) > 1
        self.action = action
        self.may_wait = policy in WAITING
        self.requests: list[Request] = []
        self.ended: dict[int, Finish] = {}
        self._workers = workers

    def arrive(self, now_ns: int, slo_ms: float, rows: int, floor: float, priority: int, bucket: int = 0) -> None:
        """A request of its own arrives; a bucket that the profile does not have is its largest."""
        deadline_ns = now_ns + round(slo_ms * NS_PER_MS)
        rows, bucket = min(rows, self.table.max_rows), min(bucket, len(self.scheduler.tables) - 1)
        request = Request(len(self.requests), now_ns, deadline_ns, rows, floor, priority, bucket)
        self.requests.append(request)
        self.apply(now_ns, self.scheduler.on_arrival(now_ns, request))

    def cancel(self, now_ns: int, pick: int) -> None:
        """One of its clients gives up."""
        if self.requests:
            self.apply(now_ns, self.scheduler.on_cancel(now_ns, self.requests[pick % len(self.requests)]))

    def tick(self, now_ns: int) -> None:
        """A timer is due."""
        timer_ns = self.scheduler.next_timer()
        self.apply(now_ns, self.scheduler.on_timer(now_ns))
        assert self.scheduler.next_timer() != timer_ns, "a timer that is due forever"

    def replan(self, now_ns: int, resident: Collection[int]) -> None:
        """Some subnets take half the time from now on, and the others what they took first, if that is borne."""
        policies = compose_policies(self._name, self._profile, halved(self._profile), resident, self.action)
        if not self.scheduler.bears(policies):
            return
        hopeful = [each for each in self.requests if self._waits(each) and each.latest_start_ns >= now_ns]
        self.policy, self.tables = policies[-1], [[one.table for one in policies]]
        self.apply(now_ns, self.scheduler.replan(now_ns, policies))
        if self.action == "reject":
            assert all(each.latest_start_ns >= now_ns for each in hopeful), "a new plan broke a promise"

    @staticmethod
    def _waits(request: Request) -> bool:
        return request.state is RequestState.QUEUED

    def taken_ns(self, launch: Launch, slowness: float) -> int:
        """What a batch takes."""
        return round(slowness * self._planned_ns(launch, launch.bucket, launch.rows))

    def apply(self, now_ns: int, actions: Sequence[Action]) -> None:
        """Check what it wants done, and take note of it."""
        for action in actions:
            if isinstance(action, Launch):
                self._check_launch(now_ns, action)
            else:
                assert action.request is self.requests[action.request.id], "another model's request"
                assert action.request.id not in self.ended, "a request ended twice"
                self.ended[action.request.id] = action

    def check_loss(self, now_ns: int, launch: Launch) -> None:
        """A worker was lost with a batch of its."""
        for request in launch.requests:
            ended = self.ended.get(request.id)
            if ended is None:
                assert request.state is not RequestState.RUNNING or self.runs(request)
            elif ended.reason is Reason.WORKER_LOST:
                assert self.action == "reject"
                assert now_ns > request.latest_start_ns, "lost a request that had slack left"
            elif ended.reason is Reason.POISON:
                assert launch.requests == [request], "somebody else may have been the reason"
                assert request.losses >= 2  # an overdue batch of it may be lost after its end

    def runs(self, request: Request) -> bool:
        """Whether a worker has a request."""
        return any(request in launch.requests for launch in self._workers.of(self))

    def check(self) -> None:
        """What holds between events."""
        for request in self.requests:
            assert (request.id in self.ended) == (request.state is RequestState.DONE)
            if request.state is RequestState.RUNNING:
                assert self.runs(request)
        assert self.scheduler.queue_depth <= MAX_QUEUED + 4 * 16
        assert self.scheduler.unfinished == len(self.requests) - len(self.ended)
        assert self.scheduler.in_flight == len(self._workers.of(self))
        if self._workers.idle and self.scheduler.queue_depth:
            slow = all(self.scheduler.slow(worker) for worker in self._workers.idle)
            assert self.may_wait or slow or self.mixed, "a worker idles while work waits"
            assert self.scheduler.next_timer() is not None, "waits for nothing"

    def stop(self, now_ns: int) -> None:
        """End it; every request has an outcome then."""
        self.apply(now_ns, self.scheduler.on_stop(now_ns))
        assert len(self.ended) == len(self.requests), "a request without an outcome"
        for finish in self.ended.values():
            if finish.outcome is Outcome.SERVED:
                assert finish.launch is not None

    def _check_launch(self, now_ns: int, launch: Launch) -> None:
        self._workers.launched(self, launch)
        assert launch.requests
        assert launch.rows == sum(request.rows for request in launch.requests) <= self.table.max_rows
        assert launch.bucket == max(request.bucket for request in launch.requests), "planned for other rows"
        assert launch.subnet in self.policy.subnets
        assert len(launch.requests) == 1 or not any(request.alone for request in launch.requests)
        keys = [(request.deadline_ns, request.id) for request in launch.requests]
        assert keys == sorted(keys), "a batch is in deadline order"
        waiting = [r for r in self.requests if r.state is RequestState.QUEUED]
        for waits in waiting:
            before = self.mixed and (waits.deadline_ns, waits.id) < keys[0]
            assert before or (waits.deadline_ns, waits.id) > keys[-1], "the batch is a run of the queue, at its head"
        for request in launch.requests:
            assert request is self.requests[request.id], "launched another model's request"
            assert request.id not in self.ended, "launched a request that has ended"
            assert request.min_accuracy <= self.table.accuracies[launch.subnet]
            if self.action == "reject":
                done_ns = now_ns + self.overhead_ns + self._planned_ns(launch, request.bucket, request.rows)
                assert done_ns < request.deadline_ns, "launched a request that was certain to miss"
        if self.action == "reject":
            planned_ns = self._planned_ns(launch, launch.bucket, launch.rows)
            for begin_ns in (self.overhead_ns, launch.overhead_ns + launch.behind_ns):
                assert now_ns + begin_ns + planned_ns < launch.requests[0].deadline_ns, "the head misses by the profile"

    def _planned_ns(self, launch: Launch, bucket: int, rows: int) -> int:
        return self.tables[launch.device][bucket].latency_ns[launch.subnet][rows]


def halved(profile: Profile) -> Profile:
    """The same model on an engine that is twice as fast."""

    def halve(subnets: Sequence[SubnetProfile]) -> tuple[SubnetProfile, ...]:
        return tuple(with_factors(subnet, [0.5] * len(profile.batches)) for subnet in subnets)

    shorter = tuple(msgspec.structs.replace(each, subnets=halve(each.subnets)) for each in profile.shorter)
    return msgspec.structs.replace(profile, subnets=halve(profile.subnets), shorter=shorter)
