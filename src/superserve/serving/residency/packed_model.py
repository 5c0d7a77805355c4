"""A model on the packed engine, as the router plans it and counts what came of that."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from superserve.scheduling.policy import Policy, TimeoutAction
from superserve.scheduling.scheduler import Scheduler
from superserve.serving.residency.fast_times import FastTimes
from superserve.serving.residency.report import ResidencyReport, SubnetReport
from superserve.serving.telemetry import Telemetry
from superserve.supernet.packed_store import PackRecord


class Planned(Protocol):
    """What serves a model, as far as plans and counts go: a `superserve.serving.router.Router`, or a simulated one."""

    @property
    def scheduler(self) -> Scheduler:
        """What decides."""

    @property
    def telemetry(self) -> Telemetry:
        """What counts rows and answers by subnet."""

    def replan(self, policies: Sequence[Policy]) -> None:
        """See `Scheduler.replan`."""


#: A subnet of a model, by the pool's number and the front index.
Key = tuple[int, int]


@dataclass(slots=True, eq=False, kw_only=True)
class PackedModel:
    """A model on the packed engine.

    ``number`` is the pool's; ``ids`` names its subnets in front order. ``times`` is what they take, ``kept`` is what is
    packed already. ``policy`` and ``timeout_action`` are those that ``router``
    serves it with. ``weights`` tells the bytes of the one copy, in a file that workers may still have to write.
    """

    number: int
    ids: tuple[str, ...]
    times: FastTimes
    policy: str
    timeout_action: TimeoutAction
    kept: Mapping[int, PackRecord]
    weights: Callable[[], int]
    router: Planned
    resident: frozenset[int] = frozenset()
    """As it is planned."""
    packing: int | None = None
    """The subnet that is being packed."""
    failed: dict[int, str] = field(default_factory=dict)
    """Why subnets could not be packed, or not be mapped, the last time that this was tried."""
    packed: int = 0
    failures: int = 0
    evictions: int = 0
    _answered: dict[int, int] = field(default_factory=dict)
    """By subnets while they were resident."""
    _records: dict[int, PackRecord] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)
    _seen: list[tuple[int, int]] = field(default_factory=list)
    """Rows and requests of each subnet, when they were last looked at."""
    _used: dict[Key, int] = field(default_factory=dict)

    @property
    def front(self) -> list[Key]:
        """Its subnets, the smallest first."""
        return [(self.number, subnet) for subnet in range(len(self.ids))]

    def plan(self, resident: Collection[int], *, whatever_waits: bool = False) -> bool:
        """Plan as if these subnets were resident, unless that would break a promise; returns whether it is done."""
        policies = self.times.policies(self.policy, resident, self.timeout_action)
        if not whatever_waits and not self.router.scheduler.bears(policies):
            return False
        self.count()
        self.router.replan(policies)
        self.resident = frozenset(resident)
        return True

    def count(self) -> None:
        """Take note of what was run since the last time, with the resident subnets of that time."""
        telemetry = self.router.telemetry
        now = [(rows.total, answers) for rows, answers in zip(telemetry.rows, telemetry.answered, strict=True)]
        for subnet, ((rows, answers), (rows_before, answers_before)) in enumerate(
            zip(now, self._seen or [(0, 0)] * len(now), strict=True)
        ):
            key = (self.number, subnet)
            self._used[key] = self._used.get(key, 0) + rows - rows_before
            if subnet in self.resident:
                self._answered[subnet] = self._answered.get(subnet, 0) + answers - answers_before
        self._seen = now

    def used(self) -> Mapping[Key, int]:
        """The rows that each subnet has run since this was last asked."""
        self.count()
        used, self._used = self._used, {}
        return used

    def built(self, subnet: int, record: PackRecord, nbytes: int) -> None:
        """A subnet has been packed, or found packed, and takes so much while it is resident."""
        self.packed += 1
        self.times.built(subnet, record)
        self._records[subnet], self._sizes[subnet] = record, nbytes
        self.failed.pop(subnet, None)

    def report(self, mapped: Collection[int], budget: int) -> ResidencyReport:
        """What is told of it while every worker has these subnets mapped."""
        self.count()
        front = tuple(self._told(subnet, mapped) for subnet in range(len(self.ids)))
        resident = [one for one in front if one.state == "resident"]
        return ResidencyReport(
            subnets=tuple(one.id for one in resident),
            nbytes=sum(one.nbytes or 0 for one in resident),
            budget=budget,
            weights=self.weights(),
            front=front,
            packed=self.packed,
            failures=self.failures,
            evictions=self.evictions,
            answered=sum(self._answered.values()),
            requests=sum(self.router.telemetry.answered),
        )

    def _told(self, subnet: int, mapped: Collection[int]) -> SubnetReport:
        return SubnetReport.of(
            self.ids[subnet],
            self._records.get(subnet),
            self._sizes.get(subnet),
            "resident" if subnet in mapped else "packing" if subnet == self.packing else None,
            answered=self._answered.get(subnet, 0),
            failure=self.failed.get(subnet),
        )

    def names(self, subnets: Collection[int]) -> str:
        """For the log."""
        return ", ".join(self.ids[subnet] for subnet in sorted(subnets))
