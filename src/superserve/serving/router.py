"""The asyncio shell around the `Scheduler`: what is decided there happens here.

It turns requests, timers and what the pool reports into events, and actions into launches and answers. It knows
neither sockets nor protocols, and reads time only from its `Clock`, so that a manual clock and a fake pool drive it.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from superserve.scheduling.policy import TimeoutAction
from superserve.scheduling.scheduler import Action, Finish, Launch, Scheduler
from superserve.serving.inference import Answer, Responder
from superserve.serving.pool import Batch, BatchResult, Buffer, WorkerPool
from superserve.serving.statistics import BatchTimes, Statistics

_logger = logging.getLogger(__name__)

#: What clients are told, for the reasons that need no figures.
_ERRORS: Final[dict[Reason, tuple[type[SuperServeError], str]]] = {
    Reason.INFEASIBLE: (InfeasibleError, "no subnet can answer within the deadline: give it more time"),
    Reason.EXPIRED: (ExpiredError, "the deadline could no longer be met while the request waited; it was not run"),
    Reason.SHED: (ExpiredError, "the deadline could no longer be met while the request waited; it was not run"),
    Reason.CLIENT_GONE: (CancelledError, "the client gave up"),
    Reason.NO_WORKER: (UnavailableError, "no live worker: try again later"),
    Reason.STOPPING: (UnavailableError, "the server is starting or stopping: try again later"),
    Reason.WORKER_FAILED: (WorkerError, "the worker failed on this batch; the server's log says why"),
    Reason.WORKER_LOST: (WorkerError, "the worker was lost, with too little time left to run the request again"),
}


@dataclass(slots=True, eq=False, kw_only=True)
class Pending(Request):
    """A request with what the scheduler does not see of it: its tensors and who waits for its end.

    ``inputs`` is one buffer per input of the model. ``offset`` is its first row in the batch that runs it.
    """

    inputs: Sequence[Buffer]
    responder: Responder
    offset: int = 0


class Router:
    """Serves one model: a `Scheduler`, a pool of workers, and the requests between them.

    Not thread-safe: everything happens in one event loop's thread. A `Responder` may be called inside `submit`.

    Args:
        scheduler: decides; only this router may drive it.
        pool: runs batches; `start` and `stop` start and stop it.
        clock: time and timers.
        output_row_bytes: bytes of one row of each output tensor, in the model's order.
    """

    def __init__(
        self, scheduler: Scheduler, pool: WorkerPool, clock: Clock, *, output_row_bytes: Sequence[int]
    ) -> None:
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        """How many requests ended in each outcome so far."""
        self.statistics = Statistics()
        self.watchers: set[Callable[[], object]] = set()
        """Called whenever `ready` may have changed."""
        self._scheduler = scheduler
        self._pool = pool
        self._clock = clock
        self._row_bytes = tuple(output_row_bytes)
        self._ids = itertools.count()
        self._unfinished = 0
        self._admitting = False
        self._timer: Timer | None = None
        self._timer_ns = 0
        self._input_ns: dict[int, int] = {}
        """By worker: how long it took to hand over its last batch."""
        self._idle: asyncio.Event | None = None

    @property
    def table(self) -> LatencyTable:
        """Latencies and accuracies that the scheduler plans with."""
        return self._scheduler.policy.table

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

    async def start(self) -> None:
        """Start the pool and admit requests once every worker is warm.

        Raises:
            WorkerError: if a worker fails to start; nothing is left behind.
        """
        await self._pool.start(self)
        self._admitting = True
        self._readiness_changed()

    async def drain(self, timeout_s: float) -> None:
        """Admit nothing more and wait until all that was admitted has ended, for ``timeout_s`` seconds at most.

        Waiting requests still run or expire by their deadlines; what is left after the timeout fails. A second call
        with a shorter timeout cuts the first one short.
        """
        self._admitting = False
        self._readiness_changed()
        if self._unfinished and timeout_s > 0:
            self._idle = self._idle or asyncio.Event()
            until_ns = self._clock.now_ns() + int(timeout_s * NS_PER_S)
            bound = self._clock.call_at(until_ns, self._idle.set)
            await self._idle.wait()
            bound.cancel()
        if self._unfinished:
            _logger.warning("stopping with %d requests unanswered", self._unfinished)
            self._act(self._scheduler.on_stop(self._clock.now_ns()))

    async def stop(self) -> None:
        """Fail whatever is unfinished and stop the pool; idempotent. Call `drain` first to answer it instead."""
        await self.drain(0)
        if self._idle is not None:
            self._idle.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._pool.stop()

    def submit(
        self,
        *,
        arrival_ns: int,
        deadline_ns: int,
        rows: int,
        min_accuracy: float,
        priority: int,
        inputs: Sequence[Buffer],
        responder: Responder,
    ) -> Pending:
        """Offer a request; its buffers must stay as they are until ``responder`` hears of its end.

        Returns:
            What `cancel` takes.
        """
        pending = Pending(
            id=next(self._ids),
            arrival_ns=arrival_ns,
            deadline_ns=deadline_ns,
            rows=rows,
            min_accuracy=min_accuracy,
            priority=priority,
            inputs=inputs,
            responder=responder,
        )
        self._unfinished += 1
        if self._admitting:
            self._act(self._scheduler.on_arrival(self._clock.now_ns(), pending))
        else:
            pending.state = RequestState.DONE
            self._end(Finish(pending, Outcome.REJECTED, Reason.STOPPING), None)
        return pending

    def cancel(self, pending: Pending) -> None:
        """The client gave up: a waiting request will not run. No effect on one that has ended."""
        self._act(self._scheduler.on_cancel(self._clock.now_ns(), pending))

    def on_worker_ready(self, worker: int) -> None:
        """See `PoolListener`."""
        self._act(self._scheduler.on_worker_ready(self._clock.now_ns(), worker))
        self._readiness_changed()

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        """See `PoolListener`."""
        actions = self._scheduler.on_batch_done(self._clock.now_ns(), worker, result.infer_ns)
        input_ns = self._input_ns[worker]
        # The worker gets its next batch before the answers of this one are encoded: it has nothing else to do.
        self._act(actions, result, launches_first=True)
        answered = [action.request for action in actions if isinstance(action, Finish) and action.launch is not None]
        if answered:
            launch = next(action.launch for action in actions if isinstance(action, Finish) and action.launch)
            self._observe(launch, answered, input_ns, result.infer_ns)

    def _observe(self, launch: Launch, answered: Sequence[Request], input_ns: int, infer_ns: int) -> None:
        """Learn and count where the time of a batch went; its answers are out."""
        now_ns, count = self._clock.now_ns(), len(answered)
        overhead_ns = now_ns - launch.launched_ns - infer_ns
        self._scheduler.observe_overhead(overhead_ns)
        arrivals_ns = sum([request.arrival_ns for request in answered])
        self.statistics.on_batch(
            launch.rows,
            BatchTimes(input_ns, infer_ns, max(0, overhead_ns - input_ns)),
            count,
            count * launch.launched_ns - arrivals_ns,
            count * now_ns - arrivals_ns,
        )

    def on_batch_failed(self, worker: int, message: str) -> None:
        """See `PoolListener`."""
        _logger.error("worker %d failed on a batch: %s", worker, message)
        self._act(self._scheduler.on_batch_failed(self._clock.now_ns(), worker))

    def on_worker_lost(self, worker: int, reason: str) -> None:
        """See `PoolListener`."""
        _logger.error("worker %d is lost: %s", worker, reason)
        self._act(self._scheduler.on_worker_lost(self._clock.now_ns(), worker))
        self._readiness_changed()

    def _readiness_changed(self) -> None:
        for watcher in list(self.watchers):
            watcher()

    def _act(
        self, actions: Sequence[Action], result: BatchResult | None = None, *, launches_first: bool = False
    ) -> None:
        if launches_first:
            for action in actions:
                if isinstance(action, Launch):
                    self._launch(action)
        for action in actions:
            if isinstance(action, Finish):
                self._end(action, result)
            elif not launches_first:
                self._launch(action)
        self._arm()

    def _launch(self, launch: Launch) -> None:
        rows = 0
        inputs: list[Sequence[Buffer]] = []
        for pending in cast("list[Pending]", launch.requests):
            pending.offset = rows
            rows += pending.rows
            inputs.append(pending.inputs)
        began_ns = self._clock.now_ns()
        self._pool.launch(launch.worker, Batch(launch.subnet, rows, inputs))
        self._input_ns[launch.worker] = self._clock.now_ns() - began_ns

    def _end(self, finish: Finish, result: BatchResult | None) -> None:
        pending = cast("Pending", finish.request)
        self.outcomes[finish.outcome] += 1
        self._unfinished -= 1
        try:
            if finish.launch is not None and result is not None:
                pending.responder.answered(self._answer(pending, finish, finish.launch, result))
            else:
                self.statistics.on_failure(self._clock.now_ns() - pending.arrival_ns)
                pending.responder.refused(self._error(pending, finish.reason))
        except Exception:  # one client's answer must not keep those of its batch-mates from being sent
            _logger.exception("cannot answer request %d", pending.id)
        if self._unfinished == 0 and self._idle is not None:
            self._idle.set()

    def _answer(self, pending: Pending, finish: Finish, launch: Launch, result: BatchResult) -> Answer:
        first, last = pending.offset, pending.offset + pending.rows
        return Answer(
            launch.subnet,
            launch.rows,
            pending.rows,
            (launch.launched_ns - pending.arrival_ns) // NS_PER_US,
            result.infer_ns // NS_PER_US,
            finish.outcome is Outcome.SERVED,
            [view[first * size : last * size] for view, size in zip(result.outputs, self._row_bytes, strict=True)],
        )

    def _error(self, pending: Pending, reason: Reason) -> SuperServeError:
        if reason is Reason.QUEUE_FULL:
            limit = self._scheduler.limits.max_queued
            return QueueFullError(f"{limit} requests are waiting already", self._scheduler.retry_after_s())
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
        self._act(self._scheduler.on_timer(self._clock.now_ns()))
