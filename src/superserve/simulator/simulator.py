"""The simulator: the live system's `Scheduler` in virtual time."""

import gc
import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_MS, NS_PER_US
from superserve.errors import ConfigError
from superserve.latency import LatencySampler, OverheadSampler
from superserve.metrics import RunLog
from superserve.profile import Profile
from superserve.request import Reason, Request, RequestState
from superserve.scheduling import Action, Launch, Scheduler, SchedulerLimits, TimeoutAction, create_scheduler
from superserve.simulator.conditions import ORDINARY, Conditions, WorkerEvent
from superserve.simulator.faster_engine import FasterEngine
from superserve.simulator.recorded_times import RecordedTimes
from superserve.simulator.recording import BatchRecord, Recording
from superserve.simulator.results import LogWriter
from superserve.traces.trace import Trace

OnProgress = Callable[[int, int], None]
MakeFasterEngine = Callable[[Scheduler, Profile], FasterEngine]

#: Requests are made in blocks: a run of a minute at a million requests/s need not hold them all.
_BLOCK: Final = 1 << 15
#: Objects made between two looks for garbage.
_COLLECT_EVERY: Final = 100_000


class _Batch(NamedTuple):
    """What a worker has been given."""

    launch: Launch
    time_ns: int
    """In the worker."""
    overhead_ns: int
    record: BatchRecord | None
    waited_ns: int = 0
    """In the worker, for the batch before it."""


class _Kind(IntEnum):
    """What happens at an instant, in the order in which it does."""

    BATCH = 0
    WORKER = 1
    CANCEL = 2
    ENGINE = 3


