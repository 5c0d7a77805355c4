"""The scheduler: events in, actions out.

The live router and the simulator drive the same `Scheduler` object, one with real time and one with virtual time.
"""

import sys
from collections.abc import Sequence
from itertools import chain, islice
from operator import attrgetter, itemgetter
from typing import Final

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.request import Outcome, Reason, Request, RequestState
from superserve.scheduling.actions import Action, BatchFate, Finish, Launch
from superserve.scheduling.admission import Prediction
from superserve.scheduling.arrivals import ArrivalEstimate
from superserve.scheduling.expiry import ExpiryQueue
from superserve.scheduling.flights import Overdue
from superserve.scheduling.plans import Plan
from superserve.scheduling.poison import is_poison, separate
from superserve.scheduling.policy import Bound, Decision, Policy, SchedulerView, Wait
from superserve.scheduling.state import SchedulerState
from superserve.scheduling.victims import victims

_NOTHING: Final[Sequence[Action]] = ()

# Every request meets these half a dozen times, and to find a member of an enum takes Python 3.11 70 ns each time.
_QUEUED: Final = RequestState.QUEUED
_RUNNING: Final = RequestState.RUNNING
_DONE: Final = RequestState.DONE
_SERVED: Final = Outcome.SERVED
_LATE: Final = Outcome.LATE
_ANSWERED: Final = Reason.ANSWERED

#: A timer may be so late. A batch that is to be there when the one before it ends is launched earlier by as much.
_TIMER_NS: Final = NS_PER_MS

#: Where what was learned leaves no time for anything, half of it is forgotten this often. So the machine may recover
#: from four times the SLO of overhead, within a second; while it does not, a batch is late as often.
_RELAX_NS: Final = NS_PER_S // 5


