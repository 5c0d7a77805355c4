"""The worker pool of one machine: a process per core, fed through shared memory."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec

from superserve.clock import Clock
from superserve.errors import WorkerError
from superserve.serving.emulated import ENGINE_NAME as EMULATED
from superserve.serving.fork_server import Forks, ForkServer
from superserve.serving.incarnation import IncarnationOwner
from superserve.serving.ipc import Ready, WorkerSpec
from superserve.serving.local_incarnation import LocalIncarnation
from superserve.serving.pool import Batch, PoolListener
from superserve.serving.supervisor import PoolLimits, WorkerSupervisor


class LocalPool:
    """Worker processes of this machine; see `superserve.serving.pool.WorkerPool`.

    A worker that dies is started again, after 0.1 s at first and twice as long each time up to 5 s, without the others
    noticing.

    Args:
        specs: the models that the workers run; numbered from 0 in this order.
        cores: the core of each worker: there are as many workers as entries.
        clock: drives restarts and limits.
        limits: how patient to be with workers.
        forks: makes what their processes come from, given the models.

    Attributes:
        engines: by model, what the workers said of its engine when they became ready; empty before.
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        cores: Sequence[int],
        clock: Clock,
        limits: PoolLimits | None = None,
        forks: Callable[[Mapping[int, WorkerSpec]], Forks] = ForkServer,
    ) -> None:
        self.engines: Mapping[int, Ready] = {}
        self._models = dict(enumerate(specs))
        self._unwanted: set[int] = set()
        """Models that are to go, and could not, because a worker died meanwhile: they go with the next change."""
        self._numbers = len(specs)
        self._cores = tuple(cores)
        self._clock = clock
        self._limits = limits or PoolLimits()
        self._workers: list[WorkerSupervisor] = []
        self._make_forks = forks
        self._forks: Forks | None = None
        self._changing = asyncio.Lock()

    @property
    def size(self) -> int:
        """See `WorkerPool.size`."""
        return len(self._cores)

    @property
    def emulated(self) -> bool:
        """Whether the workers only take time and answer zeros; known once started."""
        return any(engine.engine == EMULATED for engine in self.engines.values())

    @property
    def pids(self) -> tuple[int | None, ...]:
        """The process of each worker; None for one that is down."""
        return tuple(worker.pid for worker in self._workers)

    async def start(self, listener: PoolListener) -> None:
        """See `WorkerPool.start`."""
        assert not self._workers, "started twice"
        loop = asyncio.get_running_loop()
        self._forks = self._make_forks(self._models)
        started = []
        try:
            for number in range(self.size):
                worker = WorkerSupervisor(
                    number,
                    self._models,
                    clock=self._clock,
                    limits=self._limits,
                    spawn=self._spawn,
                    listener=listener,
                )
                self._workers.append(worker)
                started.append(worker.start(loop))
            self.engines = _agreed(await asyncio.gather(*started))
        except BaseException:
            await self._end(at_once=True)
            raise

    def device(self, worker: int) -> str:
        """See `WorkerPool.device`."""
        return self._workers[worker].device

    def launch(self, worker: int, batch: Batch) -> None:
        """See `WorkerPool.launch`."""
        self._workers[worker].launch(batch)

    async def add(self, spec: WorkerSpec) -> int:
        """See `WorkerPool.add`."""
        async with self._changing:
            number = self._numbers
            self._numbers += 1
            await self._change({**self._wanted(), number: spec})
            return number

    async def remove(self, model: int) -> None:
        """See `WorkerPool.remove`."""
        async with self._changing:
            self._unwanted.add(model)
            await self._change(self._wanted())

    async def reside(self, model: int, subnets: Sequence[int]) -> tuple[int, ...]:
        """See `ResidentPool.reside`."""
        async with self._changing:
            if model not in self._models:
                raise WorkerError(f"no worker holds a model {model} any more")
            spec = msgspec.structs.replace(self._models[model], resident=tuple(subnets))
            self._models = {**self._models, model: spec}
            if self._forks is not None:
                self._forks.models = self._models
            found = await asyncio.gather(*[worker.reside(self._models, model) for worker in self._workers])
        return tuple(subnet for subnet in subnets if all(subnet in each for each in found))

    async def stop(self) -> None:
        """See `WorkerPool.stop`; a batch in flight may finish, within `PoolLimits.stop_ns`."""
        await self._end(at_once=False)

    def _wanted(self) -> dict[int, WorkerSpec]:
        """What workers are to hold: what they do, without what could not be taken out of them yet."""
        return {number: spec for number, spec in self._models.items() if number not in self._unwanted}

    def _spawn(
        self, worker: int, models: Mapping[int, WorkerSpec], owner: IncarnationOwner, *, background: bool
    ) -> LocalIncarnation:
        """See `Spawn`."""
        assert self._forks is not None, "made by the start"
        core = self._cores[worker]
        return LocalIncarnation(worker, models, core, self._clock, owner, forks=self._forks, background=background)

    async def _change(self, models: dict[int, WorkerSpec]) -> None:
        """Have every worker hold these models, or none of them."""
        prepared = []
        try:
            for worker in self._workers:
                prepared.append(worker.prepare(models))  # noqa: PERF401  (those before one that raises are abandoned)
            engines = _agreed(await asyncio.gather(*prepared))
        except BaseException:
            for worker in self._workers:
                worker.abandon()
            raise
        self._models = models
        self._unwanted &= models.keys()
        self.engines = engines
        if self._forks is not None:
            self._forks.models = models
        for swapped in [worker.commit(models) for worker in self._workers]:
            await swapped

    async def _end(self, *, at_once: bool) -> None:
        ended = [worker.stop(at_once=at_once) for worker in self._workers]
        for future in ended:
            await future
        self._workers = []
        if self._forks is not None:
            self._forks.end()


def _agreed(engines: Sequence[Mapping[int, Ready]]) -> Mapping[int, Ready]:
    """What all workers found."""
    found = [{model: engine.subnet_ids for model, engine in each.items()} for each in engines]
    if any(each != found[0] for each in found):
        raise WorkerError("workers found different subnets in the model folder: was it overwritten meanwhile?")
    return engines[0] if engines else {}
