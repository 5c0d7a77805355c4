"""The scheduler: events in, actions out.

The live router and the simulator drive the same `Scheduler` object, one with real time and one with virtual time.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple

from superserve.clock import NS_PER_S
from superserve.profile import LatencyTable
from superserve.request import Outcome, Reason, Request, RequestState
from superserve.scheduling.actions import Action, BatchFate, Finish, Launch
from superserve.scheduling.admission import Admission, Prediction
from superserve.scheduling.arrivals import ArrivalEstimate
from superserve.scheduling.buckets import decide_by
from superserve.scheduling.drift import DriftEstimate
from superserve.scheduling.expiry import ExpiryQueue
from superserve.scheduling.overhead import OverheadEstimate
from superserve.scheduling.plans import Plan, Plans, none_slower
from superserve.scheduling.poison import is_poison, separate
from superserve.scheduling.policy import Bound, Decision, Policy, SchedulerView, Wait
from superserve.scheduling.victims import victims
from superserve.scheduling.waiting import WaitingQueue
from superserve.scheduling.workers import SharedWorkers, Workers


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds that hold whatever the load."""

    max_queued: int = 20_000
    """Requests that may wait at once; one more is rejected."""


class Overdue(NamedTuple):
    """A batch that should have been answered. Of its requests ``kept`` have no time left for another worker."""

    launch: Launch
    kept: Sequence[Request]


_NOTHING: Final[Sequence[Action]] = ()

# Every request meets these half a dozen times, and to find a member of an enum takes Python 3.11 70 ns each time.
_QUEUED: Final = RequestState.QUEUED
_RUNNING: Final = RequestState.RUNNING
_DONE: Final = RequestState.DONE
_SERVED: Final = Outcome.SERVED
_LATE: Final = Outcome.LATE
_ANSWERED: Final = Reason.ANSWERED

#: Where what was learned leaves no time for anything, half of it is forgotten this often. So the machine may recover
#: from four times the SLO of overhead, within a second; while it does not, a batch is late as often.
_RELAX_NS: Final = NS_PER_S // 5


