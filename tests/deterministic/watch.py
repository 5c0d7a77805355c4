"""What must hold whatever happens, looked at from between the routers and the pool and whenever time goes on."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np

from deterministic.asks import MAX_LOSSES, Ask
from deterministic.loop import VirtualLoop
from deterministic.model import tags_of
from superserve.frontend.server import Server
from superserve.profile import LatencyTable
from superserve.scheduling import SharedWorkers
from superserve.serving.dataplane import ServedModel
from superserve.serving.ipc import WorkerSpec
from superserve.serving.pool import Batch, BatchResult, PoolListener, WorkerPool
from superserve.serving.router import Pending

#: Timers may be early or late by a millisecond; what is due is done by then.
_TIMELY_NS = 2_500_000


class WatchedPool:
    """A pool that checks what it is told to run, and what becomes of it: `WorkerPool` and `PoolListener` at once.

    Args:
        pool: the real one.
        loop: has the time.
        asks: by tag.
        broken: told of what should not be.

    Attributes:
        server: whose pool it is; set before it starts.
    """

    def __init__(
        self, pool: WorkerPool, loop: VirtualLoop, asks: Mapping[int, Ask], broken: Callable[[str], None]
    ) -> None:
        self.server: Server
        self._pool = pool
        self._loop = loop
        self._asks = asks
        self._broken = broken
        self._listener: PoolListener
        self._ready: set[int] = set()
        self._overlapping: set[int] = set()
        self._running: dict[int, list[list[Ask]]] = {}
        """By worker, the requests of its batches."""

    # ---- as a pool

    @property
    def size(self) -> int:
        """See `WorkerPool.size`."""
        return self._pool.size

    @property
    def complete(self) -> bool:
        """Whether every worker is there."""
        return len(self._ready) == self.size

    async def start(self, listener: PoolListener) -> None:
        """See `WorkerPool.start`."""
        self._listener = listener
        await self._pool.start(self)

    def device(self, worker: int) -> str:
        """See `WorkerPool.device`."""
        return self._pool.device(worker)

    async def add(self, spec: WorkerSpec) -> int:
        """See `WorkerPool.add`."""
        return await self._pool.add(spec)

    async def remove(self, model: int) -> None:
        """See `WorkerPool.remove`."""
        await self._pool.remove(model)

    async def stop(self) -> None:
        """See `WorkerPool.stop`."""
        await self._pool.stop()
        if self._running:
            self._broken(f"the pool has stopped without an end of batches of {sorted(self._running)}")

    def launch(self, worker: int, batch: Batch) -> None:
        """See `WorkerPool.launch`."""
        flights = self._running.setdefault(worker, [])
        if worker not in self._ready or len(flights) > (worker in self._overlapping):
            self._broken(f"launched on worker {worker}, which is not idle")
        launch = self._workers.runs[worker].running(worker)
        if not flights and launch is not None and not launch.requests:
            self._check_idle_work()
            flights.append([])
            self._pool.launch(worker, batch)
            return
        asks = [self._ask(inputs) for inputs in batch.inputs]
        if sum(ask.rows for ask in asks) != batch.rows:
            self._broken("a batch's rows are not those of its requests")
        model = self.server.plane.models.get(asks[0].model)
        if model is not None:  # it may be on its way out, with a batch of a lost worker run again
            for ask in asks:
                self._check_run(ask, batch, model)
            self._check_order(asks, model)
        self._check_suspects([*(ask for each in flights for ask in each), *asks], shared=bool(flights))
        flights.append(asks)
        for ask in asks:
            ask.launches += 1
            ask.may_fail = False
        self._pool.launch(worker, batch)

    # ---- as a listener

    def on_worker_ready(self, worker: int) -> None:
        """See `PoolListener.on_worker_ready`."""
        if worker in self._ready:
            self._broken(f"worker {worker} is ready twice")
        self._ready.add(worker)
        self._listener.on_worker_ready(worker)

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        """See `PoolListener.on_worker_overlaps`."""
        (self._overlapping.add if overlaps else self._overlapping.discard)(worker)
        self._listener.on_worker_overlaps(worker, overlaps=overlaps)

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        """See `PoolListener.on_batch_done`."""
        for ask in self._through(worker):
            ask.done_ns = self._loop.now_ns
        self._listener.on_batch_done(worker, result)

    def on_batch_failed(self, worker: int, message: str) -> None:
        """See `PoolListener.on_batch_failed`."""
        for ask in self._through(worker):
            ask.may_fail = True
        self._listener.on_batch_failed(worker, message)

    def on_batch_overdue(self, worker: int) -> None:
        """See `PoolListener.on_batch_overdue`; no local pool tells of any."""

    def on_worker_lost(self, worker: int, reason: str) -> None:
        """See `PoolListener.on_worker_lost`."""
        self._ready.discard(worker)
        self._overlapping.discard(worker)
        for ask in chain.from_iterable(self._running.pop(worker, [])):
            ask.losses += 1
            ask.may_fail = self._has_no_slack(ask)
            if ask.losses > MAX_LOSSES and self._has_time_alone(ask):
                self._broken(f"{ask.tag} has cost {ask.losses} workers")
        self._listener.on_worker_lost(worker, reason)

    def _through(self, worker: int) -> list[Ask]:
        asks = self._running[worker].pop(0)
        if not self._running[worker]:
            del self._running[worker]
        return asks

    # ---- checks

    def check_quiet(self) -> None:
        """Everything that was due has been done."""
        idle = self._ready - self._running.keys()
        for model in self.server.plane.models.values():
            router = model.router
            scheduler = router.scheduler
            # A slow worker may leave to others what it cannot do in time.
            if router.queue_depth and scheduler.workers and not all(map(scheduler.slow, idle)):
                self._broken(f"{router.queue_depth} requests of {model.config.name} wait, and a worker is idle")
            due_ns = scheduler.next_timer()
            if due_ns is not None and due_ns < self._loop.now_ns - _TIMELY_NS:
                self._broken(f"the timer of {model.config.name} is overdue")
            if router.queue_depth > router.max_queued + self._most_run_again(model):
                self._broken(f"{router.queue_depth} requests of {model.config.name} wait")

    @property
    def _workers(self) -> SharedWorkers:
        return self.server._shared.workers

    def _check_idle_work(self) -> None:
        """What no request waits for is run while none waits, one batch at a time, and leaves another worker idle."""
        if any(model.router.queue_depth for model in self.server.plane.models.values()):
            self._broken("idle work begins, and requests wait")
        if [[]] in self._running.values():
            self._broken("idle work begins, and other idle work runs")
        if not self._workers.idle and len(self._ready) > 1:
            self._broken("idle work takes the last idle worker")

    def _most_run_again(self, model: ServedModel) -> int:
        """Requests of lost workers wait beyond the limit: they have been admitted."""
        return self.size * model.max_rows

    def _ask(self, inputs: Sequence[object]) -> Ask:
        return self._asks[tags_of(np.frombuffer(inputs[0], np.uint32))[0]]  # type: ignore[call-overload]

    def _check_run(self, ask: Ask, batch: Batch, model: ServedModel) -> None:
        table = model.router.table
        if ask.arrival_ns is None:
            self._broken(f"{ask.tag} is run before it is there")
            return
        if ask.ended:
            self._broken(f"{ask.tag} is run, and has ended")
        if table.accuracies[batch.subnet] < ask.floor:
            self._broken(f"{ask.tag} is run below its floor")
        expires = model.router.timeout_action == "reject"
        if expires and self._loop.now_ns + _least_ns(ask, table) > ask.deadline_ns:
            self._broken(f"{ask.tag} is run, and was certain to be late")

    def _check_suspects(self, asks: Sequence[Ask], *, shared: bool) -> None:
        """Who was in a lost batch has a worker for itself: it would be others' fault, or they would be its victims."""
        if shared and any(ask.losses for ask in asks):
            self._broken(f"of {[ask.tag for ask in asks]}, in two batches, one has cost a worker")

    def _check_order(self, asks: list[Ask], model: ServedModel) -> None:
        """Nobody who waits is more urgent than a batch; after a loss, who is suspected of it may be run apart."""
        latest_ns = max(ask.deadline_ns for ask in asks)
        for waiting in model.router.scheduler._queue:
            assert isinstance(waiting, Pending)
            other = self._ask(waiting.inputs)
            if waiting.deadline_ns != other.deadline_ns:
                self._broken(f"the deadline of {other.tag} is off by {waiting.deadline_ns - other.deadline_ns} ns")
            if other.deadline_ns < latest_ns and not other.losses:
                self._broken(f"{other.tag} waits, and is more urgent than one of {[ask.tag for ask in asks]}")

    def least_ns(self, ask: Ask) -> int:
        """What a request takes at least, of a model that is served."""
        return _least_ns(ask, self.server.plane.models[ask.model].router.table)

    def _has_time_alone(self, ask: Ask) -> bool:
        model = self.server.plane.models.get(ask.model)
        return model is not None and model.router.timeout_action == "delay"

    def _has_no_slack(self, ask: Ask) -> bool:
        """Whether too little time is left for the smallest cell and the overhead."""
        model = self.server.plane.models.get(ask.model)
        if model is None:
            return True
        router = model.router
        least_ns = _least_ns(ask, router.table) * router.scheduler.drift + router.scheduler.planned_overhead_ns
        return self._loop.now_ns + least_ns >= ask.deadline_ns


def _least_ns(ask: Ask, table: LatencyTable) -> int:
    """What the fastest subnet that reaches its floor takes with it alone."""
    return table.latency_ns[min(table.floor_index(ask.floor), len(table) - 1)][ask.rows]
