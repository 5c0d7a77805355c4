"""Several models on workers that they share, in virtual time.

`superserve.simulator` plays one model and all that can happen to its workers. This plays many, and nothing happens but
their requests: it is what shards by model are compared with.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from superserve.clock import NS_PER_MS
from superserve.latency import LatencySampler
from superserve.metrics import RunLog
from superserve.profile import LatencyTable, Profile
from superserve.request import Request
from superserve.scheduling import Launch, Scheduler, SchedulerLimits, SharedWorkers, create_policy
from superserve.scheduling.workers import Told
from superserve.simulator.results import LogWriter
from superserve.traces.trace import Trace

_NEVER: Final = 1 << 62


def simulate_hosted(
    traces: Sequence[Trace],
    profile: Profile,
    *,
    policy: str,
    workers: int,
    slo_ms: float,
    overhead_ms: float,
    limits: SchedulerLimits,
) -> list[RunLog]:
    """A log per model, of which each has a trace and all have the same profile, which times are drawn from, too."""
    table, overhead_ns = LatencyTable(profile), round(overhead_ms * NS_PER_MS)
    sampler = LatencySampler(profile, np.random.default_rng(0))
    shared = SharedWorkers()
    schedulers = [
        Scheduler(create_policy(policy, table), overhead_ns=overhead_ns, limits=limits, shared=shared) for _ in traces
    ]
    logs = [LogWriter(trace.arrival_ns, table.accuracies) for trace in traces]
    hosted = _Hosted(shared, schedulers, logs, workers=workers, latency_ns=sampler.sample_ns, overhead_ns=overhead_ns)
    slo_ns = round(slo_ms * NS_PER_MS)
    for arrival_ns, model, number in _arrivals(traces):
        hosted.arrive(model, Request(number, arrival_ns, arrival_ns + slo_ns))
    hosted.advance(_NEVER)
    return [log.finished() for log in logs]


class _Hosted:
    """Events of one instant have the simulator's order: batches end, timers fire, requests arrive."""

    def __init__(
        self,
        shared: SharedWorkers,
        schedulers: Sequence[Scheduler],
        logs: Sequence[LogWriter],
        *,
        workers: int,
        latency_ns: Callable[[int, int], int],
        overhead_ns: int,
    ) -> None:
        self._shared = shared
        self._schedulers = schedulers
        self._number = {scheduler: number for number, scheduler in enumerate(schedulers)}
        self._logs = logs
        self._latency_ns = latency_ns
        self._overhead_ns = overhead_ns
        self._timers_ns = [_NEVER] * len(schedulers)
        self._ends: list[tuple[int, int, int]] = []
        """(instant, worker, time in the worker) of running batches."""
        for scheduler in schedulers:
            shared.add(scheduler)
        for worker in range(workers):
            self._apply(0, shared.on_worker_ready(0, worker))

    def arrive(self, model: int, request: Request) -> None:
        """The next request, of one of the models."""
        now_ns, scheduler = request.arrival_ns, self._schedulers[model]
        self.advance(now_ns)
        self._apply(now_ns, ((scheduler, scheduler.admit(now_ns, request)),))
        if self._shared.idle:
            self._apply(now_ns, self._shared.offer(now_ns))

    def advance(self, until_ns: int) -> None:
        """Let everything happen that is due by an instant."""
        while True:
            timer_ns = min(self._timers_ns)
            if self._ends and self._ends[0][0] <= min(timer_ns, until_ns):
                now_ns, worker, taken_ns = heapq.heappop(self._ends)
                self._apply(now_ns, self._shared.on_batch_done(now_ns, worker, taken_ns))
            elif timer_ns <= until_ns and timer_ns < _NEVER:
                scheduler = self._schedulers[self._timers_ns.index(timer_ns)]
                self._apply(timer_ns, ((scheduler, scheduler.on_timer(timer_ns)),))
            else:
                return

    def _apply(self, now_ns: int, told: Sequence[Told]) -> None:
        for scheduler, actions in told:
            number = self._number[scheduler]
            for action in actions:
                if isinstance(action, Launch):
                    taken_ns = self._latency_ns(action.subnet, action.rows)
                    heapq.heappush(self._ends, (now_ns + self._overhead_ns + taken_ns, action.worker, taken_ns))
                else:
                    self._logs[number].add(now_ns, action)
            timer_ns = scheduler.next_timer()
            self._timers_ns[number] = _NEVER if timer_ns is None else timer_ns


def _arrivals(traces: Sequence[Trace]) -> Iterator[tuple[int, int, int]]:
    """(instant, model, number within its trace) of all requests, in order."""
    at_ns = np.concatenate([trace.arrival_ns for trace in traces])
    model = np.repeat(np.arange(len(traces)), [len(trace) for trace in traces])
    number = np.concatenate([np.arange(len(trace)) for trace in traces])
    order = np.argsort(at_ns, kind="stable")
    return zip(at_ns[order].tolist(), model[order].tolist(), number[order].tolist(), strict=True)
