"""One process of a worker of this machine, with the shared memory through which it gets its batches."""

import asyncio
import os
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from superserve.clock import Clock, Timer
from superserve.engine import IN_FLIGHT
from superserve.errors import WorkerError
from superserve.serving.fork_server import Forks
from superserve.serving.incarnation import IncarnationOwner
from superserve.serving.ipc import (
    Done,
    Failed,
    FromWorker,
    Launch,
    Ready,
    Reside,
    Resident,
    RouterSlots,
    Setup,
    SlotLayout,
    StartFailed,
    WorkerSpec,
)
from superserve.serving.pool import Batch
from superserve.serving.worker_process import WorkerProcess


class _InFlight(NamedTuple):
    """A batch that the process has been given, and has not answered."""

    seq: int
    model: int
    rows: int


class LocalIncarnation:
    """A worker process of this machine from its start to its end; see `superserve.serving.incarnation.Incarnation`.

    Args:
        worker: its number.
        models: what it holds, by the pool's numbers.
        core: the core it is pinned to.
        clock: drives limits.
        owner: who hears of it.
        forks: where its process comes from.
        background: whether it is to load only while its core has nothing else to do.
    """

    def __init__(
        self,
        worker: int,
        models: Mapping[int, WorkerSpec],
        core: int,
        clock: Clock,
        owner: IncarnationOwner,
        *,
        forks: Forks,
        background: bool = False,
    ) -> None:
        self.engines: Mapping[int, Ready] = {}
        """What it said of each model when all were warm; empty before."""
        self._worker = worker
        self._owner = owner
        self._clock = clock
        self._core = core
        self._layouts = SlotLayout.of(models)
        numbers = list(self._layouts)
        setups = [Setup(worker, self._layouts[model].spec, model, model != numbers[-1]) for model in numbers]
        self._process = WorkerProcess(setups, core, self, forks, background=background)
        self._slots: dict[int, RouterSlots] = {}
        self._loading: dict[int, Ready] = {}
        self._timer: Timer | None = None
        self._batches: deque[_InFlight] = deque()
        self._answered: _InFlight
        self._residing: deque[Reside] = deque()
        self._seq = 0

    @property
    def pid(self) -> int | None:
        """Its process id; None until it has begun."""
        return self._process.pid

    @property
    def place(self) -> str:
        """See `Incarnation.place`."""
        return f"core {self._core}: process {self.pid}"

    def start(self, loop: asyncio.AbstractEventLoop, limit_ns: int) -> None:
        """Start it; if it is not ready within a limit, it is killed.

        Raises:
            WorkerError: if the operating system refuses.
        """
        try:
            memory_fd = os.memfd_create("superserve-worker")
            try:
                # Claimed now: of memory that is not there a worker would die when it first writes to it.
                os.posix_fallocate(memory_fd, 0, next(iter(self._layouts.values())).size)
                self._map(memory_fd)
                self._process.start(loop, memory_fd)
            finally:
                os.close(memory_fd)
        except OSError as error:
            self._unmap()
            raise WorkerError(f"worker {self._worker} cannot be started: {error}") from error
        self.end_within(limit_ns, "was not ready in time")

    def launch(self, batch: Batch) -> None:
        """Hand over a batch."""
        self._seq += 1
        self._slots[batch.model].write(batch, self._seq)
        self._batches.append(_InFlight(self._seq, batch.model, batch.rows))
        self._process.send(Launch(self._seq, batch.subnet, batch.rows, batch.model))

    def reside(self, model: int, subnets: Sequence[int]) -> None:
        """See `Incarnation.reside`."""
        message = Reside(model, tuple(subnets))
        self._residing.append(message)
        self._process.send(message)

    def outputs(self) -> list[memoryview]:
        """See `Incarnation.outputs`."""
        seq, model, rows = self._answered
        return self._slots[model].outputs(seq, rows)

    def ask_to_stop(self, limit_ns: int, cause: str) -> None:
        """See `Incarnation.ask_to_stop`."""
        self._process.ask_to_stop()
        self.end_within(limit_ns, cause)

    def kill(self, cause: str) -> None:
        """End it now; ``cause`` becomes part of the reason."""
        self._process.kill(cause)

    def end_within(self, limit_ns: int, cause: str) -> None:
        """Kill it after a while."""
        self._cancel_timer()
        self._timer = self._clock.call_at(self._clock.now_ns() + limit_ns, lambda: self._process.kill(cause))

    def on_message(self, message: FromWorker) -> None:
        """See `ProcessOwner.on_message`."""
        if isinstance(message, Done | Failed) and self._batches and message.seq == self._batches[0].seq:
            self._answered = self._batches.popleft()
            self._owner.on_answer(self, message)
        elif isinstance(message, Ready) and not self.engines:
            self._on_loaded(message)
        elif isinstance(message, StartFailed) and not self.engines:
            self._owner.on_start_failed(self, message.message)
        elif isinstance(message, Resident) and self._is_asked(message):
            self._residing.popleft()
            self._owner.on_resident(self, message.subnets)
        else:  # nothing of what else it says can be trusted
            self._process.distrust(f"sent what makes no sense: {message!r}")

    def _is_asked(self, message: Resident) -> bool:
        """Whether it may have done this, of what it was told to do next."""
        asked = self._residing[0] if self._residing else None
        return asked is not None and asked.model == message.model and set(message.subnets) <= set(asked.subnets)

    def _on_loaded(self, message: Ready) -> None:
        self._loading[message.model] = message
        if message.more:
            return
        if self._loading.keys() != self._layouts.keys():
            self._process.distrust(f"is ready for models {sorted(self._loading)} instead of {sorted(self._layouts)}")
            return
        if message.overlaps and any(len(layout.inputs) < IN_FLIGHT for layout in self._layouts.values()):
            self._process.distrust("wants two batches at a time, and has room for one")
            return
        self._cancel_timer()
        self.engines = self._loading
        self._owner.on_ready(self)

    def on_stderr(self, line: str) -> None:
        """See `ProcessOwner.on_stderr`."""
        self._owner.on_stderr(line)

    def on_exit(self, reason: str) -> None:
        """See `ProcessOwner.on_exit`."""
        self._cancel_timer()
        self._unmap()
        self._owner.on_exit(self, reason)
        del self._process  # it refers back: without that both are freed at once, and need not wait for the collector

    def _map(self, memory_fd: int) -> None:
        for model, layout in self._layouts.items():
            self._slots[model] = RouterSlots(layout, layout.map(memory_fd))

    def _unmap(self) -> None:
        for slots in self._slots.values():
            slots.close()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
