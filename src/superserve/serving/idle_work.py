"""What idle workers do for the server itself: batches that no request waits for, and when they may run.

A batch of idle work is run by the pool as any other is, so that a lost worker, a hang or a model that goes is dealt
with as ever. What a request may lose by it is bounded here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from superserve.clock import NS_PER_MS, Clock, Timer
from superserve.scheduling.workers import SharedWorkers
from superserve.serving.pool import BatchResult, Buffer

if TYPE_CHECKING:
    from superserve.serving.router import Router

#: Between two looks at whether anything has happened.
LOOK_NS: Final = 20 * NS_PER_MS
#: A batch takes this part of the shortest SLO at most: what a request can lose that comes just when it has begun.
SLO_SHARE: Final = 0.2
#: And this part of the time for which no batch has begun or ended. A request then comes during it in about one case out
#: of five, if they come at random at the rate that this time is typical of, and idle work takes a fifth of a worker.
QUIET_SHARE: Final = 0.25


class IdleBatch(NamedTuple):
    """Rows to run on a subnet (a front index); ``inputs`` as in `superserve.serving.pool.Batch`."""

    subnet: int
    rows: int
    inputs: Sequence[Sequence[Buffer]]


class IdleLimit(NamedTuple):
    """How long a batch may take by its model's table, in nanoseconds."""

    now_ns: int
    """At present."""
    ever_ns: int
    """However quiet it gets."""


class IdleSource(Protocol):
    """Something that a model has for idle workers to do, batch by batch. Of a batch it hears exactly once."""

    @property
    def pending(self) -> bool:
        """Whether there is anything to do; whoever makes it true calls `IdleWork.wake`."""

    def next_batch(self, limit: IdleLimit) -> IdleBatch | None:
        """The next batch, planned to take no longer than ``limit.now_ns``; None if there is none at present."""

    def on_done(self, result: BatchResult) -> bool:
        """The batch was run. Whether it is to be run once more at once, if nothing has come meanwhile."""

    def on_dropped(self, *, failed: bool) -> None:
        """There will be no result: the worker failed or was lost; or not another one, because requests came."""

    def close(self) -> None:
        """The model goes: nothing more will be run."""


class _Running(NamedTuple):
    router: "Router"
    source: IdleSource
    batch: IdleBatch


class IdleWork:
    """Asks the sources of all models in turn, and has the pool run one batch at a time.

    A batch begins only while nothing waits, another worker stays idle if there are several, and nothing has happened
    for a while: `SLO_SHARE` and `QUIET_SHARE` bound its time. So a request waits behind one such batch at most, and
    only where there is a single worker: when it ends, requests have its worker first. While there is nothing to do
    there is no timer either.

    Args:
        workers: of all models.
        clock: time and timers.
    """

    def __init__(self, workers: SharedWorkers, clock: Clock) -> None:
        self.routers: list[Router] = []
        """Whose sources are asked; kept by the `SharedPool`."""
        self.worker: int | None = None
        """That runs a batch of idle work."""
        self._workers = workers
        self._clock = clock
        self._timer: Timer | None = None
        self._running: _Running | None = None
        self._changes = 0
        self._quiet_ns = 0
        self._looked_ns = 0

    def wake(self) -> None:
        """A source has something to do."""
        if self._timer is None:
            self._quiet_ns = 0
            self._look_again()

    def rest(self) -> None:
        """Begin nothing more until `wake`; what runs ends as it would."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_done(self, result: BatchResult) -> None:
        """The batch was run, and whatever waited has been given its worker."""
        router, source, batch = self._ended()
        if source.on_done(result):
            if self._may_begin(router):
                self._begin(router, source, batch)
            else:
                source.on_dropped(failed=False)

    def on_dropped(self) -> None:
        """The batch failed, or its worker was lost."""
        self._ended().source.on_dropped(failed=True)

    def _ended(self) -> _Running:
        running = self._running
        assert running is not None
        self._running = self.worker = None
        return running

    def _look_again(self) -> None:
        self._changes = self._workers.commitments.changes
        self._looked_ns = self._clock.now_ns()
        self._timer = self._clock.call_at(self._looked_ns + LOOK_NS, self._look)

    def _look(self) -> None:
        self._timer = None
        quiet = self._workers.commitments.changes == self._changes and self._running is None
        self._quiet_ns = self._quiet_ns + self._clock.now_ns() - self._looked_ns if quiet else 0
        if self._quiet_ns:
            self._ask()
        if self._running is not None or any(
            source.pending for router in self.routers for source in router.idle_sources
        ):
            self._look_again()

    def _ask(self) -> None:
        """Begin what the first source offers that has anything; it is the last one to be asked next time."""
        for _ in range(len(self.routers)):
            router = self.routers[0]
            self.routers.append(self.routers.pop(0))
            if self._may_begin(router):
                limit = self._limit(router)
                for source in router.idle_sources:
                    batch = source.next_batch(limit) if source.pending else None
                    if batch is not None:
                        self._begin(router, source, batch)
                        return

    def _may_begin(self, router: "Router") -> bool:
        return router.ready and self._workers.can_lend

    def _limit(self, router: "Router") -> IdleLimit:
        """In the time of the model's table."""
        drift = router.scheduler.drift
        ever_ns = SLO_SHARE * min(each.shortest_slo_ns for each in self.routers)
        return IdleLimit(int(min(ever_ns, QUIET_SHARE * self._quiet_ns) / drift), int(ever_ns / drift))

    def _begin(self, router: "Router", source: IdleSource, batch: IdleBatch) -> None:
        self.worker = router.launch_idle(batch)
        self._running = _Running(router, source, batch)
