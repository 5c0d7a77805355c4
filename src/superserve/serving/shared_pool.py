"""One pool of workers behind the routers of several models."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from superserve.clock import NS_PER_MS, Clock
from superserve.request import RequestState
from superserve.scheduling.scheduler import Scheduler
from superserve.scheduling.workers import SharedWorkers
from superserve.serving.idle_work import IdleWork
from superserve.serving.incidents import log_overdue, log_waiting_again
from superserve.serving.pool import Batch, BatchResult, WorkerPool
from superserve.serving.residency.residency import Residency

if TYPE_CHECKING:
    from superserve.scheduling.actions import Finish
    from superserve.serving.router import Pending, Router

_logger = logging.getLogger(__name__)


class SharedPool:
    """Turns what a pool reports into events of its `SharedWorkers`, and has the routers do what comes of them.

    The pool runs from the first router's coming to the last one's going.

    Args:
        pool: the workers.
        clock: time.
        soon: calls what it is given when all that has come in is read, as the ``call_soon`` of an event loop does. So
            requests that come together, on as many connections, run together: 64 that came at once were batches of 32
            instead of 21, for a fifteenth more of them each second. Default: at once.
        devices: the names of those that models have profiles of, if they are several.
        residency: what sees to packed subnets, if any model may have them.

    Attributes:
        workers: what the schedulers of the routers are made for.
        residency: see above.
        idle_work: what the workers do while no request has come for a while.
    """

    def __init__(
        self,
        pool: WorkerPool,
        clock: Clock,
        soon: Callable[[Callable[[], None]], object] = lambda call: call(),
        devices: Sequence[str] = (),
        residency: Residency | None = None,
    ) -> None:
        self.workers = SharedWorkers(max(1, len(devices)))
        self.idle_work = IdleWork(self.workers, clock)
        self.residency = residency
        self._pool = pool
        self._offering = False
        self._clock = clock
        self._soon = soon
        self._devices = devices
        self._routers: dict[Scheduler, Router] = {}
        self._leaving: dict[Scheduler, asyncio.Event] = {}

    async def enter(self, router: "Router") -> None:
        """A router comes. The first one starts the pool, and is there when all workers are warm.

        Raises:
            WorkerError: if a worker fails to start; nothing is left behind.
        """
        self._routers[router.scheduler] = router
        self.workers.add(router.scheduler)
        self.idle_work.routers.append(router)
        if len(self._routers) == 1:
            try:
                if self.residency is not None:
                    await self.residency.begin()
                await self._pool.start(self)
                if self.residency is not None:
                    await self.residency.go_on()
            except BaseException:
                self._forget(router)
                raise

    async def leave(self, router: "Router") -> None:
        """A router goes, once no batch of its is running; idempotent. The last one stops the pool."""
        if router.scheduler not in self._routers:
            return
        if len(self._routers) > 1 and router.scheduler.in_flight:
            quiet = self._leaving.setdefault(router.scheduler, asyncio.Event())
            await quiet.wait()
        if len(self._routers) == 1:
            await self.stop()
        self._forget(router)

    async def stop(self) -> None:
        """Stop the pool while routers are still there: their batches end or are lost, soon; idempotent."""
        self.idle_work.rest()
        if self.residency is not None:
            await self.residency.stop()
        await self._pool.stop()
        for worker in list(self.workers.live):
            self.workers.leave(worker)

    def offer_soon(self) -> None:
        """Let idle workers have what has come in, and what is still to be read of what came in with it."""
        if not self._offering:
            self._offering = True
            self._soon(self.offer)

    def offer(self) -> None:
        """Let idle workers have what waits, if they are to."""
        self._offering = False
        for scheduler, actions in self.workers.offer(self._clock.now_ns()):
            self._routers[scheduler].act(actions)

    def launch(self, worker: int, batch: Batch) -> None:
        """See `WorkerPool.launch`."""
        self._pool.launch(worker, batch)

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        """See `PoolListener`."""
        self.workers.overlap(worker, overlaps=overlaps)

    def on_worker_ready(self, worker: int) -> None:
        """See `PoolListener`."""
        for scheduler, actions in self.workers.on_worker_ready(self._clock.now_ns(), worker, self._device(worker)):
            self._routers[scheduler].act(actions)
        self._readiness_changed()

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        """See `PoolListener`."""
        now_ns = self._clock.now_ns()
        ended, *offered = self.workers.on_batch_done(now_ns, worker, result.infer_ns, result.waited_ns)
        # The worker gets its next batch before the answers of this one are encoded: it has nothing else to do.
        for scheduler, actions in offered:
            self._routers[scheduler].act(actions)
        scheduler, finishes = ended
        self._routers[scheduler].answer(cast("Sequence[Finish]", finishes), result)
        if worker == self.idle_work.worker:
            self.idle_work.on_done(result)
        if self._leaving:
            self._let_go()

    def on_batch_failed(self, worker: int, message: str) -> None:
        """See `PoolListener`."""
        _logger.error("worker %d failed on a batch: %s", worker, message)
        for scheduler, actions in self.workers.on_batch_failed(self._clock.now_ns(), worker):
            self._routers[scheduler].act(actions)
        if worker == self.idle_work.worker:
            self.idle_work.on_dropped()
        self._let_go()

    def on_batch_overdue(self, worker: int) -> None:
        """See `PoolListener`."""
        launch = self.workers.runs[worker].running(worker)
        if launch is None:  # told before
            return
        told = self.workers.on_batch_overdue(self._clock.now_ns(), worker)
        if launch.overdue:
            log_overdue(worker, (launch.ended_ns - launch.launched_ns) / NS_PER_MS, len(launch.requests))
        for scheduler, actions in told:
            self._routers[scheduler].act(actions)
        self._readiness_changed()

    def on_worker_lost(self, worker: int, reason: str) -> None:
        """See `PoolListener`."""
        _logger.error("worker %d is lost: %s", worker, reason)
        lost = [launch for scheduler in self._routers for launch in scheduler.launched(worker)]
        told = self.workers.on_worker_lost(self._clock.now_ns(), worker)
        for launch in lost:
            pending = cast("list[Pending]", launch.requests)
            log_waiting_again(worker, [one.request_id for one in pending if one.state is not RequestState.DONE])
        for scheduler, actions in told:
            self._routers[scheduler].act(actions)
        if worker == self.idle_work.worker:
            self.idle_work.on_dropped()
        self._let_go()
        self._readiness_changed()

    def _device(self, worker: int) -> int:
        """The number of what a worker runs on."""
        if len(self._devices) < 2:
            return 0
        name = self._pool.device(worker)
        if name in self._devices:
            return self._devices.index(name)
        _logger.warning(
            "worker %d runs on %r, which has no profile: it is planned with that of %r, and what its batches turn "
            "out to take; run `superserve profile` there, and give that --profile, too",
            worker,
            name,
            self._devices[0],
        )
        return 0

    def _let_go(self) -> None:
        for scheduler, quiet in self._leaving.items():
            if not scheduler.in_flight:
                quiet.set()

    def _forget(self, router: "Router") -> None:
        if router.scheduler not in self._routers:  # two calls of `leave` may have waited
            return
        self._leaving.pop(router.scheduler, None)
        self.workers.remove(router.scheduler)
        self.idle_work.routers.remove(router)
        if self.residency is not None:
            self.residency.remove(router)
        del self._routers[router.scheduler]

    def _readiness_changed(self) -> None:
        for router in list(self._routers.values()):
            router.readiness_changed()
