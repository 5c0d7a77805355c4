"""What is to be packed, mapped and dropped, step by step: decided here, done by a server or in virtual time.

Steps are generators: they yield what is to be mapped and are sent what is. So the order of things, which promises
depend on, is the same for whoever does them: ``residency.py``, or ``experiments/virtual_residency.py``.
"""

import logging
from collections.abc import Generator
from typing import NamedTuple

from superserve.clock import Clock
from superserve.serving.residency.packed_model import Key, PackedModel, Planned
from superserve.serving.residency.report import ResidencyReport, gains_nothing
from superserve.serving.residency.resident_set import ResidentSet
from superserve.supernet.packed_store import PackRecord

_logger = logging.getLogger(__name__)


class Reside(NamedTuple):
    """Have every worker map exactly these subnets of a model; the answer is which of them all have mapped."""

    model: int
    subnets: frozenset[int]


Steps = Generator[Reside, frozenset[int], None]


class ResidencySteps:
    """Decides what is done for the models on the packed engine, and has their schedulers plan accordingly.

    Plans follow: to a faster one when every worker has said that it has mapped a subnet, to a slower one before any is
    told to drop it, and only when no request that waits would lose the fastest subnet that it was admitted by
    (`Scheduler.bears`); until then the subnet stays. So the budget is kept at all times: what comes is mapped when what
    goes is gone. One subnet is packed at a time, with as long a rest after it as it took.

    Args:
        clock: time.
        budget: see `ResidentSet`.
        workers: those that hold what is resident, on one machine.
    """

    def __init__(self, clock: Clock, budget: int | None, workers: int = 1) -> None:
        self.models: dict[int, PackedModel] = {}
        self._clock = clock
        self._workers = workers
        self._set: ResidentSet[Key] = ResidentSet(budget)
        self._mapped: frozenset[Key] = frozenset()
        """What may be mapped somewhere."""
        self._packing_since_ns = 0
        self._rest_until_ns = 0

    @property
    def budget(self) -> int:
        """Bytes that the resident subnets of all models may take together."""
        return self._set.budget

    def add(self, model: PackedModel) -> None:
        """A model comes."""
        self.models[model.number] = model
        self._set.add(model.front, model.times.row_ns())
        for subnet, record in model.kept.items():
            self.packed(model, subnet, record)

    def remove(self, router: Planned) -> list[int]:
        """A model goes, whose workers have no batch of it any more; returns its number, if it was on this engine."""
        going = [model for model in self.models.values() if model.router is router]
        for model in going:
            self._mapped -= {*model.front}
            self._set.remove(model.front)
            del self.models[model.number]
        return [model.number for model in going]

    def report(self, router: Planned) -> ResidencyReport | None:
        """What is resident of a model; None if it is on another engine."""
        model = next((model for model in self.models.values() if model.router is router), None)
        return None if model is None else model.report(self.mapped(model), self.budget)

    def mapped(self, model: PackedModel) -> frozenset[int]:
        """The subnets of a model that may be mapped somewhere."""
        return frozenset(subnet for number, subnet in self._mapped if number == model.number)

    def look(self) -> None:
        """Look at what was used."""
        used = {key: rows for model in self.models.values() for key, rows in model.used().items()}
        self._set.observe(self._clock.now_ns(), used)

    def next_to_pack(self) -> tuple[PackedModel, int] | None:
        """The subnet to pack now, if there is one, which is taken for being packed from here on."""
        now_ns = self._clock.now_ns()
        key = self._set.next_to_pack(now_ns, self._mapped) if now_ns >= self._rest_until_ns else None
        if key is None:
            return None
        model, subnet = self.models[key[0]], key[1]
        model.packing = subnet
        self._packing_since_ns = now_ns
        _logger.info("packing subnet %s in the background", model.ids[subnet])
        return model, subnet

    def packing_ended(self, model: PackedModel) -> None:
        """That came to an end, whatever came of it."""
        model.packing = None
        self._rest_until_ns = 2 * self._clock.now_ns() - self._packing_since_ns

    def packed(self, model: PackedModel, subnet: int, record: PackRecord) -> None:
        """A subnet has been packed, or found packed."""
        if model.number not in self.models:
            return
        nbytes = record.nbytes_on(self._workers)
        model.built(subnet, record, nbytes)
        if record.is_faster:
            self._set.built((model.number, subnet), nbytes)
        else:
            self._set.is_no_faster((model.number, subnet))
            _logger.info("subnet %s %s", model.ids[subnet], gains_nothing(record))

    def failed(self, model: PackedModel, subnet: int, why: str) -> None:
        """A subnet could not be packed, or not be mapped."""
        if model.number in self.models:
            model.failures += 1
            model.failed[subnet] = why
            self._set.failed((model.number, subnet), self._clock.now_ns())
            _logger.warning("subnet %s %s", model.ids[subnet], why)

    def change(self) -> Steps | None:
        """What to do, if what is mapped or planned is not what it should be."""
        wanted = self._set.wanted(self._clock.now_ns(), self._mapped)
        planned = all(model.resident == self.mapped(model) for model in self.models.values())
        return None if wanted == self._mapped and planned else self._changed(wanted)

    def check(self) -> Steps:
        """See what workers have mapped that have been started."""
        for model in list(self.models.values()):
            yield from self._settle(model, model.resident)

    def _changed(self, wanted: frozenset[Key]) -> Steps:
        """Bring what is mapped nearer to what is wanted: first what goes, then what comes, as far as it fits."""
        for step in (self._drop, self._take):
            for model in list(self.models.values()):
                if model.number not in self.models:  # it has gone while another one's workers mapped
                    continue
                yield from step(model, frozenset(subnet for number, subnet in wanted if number == model.number))

    def _drop(self, model: PackedModel, wanted: frozenset[int]) -> Steps:
        mapped = self.mapped(model)
        staying = mapped & wanted
        if staying == mapped or not (model.resident <= staying or model.plan(model.resident & staying)):
            return  # nothing goes, or it does later, when nobody waits for it
        _logger.info("giving up packed subnets: %s", model.names(mapped - staying))
        model.evictions += len(mapped - staying)
        self._set.evicted(self._clock.now_ns())
        yield from self._settle(model, staying)

    def _take(self, model: PackedModel, wanted: frozenset[int]) -> Steps:
        mapped = self.mapped(model)
        coming = {(model.number, subnet) for subnet in wanted - mapped}
        if coming and self._set.size(self._mapped | coming) <= self.budget:
            self._mapped |= coming  # from here on it may be mapped somewhere
            yield from self._settle(model, mapped | wanted)
        if model.number not in self.models:
            return
        if model.resident != self.mapped(model) and model.plan(self.mapped(model)):
            _logger.info("packed subnets are resident: %s", model.names(model.resident) or "none")

    def _settle(self, model: PackedModel, subnets: frozenset[int]) -> Steps:
        """Have the workers map these subnets, and take note of those that they have mapped."""
        found = yield Reside(model.number, subnets)
        if model.number not in self.models:  # it has gone meanwhile
            return
        keys = {(model.number, subnet) for subnet in found}
        self._mapped = frozenset(key for key in self._mapped if key[0] != model.number) | keys
        self._set.settled(keys)
        for subnet in found:
            model.failed.pop(subnet, None)
        for subnet in sorted(subnets - found):
            self.failed(model, subnet, "cannot be mapped by every worker: see their output")
        if not model.resident <= found:  # it runs slower already, whoever waits for it
            model.plan(model.resident & found, whatever_waits=True)
