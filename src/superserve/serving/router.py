"""The asyncio shell around the `Scheduler` of a model: what is decided there happens here.

It turns requests and timers into events, and actions into launches and answers; what workers report comes through the
`SharedPool`. It knows neither sockets nor protocols, and reads time only from its `Clock`, so that a manual clock and
a fake pool drive it.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Final, cast

from superserve.clock import NS_PER_S, NS_PER_US, Clock, Timer
from superserve.errors import (
    CancelledError,
    ExpiredError,
    InfeasibleError,
    InvalidRequestError,
    QueueFullError,
    SuperServeError,
    UnavailableError,
    WorkerError,
)
from superserve.profile import LatencyTable
from superserve.request import Outcome, Reason, Request, RequestState
from superserve.scheduling.actions import Action, Finish, Launch
from superserve.scheduling.policy import Policy, TimeoutAction
from superserve.scheduling.scheduler import Scheduler
from superserve.serving.decisions import DecisionLog, Ending
from superserve.serving.idle_work import IdleBatch, IdleSource
from superserve.serving.incidents import Incidents
from superserve.serving.inference import Answer, Responder
from superserve.serving.ledger import Ledger
from superserve.serving.pool import Batch, BatchResult, Buffer
from superserve.serving.recorder import Recorder
from superserve.serving.residency.report import ResidencyReport
from superserve.serving.shared_pool import SharedPool
from superserve.serving.statistics import BatchTimes, Statistics
from superserve.serving.telemetry import DEFAULT_SLO_NS, Telemetry
from superserve.serving.tracing import HTTP, Origin, RequestTracer

_logger = logging.getLogger(__name__)

#: What clients are told, for the reasons that need no figures.
_ERRORS: Final[dict[Reason, tuple[type[SuperServeError], str]]] = {
    Reason.INFEASIBLE: (InfeasibleError, "no subnet can answer within the deadline: give it more time"),
    Reason.EXPIRED: (ExpiredError, "the deadline could no longer be met while the request waited; it was not run"),
    Reason.SHED: (ExpiredError, "the deadline could no longer be met while the request waited; it was not run"),
    Reason.CLIENT_GONE: (CancelledError, "the client gave up"),
    Reason.NO_WORKER: (UnavailableError, "no live worker: try again later"),
    Reason.STOPPING: (UnavailableError, "the model is starting or stopping: try again later"),
    Reason.WORKER_FAILED: (WorkerError, "the worker failed on this batch; the server's log says why"),
    Reason.POISON: (WorkerError, "two workers were lost while they ran this input: it is not run again"),
    Reason.WORKER_LOST: (WorkerError, "the worker was lost, with too little time left to run the request again"),
}


class _Nobody:
    """The `Responder` of a request that has ended."""

    def answered(self, answer: Answer) -> None:
        """See `Responder.answered`."""

    def refused(self, error: SuperServeError) -> None:
        """See `Responder.refused`."""


_NOBODY: Final = _Nobody()

_SERVED: Final = Outcome.SERVED  # see ``scheduler.py``


class Pending(Request, eq=False):
    """A request with what the scheduler does not see of it: its tensors and who waits for its end.

    ``inputs`` is one buffer per input of the model; they were there at ``decoded_ns``. ``offset`` is its first row in
    the batch that runs it. ``request_id`` is what its answer is known by outside (``x-request-id``), ``origin`` what
    traces are told of where it came from.
    """

    inputs: Sequence[Buffer] = ()
    responder: Responder = _NOBODY
    request_id: bytes = b""
    origin: Origin = HTTP
    decoded_ns: int = 0
    offset: int = 0


class Router:
    """Serves one model: a `Scheduler`, the requests that it decides about, and a part in a pool of workers.

    Not thread-safe: everything happens in one event loop's thread. A `Responder` may be called inside `submit`.

    Args:
        scheduler: decides; only this router may drive it. It was made for ``pool.workers``.
        pool: runs batches, for this router and others.
        clock: time and timers.
        output_row_bytes: bytes of one row of each output tensor, in the model's order.
        number: the pool's number of the model.
        slo_ns: the time that most requests have, for `telemetry`.
        decisions: how many are kept for `superserve why`; see `DecisionLog`.
        recorder: is told how requests end, if given; started and stopped with the router.
        tracer: is told of each request that has ended, if given.
        ledger: is shown what was answered, if given, and run in idle time.
        idle_sources: what else idle workers may do for the model.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        pool: SharedPool,
        clock: Clock,
        *,
        output_row_bytes: Sequence[int],
        number: int = 0,
        slo_ns: int = DEFAULT_SLO_NS,
        decisions: int = 0,
        recorder: Recorder | None = None,
        tracer: RequestTracer | None = None,
        ledger: Ledger | None = None,
        idle_sources: Sequence[IdleSource] = (),
    ) -> None:
        self.scheduler = scheduler
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        """How many requests ended in each outcome so far."""
        self.rescued: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        """The same of requests whose worker was lost, and which were run again or would have been: with slack left."""
        self.launched_too_late = 0
        """Requests that were launched after their deadline or their end: none, unless late ones are to be served."""
        self.unanswered: dict[tuple[Outcome, Reason], int] = {}
        """How many ended without an answer, by how and why."""
        self.statistics = Statistics()
        self.decisions = DecisionLog(decisions)
        self.recorder = recorder
        self.ledger = ledger
        self.idle_sources: tuple[IdleSource, ...] = (*idle_sources, *((ledger,) if ledger is not None else ()))
        """What idle workers may do for this model."""
        self._slo_ns = slo_ns
        self._incidents = Incidents()
        self._tracer = tracer
        table = scheduler.policy.table
        self.telemetry = Telemetry(slo_ns, table.batches, len(table))
        self.watchers: set[Callable[[], object]] = set()
        """Called whenever `ready` may have changed."""
        self._scheduler = scheduler
        self._pool = pool
        self._clock = clock
        self._output_row_bytes = tuple(output_row_bytes)
        self._number = number
        self._ids = itertools.count()
        self._unfinished = 0
        self._admitting = False
        self._timer: Timer | None = None
        self._timer_ns = 0
        self._idle: asyncio.Event | None = None

    @property
    def table(self) -> LatencyTable:
        """Latencies and accuracies that the scheduler plans with."""
        return self._scheduler.policy.table

    @property
    def policy(self) -> Policy:
        """What decides."""
        return self._scheduler.policy

    @property
    def policy_name(self) -> str:
        """Name of the scheduling policy."""
        return self._scheduler.policy.name

    @property
    def timeout_action(self) -> TimeoutAction:
        """What becomes of requests whose deadline cannot be met."""
        return self._scheduler.policy.timeout_action

    @property
    def max_queued(self) -> int:
        """How many requests may wait."""
        return self._scheduler.limits.max_queued

    @property
    def ready(self) -> bool:
        """Whether a request would be admitted: started, not stopping, and a warm worker there."""
        return self._admitting and self._scheduler.workers > 0

    @property
    def unfinished(self) -> int:
        """Requests submitted and not yet ended."""
        return self._unfinished

    @property
    def queue_depth(self) -> int:
        """Requests waiting."""
        return self._scheduler.queue_depth

    @property
    def shortest_slo_ns(self) -> float:
        """The time that requests have by default, or that those of late had, if that is less."""
        usual_ns = self._scheduler.usual_deadline_ns
        return min(self._slo_ns, usual_ns) if usual_ns else self._slo_ns

    @property
    def residency(self) -> ResidencyReport | None:
        """What is resident of the model beside the one copy of its weights; None if it is on a one-copy engine."""
        residency = self._pool.residency
        return None if residency is None else residency.report(self)

    def now_ns(self) -> int:
        """By its clock, which stamps its requests."""
        return self._clock.now_ns()

    async def start(self) -> None:
        """Take part in the pool, start it if this is the first to do so, and admit requests once workers are warm.

        Raises:
            WorkerError: if a worker fails to start; nothing is left behind.
            ConfigError: if nothing can be recorded where it should be.
        """
        await self._pool.enter(self)
        if self.recorder is not None:
            await self.recorder.start(self._scheduler)
        self._admitting = True
        self.readiness_changed()

    async def drain(self, timeout_s: float) -> None:
        """Admit nothing more and wait until all that was admitted has ended, for ``timeout_s`` seconds at most.

        Waiting requests still run or expire by their deadlines; what is left after the timeout fails. A second call
        with a shorter timeout cuts the first one short.
        """
        self._admitting = False
        self.readiness_changed()
        if self._unfinished and timeout_s > 0:
            self._idle = self._idle or asyncio.Event()
            until_ns = self._clock.now_ns() + int(timeout_s * NS_PER_S)
            bound = self._clock.call_at(until_ns, self._idle.set)
            await self._idle.wait()
            bound.cancel()
        if self._unfinished:
            _logger.warning("stopping with %d requests unanswered", self._unfinished)
            self.act(self._scheduler.on_stop(self._clock.now_ns()))

    async def stop(self) -> None:
        """Fail whatever is unfinished and leave the pool, which the last router stops; idempotent.

        Call `drain` first to answer it instead.
        """
        await self.drain(0)
        if self._idle is not None:
            self._idle.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._pool.leave(self)
        for source in self.idle_sources:
            source.close()
        if self.recorder is not None:
            await self.recorder.stop()

    def submit(  # noqa: PLR0917  (by position, see below)
        self,
        arrival_ns: int,
        deadline_ns: int,
        rows: int,
        min_accuracy: float,
        priority: int,
        inputs: Sequence[Buffer],
        responder: Responder,
        request_id: bytes = b"",
        origin: Origin = HTTP,
        bucket: int = 0,
    ) -> Pending:
        """Offer a request; its buffers must stay as they are until ``responder`` hears of its end.

        Returns:
            What `cancel` takes.
        """
        now_ns = self._clock.now_ns()
        # By position, as `ServedModel.submit` calls this: to match names takes Python half a microsecond each time.
        pending = Pending(
            next(self._ids),
            arrival_ns,
            deadline_ns,
            rows,
            min_accuracy,
            priority,
            bucket,
            inputs,
            responder,
            request_id,
            origin,
            now_ns,
        )
        self._unfinished += 1
        if self._admitting:
            workers = self._pool.workers
            free = workers.idle or workers.room
            if free and self._scheduler.is_full:  # of what only waits for the rest to be read
                self._pool.offer()
            actions = self._scheduler.admit(now_ns, pending)
            if free:
                self._pool.offer_soon()
            # An arrival that ends nothing moves the next timer by its own expiry alone.
            timer_in_time = self._timer is not None and self._timer_ns <= pending.latest_start_ns
            if actions or not timer_in_time:
                self.act(actions)
        else:
            pending.state = RequestState.DONE
            self._refuse(Finish(pending, Outcome.REJECTED, Reason.STOPPING))
        return pending

    def cancel(self, pending: Pending) -> None:
        """The client gave up: a waiting request will not run. No effect on one that has ended."""
        self.act(self._scheduler.on_cancel(self._clock.now_ns(), pending))

    def act(self, actions: Sequence[Action]) -> None:
        """Do what the scheduler wants done, and first what there is to launch: its worker has nothing else to do."""
        for action in actions:
            if isinstance(action, Launch):
                self._launch(action)
        for action in actions:
            if isinstance(action, Finish):
                self._refuse(action)
        self._arm()

    def replan(self, policies: Sequence[Policy]) -> None:
        """Batches take other times from now on: see `Scheduler.replan`."""
        self.act(self._scheduler.replan(self._clock.now_ns(), policies))
        self._pool.offer_soon()  # what was too slow for somebody may be fast enough now

    def launch_idle(self, batch: IdleBatch) -> int:
        """Run a batch that no request waits for; returns the worker. See `Scheduler.launch_idle`."""
        launch = self._scheduler.launch_idle(self._clock.now_ns(), batch.subnet, batch.rows)
        self._hand_over(launch, batch.inputs)
        return launch.worker

    def wake_idle_work(self) -> None:
        """One of the `idle_sources` has something to do."""
        self._pool.idle_work.wake()

    def answer(self, finishes: Sequence[Finish], result: BatchResult) -> None:
        """Answer those requests of a batch that still wait for it."""
        if not finishes:
            return
        began_ns = self._clock.now_ns()
        launch = cast("Launch", finishes[0].launch)
        if launch.overdue:
            _placed(launch)  # some may have got other places in other batches since
        if self.ledger is not None and self.ledger.observe(finishes, result):
            self.wake_idle_work()
        answered = cast("list[Pending]", [finish.request for finish in finishes])
        launched_ns, infer_us = launch.launched_ns, result.infer_ns // NS_PER_US
        wait_us = max(0, began_ns - launched_ns - result.infer_ns) // NS_PER_US
        outputs = list(zip(result.outputs, self._output_row_bytes, strict=True))
        for pending, finish in zip(answered, finishes, strict=True):
            first, last = pending.offset, pending.offset + pending.rows
            answer = Answer(
                launch.subnet,
                launch.rows,
                pending.rows,
                (launched_ns - pending.arrival_ns) // NS_PER_US,
                infer_us,
                finish.outcome is _SERVED,
                (pending.decoded_ns - pending.arrival_ns) // NS_PER_US,
                wait_us,
                [output[first * size : last * size] for output, size in outputs],
            )
            try:
                pending.responder.answered(answer)
            except Exception:  # one client's answer must not keep those of its batch-mates from being sent
                _logger.exception("cannot answer request %d", pending.id)
            self._ended(pending, finish)
        self._observe(launch, answered, began_ns, BatchTimes(launch.input_ns, result.infer_ns, 0))

    def _observe(self, launch: Launch, answered: Sequence[Pending], began_ns: int, times: BatchTimes) -> None:
        """Learn and count where the time of a batch went; its answers have been given since ``began_ns``."""
        now_ns, count = self._clock.now_ns(), len(answered)
        overhead_ns = now_ns - launch.launched_ns - launch.waited_ns - times.infer_ns
        self._scheduler.observe_overhead(overhead_ns, launch.worker, launch.device)
        if self.recorder is not None:
            self.recorder.answered(launch, answered)
        if self._tracer is not None:
            self._tracer.answered(launch, answered, now_ns)
        arrivals_ns = [request.arrival_ns for request in answered]
        telemetry, launched_ns = self.telemetry, launch.launched_ns
        telemetry.decode.observe_all([request.decoded_ns - request.arrival_ns for request in answered])
        telemetry.queue.observe_all([launched_ns - arrival_ns for arrival_ns in arrivals_ns])
        telemetry.request.observe_all([now_ns - arrival_ns for arrival_ns in arrivals_ns])
        telemetry.wait.observe(began_ns - launched_ns - times.infer_ns, count)
        telemetry.encode.observe((now_ns - began_ns) // count, count)
        telemetry.overhead.observe(overhead_ns)
        telemetry.inference[launch.subnet].observe(times.infer_ns)
        telemetry.rows[launch.subnet].observe(launch.rows)
        telemetry.answered[launch.subnet] += count
        arrived_ns = sum(arrivals_ns)
        self.statistics.on_batch(
            launch.rows,
            times._replace(output_ns=max(0, overhead_ns - times.input_ns)),
            count,
            count * launched_ns - arrived_ns,
            count * now_ns - arrived_ns,
        )

    def readiness_changed(self) -> None:
        """Workers have come or gone, or this router has begun or ended to admit requests."""
        for watcher in list(self.watchers):
            watcher()

    def _launch(self, launch: Launch) -> None:
        for pending in cast("list[Pending]", launch.requests):
            if pending.deadline_ns < launch.launched_ns or pending.responder is _NOBODY:
                self.launched_too_late += 1
        self.decisions.launched(launch)
        self._hand_over(launch, _placed(launch))

    def _hand_over(self, launch: Launch, inputs: Sequence[Sequence[Buffer]]) -> None:
        planned_ns = launch.planned_ns
        # Nobody waits for idle work.
        due_ns = launch.overhead_ns + round(planned_ns * launch.drift) if launch.requests else 0
        began_ns = self._clock.now_ns()
        self._pool.launch(launch.worker, Batch(launch.subnet, launch.rows, inputs, self._number, planned_ns, due_ns))
        launch.input_ns = self._clock.now_ns() - began_ns

    def _ended(self, pending: Pending, finish: Finish) -> None:
        """Count a request that has been told of its end, and forget what it held."""
        self.outcomes[finish.outcome] += 1
        if pending.losses and finish.reason is not Reason.WORKER_LOST:
            self.rescued[finish.outcome] += 1
        # The queue forgets requests in bulk, and the responder refers back: nobody else is to keep the tensors alive.
        pending.responder, pending.inputs = _NOBODY, ()
        self._unfinished -= 1
        if self._unfinished == 0 and self._idle is not None:
            self._idle.set()

    def _refuse(self, finish: Finish) -> None:
        """Tell whoever waits that there is no answer."""
        pending = cast("Pending", finish.request)
        self._note(pending, finish)
        error = self._error(pending, finish)
        error.reason = finish.reason.label
        try:
            pending.responder.refused(error)
        except Exception:  # as in `answer`
            _logger.exception("cannot refuse request %d", pending.id)
        now_ns = self._clock.now_ns()
        self.statistics.on_failure(now_ns - pending.arrival_ns)
        if finish.outcome is Outcome.REJECTED:
            self.telemetry.refusal.observe(now_ns - pending.arrival_ns)
        elif finish.reason is Reason.EXPIRED:  # what is shed was not certain before the decision to do so
            self.telemetry.refusal.observe(now_ns - pending.latest_start_ns)
        if self._tracer is not None:
            self._tracer.refused(pending, finish.outcome, error, now_ns)
        self._ended(pending, finish)

    def _note(self, pending: Pending, finish: Finish) -> None:
        """Keep how a request ended without an answer."""
        scheduler, why = self._scheduler, (finish.outcome, finish.reason)
        self.unanswered[why] = self.unanswered.get(why, 0) + 1
        ending = Ending(
            pending,
            finish.outcome,
            finish.reason,
            self._clock.now_ns(),
            scheduler.queue_depth,
            scheduler.workers,
            scheduler.planned_overhead_ns,
            scheduler.drift,
            finish.prediction,
        )
        self.decisions.ended(ending)
        self._incidents.ended(ending)
        if self.recorder is not None:
            self.recorder.ended(ending)

    def _error(self, pending: Pending, finish: Finish) -> SuperServeError:
        reason = finish.reason
        if reason is Reason.QUEUE_FULL:
            limit = self._scheduler.limits.max_queued
            return QueueFullError(f"{limit} requests are waiting already", self._scheduler.retry_after_s())
        if finish.prediction is not None:
            return InfeasibleError(f"refused: {finish.prediction}", finish.prediction.retry_after_ns / NS_PER_S)
        if reason is Reason.FLOOR:
            best = max(self.table.accuracies[subnet] for subnet in self._scheduler.policy.subnets)
            return InvalidRequestError(
                f"parameters.superserve_min_accuracy: {pending.min_accuracy:g} is above {best:g}, the accuracy of "
                f"the best subnet that policy {self.policy_name} may use"
            )
        kind, message = _ERRORS[reason]
        return kind(message)

    def _arm(self) -> None:
        """See to it that `on_timer` is called in time.

        A timer that is due too early stays: it fires, does nothing and is set anew. Under load `next_timer` moves on
        with every request, and setting it each time would cost more than the scheduler's decisions.
        """
        due_ns = self._scheduler.next_timer()
        if due_ns is None or (self._timer is not None and self._timer_ns <= due_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = due_ns
        self._timer = self._clock.call_at(due_ns, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.act(self._scheduler.on_timer(self._clock.now_ns()))


def _placed(launch: Launch) -> list[Sequence[Buffer]]:
    """Give each request its place in a batch; their inputs, in this order."""
    rows = 0
    inputs: list[Sequence[Buffer]] = []
    for pending in cast("list[Pending]", launch.requests):
        pending.offset = rows
        rows += pending.rows
        inputs.append(pending.inputs)
    return inputs
