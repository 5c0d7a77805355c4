"""Keeps one worker of a local pool up, through all the processes that takes."""

import asyncio
import logging
import os
from dataclasses import dataclass
from typing import Final

from superserve.clock import NS_PER_MS, NS_PER_S, Clock, Timer
from superserve.errors import WorkerError
from superserve.serving.ipc import Done, Failed, FromWorker, Launch, Ready, RouterSlots, Setup, SlotLayout, StartFailed
from superserve.serving.pool import Batch, BatchResult, PoolListener
from superserve.serving.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

_FIRST_BACKOFF_NS: Final = 100 * NS_PER_MS
_LAST_BACKOFF_NS: Final = 5 * NS_PER_S

#: After being ready for this long, a worker that dies is started again without delay beyond the first.
_STEADY_NS: Final = 10 * NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """How patient a pool is with its workers."""

    start_ns: int = 300 * NS_PER_S
    """A worker that is not ready by then is killed."""
    answer_ns: int = 30 * NS_PER_S
    """A worker that has not answered its batch by then is killed, within once that time again."""
    stop_ns: int = 2 * NS_PER_S
    """A worker that has not finished its batch by then is killed when the pool stops."""


class WorkerSupervisor:
    """One worker: starts its process, hands it batches, tells the listener, and starts it again when it dies.

    Args:
        setup: what the worker runs.
        core: the core it is pinned to.
        clock: drives restarts and limits.
        limits: how patient to be.
        listener: who hears of the worker.
    """

    def __init__(self, setup: Setup, core: int, clock: Clock, limits: PoolLimits, listener: PoolListener) -> None:
        self._setup = setup
        self._core = core
        self._clock = clock
        self._limits = limits
        self._listener = listener
        self._number = setup.worker
        self._loop: asyncio.AbstractEventLoop
        self._memory_fd = -1
        self._slots: RouterSlots
        self._process: WorkerProcess | None = None
        self._timer: Timer | None = None
        self._watchdog: Timer | None = None
        self._backoff_ns = _FIRST_BACKOFF_NS
        self._ready_ns: int | None = None
        self._launched_ns: int | None = None
        self._rows = 0
        self._seq = 0
        self._stopping = False
        self._first_ready: asyncio.Future[Ready]
        self._ended: asyncio.Future[None]

    @property
    def pid(self) -> int | None:
        """The worker's process; None while it is down."""
        return self._process.pid if self._process else None

    def start(self, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[Ready]":
        """Start the worker; the future tells of its first readiness, or fails with `WorkerError`.

        Raises:
            WorkerError: if the process cannot even be started.
        """
        self._loop = loop
        self._first_ready = loop.create_future()
        self._ended = loop.create_future()
        layout = SlotLayout(self._setup.spec)
        self._memory_fd = os.memfd_create(f"superserve-worker-{self._number}")
        os.ftruncate(self._memory_fd, layout.size)
        self._slots = RouterSlots(layout, layout.map(self._memory_fd))
        self._spawn()
        return self._first_ready

    def launch(self, batch: Batch) -> None:
        """Hand over a batch; the worker must be idle."""
        assert self._process is not None, f"worker {self._number} is down"
        assert self._ready_ns is not None, f"worker {self._number} is not ready"
        assert self._launched_ns is None, f"worker {self._number} is busy"
        self._slots.write(batch)
        self._seq += 1
        self._rows = batch.rows
        self._launched_ns = self._clock.now_ns()
        self._process.launch(Launch(self._seq, batch.subnet, batch.rows))
        if self._watchdog is None:
            self._watch(self._launched_ns)

    def stop(self, *, at_once: bool) -> "asyncio.Future[None]":
        """End the worker for good; the future tells when nothing of it is left.

        Unless ``at_once``, a batch that is running may finish within the limit. The listener hears of a batch that
        does not, as of one of a lost worker.
        """
        self._stopping = True
        self._cancel_timers()
        if self._process is None:
            self._release()
        elif at_once or self._ready_ns is None:
            self._process.kill("the pool stops")
        else:
            self._process.ask_to_stop()
            self._timer = self._after(self._limits.stop_ns, "did not finish its batch before the pool stopped")
        return self._ended

    def on_message(self, message: FromWorker) -> None:
        """See `ProcessOwner.on_message`."""
        if isinstance(message, Done):
            result = BatchResult(self._outputs(message.seq), message.infer_ns, message.actuate_ns)
            self._listener.on_batch_done(self._number, result)
        elif isinstance(message, Failed):
            self._outputs(message.seq)
            logger.error("worker %d failed on a batch: %s", self._number, message.message)
            self._listener.on_batch_failed(self._number, message.message)
        elif isinstance(message, Ready):
            self._on_ready(message)
        elif isinstance(message, StartFailed):
            self._fail_first(message.message)

    def on_stderr(self, line: str) -> None:
        """See `ProcessOwner.on_stderr`."""
        logger.info("worker %d: %s", self._number, line)

    def on_exit(self, reason: str) -> None:
        """See `ProcessOwner.on_exit`."""
        was_ready, was_busy = self._ready_ns is not None, self._launched_ns is not None
        if was_ready and self._clock.now_ns() - (self._ready_ns or 0) >= _STEADY_NS:
            self._backoff_ns = _FIRST_BACKOFF_NS
        self._process = self._ready_ns = self._launched_ns = None
        self._cancel_timers()
        if not self._stopping:
            logger.error("worker %d is lost: %s", self._number, reason)
            self._fail_first(reason)
            self._schedule_restart()
        if was_ready and (was_busy or not self._stopping):
            self._listener.on_worker_lost(self._number, reason)
        if self._stopping:
            self._release()

    def _on_ready(self, message: Ready) -> None:
        assert self._process is not None
        self._cancel_timers()
        if not self._first_ready.done():
            self._first_ready.set_result(message)
        elif self._first_ready.result().subnet_ids != message.subnet_ids:
            self._process.kill("its model has other subnets than before: was the model folder overwritten?")
            return
        self._ready_ns = self._clock.now_ns()
        logger.info(
            "worker %d is ready on core %d: process %d, %d ms to load, %d ms to warm up",
            self._number,
            self._core,
            self._process.pid,
            message.load_ns // NS_PER_MS,
            message.warm_ns // NS_PER_MS,
        )
        self._listener.on_worker_ready(self._number)

    def _outputs(self, seq: int) -> list[memoryview]:
        """Note that the batch in flight has been answered; its outputs."""
        assert self._launched_ns is not None, f"worker {self._number} answered batch {seq} twice"
        assert seq == self._seq, f"worker {self._number} answered batch {seq} instead of {self._seq}"
        self._launched_ns = None
        return self._slots.outputs(seq, self._rows)

    def _fail_first(self, reason: str) -> None:
        if not self._first_ready.done():
            self._first_ready.set_exception(WorkerError(f"worker {self._number} cannot start: {reason}"))

    def _spawn(self) -> None:
        process = WorkerProcess(self._setup, self._core, self)
        process.start(self._loop, self._memory_fd)
        self._process = process
        self._timer = self._after(self._limits.start_ns, "was not ready in time")

    def _schedule_restart(self) -> None:
        self._timer = self._clock.call_at(self._clock.now_ns() + self._backoff_ns, self._restart)
        self._backoff_ns = min(2 * self._backoff_ns, _LAST_BACKOFF_NS)

    def _restart(self) -> None:
        try:
            self._spawn()
        except WorkerError as error:
            logger.error("%s", error)  # noqa: TRY400  (the operating system's words say it all)
            self._schedule_restart()

    def _after(self, delay_ns: int, cause: str) -> Timer:
        """Kill the process after a while."""
        assert self._process is not None
        process = self._process
        return self._clock.call_at(self._clock.now_ns() + delay_ns, lambda: process.kill(cause))

    def _watch(self, since_ns: int) -> None:
        """See to it that the batch is answered. One timer serves many batches: it is set anew only when it fires."""
        self._watchdog = self._clock.call_at(since_ns + self._limits.answer_ns, self._on_watchdog)

    def _on_watchdog(self) -> None:
        self._watchdog = None
        if self._launched_ns is None or self._process is None:
            return
        if self._clock.now_ns() - self._launched_ns >= self._limits.answer_ns - NS_PER_MS:  # timers may be early
            self._process.kill(f"did not answer within {self._limits.answer_ns / NS_PER_S:g} s")
        else:
            self._watch(self._launched_ns)

    def _cancel_timers(self) -> None:
        for timer in (self._timer, self._watchdog):
            if timer is not None:
                timer.cancel()
        self._timer = self._watchdog = None

    def _release(self) -> None:
        if self._memory_fd >= 0:
            self._slots.close()
            os.close(self._memory_fd)
            self._memory_fd = -1
        if not self._ended.done():
            self._ended.set_result(None)