class Scheduler(SchedulerState):
    """Admits, queues, batches and ends the requests of one model.

    Every method that takes ``now_ns`` is an event and returns what to do about it, in order; nothing else has an
    effect. A request that no `Finish` with outcome ``rejected`` names on arrival is admitted. What it guarantees
    (``tests/scheduling/test_scheduler.py``): each request ends in exactly one `Finish`; an expired, rejected or
    cancelled request is never launched; a batch is contiguous in deadline order, within the profiled batch sizes, and
    its subnet reaches every member's accuracy floor.

    It is made as a `SchedulerState` is. Workers are alike, or drift apart; where they are of several devices, the
    scheduler is a `MixedScheduler`. A worker has one batch at a time, or two if it overlaps them (`Workers.overlap`).
    """

    def observe_arrivals(self) -> None:
        """From now on it has to know how much work comes, whether its own policy wants to or not."""
        self._observes = True

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
        for request in chain(self._queue, self._flights.requests()):  # what runs may come back
            self._set_latest_start(request, self.policy.usable(request.min_accuracy)[0])
            if self._expires and request.state is _QUEUED:
                self._expiry.push(request)
        return self._dispatch(now_ns) if self._shared is None else _NOTHING

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

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        """See `Workers.overlap`."""
        self._workers.overlap(worker, overlaps=overlaps)

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

    def on_batch_done(self, now_ns: int, worker: int, taken_ns: int, waited_ns: int = 0) -> Sequence[Action]:
        """A worker answered the first of its batches, and goes on with the next one, or is idle.

        Args:
            now_ns: the time.
            worker: which.
            taken_ns: what the batch took there.
            waited_ns: how long it had waited there for the one before it.
        """
        launch, _ = self._ended(worker, now_ns, BatchFate.ANSWERED)
        launch.taken_ns = taken_ns
        launch.waited_ns = waited_ns
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
        self._workers.free(now_ns, worker)
        if self._shared is None:
            actions.extend(self._dispatch(now_ns))
        return actions

    def on_batch_failed(self, now_ns: int, worker: int) -> Sequence[Action]:
        """A worker could not run the first of its batches, but lives, and goes on with the next one, or is idle."""
        launch, overdue = self._ended(worker, now_ns, BatchFate.FAILED)
        actions: list[Action] = [
            self._finish(request, Outcome.FAILED, Reason.WORKER_FAILED)
            for request in (launch.requests if overdue is None else overdue.kept)
            if request.state is _RUNNING
        ]
        self._workers.free(now_ns, worker)
        if self._shared is None:
            actions.extend(self._dispatch(now_ns))
        return actions

    def on_batch_overdue(self, now_ns: int, worker: int) -> Sequence[Action]:
        """A batch has no answer by the time at which it should have one: what has slack left waits for another worker.

        So does what was to come next on that worker, which counts as gone until it has answered all, or is lost. Of the
        answers of a request the first one counts. Nothing happens if there is no other worker.
        """
        if self._shared is None and not self._workers.suspend(worker):
            return _NOTHING
        self._relax_after_ns = now_ns + _RELAX_NS
        self._flights.suspend(worker, [self._suspended(now_ns, launch) for launch in self._flights.on(worker)])
        return self._dispatch(now_ns) if self._shared is None else _NOTHING

    def _suspended(self, now_ns: int, launch: Launch) -> Overdue:
        """A batch is waited for no more: those of its requests that have the time wait again."""
        launch.overdue, launch.fate, launch.ended_ns = True, BatchFate.OVERDUE, now_ns
        kept: list[Request] = []
        for request in launch.requests:
            if request.state is not _RUNNING:
                continue
            if self._expires and now_ns > request.latest_start_ns:
                kept.append(request)
            else:
                self._enqueue(request)
        return Overdue(launch, kept)

    def on_worker_lost(self, now_ns: int, worker: int) -> Sequence[Action]:
        """A worker is gone. Its requests wait again under their own deadlines if there is slack left for them.

        One of them may have been the reason; see ``poison.py`` for how that one is found, and ends.
        """
        if self._shared is None:
            self._workers.leave(worker)
        self._drift.forget(worker)
        self._forget_way(worker)
        self._plan()
        if worker not in self._flights:
            return _NOTHING
        actions: list[Action] = []
        again: list[Request] = []
        while worker in self._flights:
            launch, overdue = self._ended(worker, now_ns, BatchFate.LOST)
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
        again.sort(key=attrgetter("deadline_ns"))  # a batch is in this order, two are not
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
            for request in (*waiting, *self._flights.requests())
            if request.state is not _DONE
        ]

    def next_timer(self) -> int | None:
        """When `on_timer` is due next; None if only another event can change anything."""
        last_ns = self._expiry.next_ns()
        if last_ns is None:
            return self._wake_ns
        return last_ns + 1 if self._wake_ns is None else min(last_ns + 1, self._wake_ns)

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
        if self._flights.first or now_ns < self._relax_after_ns or now_ns + profiled_ns >= request.deadline_ns:
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
        if not self._queue or not (self._idle or self._room):
            return _NOTHING
        actions: list[Action] = []
        left = self._launch_on_idle(now_ns, batches, actions)
        if left and self._room and not self._idle:
            self._launch_behind(now_ns, left, actions)
        return actions

    def _launch_on_idle(self, now_ns: int, batches: int, actions: list[Action]) -> int:
        """Give idle workers what waits; returns how many batches are left of those that may be launched."""
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
        return batches

    def _launch_behind(self, now_ns: int, batches: int, actions: list[Action]) -> None:
        """Give workers that have room for it the batch which they run next; if it is too early for that, wake up then.

        It is decided as late as still saves the way there and back, since more is known later: who has come meanwhile,
        and when the batch before ends. What cannot be decided now, or is hopeless now, is decided when that has ended.
        Victims go now, as before a batch on an idle worker: in overload workers are hardly ever idle. A request that
        was in a lost batch is run without another batch behind or before it: one of the two would be taken for the
        reason of what the other one did.
        """
        if not self.policy.by_bucket:
            return
        view = self._look(now_ns)
        for worker, end_ns in sorted(self._room.items(), key=itemgetter(1)):
            if not batches or not self._queue:
                break
            device = self._workers.devices[worker]
            at_ns = end_ns - self.lead_ns(device)
            if now_ns < at_ns:
                self._wake_ns = at_ns if self._wake_ns is None else min(at_ns, self._wake_ns)
                break
            if self.slow(worker):
                continue
            if self._shared is not None and not self._shared.is_next(now_ns, self):
                break
            self._face(now_ns, worker, device)
            view.behind_ns = max(0, self._commitments.end_ns(worker) - now_ns - view.overhead_ns)
            decision = self._decide_on(device)
            if isinstance(decision, Wait) or decision.shed or not decision.rows or self._has_lost(decision.rows):
                break
            if self._ranked and (self._overloaded or decision.bound is Bound.OVERLOAD):
                ended = self._give_up_victims()
                actions.extend(ended)
                if ended:
                    break
            actions.append(self._launch(now_ns, decision, worker, device))
            batches -= 1
        view.behind_ns, view.overhead_ns = 0, self._least_overhead_ns()

    def lead_ns(self, device: int) -> int:
        """How long before a batch typically ends the next one is launched: in time to be there, be the timer late."""
        return self._typical_overhead_ns(device) + _TIMER_NS

    def _has_lost(self, rows: int) -> bool:
        """Whether one of the requests that may be in a batch of so many rows was in a lost one."""
        return any(request.losses for request in islice(self._queue, rows))

    def _face(self, now_ns: int, worker: int, device: int) -> None:  # noqa: ARG002  (workers are alike)
        """Have the view show what a worker sees at an instant."""
        self._show(worker)

    def _decide_on(self, device: int) -> Decision | Wait:  # noqa: ARG002  (the only one)
        """What the policy would have the worker run that the view shows."""
        return self._decide(self._view)

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
            view.behind_ns,
        )
        workers = self._workers
        if self._room and worker in self._room:
            self._flights.add(launch)
            ends = self._ends(launch, workers.commitments.end_ns(worker), workers.soonest.end_ns(worker))
            workers.follow(worker, self, *ends)
            return launch
        self._flights.first[worker] = launch
        end_ns = now_ns + view.overhead_ns + round(planned_ns * launch.drift)
        workers.begin(worker, self, end_ns, now_ns + self._admission.typical_ns(launch))
        if workers.overlapping:
            self._make_room(launch)
        return launch

    def goes_on(self, now_ns: int, worker: int) -> None:
        """A worker is through with a batch, and the next one that it has is of this model."""
        launch = self._flights.first.get(worker)
        if launch is not None:  # else it is overdue
            self._workers.begin(worker, self, *self._ends(launch, now_ns, now_ns))
            self._make_room(launch)

    def _ends(self, launch: Launch, free_ns: int, typically_free_ns: int) -> tuple[int, int]:
        """When a batch ends by plan, and when it typically does, on a worker that is free at such instants."""
        planned_ns, typical_ns = round(launch.planned_ns * launch.drift), self._admission.typical_ns(launch)
        end_ns = max(launch.launched_ns + launch.overhead_ns, free_ns) + planned_ns
        begins_ns = max(launch.launched_ns, typically_free_ns - self._typical_overhead_ns(launch.device))
        return end_ns, begins_ns + typical_ns

    def _make_room(self, launch: Launch) -> None:
        """A worker that begins a batch has room for another one, if it takes two, and this one is to be run alone."""
        workers, worker = self._workers, launch.worker
        if worker in workers.overlapping and not any(request.losses for request in launch.requests):
            workers.room[worker] = workers.soonest.end_ns(worker)

    def _typical_overhead_ns(self, device: int) -> int:  # noqa: ARG002  (the only one)
        """What the dispatch of a batch typically takes."""
        return self._overhead.typical_ns

    def _bucket(self, requests: Sequence[Request]) -> int:
        """The largest of a batch's; that of the longest rows if it is idle work, of which nothing is known."""
        if len(self.tables) == 1:
            return 0
        return max((request.bucket for request in requests), default=len(self.tables) - 1)

    def _ended(self, worker: int, now_ns: int, fate: BatchFate) -> tuple[Launch, Overdue | None]:
        """The first of a worker's batches has ended; that, and what is known of it if it was overdue."""
        launch, overdue = self._flights.pop(worker)
        self._relax_after_ns = now_ns + _RELAX_NS
        launch.fate = fate
        launch.ended_ns = now_ns
        return launch, overdue

    def _give_up(self, now_ns: int, request: Request, reason: Reason) -> Finish:
        """End a waiting request that has left the queue."""
        self._admission.given_up(now_ns, request)
        return self._finish(request, Outcome.EXPIRED, reason)

    @staticmethod
    def _finish(request: Request, outcome: Outcome, reason: Reason, prediction: Prediction | None = None) -> Finish:
        assert request.state is not _DONE, f"request {request.id} ended already"
        request.state = _DONE
        return Finish(request, outcome, reason, None, prediction)
