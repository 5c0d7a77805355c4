"""Sees to it that the subnets which are most worth it run on the faster engine, while everything is served."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Final

import msgspec

from superserve.clock import NS_PER_MS, Clock, Timer
from superserve.errors import WorkerError
from superserve.serving.pool import ResidentPool
from superserve.serving.residency.packed_model import Key, PackedModel
from superserve.serving.residency.packer import Packs
from superserve.serving.residency.report import ResidencyReport, gains_nothing
from superserve.serving.residency.resident_set import ResidentSet
from superserve.supernet.packed_store import PackRecord

if TYPE_CHECKING:
    from superserve.serving.router import Router

_logger = logging.getLogger(__name__)

#: Between two looks at what was used.
LOOK_NS: Final = 500 * NS_PER_MS


class Residency:
    """Packs subnets, has workers map and drop them, and has schedulers plan accordingly.

    What is served never waits for any of it. Subnets are packed one at a time in a process of the lowest priority, with
    as long a rest after it as it took. Workers map and drop between two batches, in milliseconds. Plans follow: to a
    faster one when every worker has said that it has mapped a subnet, to a slower one before any is told to drop it,
    and only when no request that waits would lose the fastest subnet that it was admitted by (`Scheduler.bears`); until
    then the subnet stays. So the budget is kept at all times: what comes is mapped when what goes is gone.

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
        self._set: ResidentSet[Key] = ResidentSet(budget)
        self._models: dict[int, PackedModel] = {}
        self._mapped: frozenset[Key] = frozenset()
        """What may be mapped somewhere."""
        self._begun = False
        self._timer: Timer | None = None
        self._packing: asyncio.Task[None] | None = None
        self._changing: asyncio.Task[None] | None = None
        self._rest_until_ns = 0

    def add(self, model: PackedModel) -> None:
        """A model comes, before its router is started."""
        self._models[model.number] = model
        self._set.add(model.front, model.times.row_ns())
        for subnet, record in model.kept.items():
            self._built(model, subnet, record)
        if self._begun and self._timer is None:
            self._look_again()

    def remove(self, router: "Router") -> None:
        """A model goes, whose workers have no batch of it any more; nothing happens if it is on another engine."""
        for model in [model for model in self._models.values() if model.router is router]:
            self._mapped -= {*model.front}
            self._set.remove(model.front)
            del self._models[model.number]

    def report(self, router: "Router") -> ResidencyReport | None:
        """What is resident of a model; None if it is on another engine."""
        model = next((model for model in self._models.values() if model.router is router), None)
        if model is None:
            return None
        return model.report(self._mapped_of(model), self._set.budget)

    async def begin(self) -> None:
        """Have what is packed already resident from the start; before the workers are started."""
        await self._change(self._set.wanted(self._clock.now_ns(), ()))

    async def go_on(self) -> None:
        """See what the workers have mapped, which have been started, and look from now on at what is used."""
        for model in self._models.values():
            await self._settle(model, model.resident)
        self._begun = True
        if self._models:
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
        now_ns = self._clock.now_ns()
        self._set.observe(now_ns, {key: rows for model in self._models.values() for key, rows in model.used().items()})
        if self._packing is None and now_ns >= self._rest_until_ns:
            key = self._set.next_to_pack(now_ns, self._mapped)
            if key is not None:
                self._packing = _start(self._pack(self._models[key[0]], key[1]))
        if self._changing is None:
            wanted = self._set.wanted(now_ns, self._mapped)
            if wanted != self._mapped or not all(
                model.resident == self._mapped_of(model) for model in self._models.values()
            ):
                self._changing = _start(self._change(wanted))

    def _look_again(self) -> None:
        def look() -> None:
            self._timer = None
            self.look()
            if self._models:
                self._look_again()

        self._timer = self._clock.call_at(self._clock.now_ns() + LOOK_NS, look)

    def _mapped_of(self, model: PackedModel) -> frozenset[int]:
        return frozenset(subnet for number, subnet in self._mapped if number == model.number)

    async def _pack(self, model: PackedModel, subnet: int) -> None:
        began_ns = self._clock.now_ns()
        model.packing = subnet
        _logger.info("packing subnet %s in the background", model.ids[subnet])
        try:
            record = await self._packs.pack(msgspec.structs.replace(model.task, subnet=subnet))
        except WorkerError as error:
            self._failed(model, subnet, f"cannot be packed: {error}")
        else:
            self._built(model, subnet, record)
        finally:
            model.packing = None
            self._rest_until_ns = 2 * self._clock.now_ns() - began_ns
            self._packing = None

    async def _change(self, wanted: frozenset[Key]) -> None:
        """Bring what is mapped nearer to what is wanted: first what goes, then what comes, as far as it fits."""
        try:
            for step in (self._drop, self._take):
                for model in list(self._models.values()):
                    await step(model, frozenset(subnet for number, subnet in wanted if number == model.number))
        except WorkerError as error:  # the pool stops, or a model has gone
            _logger.warning("what is resident could not be changed: %s", error)
        finally:
            self._changing = None

    async def _drop(self, model: PackedModel, wanted: frozenset[int]) -> None:
        mapped = self._mapped_of(model)
        staying = mapped & wanted
        if staying == mapped or not (model.resident <= staying or model.plan(model.resident & staying)):
            return  # nothing goes, or it does later, when nobody waits for it
        _logger.info("giving up packed subnets: %s", model.names(mapped - staying))
        model.evictions += len(mapped - staying)
        self._set.evicted(self._clock.now_ns())
        await self._settle(model, staying)

    async def _take(self, model: PackedModel, wanted: frozenset[int]) -> None:
        mapped = self._mapped_of(model)
        coming = {(model.number, subnet) for subnet in wanted - mapped}
        if coming and self._set.size(self._mapped | coming) <= self._set.budget:
            self._mapped |= coming  # from here on it may be mapped somewhere
            await self._settle(model, mapped | wanted)
        if model.resident != self._mapped_of(model) and model.plan(self._mapped_of(model)):
            _logger.info("packed subnets are resident: %s", model.names(model.resident) or "none")

    async def _settle(self, model: PackedModel, subnets: frozenset[int]) -> None:
        """Have the workers map these subnets, and take note of those that they have mapped.

        Raises:
            WorkerError: if that cannot be known.
        """
        found = frozenset(await self._pool.reside(model.number, sorted(subnets)))
        if model.number not in self._models:  # it has gone meanwhile
            return
        keys = {(model.number, subnet) for subnet in found}
        self._mapped = frozenset(key for key in self._mapped if key[0] != model.number) | keys
        self._set.settled(keys)
        for subnet in found:
            model.failed.pop(subnet, None)
        for subnet in sorted(subnets - found):
            self._failed(model, subnet, "cannot be mapped by every worker: see their output")
        if not model.resident <= found:  # it runs slower already, whoever waits for it
            model.plan(model.resident & found, whatever_waits=True)

    def _built(self, model: PackedModel, subnet: int, record: PackRecord) -> None:
        if model.number not in self._models:
            return
        model.built(subnet, record)
        if record.is_faster:
            self._set.built((model.number, subnet), record.nbytes)
        else:
            self._set.is_no_faster((model.number, subnet))
            _logger.info("subnet %s %s", model.ids[subnet], gains_nothing(record))

    def _failed(self, model: PackedModel, subnet: int, why: str) -> None:
        if model.number in self._models:
            model.failures += 1
            model.failed[subnet] = why
            self._set.failed((model.number, subnet), self._clock.now_ns())
            _logger.warning("subnet %s %s", model.ids[subnet], why)


def _start(work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
    return asyncio.get_running_loop().create_task(work)
