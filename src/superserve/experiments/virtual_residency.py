"""Packed subnets in virtual time: the server's own decisions, with packs whose times and bytes are known."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from superserve.clock import NS_PER_S, ManualClock
from superserve.profile import Profile
from superserve.scheduling import Action, Finish, Launch, Scheduler, TimeoutAction
from superserve.scheduling.policy import Policy
from superserve.serving.residency.fast_times import FastTimes
from superserve.serving.residency.packed_model import PackedModel
from superserve.serving.residency.report import ResidencyReport
from superserve.serving.residency.residency import LOOK_NS
from superserve.serving.residency.steps import ResidencySteps, Steps
from superserve.serving.telemetry import DEFAULT_SLO_NS, Telemetry
from superserve.supernet.packed_store import PackRecord

#: Of the only model of a run.
_NUMBER: Final = 0


class _Planned:
    """Stands for a router: see `superserve.serving.residency.packed_model.Planned`."""

    def __init__(self, scheduler: Scheduler, clock: ManualClock) -> None:
        table = scheduler.policy.table
        self.scheduler = scheduler
        self.telemetry = Telemetry(DEFAULT_SLO_NS, table.batches, len(table))
        self._clock = clock
        self._actions: list[Action] = []

    def replan(self, policies: Sequence[Policy]) -> None:
        """See `Scheduler.replan`."""
        self._actions += self.scheduler.replan(self._clock.now_ns(), policies)

    def taken(self) -> list[Action]:
        """What the scheduler wants done since this was last asked."""
        actions, self._actions = self._actions, []
        return actions


class VirtualResidency:
    """What packs, maps and drops subnets in a simulated run; a `superserve.simulator.faster_engine.FasterEngine`.

    `ResidencySteps` decides, as in a server. Packing a subnet takes the seconds that are recorded of it, whatever else
    the machine does; mapping and dropping take no time. A batch of a resident subnet takes what it would take on the
    engine behind, times the recorded ratio for its size.

    Args:
        scheduler: of the run.
        behind: profile of the engine that runs all subnets; the scheduler was made for it.
        records: of the subnets that can be packed, by front index.
        refused: why others cannot, by id.
        kept: those that are packed at first.
        policy: its name.
        timeout_action: as the scheduler has it.
        budget: see `superserve.serving.residency.resident_set.ResidentSet`.
        weights: bytes of the one copy of the weights.
        packs: whether more are packed as they are used.
        workers: those that hold what is resident.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        behind: Profile,
        records: Mapping[int, PackRecord],
        *,
        refused: Mapping[str, str],
        kept: Collection[int],
        policy: str,
        timeout_action: TimeoutAction,
        budget: int | None,
        weights: int = 0,
        packs: bool = True,
        workers: int = 1,
    ) -> None:
        self._records = records
        self._refused = refused
        self._packs = packs
        self._clock = ManualClock()
        self._planned = _Planned(scheduler, self._clock)
        self._model = PackedModel(
            number=_NUMBER,
            ids=scheduler.policy.table.ids,
            times=FastTimes(behind),
            policy=policy,
            timeout_action=timeout_action,
            kept={subnet: records[subnet] for subnet in kept},
            weights=lambda: weights,
            router=self._planned,
        )
        self._steps = ResidencySteps(self._clock, budget, workers)
        self._steps.add(self._model)
        self._mapped: frozenset[int] = frozenset()
        self._look_ns = LOOK_NS
        self._packed_ns: int | None = None
        """When the subnet that is being packed will be."""

    @property
    def report(self) -> ResidencyReport:
        """What is resident now, and what came of it so far."""
        return self._model.report(self._mapped, self._steps.budget)

    def begin(self) -> Sequence[Action]:
        """See `FasterEngine.begin`."""
        self._change()
        return self._planned.taken()

    def next_ns(self) -> int:
        """See `FasterEngine.next_ns`."""
        return self._look_ns if self._packed_ns is None else min(self._look_ns, self._packed_ns)

    def on_time(self, now_ns: int) -> Sequence[Action]:
        """See `FasterEngine.on_time`."""
        self._clock.advance_to(now_ns)
        if self._packed_ns is not None and now_ns >= self._packed_ns:
            self._end_packing()
        if now_ns >= self._look_ns:
            self._look_ns += LOOK_NS
            self._look()
        return self._planned.taken()

    def observe(self, actions: Sequence[Action]) -> None:
        """See `FasterEngine.observe`; counts as a router does."""
        telemetry = self._planned.telemetry
        answered = [one.launch for one in actions if isinstance(one, Finish) and one.launch is not None]
        for launch in answered:
            telemetry.answered[launch.subnet] += 1
        for launch in {id(launch): launch for launch in answered}.values():
            telemetry.rows[launch.subnet].observe(launch.rows)

    def factor(self, launch: Launch) -> float:
        """See `FasterEngine.factor`; batches of a size that is no faster packed run on the engine behind."""
        return min(1.0, self._records[launch.subnet].ratio(launch.rows)) if launch.subnet in self._mapped else 1.0

    def _look(self) -> None:
        self._steps.look()
        if self._packs and self._packed_ns is None:
            self._begin_packing()
        self._change()

    def _begin_packing(self) -> None:
        found = self._steps.next_to_pack()
        if found is None:
            return
        _, subnet = found
        record = self._records.get(subnet)
        if record is None:
            why = self._refused.get(self._model.ids[subnet], "nothing is recorded of it")
            self._steps.failed(self._model, subnet, f"cannot be packed: {why}")
            self._steps.packing_ended(self._model)
        else:
            self._packed_ns = self._clock.now_ns() + round(record.seconds * NS_PER_S)

    def _end_packing(self) -> None:
        subnet = self._model.packing
        assert subnet is not None
        self._steps.packed(self._model, subnet, self._records[subnet])
        self._steps.packing_ended(self._model)
        self._packed_ns = None

    def _change(self) -> None:
        steps = self._steps.change()
        if steps is not None:
            _do(steps)
            self._mapped = self._steps.mapped(self._model)


def _do(steps: Steps) -> None:
    """Everything that is to be mapped is."""
    wanted = next(steps, None)
    while wanted is not None:
        try:
            wanted = steps.send(wanted.subnets)
        except StopIteration:
            return