class Simulation:
    """One run: a trace, a scheduler, and workers that take sampled latencies.

    Events of one instant have a fixed order: batches end first (they free workers), then workers go or come, clients
    cancel, subnets change their engine, timers fire, requests arrive; within each kind, in the order in which they were
    foreseen. Nothing depends on hashes, addresses or the machine's clock, so equal arguments give equal bytes.

    Args:
        trace: arrivals, and SLOs where it gives them.
        scheduler: fresh; driven as the live router drives it.
        workers: how many there are at time 0, all ready; by device, if they are of several.
        slo_ns: deadline of requests to which the trace gives none, from arrival.
        latency_ns: time of a batch.
        overhead_ns: dispatch overhead that a batch takes beyond its latency, all alike; or draws of it, which are told
            to the scheduler as the router tells it what it observes.
        buckets: of each request; None: all rows are alike.
        overlapping: by device, whether its workers take a second batch while they run one; what it takes beyond its
            latency passes meanwhile. Fewer than there are devices: the others' do not.
        conditions: failures, slow workers, switching costs, impatient clients.
        recording: filled in with every batch, if given.
        on_progress: called now and then with (requests that have arrived, requests of the trace).
        faster: an engine that subnets run on at times; it was made for the scheduler.

    Raises:
        ConfigError: if the conditions do not fit the workers or the trace, or the profile not the trace's rows.
    """

    def __init__(
        self,
        trace: Trace,
        scheduler: Scheduler,
        *,
        workers: int | Sequence[int],
        slo_ns: int,
        latency_ns: Callable[[Launch], int],
        overhead_ns: int | Callable[[Launch], int],
        buckets: npt.NDArray[np.int8] | None = None,
        overlapping: Sequence[bool] = (),
        conditions: Conditions = ORDINARY,
        recording: Recording | None = None,
        on_progress: OnProgress | None = None,
        faster: FasterEngine | None = None,
    ) -> None:
        counts = (workers,) if isinstance(workers, int) else workers
        self._devices = [device for device, count in enumerate(counts) for _ in range(count)]
        """Of each worker; one that comes under a new id is of the first."""
        conditions.check(len(self._devices), len(trace))
        most = scheduler.policy.table.max_rows
        if trace.rows is not None and len(trace) and trace.rows.max() > most:
            raise ConfigError(f"the trace has requests of {trace.rows.max()} rows; the profile goes up to {most}")
        self._trace = trace
        self._scheduler = scheduler
        self._slo_ns = slo_ns
        self._latency_ns = latency_ns
        self._overhead_ns = overhead_ns if callable(overhead_ns) else lambda _: overhead_ns
        self._tells_overhead = callable(overhead_ns)
        self._buckets = buckets
        self._overlapping = {device for device, overlaps in enumerate(overlapping) if overlaps}
        self._conditions = conditions
        self._plain = not conditions.slowdown and not conditions.actuation_ns
        self._recording = recording
        self._on_progress = on_progress
        self._faster = faster
        self._all_arrived = False
        self._shed = 0
        # (instant, kind, number, what): numbers are unique, so that "what" is never compared.
        self._events: list[tuple[int, int, int, WorkerEvent | Request | int]] = []
        self._number = 0
        self._running: dict[int, tuple[int, _Batch]] = {}
        """By worker: number of the event that ends its batch, and that batch."""
        self._behind: dict[int, _Batch] = {}
        """By worker: the batch that it runs next, if it has been given one."""
        self._active: dict[int, int] = {}
        self._now_ns = 0
        self._log = LogWriter(trace.arrival_ns, scheduler.policy.table.accuracies)

    def run(self) -> RunLog:
        """Play the whole trace and everything it leaves waiting. What no worker is left to serve has failed."""
        with _rare_collections():
            self._play()
        return self._log.finished()

    def _play(self) -> None:
        scheduler, patience_ns = self._scheduler, self._conditions.patience_ns
        for event in self._conditions.worker_events:
            self._foresee(event.at_ns, _Kind.WORKER, event)
        if self._faster is not None:
            self._apply(0, self._faster.begin())
            self._foresee(self._faster.next_ns(), _Kind.ENGINE, 0)
        for worker, device in enumerate(self._devices):
            self._join(0, worker, device)
        for request in self._requests():
            arrival_ns = request.arrival_ns
            self._advance(arrival_ns)
            self._apply(arrival_ns, scheduler.on_arrival(arrival_ns, request))
            if patience_ns is not None and request.state is not RequestState.DONE:
                self._foresee(arrival_ns + int(patience_ns[request.id]), _Kind.CANCEL, request)
        self._all_arrived = True
        self._advance(None)
        assert not scheduler.workers or not scheduler.unfinished, "every request must end while there are workers"
        self._apply(self._now_ns, scheduler.on_stop(self._now_ns))

    def _requests(self) -> Iterator[Request]:
        trace = self._trace
        for start in range(0, len(trace), _BLOCK):
            if self._on_progress is not None:
                self._on_progress(start, len(trace))
            part = slice(start, start + _BLOCK)
            arrivals = trace.arrival_ns[part]
            deadlines = arrivals + (self._slo_ns if trace.slo_ns is None else trace.slo_ns[part])
            priorities = np.zeros(len(arrivals), np.int32) if trace.priority is None else trace.priority[part]
            rows = np.ones(len(arrivals), np.int32) if trace.rows is None else trace.rows[part]
            floors = np.zeros(len(arrivals)) if trace.min_accuracy is None else trace.min_accuracy[part]
            buckets = np.zeros(len(arrivals), np.int8) if self._buckets is None else self._buckets[part]
            columns = (column.tolist() for column in (arrivals, deadlines, rows, floors, priorities, buckets))
            for number, values in enumerate(zip(*columns, strict=True), start):
                yield Request(number, *values)

    def _advance(self, until_ns: int | None) -> None:
        """Let everything happen that is due by an instant, or everything there is."""
        next_timer, events = self._scheduler.next_timer, self._events
        while True:
            timer_ns = next_timer()
            if events and (timer_ns is None or events[0][0] <= timer_ns):
                if until_ns is not None and events[0][0] > until_ns:
                    return
                self._happen()
            elif timer_ns is not None and (until_ns is None or timer_ns <= until_ns):
                self._now_ns = timer_ns
                self._apply(timer_ns, self._scheduler.on_timer(timer_ns))
            else:
                return

    def _happen(self) -> None:
        """The next foreseen event."""
        now_ns, kind, number, what = heapq.heappop(self._events)
        self._now_ns = now_ns
        if kind == _Kind.BATCH:
            assert isinstance(what, int)
            running = self._running.get(what)
            if running is not None and running[0] == number:  # else its worker was lost
                self._end(now_ns, what, running[1])
        elif isinstance(what, WorkerEvent):
            self._change(what)
        elif kind == _Kind.ENGINE:
            self._change_engines(now_ns)
        else:
            assert isinstance(what, Request)
            self._apply(now_ns, self._scheduler.on_cancel(now_ns, what))

    def _change_engines(self, now_ns: int) -> None:
        assert self._faster is not None
        nothing_comes = not self._events and self._scheduler.next_timer() is None  # no worker is left
        if self._all_arrived and (nothing_comes or not self._scheduler.unfinished):
            return
        self._apply(now_ns, self._faster.on_time(now_ns))
        self._foresee(self._faster.next_ns(), _Kind.ENGINE, 0)

    def _change(self, event: WorkerEvent) -> None:
        now_ns, worker = event.at_ns, event.worker
        if self._recording is not None:
            self._recording.worker_events.append(event)
        if event.alive:
            self._join(now_ns, worker, self._device(worker))
            return
        running, behind = self._running.pop(worker, None), self._behind.pop(worker, None)
        self._active.pop(worker, None)
        for batch in (running and running[1], behind):
            if batch is not None and batch.record is not None:
                batch.record.end_ns, batch.record.lost = now_ns, True
        self._apply(now_ns, self._scheduler.on_worker_lost(now_ns, worker))

    def _join(self, now_ns: int, worker: int, device: int) -> None:
        if device in self._overlapping:
            self._scheduler.on_worker_overlaps(worker, overlaps=True)
        self._apply(now_ns, self._scheduler.on_worker_ready(now_ns, worker, device))

    def _end(self, now_ns: int, worker: int, batch: _Batch) -> None:
        """A worker answers a batch, and goes on with the next one: that one has been there for as long as it may."""
        del self._running[worker]
        behind = self._behind.pop(worker, None)
        if behind is not None:
            there_ns = behind.launch.launched_ns + behind.overhead_ns
            self._run(max(now_ns, there_ns), behind._replace(waited_ns=max(0, now_ns - there_ns)))
            if behind.record is not None:
                behind.record.behind_ns = now_ns - behind.launch.launched_ns
        self._apply(now_ns, self._scheduler.on_batch_done(now_ns, worker, batch.time_ns, batch.waited_ns))
        if self._tells_overhead:
            self._scheduler.observe_overhead(batch.overhead_ns, worker, self._device(worker))

    def _run(self, begin_ns: int, batch: _Batch) -> None:
        """A worker has a batch for itself from an instant on. Its answer takes part of the overhead that is over then.

        What a batch costs on the way there and back is reckoned before it: where batches follow one another, the way
        back of the one is as long as the way back of the other.
        """
        end_ns = begin_ns + batch.time_ns
        self._foresee(end_ns, _Kind.BATCH, batch.launch.worker)
        self._running[batch.launch.worker] = self._number, batch
        if batch.record is not None:
            batch.record.end_ns = end_ns

    def _device(self, worker: int) -> int:
        return self._devices[worker] if worker < len(self._devices) else 0

    def _foresee(self, at_ns: int, kind: int, what: WorkerEvent | Request | int) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_ns, kind, self._number, what))

    def _apply(self, now_ns: int, actions: Sequence[Action]) -> None:
        add = self._log.add
        for action in actions:
            if isinstance(action, Launch):
                self._begin(now_ns, action)
            else:
                add(now_ns, action)
                if action.reason is Reason.SHED:
                    self._shed += 1
        if self._faster is not None:
            self._faster.observe(actions)

    def _begin(self, now_ns: int, launch: Launch) -> None:
        worker = launch.worker
        time_ns = self._latency_ns(launch)
        if self._faster is not None:
            time_ns = max(1, round(time_ns * self._faster.factor(launch)))
        if not self._plain:
            time_ns = int(time_ns * self._conditions.factor(worker))
            if self._active.setdefault(worker, launch.subnet) != launch.subnet:
                time_ns += self._conditions.actuation_ns
                self._active[worker] = launch.subnet
        batch = _Batch(launch, time_ns, self._overhead_ns(launch), self._record(launch))
        if worker in self._running:
            self._behind[worker] = batch
        else:
            self._run(now_ns + batch.overhead_ns, batch)

    def _record(self, launch: Launch) -> BatchRecord | None:
        if self._recording is None:
            return None
        record = BatchRecord(
            launched_ns=launch.launched_ns,
            worker=launch.worker,
            subnet=launch.subnet,
            rows=launch.rows,
            head_slack_ns=launch.requests[0].deadline_ns - launch.launched_ns,
            waiting=self._scheduler.queue_depth,
            shed=self._shed,
            bound=launch.bound,
        )
        self._shed = 0
        self._recording.batches.append(record)
        return record


