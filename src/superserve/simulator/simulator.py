"""The simulator: the live system's `Scheduler` in virtual time."""

import heapq
from collections.abc import Callable, Sequence

import numpy as np

from superserve.clock import NS_PER_MS, NS_PER_US
from superserve.latency import LatencySampler
from superserve.metrics import OUTCOME_CODES, RunLog
from superserve.profile import LatencyTable, Profile
from superserve.request import Request
from superserve.scheduling import Action, Launch, Scheduler, SchedulerLimits, TimeoutAction, create_policy
from superserve.traces.trace import Trace


class Simulation:
    """One run: a trace, a scheduler, and workers that take sampled latencies.

    Events of one instant have a fixed order: batches end first (they free workers), then timers, then arrivals.

    Args:
        trace: arrivals, and SLOs where it gives them.
        scheduler: fresh; driven as the live router drives it.
        workers: how many there are, all ready at time 0.
        slo_ns: deadline of requests to which the trace gives none, from arrival.
        latency_ns: time of a batch, by (subnet, rows).
        overhead_ns: dispatch overhead that a batch takes beyond its latency.
    """

    def __init__(
        self,
        trace: Trace,
        scheduler: Scheduler,
        *,
        workers: int,
        slo_ns: int,
        latency_ns: Callable[[int, int], int],
        overhead_ns: int,
    ) -> None:
        self._trace = trace
        self._scheduler = scheduler
        self._workers = workers
        self._slo_ns = slo_ns
        self._latency_ns = latency_ns
        self._overhead_ns = overhead_ns
        self._completions: list[tuple[int, int, int]] = []
        self._launches = 0
        self._log = RunLog.empty(trace.arrival_ns)

    def run(self) -> RunLog:
        """Play the whole trace and everything it leaves waiting."""
        for worker in range(self._workers):
            self._apply(0, self._scheduler.on_worker_ready(0, worker))
        for request in self._requests():
            self._advance(request.arrival_ns)
            self._apply(request.arrival_ns, self._scheduler.on_arrival(request.arrival_ns, request))
        self._advance(None)
        assert self._scheduler.unfinished == 0, "every request must end"
        return self._log

    def _requests(self) -> list[Request]:
        arrivals = self._trace.arrival_ns
        slos = np.full_like(arrivals, self._slo_ns) if self._trace.slo_ns is None else self._trace.slo_ns
        priorities = np.zeros(len(arrivals), np.int32) if self._trace.priority is None else self._trace.priority
        return [
            Request(number, arrival_ns, deadline_ns, priority=priority)
            for number, (arrival_ns, deadline_ns, priority) in enumerate(
                zip(arrivals.tolist(), (arrivals + slos).tolist(), priorities.tolist(), strict=True)
            )
        ]

    def _advance(self, until_ns: int | None) -> None:
        """Let everything happen that is due by an instant, or everything there is."""
        scheduler, completions = self._scheduler, self._completions
        while True:
            timer_ns = scheduler.next_timer()
            if completions and (timer_ns is None or completions[0][0] <= timer_ns):
                now_ns = completions[0][0]
                if until_ns is not None and now_ns > until_ns:
                    return
                worker = heapq.heappop(completions)[2]
                self._apply(now_ns, scheduler.on_batch_done(now_ns, worker))
            elif timer_ns is not None and (until_ns is None or timer_ns <= until_ns):
                self._apply(timer_ns, scheduler.on_timer(timer_ns))
            else:
                return

    def _apply(self, now_ns: int, actions: Sequence[Action]) -> None:
        log = self._log
        for action in actions:
            if isinstance(action, Launch):
                self._launches += 1
                end_ns = now_ns + self._overhead_ns + self._latency_ns(action.subnet, action.rows)
                heapq.heappush(self._completions, (end_ns, self._launches, action.worker))
                continue
            index = action.request.id
            log.end_ns[index] = now_ns
            log.outcome[index] = OUTCOME_CODES[action.outcome]
            if action.launch is not None:
                log.subnet[index] = action.launch.subnet
                log.accuracy[index] = self._scheduler.policy.table.accuracies[action.launch.subnet]
                log.batch_rows[index] = action.launch.rows


def simulate(
    trace: Trace,
    profile: Profile,
    *,
    policy: str,
    workers: int,
    slo_ms: float,
    overhead_ms: float | None = None,
    timeout_action: TimeoutAction = "reject",
    seed: int = 0,
    limits: SchedulerLimits | None = None,
) -> RunLog:
    """Simulate one policy on one trace.

    Args:
        trace: arrivals; its own SLOs hold where it has them.
        profile: what policies plan with (p95) and what the latencies are drawn from.
        policy: a name for `create_policy`.
        workers: number of identical workers.
        slo_ms: deadline from arrival, in milliseconds.
        overhead_ms: dispatch overhead per batch, planned with and taken; if None, the profile's: planned with its
            p95, taken at its mean.
        timeout_action: what becomes of requests that cannot be met.
        seed: of the latency draws.
        limits: bounds of the scheduler.

    Returns:
        One entry per request of the trace.
    """
    if overhead_ms is None:
        planned_us, taken_us = profile.dispatch_overhead_us, profile.typical_overhead_us
    else:
        planned_us = taken_us = overhead_ms * NS_PER_MS / NS_PER_US
    scheduler = Scheduler(
        create_policy(policy, LatencyTable(profile), timeout_action),
        overhead_ns=round(planned_us * NS_PER_US),
        limits=limits,
    )
    sampler = LatencySampler(profile, np.random.default_rng(seed))
    return Simulation(
        trace,
        scheduler,
        workers=workers,
        slo_ns=round(slo_ms * NS_PER_MS),
        latency_ns=sampler.sample_ns,
        overhead_ns=round(taken_us * NS_PER_US),
    ).run()
