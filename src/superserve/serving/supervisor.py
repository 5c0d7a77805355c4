"""Keeps one worker of a pool up, through all the processes that takes."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from superserve.clock import NS_PER_MS, NS_PER_S, Clock, Timer
from superserve.errors import WorkerError
from superserve.serving.incarnation import Incarnation, Spawn
from superserve.serving.ipc import Done, Failed, Ready, WorkerSpec
from superserve.serving.overdue import OverdueLimits, OverdueWatch
from superserve.serving.pool import Batch, BatchResult, PoolListener
from superserve.serving.watchdog import AnswerLimits, Watchdog

logger = logging.getLogger(__name__)

_FIRST_BACKOFF_NS: Final = 100 * NS_PER_MS
_LAST_BACKOFF_NS: Final = 5 * NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """How patient a pool is with its workers."""

    start_ns: int = 300 * NS_PER_S
    """A worker that is not ready by then is killed."""
    answer: AnswerLimits = field(default_factory=AnswerLimits)
    """A worker that does not answer a batch within these is killed."""
    overdue: OverdueLimits | None = None
    """One that does not within these is not counted on, and others get its batch as well; None: it is waited for."""
    reside_ns: int = 300 * NS_PER_S
    """A worker that has not mapped by then what is to be resident is killed. It may have to start first, and maps
    at the lowest priority, in the time that its batches leave."""
    stop_ns: int = 2 * NS_PER_S
    """A worker that has not finished its batches by then is killed when the pool stops."""


class WorkerSupervisor:
    """One worker: starts its process, hands it batches, tells the listener, and starts it again when it dies.

    Other models mean another process: it is prepared beside the one that serves, in the time that their core has left
    over, and takes its place between two batches. So a model that loads takes nothing from those that are served, and
    one that cannot be loaded takes only its own process with it.

    Args:
        number: the worker's.
        models: what it runs, by the pool's numbers.
        clock: drives restarts and limits.
        limits: how patient to be.
        spawn: makes its processes.
        listener: who hears of the worker.
    """

    def __init__(
        self,
        number: int,
        models: Mapping[int, WorkerSpec],
        *,
        clock: Clock,
        limits: PoolLimits,
        spawn: Spawn,
        listener: PoolListener,
    ) -> None:
        self._number = number
        self._models = models
        self._clock = clock
        self._limits = limits
        self._make = spawn
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop
        self._current: Incarnation | None = None
        self._next: Incarnation | None = None
        self._old: set[Incarnation] = set()
        """Those whose place has been taken, and which have not ended yet."""
        self._subnets: dict[int, tuple[str, ...]] = {}
        self._restart_timer: Timer | None = None
        self._backoff_ns = _FIRST_BACKOFF_NS
        self._ready = False
        self._overlaps = False
        """Whether the listener has been told that there may be a batch behind another."""
        self._in_flight = Watchdog(clock, limits.answer, self._on_hang)
        self._overdue = None if limits.overdue is None else OverdueWatch(clock, limits.overdue, self._on_overdue)
        self._proven = False
        """Whether the process that serves has answered a batch."""
        self._stopping = False
        self._first_ready: asyncio.Future[Mapping[int, Ready]]
        self._prepared: asyncio.Future[Mapping[int, Ready]] | None = None
        self._swapped: asyncio.Future[None] | None = None
        self._residing: asyncio.Future[tuple[int, ...]] | None = None
        self._reside_timer: Timer | None = None
        self._wanted: tuple[int, ...] = ()
        self._ended: asyncio.Future[None]

    @property
    def pid(self) -> int | None:
        """The worker's process; None while it is down."""
        return self._current.pid if self._current else None

    @property
    def device(self) -> str:
        """What the process that serves runs on; empty while there is none."""
        engines = () if self._current is None else self._current.engines.values()
        return next((engine.device for engine in engines), "")

    def start(self, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[Mapping[int, Ready]]":
        """Start the worker; the future tells of its first readiness, or fails with `WorkerError`.

        Raises:
            WorkerError: if the process cannot even be started.
        """
        self._loop = loop
        self._first_ready = loop.create_future()
        self._ended = loop.create_future()
        self._current = self._spawn(self._models)
        return self._first_ready

    def launch(self, batch: Batch) -> None:
        """Hand over a batch; the worker must be idle, or have one and overlap them."""
        assert self._current is not None, f"worker {self._number} is down"
        assert self._ready, f"worker {self._number} is not ready"
        assert len(self._in_flight) <= self._overlaps, f"worker {self._number} is busy"
        self._in_flight.began(batch.planned_ns)
        if self._overdue is not None:
            self._overdue.began(batch.due_ns)
        self._current.launch(batch)

    def prepare(self, models: Mapping[int, WorkerSpec]) -> "asyncio.Future[Mapping[int, Ready]]":
        """Start a process with other models beside the one that serves.

        The future tells when all its models are warm, or fails with `WorkerError`; then comes `commit` or `abandon`.

        Raises:
            WorkerError: if the process cannot even be started.
        """
        assert self._next is None, f"worker {self._number} has a process in preparation"
        self._prepared = self._loop.create_future()
        self._next = self._spawn(models, background=True)
        return self._prepared

    def commit(self, models: Mapping[int, WorkerSpec]) -> "asyncio.Future[None]":
        """Have the prepared process take over as soon as no batch runs; the future tells when it has.

        Until then a worker that overlaps batches gets none behind another, or there would always be one.
        """
        self._models = models
        self._prepared = None
        swapped = self._swapped = self._loop.create_future()
        if self._in_flight:
            self._overlap(overlaps=False)
        else:
            self._swap()
        return swapped

    def abandon(self) -> None:
        """End what `prepare` started."""
        if self._next is not None:
            self._next.kill("another worker could not load the same models")
            self._old.add(self._next)
            self._next = None
        self._prepared = None

    def reside(self, models: Mapping[int, WorkerSpec], model: int) -> "asyncio.Future[tuple[int, ...]]":
        """Have what a model's spec says resident, and nothing else, in the process that serves and in later ones.

        The future tells what is resident. A worker that is down, or goes down meanwhile, has no other process yet.
        """
        assert self._next is None, f"worker {self._number} has a process in preparation"
        self._models = models
        self._lose_resident()
        self._residing = self._loop.create_future()
        wanted = self._wanted = models[model].resident
        if self._current is None:
            self._lose_resident()
        else:
            self._current.reside(model, wanted)
            until_ns = self._clock.now_ns() + self._limits.reside_ns
            self._reside_timer = self._clock.call_at(until_ns, partial(self._on_unmapped, self._current))
        return self._residing

    def stop(self, *, at_once: bool) -> "asyncio.Future[None]":
        """End the worker for good; the future tells when nothing of it is left.

        Unless ``at_once``, a batch that is running may finish within the limit. The listener hears of a batch that
        does not, as of one of a lost worker.
        """
        self._stopping = True
        self._lose_resident()
        self._cancel_restart()
        self._fail(self._prepared, "the pool stops")
        self._tell_swapped()
        for incarnation in (self._current, self._next, *self._old):
            if incarnation is None:
                continue
            if incarnation is self._current and self._ready and not at_once:
                incarnation.ask_to_stop(self._limits.stop_ns, "did not finish its batch before the pool stopped")
            else:
                incarnation.kill("the pool stops")
        self._end_if_empty()
        return self._ended

    def on_ready(self, incarnation: Incarnation) -> None:
        """See `IncarnationOwner.on_ready`."""
        changed = [
            model
            for model, engine in incarnation.engines.items()
            if self._subnets.setdefault(model, engine.subnet_ids) != engine.subnet_ids
        ]
        if changed:
            incarnation.kill("its model has other subnets than before: was the model folder overwritten?")
        elif incarnation is self._next:
            if self._prepared is not None and not self._prepared.done():
                self._prepared.set_result(incarnation.engines)
        elif incarnation is self._current:
            if not self._first_ready.done():
                self._first_ready.set_result(incarnation.engines)
            self._serve(incarnation)
            self._listener.on_worker_ready(self._number)

    def on_start_failed(self, incarnation: Incarnation, message: str) -> None:
        """See `IncarnationOwner.on_start_failed`."""
        self._fail(self._prepared if incarnation is self._next else self._first_ready, message)

    def on_answer(self, incarnation: Incarnation, answer: Done | Failed) -> None:
        """See `IncarnationOwner.on_answer`."""
        self._in_flight.ended()
        if self._overdue is not None:
            self._overdue.ended()
        self._proven = True
        outputs = incarnation.outputs()
        if self._swapped is not None and not self._in_flight:
            self._swap()  # whatever the listener launches next is for the new process
        if isinstance(answer, Done):
            result = BatchResult(outputs, answer.infer_ns, answer.actuate_ns, answer.device_ns, answer.waited_ns)
            self._listener.on_batch_done(self._number, result)
        else:
            logger.error("worker %d failed on a batch: %s", self._number, answer.message)
            self._listener.on_batch_failed(self._number, answer.message)

    def on_resident(self, incarnation: Incarnation, subnets: Sequence[int]) -> None:
        """See `IncarnationOwner.on_resident`."""
        if incarnation is self._current:
            self._stop_waiting(tuple(subnets))

    def on_stderr(self, line: str) -> None:
        """See `IncarnationOwner.on_stderr`."""
        logger.info("worker %d: %s", self._number, line)

    def on_exit(self, incarnation: Incarnation, reason: str) -> None:
        """See `IncarnationOwner.on_exit`."""
        if incarnation is self._current:
            self._on_loss(reason)
        elif incarnation is self._next:
            self._next = None
            self._fail(self._prepared, reason)
        self._old.discard(incarnation)
        if self._stopping:
            self._end_if_empty()

    def _on_loss(self, reason: str) -> None:
        was_ready, was_busy = self._ready, bool(self._in_flight)
        if self._proven:  # only what dies before it has done anything is likely to do so again
            self._backoff_ns = _FIRST_BACKOFF_NS
        self._current, self._ready, self._proven, self._overlaps = None, False, False, False
        self._in_flight.clear()
        self._lose_resident()
        if self._overdue is not None:
            self._overdue.clear()
        self._cancel_restart()
        if not self._stopping:
            logger.error("worker %d is lost: %s", self._number, reason)
            self._fail(self._first_ready, reason)
            self._schedule_restart()
        if was_ready and (was_busy or not self._stopping):
            self._listener.on_worker_lost(self._number, reason)
        if self._swapped is not None and not self._stopping:
            self._swap()

    def _swap(self) -> None:
        """Let the prepared process take the place of the one that serves, which runs no batch now."""
        old, new, was_ready = self._current, self._next, self._ready
        if new is None:  # it has died since it was prepared; the next process of this worker will have its models
            if old is not None:
                old.kill("it lacks models that were loaded meanwhile")
                return
        else:
            self._cancel_restart()
            self._current, self._next = new, None
            self._serve(new)
            if old is not None:
                self._retire(old, was_ready=was_ready)
            if not was_ready:
                self._listener.on_worker_ready(self._number)
        self._tell_swapped()

    def _retire(self, incarnation: Incarnation, *, was_ready: bool) -> None:
        self._old.add(incarnation)
        if was_ready:
            incarnation.ask_to_stop(self._limits.stop_ns, "did not end when another process took its place")
        else:
            incarnation.kill("another process took its place")

    def _tell_swapped(self) -> None:
        if self._swapped is not None:
            if not self._swapped.done():  # whoever waited may have given up
                self._swapped.set_result(None)
            self._swapped = None

    def _serve(self, incarnation: Incarnation) -> None:
        """A process is warm, and the one that gets the batches from now on."""
        self._subnets = {model: engine.subnet_ids for model, engine in incarnation.engines.items()}
        self._ready, self._proven = True, False
        self._overlap(overlaps=all(engine.overlaps for engine in incarnation.engines.values()))
        logger.info(
            "worker %d is ready on %s, %d models, %d ms to load, %d ms to warm up",
            self._number,
            incarnation.place,
            len(incarnation.engines),
            sum(engine.load_ns for engine in incarnation.engines.values()) // NS_PER_MS,
            sum(engine.warm_ns for engine in incarnation.engines.values()) // NS_PER_MS,
        )

    def _overlap(self, *, overlaps: bool) -> None:
        if self._overlaps != overlaps:
            self._overlaps = overlaps
            self._listener.on_worker_overlaps(self._number, overlaps=overlaps)

    def _lose_resident(self) -> None:
        """No process is left that could say what is resident: the next one begins with what is wanted."""
        self._stop_waiting(self._wanted)

    def _stop_waiting(self, resident: tuple[int, ...]) -> None:
        if self._residing is not None and not self._residing.done():  # whoever waited may have given up
            self._residing.set_result(resident)
        if self._reside_timer is not None:
            self._reside_timer.cancel()
            self._reside_timer = None

    def _on_unmapped(self, incarnation: Incarnation) -> None:
        incarnation.kill("did not say in time what is resident")

    def _fail(self, waiting: "asyncio.Future[Mapping[int, Ready]] | None", reason: str) -> None:
        """A process cannot start: whoever waits for it hears why."""
        if waiting is not None and not waiting.done():
            waiting.set_exception(WorkerError(f"worker {self._number} cannot start: {reason}"))

    def _spawn(self, models: Mapping[int, WorkerSpec], *, background: bool = False) -> Incarnation:
        incarnation = self._make(self._number, models, self, background=background)
        incarnation.start(self._loop, self._limits.start_ns)
        return incarnation

    def _schedule_restart(self) -> None:
        self._restart_timer = self._clock.call_at(self._clock.now_ns() + self._backoff_ns, self._restart)
        self._backoff_ns = min(2 * self._backoff_ns, _LAST_BACKOFF_NS)

    def _restart(self) -> None:
        try:
            self._current = self._spawn(self._models)
        except WorkerError as error:
            logger.error("%s", error)  # noqa: TRY400  (the operating system's words say it all)
            self._schedule_restart()

    def _on_hang(self, waited_ns: int) -> None:
        if self._current is not None:
            self._current.kill(f"did not answer within {waited_ns / NS_PER_S:g} s")

    def _on_overdue(self) -> None:
        self._listener.on_batch_overdue(self._number)

    def _cancel_restart(self) -> None:
        if self._restart_timer is not None:
            self._restart_timer.cancel()
            self._restart_timer = None

    def _end_if_empty(self) -> None:
        if self._current is None and self._next is None and not self._old and not self._ended.done():
            self._ended.set_result(None)