def drawn_buckets(trace: Trace, profile: Profile, rng: np.random.Generator) -> npt.NDArray[np.int8] | None:
    """A bucket for each request, the largest of those that its rows draw from `Profile.shares`; None if there is one.

    Traces carry no texts, hence no lengths.
    """
    if not profile.shorter:
        return None
    # The largest of n draws is below a bucket with the n-th power of one draw's probability.
    below = np.cumsum(profile.shares)[:-1]
    uniform = rng.random(len(trace)) ** (1.0 if trace.rows is None else 1.0 / trace.rows)
    return np.searchsorted(below, uniform, side="right").astype(np.int8)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for garbage in cycles a hundred times less often: a run makes none, and may hold 100,000 requests.

    With 36,000 waiting, the usual collections take 40 % of the time of a run.
    """
    usual = gc.get_threshold()
    if usual[0]:  # 0: somebody has switched them off
        gc.set_threshold(max(usual[0], _COLLECT_EVERY), *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


class _Draws:
    """What simulated batches take: draws from the profile of their worker's device."""

    def __init__(self, profiles: Sequence[Profile], seed: int) -> None:
        rng, overhead_rng = np.random.default_rng(seed), np.random.default_rng((seed, 1))
        self._latencies = [[LatencySampler(bucket, rng) for bucket in profile.buckets] for profile in profiles]
        self._overheads = [OverheadSampler(profile, overhead_rng) for profile in profiles]

    @property
    def usual_overhead_ns(self) -> int | None:
        """The dispatch overhead of all batches; None if they have not all the same."""
        first, *others = self._overheads
        return None if others or first.varies else first.sample_ns()

    def latency_ns(self, launch: Launch) -> int:
        """Of a batch, in its worker."""
        return self._latencies[launch.device][launch.bucket].sample_ns(launch.subnet, launch.rows)

    def overhead_ns(self, launch: Launch) -> int:
        """Of the same batch, everything else."""
        return self._overheads[launch.device].sample_ns()


