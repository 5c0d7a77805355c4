"""A worker process in virtual time: it plays ``serving/worker.py``; what goes wrong with it is a `Trouble`."""

import os
import signal
import socket
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from deterministic.model import POISON, RAISES, compute, tags_of
from deterministic.trouble import StartTrouble, Trouble
from superserve.clock import NS_PER_MS
from superserve.profile import LatencyTable
from superserve.serving.emulated import emulated_source
from superserve.serving.ipc import (
    Done,
    Failed,
    FromWorker,
    Launch,
    Ready,
    Resident,
    Setup,
    SlotLayout,
    Started,
    StartFailed,
    WorkerSlots,
    worker_channel,
)

if TYPE_CHECKING:
    from deterministic.host import Host

#: Whoever sends garbage does not live much longer.
_GARBAGE_NS: Final = 5 * NS_PER_MS


class Process:
    """One process, from its begin to its end.

    Args:
        host: the machine.
        pid: its process id.
        worker: whose it is.
        descriptors: its socket, its shared memory and its output, as long as its parent has them.
        trouble: what goes wrong when it starts.

    Attributes:
        end_fd: readable once it has ended.
        begun: whether it has said that it is there.
    """

    def __init__(
        self, host: "Host", pid: int, worker: int, descriptors: Sequence[int], trouble: StartTrouble | None
    ) -> None:
        self.worker = worker
        self.begun = False
        self._host = host
        self._pid = pid
        socket_fd, self._memory_fd, self._output_fd = (os.dup(descriptor) for descriptor in descriptors)
        self.end_fd, self._end_writer = os.pipe()
        self._socket = socket.socket(fileno=socket_fd)
        self._channel = worker_channel(self._socket)
        self._trouble = trouble
        self._setups: list[Setup] = []
        self._slots: dict[int, WorkerSlots] = {}
        self._inbox: deque[tuple[Launch, int]] = deque()
        """With the instants at which they came."""
        self._overlaps = False
        self._running = False
        self._stopped = False
        self._leaving = False
        self._status: int | None = None
        self._socket.settimeout(0)
        host.loop.after(self._takes(host.costs.import_ns), self._imported)

    # ---- what happens to it

    def die(self, status: int = signal.SIGKILL) -> None:
        """End now, with a wait status."""
        if self._status is not None:
            return
        self._status = status
        self._host.loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._slots.clear()
        for fd in (self._memory_fd, self._output_fd, self.end_fd, self._end_writer):
            os.close(fd)
        self._inbox.clear()
        self._host.ended(self._pid, status)

    def hang(self) -> None:
        """Do nothing more."""
        self._stopped = True

    # ---- what it does

    @property
    def _idle_forever(self) -> bool:
        return self._stopped or self._status is not None

    def _takes(self, span_ns: int) -> int:
        return span_ns * (10 if self._trouble is StartTrouble.SLOW else 1)

    def _imported(self) -> None:
        if not self._idle_forever:
            self.begun = True
            self._send(Started(self._pid))
            self._host.loop.add_reader(self._socket.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        if self._stopped:
            self._host.loop.remove_reader(self._socket.fileno())
            return
        message = self._channel.receive()
        if message is None:
            self._host.loop.remove_reader(self._socket.fileno())
            self._leaving = True
            if not self._running:
                self.die(0)
        elif isinstance(message, Launch):
            if self._running and (self._inbox or not self._overlaps):
                self._host.broken(f"worker {self.worker} has {len(self._inbox) + 1} batches, and gets another one")
            self._inbox.append((message, self._host.loop.now_ns))
            self._next()
        elif isinstance(message, Setup):
            self._on_setup(message)
        else:
            self._send(Resident(message.model, message.subnets))

    def _on_setup(self, setup: Setup) -> None:
        self._setups.append(setup)
        assert setup.worker == self.worker
        if not setup.more:
            self._host.loop.after(self._takes(self._host.costs.load_ns) * len(self._setups), self._loaded)

    def _loaded(self) -> None:
        if self._idle_forever:
            return
        trouble = self._trouble
        if trouble is not None:
            self._host.log(f"worker {self.worker}, process {self._pid}: {trouble}")
        if trouble is StartTrouble.HANGS:
            self.hang()
        elif trouble is StartTrouble.DIES:
            self.die(1 << 8)
        elif trouble is StartTrouble.SAYS_WHY:
            self._send(StartFailed("told to"))
            self.die(1 << 8)
        else:
            self._get_ready()

    def _get_ready(self) -> None:
        layouts = SlotLayout.of({setup.model: setup.spec for setup in self._setups})
        region = next(iter(layouts.values())).map(self._memory_fd)
        self._slots = {model: WorkerSlots(layout, region) for model, layout in layouts.items()}
        self._overlaps = all(setup.spec.in_flight > 1 for setup in self._setups)
        for setup in self._setups:
            ids = tuple(self._table(setup.model).ids)
            self._send(Ready("simulated", "none", "none", ids, 0, 0, setup.model, setup.more, overlaps=self._overlaps))

    def _table(self, model: int) -> LatencyTable:
        setup = next(setup for setup in self._setups if setup.model == model)
        return self._host.tables[emulated_source(setup) or ""]

    def _next(self) -> None:
        if self._running or not self._inbox or self._idle_forever:
            return
        host, (launch, came_ns) = self._host, self._inbox.popleft()
        self._running = True
        tags = self._tags(launch)
        trouble = host.trouble[self.worker].popleft() if host.trouble[self.worker] else self._inborn_trouble(tags)
        planned_ns = self._table(launch.model).latency_ns[launch.subnet][launch.rows]
        waited_ns = host.loop.now_ns - came_ns
        taken_ns = round(planned_ns * host.slow.get(self.worker, 1.0) * next(host.jitter))
        host.log(
            f"worker {self.worker} runs {tags} on {launch.model}/{launch.subnet}"
            + (f", behind for {waited_ns} ns" if waited_ns else "")
            + (f", {trouble}" if trouble else "")
        )
        if trouble is Trouble.DIES_AT_ONCE:
            self.die()
        elif trouble is Trouble.HANGS:
            self.hang()
        else:
            early = 0.5 if trouble is Trouble.DIES_BEFORE else 1.0
            done = Done(launch.seq, taken_ns, 0, 0, waited_ns)
            host.loop.after(host.costs.wake_ns + round(early * taken_ns), self._ended, launch, done, trouble)

    @staticmethod
    def _inborn_trouble(tags: list[int]) -> Trouble | None:
        if any(tag & POISON for tag in tags):
            return Trouble.DIES_BEFORE
        return Trouble.RAISES if any(tag & RAISES for tag in tags) else None

    def _tags(self, launch: Launch) -> list[int]:
        return tags_of(self._slots[launch.model].batch(launch.rows, launch.seq)[0])

    def _ended(self, launch: Launch, done: Done, trouble: Trouble | None) -> None:
        if self._idle_forever:
            return
        self._running = False
        if trouble is Trouble.DIES_BEFORE:
            self.die(signal.SIGSEGV)
            return
        self._answer(launch, done, trouble)
        if trouble is Trouble.DIES_AFTER:
            self.die()
        elif self._leaving and not self._inbox:
            self.die(0)
        else:
            self._next()

    def _answer(self, launch: Launch, done: Done, trouble: Trouble | None) -> None:
        if trouble in {Trouble.NONSENSE, Trouble.WRONG_SEQ, Trouble.WRONG_KIND}:
            loop = self._host.loop
            # Twice: the router may have been asleep when it was sent.
            loop.after(_GARBAGE_NS, loop.after, _GARBAGE_NS, self._check_over)
        if trouble is Trouble.RAISES:
            self._send(Failed(launch.seq, "told to"))
        elif trouble is Trouble.NONSENSE:
            self._socket.send(b"\xc1nonsense")
        elif trouble is Trouble.WRONG_SEQ:
            self._send(Done(launch.seq + 7, done.infer_ns, 0))
        elif trouble is Trouble.WRONG_KIND:
            self._send(Ready("simulated", "none", "none", (), 0, 0, launch.model))
        else:
            # Inputs are read as late as they can be: nobody may have touched them meanwhile.
            slots = self._slots[launch.model]
            slots.answer(launch.seq, launch.rows, compute(slots.batch(launch.rows, launch.seq), launch.subnet))
            self._send(done)

    def _check_over(self) -> None:
        if self._status is None:
            self._host.broken(f"worker {self.worker} has sent garbage, and lives")

    def _send(self, message: FromWorker) -> None:
        try:
            self._channel.send(message)
        except OSError:  # the router is gone
            self._host.log(f"worker {self.worker}: nobody listens")
