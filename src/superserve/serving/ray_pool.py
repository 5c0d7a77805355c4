"""The worker pool of a Ray cluster: an actor per worker, on whichever node Ray has room."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from superserve.clock import NS_PER_S, Clock, wait_until_ns
from superserve.errors import ConfigError, WorkerError
from superserve.serving.devices import on_device
from superserve.serving.emulated import ENGINE_NAME as EMULATED
from superserve.serving.incarnation import IncarnationOwner
from superserve.serving.ipc import Ready, WorkerSpec
from superserve.serving.overdue import OverdueLimits
from superserve.serving.pool import Batch, PoolListener
from superserve.serving.ray_calls import Cluster
from superserve.serving.ray_incarnation import RayIncarnation
from superserve.serving.ray_kinds import Room, no_room, wanted
from superserve.serving.ray_models import ModelSource, source_of
from superserve.serving.supervisor import PoolLimits, WorkerSupervisor

_logger = logging.getLogger(__name__)

#: Between two looks at which nodes there are.
_LOOK_NS: Final = NS_PER_S
#: As many calls of Ray that block may be under way.
_THREADS: Final = 4
#: When one worker could not start, so long is waited for one that can.
_PATIENCE_NS: Final = 30 * NS_PER_S

_FIXED: Final = "the workers of a Ray pool hold the models that they were started with: start the server again"

LIMITS: Final = PoolLimits(overdue=OverdueLimits())

_T = TypeVar("_T")


class RayPool:
    """Workers on the nodes of a Ray cluster; see `superserve.serving.pool.WorkerPool`.

    Ray decides where each of them runs, when there is room for it: a worker that is lost waits for another place, one
    on a node that is being drained moves as soon as there is one. Each has one batch at a time, launched when it is
    idle: what it runs is decided as late as possible, and there is nothing to take back when it is lost.

    Where there are several kinds of workers, each worker is of one for good, and runs the models on its device.

    Args:
        specs: the models that the workers run; numbered from 0 in this order.
        cluster: where they run, and on what.
        clock: drives restarts and limits.
        count: how many, of the kinds in turns; None: as many of each kind as the cluster has room for, less a processor
            for the router, and more as it grows.
        limits: how patient to be with workers.
        blocking: threads for calls of Ray that block; shut down with the pool.

    Attributes:
        engines: by model, what the first worker said of its engine when it became ready; empty before.
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        cluster: Cluster,
        clock: Clock,
        count: int | None = None,
        *,
        limits: PoolLimits = LIMITS,
        blocking: Executor | None = None,
    ) -> None:
        self.engines: Mapping[int, Ready] = {}
        self._models = dict(enumerate(specs))
        self._cluster = cluster
        self._clock = clock
        self._count = count
        self._limits = limits
        self._sources: dict[int, ModelSource] = {}
        self._workers: list[WorkerSupervisor] = []
        self._kinds: list[int] = []
        """By worker."""
        self._lives: dict[int, RayIncarnation] = {}
        """By worker: the latest."""
        self._moving: dict[int, asyncio.Task[None]] = {}
        self._blocking = blocking or ThreadPoolExecutor(_THREADS, "superserve-ray")
        self._watching: asyncio.Task[None] | None = None
        self._listener: PoolListener

    @property
    def size(self) -> int:
        """See `WorkerPool.size`: those that wait for room are among them."""
        return len(self._workers)

    @property
    def emulated(self) -> bool:
        """Whether the workers only take time and answer zeros; known once started."""
        return any(engine.engine == EMULATED for engine in self.engines.values())

    async def start(self, listener: PoolListener) -> None:
        """See `WorkerPool.start`.

        Raises:
            ConfigError: if no node has what a worker needs.
        """
        assert not self._workers, "started twice"
        self._listener = listener
        self._sources = await self._in_thread(self._find_sources)
        rooms = await self._in_thread(self._cluster.rooms)
        if not all(room.total for room in rooms):
            await self._tell_of_lack(rooms)
        try:
            self.engines = await self._first([self._add(kind) for kind in self._missing(rooms)])
        except BaseException:
            await self._end(at_once=True)
            raise
        self._watching = asyncio.ensure_future(self._watch())

    def device(self, worker: int) -> str:
        """See `WorkerPool.device`."""
        return self._workers[worker].device

    def launch(self, worker: int, batch: Batch) -> None:
        """See `WorkerPool.launch`."""
        self._workers[worker].launch(batch)

    async def add(self, spec: WorkerSpec) -> int:  # noqa: ARG002  (nothing is loaded)
        """See `WorkerPool.add`.

        Raises:
            WorkerError: always; the configuration lets nobody ask for it.
        """
        raise WorkerError(_FIXED)

    async def remove(self, model: int) -> None:  # noqa: ARG002
        """See `WorkerPool.remove`.

        Raises:
            WorkerError: always; the configuration lets nobody ask for it.
        """
        raise WorkerError(_FIXED)

    async def stop(self) -> None:
        """See `WorkerPool.stop`; a batch in flight may finish, within `PoolLimits.stop_ns`."""
        await self._end(at_once=False)

    def _find_sources(self) -> dict[int, ModelSource]:
        found = {model: source_of(spec) for model, spec in self._models.items()}
        return {model: source for model, source in found.items() if source is not None}

    def _missing(self, rooms: Sequence[Room]) -> list[int]:
        """The kinds of the workers that are to be started in a cluster like this, beside those that there are."""
        kinds = self._cluster.kinds
        if self._count is not None:
            return [number % len(kinds) for number in range(self.size, self._count)]
        found: list[int] = []
        for number, (kind, room) in enumerate(zip(kinds, rooms, strict=True)):
            held = sum(life.node is not None for worker, life in self._lives.items() if self._kinds[worker] == number)
            found += [number] * (wanted(kind, room, held) - self._kinds.count(number))
        if not found and not self._workers:
            found = [next(number for number, room in enumerate(rooms) if room.total)]
        return found

    async def _tell_of_lack(self, rooms: Sequence[Room]) -> None:
        """Some kinds of workers, or all, can start nowhere.

        Raises:
            ConfigError: if all.
        """
        kinds = [kind for kind, room in zip(self._cluster.kinds, rooms, strict=True) if not room.total]
        if len(kinds) == len(rooms):
            raise ConfigError(no_room(kinds, await self._in_thread(self._cluster.resources)))
        for kind in kinds:
            _logger.warning("no worker on %s, until a node joins that has what it needs: %s", kind.device, kind.told)

    def _add(self, kind: int) -> "asyncio.Future[Mapping[int, Ready]]":
        self._kinds.append(kind)
        worker = WorkerSupervisor(
            len(self._workers),
            self._models,
            clock=self._clock,
            limits=self._limits,
            spawn=self._spawn,
            listener=self._listener,
        )
        self._workers.append(worker)
        return worker.start(asyncio.get_running_loop())

    def _spawn(
        self, worker: int, models: Mapping[int, WorkerSpec], owner: IncarnationOwner, *, background: bool
    ) -> RayIncarnation:
        """See `Spawn`; where another one serves, this one is to have a place of its own."""
        del background
        kind = self._kinds[worker]
        device = self._cluster.kinds[kind].device
        life = self._lives[worker] = RayIncarnation(
            worker,
            {model: on_device(spec, device) for model, spec in models.items()},
            self._sources,
            owner,
            kind=kind,
            cluster=self._cluster,
            clock=self._clock,
            blocking=self._blocking,
        )
        return life

    async def _first(self, starting: "Sequence[asyncio.Future[Mapping[int, Ready]]]") -> Mapping[int, Ready]:
        """What the first worker that is ready says; those that cannot start are waited for no longer than it takes.

        Raises:
            WorkerError: if none can start.
        """
        until_ns = self._clock.now_ns() + self._limits.start_ns
        limit = asyncio.ensure_future(wait_until_ns(self._clock, until_ns))
        waiting: set[asyncio.Future[Mapping[int, Ready]]] = set(starting)
        reasons: list[str] = []
        try:
            while waiting and not limit.done():
                either: set[asyncio.Future[Any]] = {*waiting, limit}
                done, _ = await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                for future in waiting & done:
                    error = future.exception()
                    if error is None:
                        return future.result()
                    reasons.append(str(error))
                waiting -= done
                if reasons and until_ns > (sooner_ns := self._clock.now_ns() + _PATIENCE_NS):
                    limit.cancel()
                    until_ns = sooner_ns
                    limit = asyncio.ensure_future(wait_until_ns(self._clock, until_ns))
        finally:
            limit.cancel()
            for future in starting:
                future.add_done_callback(_look_at)
        unplaced = f"{len(waiting)} workers have not found room, or were not ready in time" if waiting else ""
        raise WorkerError("; ".join([*dict.fromkeys(reasons), *([unplaced] if unplaced else [])]))

    async def _watch(self) -> None:
        """Follow the cluster: more workers where there is more room, others for those on nodes that go."""
        while True:
            await wait_until_ns(self._clock, self._clock.now_ns() + _LOOK_NS)
            try:
                rooms = await self._in_thread(self._cluster.rooms)
                draining = await self._in_thread(self._cluster.draining)
            except Exception as error:  # noqa: BLE001  (whatever Ray raises: it may be back in a second)
                _logger.warning("cannot look at the Ray cluster: %s", self._cluster.why(error))
                continue
            for kind in self._missing(rooms):
                _logger.info("the Ray cluster has room for worker %d", self.size)
                self._add(kind).add_done_callback(_look_at)
            for number, life in list(self._lives.items()):
                if life.node in draining and life.engines and number not in self._moving:
                    self._move(number, life)

    def _move(self, number: int, life: RayIncarnation) -> None:
        _logger.info("worker %d leaves %s, which is being drained", number, life.place)
        task = self._moving[number] = asyncio.ensure_future(self._moved(number, life))
        task.add_done_callback(lambda _: self._moving.pop(number))

    async def _moved(self, number: int, life: RayIncarnation) -> None:
        """Let a worker serve where it is until it is ready elsewhere."""
        worker = self._workers[number]
        try:
            await worker.prepare(self._models)
        except WorkerError as error:
            _logger.warning("%s", error)
            self._lives[number] = life
            return
        await worker.commit(self._models)

    async def _end(self, *, at_once: bool) -> None:
        for task in (self._watching, *self._moving.values()):
            if task is not None:
                task.cancel()
        self._watching = None
        for ended in [worker.stop(at_once=at_once) for worker in self._workers]:
            await ended
        self._workers = []
        await asyncio.to_thread(self._blocking.shutdown)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._blocking, partial(work))


def _look_at(future: "asyncio.Future[Mapping[int, Ready]]") -> None:
    """Whoever might have waited for it has what it wanted; that it failed has been logged."""
    if not future.cancelled():
        future.exception()