class _Recorded:
    """What simulated batches take: what recorded ones did."""

    usual_overhead_ns = None

    def __init__(self, times: RecordedTimes) -> None:
        self._times = times

    def latency_ns(self, launch: Launch) -> int:
        """See `_Draws`."""
        return self._times.latency_ns(launch.launched_ns, launch.subnet, launch.rows)

    def overhead_ns(self, launch: Launch) -> int:
        """See `_Draws`."""
        return self._times.overhead_ns(launch.launched_ns)


def simulate(
    trace: Trace,
    profile: Profile | Sequence[Profile],
    *,
    policy: str,
    workers: int | Sequence[int],
    slo_ms: float,
    overhead_ms: float | None = None,
    timeout_action: TimeoutAction = "reject",
    seed: int = 0,
    limits: SchedulerLimits | None = None,
    conditions: Conditions = ORDINARY,
    recording: Recording | None = None,
    on_progress: OnProgress | None = None,
    faster: MakeFasterEngine | None = None,
    times: RecordedTimes | None = None,
    overlapping: Sequence[bool] | None = None,
) -> RunLog:
    """Simulate one policy on one trace.

    Args:
        trace: arrivals; its own SLOs hold where it has them.
        profile: what policies plan with (its p99) and what the latencies are drawn from; several if workers are of
            several devices, one for each. Requests to a text model have lengths drawn from the (first) profile's
            shares, for traces carry none.
        policy: a name for `create_policy`.
        workers: number of workers, of each device if there are several.
        slo_ms: deadline from arrival, in milliseconds.
        overhead_ms: dispatch overhead per batch, planned with and taken; if None, drawn from the profile's: planned
            with its p95 at first, then as observed.
        timeout_action: what becomes of requests that cannot be met.
        seed: of the latency draws.
        limits: bounds of the scheduler.
        conditions: failures, slow workers, switching costs, impatient clients.
        recording: filled in with every batch, if given.
        on_progress: called now and then with (requests that have arrived, requests of the trace).
        faster: makes an engine that subnets run on at times, of the run's scheduler and the profile.
        times: what batches take, instead of draws from ``profile``, which is one then; ``overhead_ms`` beats its
            overhead. All plans are for the longest texts then, since recordings know no lengths.
        overlapping: by profile, whether workers take a second batch while they run one; None: as the profiles say.

    Returns:
        One entry per request of the trace.

    Raises:
        ConfigError: for an unknown policy, conditions that do not fit, or profiles and workers that do not.
    """
    profiles = (profile,) if isinstance(profile, Profile) else tuple(profile)
    if times is not None:
        profiles = tuple(each.longest for each in profiles)
    _check_devices(profiles, workers, times)
    given_ns = None if overhead_ms is None else round(overhead_ms * NS_PER_MS)
    scheduler = create_scheduler(
        policy,
        profiles,
        overheads_ns=[
            round(each.dispatch_overhead_us * NS_PER_US) if given_ns is None else given_ns for each in profiles
        ],
        timeout_action=timeout_action,
        limits=limits,
    )
    if len(scheduler.tables) == 1:
        profiles = tuple(each.longest for each in profiles)
    taken: _Draws | _Recorded = _Draws(profiles, seed) if times is None else _Recorded(times)
    if given_ns is None:
        given_ns = taken.usual_overhead_ns
    return Simulation(
        trace,
        scheduler,
        workers=workers,
        slo_ns=round(slo_ms * NS_PER_MS),
        latency_ns=taken.latency_ns,
        overhead_ns=taken.overhead_ns if given_ns is None else given_ns,
        buckets=drawn_buckets(trace, profiles[0], np.random.default_rng((seed, 2))),
        overlapping=[each.device.overlaps for each in profiles] if overlapping is None else overlapping,
        conditions=conditions,
        recording=recording,
        on_progress=on_progress,
        faster=None if faster is None else faster(scheduler, profiles[0]),
    ).run()


def _check_devices(profiles: Sequence[Profile], workers: int | Sequence[int], times: RecordedTimes | None) -> None:
    counts = 1 if isinstance(workers, int) else len(workers)
    if counts != len(profiles):
        raise ConfigError(f"{len(profiles)} profiles but {counts} numbers of workers: say how many have each profile")
    if times is not None and counts > 1:
        raise ConfigError("recorded times are those of one device: give one profile, or let times be drawn")
