"""The machine that worker processes run on: stands in for `superserve.serving.fork_server.ForkServer`.

A process here has real descriptors, speaks the real messages and computes in the real shared memory; what is played is
time, and what becomes of it. Faults are laid out beforehand (`Host.trouble`) or happen to a running process.
"""

import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from deterministic.loop import VirtualLoop
from deterministic.process import Process
from deterministic.trouble import Costs, StartTrouble, Trouble
from superserve.profile import LatencyTable
from superserve.serving.ipc import WorkerSpec

Log = Callable[[str], None]


class Host:
    """Starts and runs worker processes: see `superserve.serving.fork_server.Forks`.

    Args:
        loop: has the time.
        tables: latencies by the profile that a model's options name.
        log: told of everything that happens; ``broken``: of what should not.
        jitter: a factor of a batch's latency, drawn for each.

    Attributes:
        trouble: by worker, what happens to its next batches, one each.
        start_trouble: by worker, what happens to its next processes, one each.
        slow: by worker, how many times as long as profiled its batches take.
    """

    def __init__(
        self, loop: VirtualLoop, tables: Mapping[str, LatencyTable], log: Log, broken: Log, jitter: Iterator[float]
    ) -> None:
        self.loop = loop
        self.tables = tables
        self.log = log
        self.broken = broken
        self.jitter = jitter
        self.costs = Costs()
        self.trouble: dict[int, deque[Trouble]] = defaultdict(deque)
        self.start_trouble: dict[int, deque[StartTrouble]] = defaultdict(deque)
        self.slow: dict[int, float] = {}
        self.processes: dict[int, Process] = {}
        """Those that live, by process id."""
        self.models: Mapping[int, WorkerSpec] = {}
        self._statuses: dict[int, int] = {}
        self._last_pid = 100

    def fork(self, core: int, descriptors: Sequence[int], *, background: bool = False) -> None:
        """See `Forks.fork`. A worker is recognised by its core."""
        trouble = self.start_trouble[core].popleft() if self.start_trouble[core] else None
        if trouble is StartTrouble.REFUSED:
            self.log(f"worker {core}: {trouble}")
            raise OSError(11, "Resource temporarily unavailable")
        self._last_pid += 1
        self.log(f"process {self._last_pid} of worker {core} begins{' in the background' if background else ''}")
        self.processes[self._last_pid] = Process(self, self._last_pid, core, descriptors, trouble)

    def kill(self, pid: int) -> None:
        """See `Forks.kill`; what a process does until that takes effect, it has done."""
        if pid in self.processes:
            self.loop.after(self.costs.end_ns, self.processes[pid].die)

    def watch(self, pid: int) -> int:
        """See `Forks.watch`."""
        if pid in self.processes:
            return os.dup(self.processes[pid].end_fd)
        ended, writer = os.pipe()
        os.close(writer)
        return ended

    def wait(self, pid: int) -> int:
        """See `Forks.wait`."""
        assert pid in self._statuses, "waits for a process that has not ended: that would block the router"
        return self._statuses.pop(pid)

    def end(self) -> None:
        """See `Forks.end`: what has not begun yet never will."""
        for process in list(self.processes.values()):
            if not process.begun:
                process.die()

    def ended(self, pid: int, status: int) -> None:
        """A process has ended, with a wait status."""
        self.log(f"process {pid} ends with {status}")
        self._statuses[pid] = status
        del self.processes[pid]

    def of(self, worker: int) -> Process | None:
        """The process of a worker that serves or loads; None if it is down."""
        found = [process for process in self.processes.values() if process.worker == worker]
        return found[-1] if found else None
