"""Sees to it that the subnets which are most worth it run on the faster engine, while everything is served."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Final

import msgspec

from superserve.clock import NS_PER_MS, Clock, Timer
from superserve.errors import WorkerError
from superserve.serving.pool import ResidentPool
from superserve.serving.residency.pack_task import PackTask
from superserve.serving.residency.packed_model import PackedModel
from superserve.serving.residency.packer import Packs
from superserve.serving.residency.report import ResidencyReport
from superserve.serving.residency.steps import ResidencySteps, Steps

if TYPE_CHECKING:
    from superserve.serving.router import Router

_logger = logging.getLogger(__name__)

#: Between two looks at what was used.
LOOK_NS: Final = 500 * NS_PER_MS


class Residency:
    """Does what `ResidencySteps` decide: packs subnets, and has workers map and drop them.

    What is served never waits for any of it. Subnets are packed in a process of the lowest priority; workers drop
    between two batches, and map beside them.

    Args:
        pool: the workers, of all models.
        packs: packs a subnet.
        clock: time and timers.
        budget: see `ResidentSet`.
    """

    def __init__(self, pool: ResidentPool, packs: Packs, clock: Clock, budget: int | None = None) -> None:
        self._pool = pool
        self._packs = packs
        self._clock = clock
        self._steps = ResidencySteps(clock, budget, pool.size)
        self._tasks: dict[int, PackTask] = {}
        """By the pool's number of a model: what packs its first subnet."""
        self._begun = False
        self._timer: Timer | None = None
        self._packing: asyncio.Task[None] | None = None
        self._changing: asyncio.Task[None] | None = None

    def add(self, model: PackedModel, task: PackTask) -> None:
        """A model comes, before its router is started; the task packs its first subnet."""
        self._tasks[model.number] = task
        self._steps.add(model)
        if self._begun and self._timer is None:
            self._look_again()

    def remove(self, router: "Router") -> None:
        """A model goes, whose workers have no batch of it any more; nothing happens if it is on another engine."""
        for number in self._steps.remove(router):
            del self._tasks[number]

    def report(self, router: "Router") -> ResidencyReport | None:
        """What is resident of a model; None if it is on another engine."""
        return self._steps.report(router)

    async def begin(self) -> None:
        """Have what is packed already resident from the start; before the workers are started."""
        steps = self._steps.change()
        if steps is not None:
            await self._change(steps)

    async def go_on(self) -> None:
        """See what the workers have mapped, which have been started, and look from now on at what is used.

        Raises:
            WorkerError: if that cannot be known.
        """
        await self._do(self._steps.check())
        self._begun = True
        if self._steps.models:
            self._look_again()

    async def stop(self) -> None:
        """Do nothing more; idempotent."""
        self._begun = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tasks = [task for task in (self._packing, self._changing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def look(self) -> None:
        """Look at what was used, and begin what there is to do."""
        self._steps.look()
        if self._packing is None:
            found = self._steps.next_to_pack()
            if found is not None:
                model, subnet = found
                task = msgspec.structs.replace(self._tasks[model.number], subnet=subnet)
                self._packing = _start(self._pack(model, task))
        if self._changing is None:
            steps = self._steps.change()
            if steps is not None:
                self._changing = _start(self._change(steps))

    def _look_again(self) -> None:
        def look() -> None:
            self._timer = None
            self.look()
            if self._steps.models:
                self._look_again()

        self._timer = self._clock.call_at(self._clock.now_ns() + LOOK_NS, look)

    async def _pack(self, model: PackedModel, task: PackTask) -> None:
        try:
            record = await self._packs.pack(task)
        except WorkerError as error:
            self._steps.failed(model, task.subnet, f"cannot be packed: {error}")
        else:
            self._steps.packed(model, task.subnet, record)
        finally:
            self._steps.packing_ended(model)
            self._packing = None

    async def _change(self, steps: Steps) -> None:
        try:
            await self._do(steps)
        except WorkerError as error:  # the pool stops, or a model has gone
            _logger.warning("what is resident could not be changed: %s", error)
        finally:
            self._changing = None

    async def _do(self, steps: Steps) -> None:
        """Have workers map what the steps say, one after the other.

        Raises:
            WorkerError: if it cannot be known what is mapped.
        """
        wanted = next(steps, None)
        while wanted is not None:
            found = frozenset(await self._pool.reside(wanted.model, sorted(wanted.subnets)))
            try:
                wanted = steps.send(found)
            except StopIteration:
                return


def _start(work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
    return asyncio.get_running_loop().create_task(work)
