"""The worker pool of one machine: a process per core, fed through shared memory."""

import asyncio
from collections.abc import Sequence

from superserve.clock import Clock
from superserve.errors import WorkerError
from superserve.serving.emulated import ENGINE_NAME as EMULATED
from superserve.serving.ipc import Ready, Setup, WorkerSpec
from superserve.serving.pool import Batch, PoolListener
from superserve.serving.supervisor import PoolLimits, WorkerSupervisor


class LocalPool:
    """Worker processes of this machine; see `superserve.serving.pool.WorkerPool`.

    A worker that dies is started again, after 0.1 s at first and twice as long each time up to 5 s, without the others
    noticing.

    Args:
        spec: what the workers run.
        cores: the core of each worker: there are as many workers as entries.
        clock: drives restarts and limits.
        limits: how patient to be with workers.

    Attributes:
        engine: what the workers said of their engine when they became ready; None before.
    """

    def __init__(self, spec: WorkerSpec, cores: Sequence[int], clock: Clock, limits: PoolLimits | None = None) -> None:
        self.engine: Ready | None = None
        self._spec = spec
        self._cores = tuple(cores)
        self._clock = clock
        self._limits = limits or PoolLimits()
        self._workers: list[WorkerSupervisor] = []

    @property
    def size(self) -> int:
        """See `WorkerPool.size`."""
        return len(self._cores)

    @property
    def emulated(self) -> bool:
        """Whether the workers only take time and answer zeros; known once started."""
        return self.engine is not None and self.engine.engine == EMULATED

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The process of each worker; None for one that is down."""
        return tuple(worker.pid for worker in self._workers)

    async def start(self, listener: PoolListener) -> None:
        """See `WorkerPool.start`."""
        assert not self._workers, "started twice"
        loop = asyncio.get_running_loop()
        started = []
        try:
            for number, core in enumerate(self._cores):
                worker = WorkerSupervisor(Setup(number, self._spec), core, self._clock, self._limits, listener)
                self._workers.append(worker)
                started.append(worker.start(loop))
            engines = await asyncio.gather(*started)
        except BaseException:
            await self._end(at_once=True)
            raise
        self.engine = engines[0]
        if len({engine.subnet_ids for engine in engines}) > 1:
            await self._end(at_once=True)
            raise WorkerError("workers found different subnets in the model folder: was it overwritten meanwhile?")

    def launch(self, worker: int, batch: Batch) -> None:
        """See `WorkerPool.launch`."""
        self._workers[worker].launch(batch)

    async def stop(self) -> None:
        """See `WorkerPool.stop`; a batch in flight may finish, within `PoolLimits.stop_ns`."""
        await self._end(at_once=False)

    async def _end(self, *, at_once: bool) -> None:
        ended = [worker.stop(at_once=at_once) for worker in self._workers]
        for future in ended:
            await future
        self._workers = []