class Scheduler:
    """Admits, queues, batches and ends the requests of one model.

    Every method that takes ``now_ns`` is an event and returns what to do about it, in order; nothing else has an
    effect. A request that no `Finish` with outcome ``rejected`` names on arrival is admitted. What it guarantees
    (``tests/scheduling/test_scheduler.py``): each request ends in exactly one `Finish`; an expired, rejected or
    cancelled request is never launched; a batch is contiguous in deadline order, within the profiled batch sizes, and
    its subnet reaches every member's accuracy floor.

    Args:
        policy: chooses subnet, batch size and victims; its table and ``timeout_action`` hold here, too.
        overhead_ns: dispatch overhead that is taken off every slack until `observe_overhead` knows better.
        limits: bounds.
        shared: workers that other models use, too. What happens to workers is then told to them: of the events, only
            those of requests and time come from outside. None: the scheduler has its workers for itself.
        shorter: the same policy for each shorter bucket of the profile, the shortest first (`create_policies`): then
            requests may be of any of them, and ``policy`` is for the longest rows.
        workers: those that it has for itself; None: new ones, which are of one device.

    Workers are alike, or drift apart. Where they are of several devices, the scheduler is a `MixedScheduler`.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        overhead_ns: int,
        limits: SchedulerLimits | None = None,
        shared: SharedWorkers | None = None,
        shorter: Sequence[Policy] = (),
        workers: Workers | None = None,
    ) -> None:
        self._set_policies((*shorter, policy))
        self._history = Plans(Plan(0, policy, self.tables_of))
        self.limits = limits or SchedulerLimits()
        self._expires = policy.timeout_action == "reject"
        self._queue = WaitingQueue(lambda floor: self.policy.usable(floor)[0])
        self._overhead = OverheadEstimate(overhead_ns)
        self._drift = DriftEstimate()
        self._shared = shared
        self._workers: Workers = shared or workers or Workers()
        self._idle = self._workers.idle
        self._running: dict[int, Launch] = {}
        self._overdue: dict[int, Overdue] = {}
        self._commitments = self._workers.commitments
        self._view = SchedulerView(
            policy.table,
            self._queue,
            overhead_ns,
            commitments=self._commitments,
            workers=self._workers.live,
            idle=self._idle,
        )
        self._admission = Admission(
            policy, self._queue, self._view, self._workers.soonest, self._share, tables=self.tables
        )
        self._expiry = ExpiryQueue()
        self._wake_ns: int | None = None
        self._observes = policy.observes_arrivals
        self._ranked = False
        """Whether there have been requests of a lower priority than others."""
        self._overloaded = False
        """Whether a request has become hopeless since victims were last looked for."""
        self._relax_after_ns = 0
        """Nothing that was learned is forgotten before."""
        self._slow_after_ns = 0
        """Slow workers get nothing before."""

    def _set_policies(self, policies: Sequence[Policy]) -> None:
        """Take the policy and its tables, by bucket, and what follows from them alone."""
        self._policies = policies
        self.policy = policy = policies[-1]
        self.tables = tuple(one.table for one in policies)
        """By bucket (`Request.bucket`)."""
        self.tables_of: Sequence[Sequence[LatencyTable]] = (self.tables,)
        """By device."""
        self._decide = decide_by(policies)
        fastest = policy.table.latency_ns[policy.subnets[0]]
        # Not 0: time has to pass until a slow worker is asked again.
        self._fastest_ns = max(1, fastest[policy.table.batches[0]])
        self._pace_ns = min(fastest[rows] / rows for rows in policy.table.batches)

    @property
    def queue_depth(self) -> int:
        """Requests waiting."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether a request would be rejected for those that wait."""
        return len(self._queue) >= self.limits.max_queued

    @property
    def workers(self) -> int:
        """Workers that are idle or running a batch."""
        return len(self._workers.live)

    @property
    def capacity(self) -> float:
        """How many workers there are; where they differ, how many like the first device's that makes."""
        return len(self._workers.live)

    @property
    def workers_by_device(self) -> Sequence[int]:
        """How many there are of each device; none where there is one device."""
        return [fleet.live for fleet in self._workers.fleets]

    @property
    def busy(self) -> int:
        """Workers that run a batch of this model, overdue ones among them."""
        return len(self._running) + len(self._overdue)

    @property
    def unfinished(self) -> int:
        """Admitted requests without an outcome."""
        return len(self._queue) + sum(request.state is _RUNNING for request in self._launched())

    def running(self, worker: int) -> Launch | None:
        """The batch of this model that a worker runs."""
        return self._running.get(worker)

    def oldest_arrival_ns(self) -> int | None:
        """When the oldest request came that has not ended; None if all have. It looks at each of them."""
        waits = (request.arrival_ns for request in chain(self._queue, self._launched()) if request.state is not _DONE)
        return min(waits, default=None)

    def _launched(self) -> Iterator[Request]:
        """The requests of running batches, and those of overdue ones that wait for nothing else."""
        for launch in self._running.values():
            yield from launch.requests
        for overdue in self._overdue.values():
            yield from overdue.kept

    @property
    def planned_overhead_ns(self) -> int:
        """The dispatch overhead that is taken off every slack."""
        return self._view.overhead_ns

    @property
    def drift(self) -> float:
        """What batches are planned to take over what their profile says; at least 1."""
        return self._view.drift

    def slow(self, worker: int) -> bool:
        """Whether a worker runs this model's batches slower than the others do, or the way to it is longer.

        It may be idle while work waits.
        """
        return self._drift.slow(worker) or self._overhead.far(worker)

    def head_slack_ns(self, now_ns: int) -> int:
        """Slack of the most urgent of the waiting requests, of which there is one.

        A request that is late already (``timeout_action`` is ``"delay"``) has none to compare. It counts as due when
        its own time from arrival to deadline has passed once more, then when twice that has, four times that, and so
        on: the backlog of one model does not keep the others from being in time, and still each of its requests has
        its turns.
        """
        head = self._queue.peek()
        left_ns = head.deadline_ns - now_ns
        if left_ns < 0:
            span_ns = max(1, head.deadline_ns - head.arrival_ns)
            turns = (-(left_ns // span_ns)).bit_length()
            left_ns += span_ns * ((1 << turns) - 1)
        return left_ns - self._view.overhead_ns

    def observe_arrivals(self) -> None:
        """From now on it has to know how much work comes, whether its own policy wants to or not."""
        self._observes = True

    @property
    def usual_deadline_ns(self) -> float:
        """Mean time from arrival to deadline of recent requests."""
        return self._view.arrivals.slo_ns

    def need_ns(self, now_ns: int, span_ns: float) -> float:
        """Worker time that what waits, and what is expected within a span, needs at the fastest subnet."""
        return (self._queue.rows + self._view.arrivals.rows_within(now_ns, span_ns)) * self._pace_ns

    def bears(self, policies: Sequence[Policy]) -> bool:
        """Whether `replan` would break no promise: the fastest subnet of nobody who waits would take longer.

        That subnet is what a request is admitted by, what it is given up by, and what its latest start follows from.
        Looks at all that wait if they have accuracy floors.
        """
        queue = self._queue
        floors = {request.min_accuracy for request in queue} if queue.is_mixed else {0.0} if queue else ()
        return none_slower(self._policies, policies, floors)

    def replan(self, now_ns: int, policies: Sequence[Policy]) -> Sequence[Action]:
        """The same subnets take other times from now on; what runs was planned with the old ones.

        Args:
            now_ns: the time.
            policies: the policy by bucket, as in the beginning, with other tables of the same subnets, accuracies and
                batch sizes. What one that holds state has learned is lost. `bears` says whether this may be now.
        """
        assert not self._workers.fleets, "workers of several devices are planned with a profile of each"
        self._set_policies(policies)
        self._history.change(Plan(now_ns, self.policy, self.tables_of))
        self._view.table = self.policy.table
        self._admission.plan_with(self.policy, self.tables, self._overhead.typical_ns)
        self._plan()
        self._queue.sort_anew()
        self._expiry = ExpiryQueue()
        for request in chain(self._queue, self._launched()):  # what runs may come back
            self._set_latest_start(request, self.policy.usable(request.min_accuracy)[0])
            if self._expires and request.state is _QUEUED:
                self._expiry.push(request)
        return self._dispatch(now_ns) if self._shared is None else _NOTHING

    def plan_at(self, at_ns: int) -> Plan:
        """See `Plans.at`."""
        return self._history.at(at_ns)

    def on_arrival(self, now_ns: int, request: Request) -> Sequence[Action]:
        """A request came in, and may run at once; ``request.rows`` is at most the table's ``max_rows``."""
        return self.admit(now_ns, request) or self._dispatch(now_ns)

    def admit(self, now_ns: int, request: Request) -> Sequence[Action]:
        """A request came in together with others: `on_worker_idle` follows once all of them have been offered."""
        if self._observes:
            if self._admission.has_recovered(now_ns):
                # All that is remembered came beyond all capacity: accuracy would suffer as long again.
                self._view.arrivals = ArrivalEstimate()
            self._view.arrivals.observe(now_ns, request.rows, request.deadline_ns - now_ns)
        refused = self._refusal(now_ns, request)
        if refused is not None:
            return (self._finish(request, Outcome.REJECTED, refused),)
        if self._expires and (not self._idle or self._queue):
            prediction = self._admission.refusal(now_ns, request)
            if prediction is not None:
                return (self._finish(request, Outcome.REJECTED, Reason.PREDICTED_LATE, prediction=prediction),)
        self._enqueue(request)
        return _NOTHING

    def on_cancel(self, now_ns: int, request: Request) -> Sequence[Action]:  # noqa: ARG002  (events share a form)
        """The client gave up. A running batch goes on without it; nothing happens if it has ended already."""
        if request.state is _DONE:
            return _NOTHING
        if request.state is _QUEUED:
            self._queue.remove(request)
        return (self._finish(request, Outcome.CANCELLED, Reason.CLIENT_GONE),)

    def observe_overhead(self, overhead_ns: int, worker: int, device: int = 0) -> None:  # noqa: ARG002  (the only one)
        """A batch took this much longer, from its launch on a worker to its answers, than its time in the worker."""
        self._overhead.observe(overhead_ns, worker)
        self._plan()

    def on_worker_ready(self, now_ns: int, worker: int, device: int = 0) -> Sequence[Action]:
        """A worker joined, warm and idle."""
        self._workers.join(worker, device)
        return self._dispatch(now_ns)

    def on_worker_idle(self, now_ns: int, batches: int = sys.maxsize) -> Sequence[Action]:
        """Idle shared workers are this model's to use, for so many batches."""
        return self._dispatch(now_ns, batches)

    def launch_idle(self, now_ns: int, subnet: int, rows: int) -> Launch:
        """Have an idle worker run a batch that no request waits for, while none waits at all.

        It ends as any other batch does, and until then its worker is busy. What its rows are is the caller's business,
        and when it is worth it (`SharedWorkers.can_lend`).
        """
        assert self._idle, "no worker is idle"
        assert not self._queue, "requests wait, and come first"
        self._look(now_ns).workers_idle = len(self._idle)
        worker = self._idle.popleft()
        return self._start(now_ns, Decision(subnet, rows), worker, [], rows, self._workers.devices[worker])

    def on_batch_done(self, now_ns: int, worker: int, taken_ns: int) -> Sequence[Action]:
        """A worker answered its batch, which took ``taken_ns`` in the worker, and is idle."""
        launch = self._ended(worker, now_ns, BatchFate.ANSWERED)
        launch.taken_ns = taken_ns
        if launch.requests:  # a cell that only idle work runs must not change what requests are planned with
            self._drift.observe(worker, taken_ns, launch.planned_ns, now_ns)
            self._plan()
        actions: list[Action] = []
        for request in launch.requests:
            if request.state is not _RUNNING:
                if request.state is _DONE:
                    continue
                self._queue.remove(request)  # the batch was overdue
            request.state = _DONE
            outcome = _SERVED if now_ns <= request.deadline_ns else _LATE
            actions.append(Finish(request, outcome, _ANSWERED, launch))
        self._workers.free(worker)
        if self._shared is None:
            actions.extend(self._dispatch(now_ns))
        return actions

    def on_batch_failed(self, now_ns: int, worker: int) -> Sequence[Action]:
        """A worker could not run its batch, but lives and is idle."""
        overdue = self._overdue.get(worker)
        launch = self._ended(worker, now_ns, BatchFate.FAILED)
        actions: list[Action] = [
            self._finish(request, Outcome.FAILED, Reason.WORKER_FAILED)
            for request in (launch.requests if overdue is None else overdue.kept)
            if request.state is _RUNNING
        ]
        self._workers.free(worker)
        if self._shared is None:
            actions.extend(self._dispatch(now_ns))
        return actions

    def on_batch_overdue(self, now_ns: int, worker: int) -> Sequence[Action]:
        """A batch has no answer by the time at which it should have one: what has slack left waits for another worker.

        The worker counts as gone until it answers or is lost. Of the answers of a request the first one counts. Nothing
        happens if there is no other worker.
        """
        if self._shared is None and not self._workers.suspend(worker):
            return _NOTHING
        launch = self._ended(worker, now_ns, BatchFate.OVERDUE)
        launch.overdue = True
        kept: list[Request] = []
        for request in launch.requests:
            if request.state is not _RUNNING:
                continue
            if self._expires and now_ns > request.latest_start_ns:
                kept.append(request)
            else:
                self._enqueue(request)
        self._overdue[worker] = Overdue(launch, kept)
        return self._dispatch(now_ns) if self._shared is None else _NOTHING

    def on_worker_lost(self, now_ns: int, worker: int) -> Sequence[Action]:
        """A worker is gone. Its requests wait again under their own deadlines if there is slack left for them.

        One of them may have been the reason; see ``poison.py`` for how that one is found, and ends.
        """
        if self._shared is None:
            self._workers.leave(worker)
        self._drift.forget(worker)
        self._forget_way(worker)
        self._plan()
        overdue = self._overdue.get(worker)
        if overdue is None and worker not in self._running:
            return _NOTHING
        launch = self._ended(worker, now_ns, BatchFate.LOST)
        actions: list[Action] = []
        again: list[Request] = []
        poisonous = is_poison(launch.requests)
        for request in launch.requests:
            request.losses += 1
            if request.state is not _RUNNING or (overdue is not None and request not in overdue.kept):
                continue
            if poisonous:
                actions.append(self._finish(request, Outcome.FAILED, Reason.POISON))
            elif self._expires and now_ns > request.latest_start_ns:
                actions.append(self._finish(request, Outcome.FAILED, Reason.WORKER_LOST))
            else:
                again.append(request)
        separate(again, now_ns, expire=self._expires)
        for request in again:
            self._enqueue(request)
        if self._shared is None:
            actions.extend(self._dispatch(now_ns))
        return actions

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        """Time passed. Call it at `next_timer` or later; a call too early does nothing."""
        actions: list[Action] = []
        while (last_ns := self._expiry.next_ns()) is not None and last_ns < now_ns:
            request = self._expiry.pop()
            self._queue.remove(request)
            actions.append(self._give_up(now_ns, request, Reason.EXPIRED))
            self._overloaded = True
        if self._wake_ns is not None and now_ns >= self._wake_ns:
            actions.extend(self._dispatch(now_ns))
        return actions

    def on_stop(self, now_ns: int) -> Sequence[Action]:  # noqa: ARG002  (events share a form)
        """The server stops without waiting: everything unfinished fails."""
        waiting = [self._queue.pop() for _ in range(len(self._queue))]
        return [
            self._finish(request, Outcome.FAILED, Reason.STOPPING)
            for request in (*waiting, *self._launched())
            if request.state is not _DONE
        ]

    def next_timer(self) -> int | None:
        """When `on_timer` is due next; None if only another event can change anything."""
        last_ns = self._expiry.next_ns()
        if last_ns is None:
            return self._wake_ns
        return last_ns + 1 if self._wake_ns is None else min(last_ns + 1, self._wake_ns)

    def retry_after_s(self) -> float:
        """How long the waiting rows take at the fastest subnet's full batches on all workers, in seconds."""
        table = self.policy.table
        batch_ns = self._expected_ns(self.policy.subnets[0], table.max_rows)
        batches = -(-self._queue.rows // table.max_rows)
        return batches * batch_ns / (self.capacity or 1.0) / NS_PER_S

    def _refusal(self, now_ns: int, request: Request) -> Reason | None:
        usable = self.policy.usable(request.min_accuracy)
        if not usable:
            return Reason.FLOOR
        if not self._workers.live:
            return Reason.NO_WORKER
        if self.is_full:
            return Reason.QUEUE_FULL
        self._set_latest_start(request, usable[0])
        if self._expires and now_ns > request.latest_start_ns:
            self._relax_for(now_ns, request, usable[0])
            if now_ns > request.latest_start_ns:
                return Reason.INFEASIBLE
        return None

    def _set_latest_start(self, request: Request, fastest: int) -> None:
        fastest_ns = self._expected_ns(fastest, request.rows, request.bucket)
        # Policies want a latency strictly below the slack (paper section 4.2), hence the last nanosecond.
        request.latest_start_ns = request.deadline_ns - self._view.overhead_ns - fastest_ns - 1

    def _relax_for(self, now_ns: int, request: Request, fastest: int) -> None:
        """Forget half of what was learned where it alone stands against a request, and nothing runs to learn from.

        Without that, a machine that was slow for a while is refused requests for good.
        """
        profiled_ns = self._profiled_ns(request, fastest)
        if self._running or now_ns < self._relax_after_ns or now_ns + profiled_ns >= request.deadline_ns:
            return
        self._relax_after_ns = now_ns + _RELAX_NS
        self._relax()
        self._drift.relax()
        self._plan()
        self._set_latest_start(request, fastest)

    def _profiled_ns(self, request: Request, fastest: int) -> int:
        """What a request takes alone at a subnet, dispatch included, if nothing has been learned."""
        return self._overhead.start_ns + self.tables[request.bucket].latency_ns[fastest][request.rows]

    def _relax(self) -> None:
        self._overhead.relax()

    def _least_overhead_ns(self) -> int:
        """What to plan with for a worker that is not far."""
        return self._overhead.planned_ns

    def _forget_way(self, worker: int) -> None:
        self._overhead.forget(worker)

    def _plan(self) -> None:
        """From now on plan with what is known of overhead and drift."""
        self._view.overhead_ns = self._least_overhead_ns()
        self._view.drift = self._drift.planned
        self._admission.price(self._overhead.typical_ns)

    def _enqueue(self, request: Request) -> None:
        request.state = _QUEUED
        if request.priority > 1:
            self._ranked = True
        self._queue.push(request)
        if self._expires:
            self._expiry.push(request)

    def _dispatch(self, now_ns: int, batches: int = sys.maxsize) -> Sequence[Action]:
        self._wake_ns = None
        if not self._idle or not self._queue:
            return _NOTHING
        actions: list[Action] = []
        view = self._look(now_ns)
        while batches and self._idle and self._queue:
            worker = self._at_hand(now_ns)
            if worker is None:
                self._wake_ns = self._slow_after_ns
                break
            self._show(worker)
            decision = self._decide(view)
            if isinstance(decision, Wait):
                self._wake_ns = decision.until_ns
                break
            if (decision.shed or not decision.rows) and self.slow(worker):
                # What a slow worker cannot do, another one may: it gives up nothing, and is asked again a little later.
                self._slow_after_ns = now_ns + self._fastest_ns
                continue
            if self._ranked and (self._overloaded or decision.shed or decision.bound is Bound.OVERLOAD):
                ended = self._give_up_victims()
                actions.extend(ended)
                if ended:
                    continue
            for _ in range(decision.shed):
                actions.append(self._give_up(now_ns, self._queue.pop(), Reason.SHED))  # noqa: PERF401
            if decision.rows:
                actions.append(self._launch(now_ns, decision, self._claim(decision.worker, worker)))
                batches -= 1
        view.overhead_ns = self._least_overhead_ns()
        return actions

    def _show(self, worker: int) -> None:
        """Have the view show what a worker sees."""
        view = self._view
        view.worker_drift = self._drift.of(worker)
        if self._overhead.uneven:
            view.overhead_ns = self._overhead.of(worker)
        view.workers_idle = len(self._idle)

    def _look(self, now_ns: int) -> SchedulerView:
        """What all decisions of an instant have in common."""
        view = self._view
        view.now_ns = now_ns
        view.workers_total = len(self._workers.live)
        if self._drift.uneven:
            self._drift.forgive(now_ns)
        view.share = self._share(now_ns)
        return view

    def _share(self, now_ns: int) -> float:
        """Of the workers' time, what this model may count on."""
        share = 1.0 if self._shared is None else self._shared.share(now_ns, self)
        return share * self._drift.capacity(len(self._workers.live)) if self._drift.uneven else share

    def _give_up_victims(self) -> list[Action]:
        """End waiting requests of low priority if those of high priority could not be in time otherwise."""
        self._overloaded = False
        if not self._expires:
            return []
        view = self._view
        first_ns = view.free_sum_ns / max(1, view.workers_total)
        batch_ns = self._expected_ns(self.policy.subnets[0], self.policy.table.max_rows) + self._least_overhead_ns()
        rows_at_once = self.policy.table.max_rows * (self.capacity or 1.0) * view.share
        found = victims(self._queue, first_ns, batch_ns, rows_at_once)
        for request in found:
            self._queue.remove(request)
        return [self._give_up(view.now_ns, request, Reason.SHED) for request in found]

    def _at_hand(self, now_ns: int) -> int | None:
        """The longest idle worker that is not slow, else the least slow one; None if it is too early for that."""
        if not (self._drift.uneven or self._overhead.uneven):
            return self._idle[0]
        for worker in self._idle:
            if not self.slow(worker):
                return worker
        return None if now_ns < self._slow_after_ns else min(self._idle, key=self._slowness)

    def _slowness(self, worker: int) -> tuple[float, int]:
        return self._drift.of(worker), self._overhead.of(worker)

    def _claim(self, chosen: int | None, at_hand: int) -> int:
        worker = at_hand if chosen is None else chosen
        if worker == self._idle[0]:
            return self._idle.popleft()
        self._idle.remove(worker)
        return worker

    def _launch(self, now_ns: int, decision: Decision, worker: int, device: int = 0, first: int = 0) -> Launch:
        """Run the batch of a decision, from the request at a position of the queue on."""
        requests = self._queue.take(decision.rows, self.policy.table.accuracies[decision.subnet], first)
        assert requests, f"{self.policy.name} chose a batch that its own head does not fit"
        rows = 0
        for request in requests:
            request.state = _RUNNING
            rows += request.rows
        return self._start(now_ns, decision, worker, requests, rows, device)

    def _start(  # noqa: PLR0917  (by position: it is on the request path)
        self, now_ns: int, decision: Decision, worker: int, requests: list[Request], rows: int, device: int = 0
    ) -> Launch:
        """A worker that is not idle any more runs this batch from now on."""
        view, subnet = self._view, decision.subnet
        bucket = self._bucket(requests)
        planned_ns = self.tables_of[device][bucket].latency_ns[subnet][rows]
        launch = Launch(
            worker,
            subnet,
            requests,
            rows,
            now_ns,
            decision.bound,
            len(self._queue),
            view.workers_idle,
            view.workers_total,
            view.overhead_ns,
            self._drift.of(worker),
            bucket,
            planned_ns,
            device,
        )
        self._running[worker] = launch
        if self._shared is not None:
            self._shared.runs[worker] = self
        self._commit(launch, now_ns + view.overhead_ns + round(planned_ns * launch.drift))
        return launch

    def _commit(self, launch: Launch, end_ns: int) -> None:
        """A worker is busy with a batch, until an instant by plan."""
        self._commitments.add(launch.worker, end_ns)
        typical_ns = self._admission.typical_ns(launch.subnet, launch.rows, launch.bucket, launch.drift)
        self._workers.soonest.add(launch.worker, launch.launched_ns + typical_ns)

    def _bucket(self, requests: Sequence[Request]) -> int:
        """The largest of a batch's; that of the longest rows if it is idle work, of which nothing is known."""
        if len(self.tables) == 1:
            return 0
        return max((request.bucket for request in requests), default=len(self.tables) - 1)

    def _expected_ns(self, subnet: int, rows: int, bucket: int = -1) -> int:
        """What a batch is expected to take at most in a worker."""
        return round(self.tables[bucket].latency_ns[subnet][rows] * self._view.drift)

    def _ended(self, worker: int, now_ns: int, fate: BatchFate) -> Launch:
        overdue = self._overdue.pop(worker, None)
        if overdue is None:
            self._commitments.remove(worker)
            self._workers.soonest.remove(worker)
            launch = self._running.pop(worker)
        else:
            launch = overdue.launch
        self._relax_after_ns = now_ns + _RELAX_NS
        launch.fate = fate
        launch.ended_ns = now_ns
        return launch

    def _give_up(self, now_ns: int, request: Request, reason: Reason) -> Finish:
        """End a waiting request that has left the queue."""
        self._admission.given_up(now_ns, request)
        return self._finish(request, Outcome.EXPIRED, reason)

    @staticmethod
    def _finish(request: Request, outcome: Outcome, reason: Reason, prediction: Prediction | None = None) -> Finish:
        assert request.state is not _DONE, f"request {request.id} ended already"
        request.state = _DONE
        return Finish(request, outcome, reason, None, prediction)
