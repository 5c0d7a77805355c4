"""What happens to a server in one life, drawn from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from typing import Final, TypeVar

import numpy as np

from deterministic.asks import Ask
from deterministic.client import Leaving, Sending, Visit
from deterministic.model import BATCHES, NAMES, POISON, RAISES
from deterministic.trouble import StartTrouble, Trouble
from superserve.clock import NS_PER_MS, NS_PER_US
from superserve.scheduling.policy import TimeoutAction


class Event(StrEnum):
    """What can happen at a time."""

    KILL = "kill"
    HANG = "hang"
    TROUBLE = "trouble"
    START_TROUBLE = "start trouble"
    SLOW = "slow"
    STALL = "stall"
    FLOOD = "flood"
    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True)
class Fault:
    """Something that happens, to a worker where that makes sense."""

    at_ns: int
    event: Event
    worker: int = 0
    amount: float = 0.0
    trouble: Trouble = Trouble.HANGS
    start_trouble: StartTrouble = StartTrouble.DIES


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A life: what is served, what clients do, and what goes wrong. Times are relative to the server's readiness."""

    workers: int = 2
    models: int = 1
    policy: str = "drainfit"
    timeout_action: TimeoutAction = "reject"
    max_queued: int = 100
    visits: Sequence[Visit] = ()
    faults: Sequence[Fault] = ()
    span_ns: int = 0
    """How long things may go wrong at least."""
    hasty: bool = False
    """Whether the server is told to stop twice."""
    ledger: float = 0.0
    """The share of degraded requests that is run again in idle time."""
    overlapping: bool = False
    """Whether workers take their next batch while they run one; a model that is loaded later ends that."""


_POLICIES: Final = ("drainfit", "drainfit", "slackfit", "fixed:smallest", "maxacc", "maxbatch")
#: Of these a few fill the memory for bodies; the largest is larger than a body may be.
_PADDINGS: Final = (3_000, 6_000, 20_000)
_SPANS_MS: Final = (60, 150, 400, 1_000)
_ODD_EVENTS: Final = (
    Event.KILL,
    Event.KILL,
    Event.HANG,
    Event.TROUBLE,
    Event.TROUBLE,
    Event.TROUBLE,
    Event.START_TROUBLE,
    Event.SLOW,
    Event.STALL,
    Event.FLOOD,
)


_T = TypeVar("_T")


class _Drawer:
    """Draws a plan.

    Args:
        rng: the seed's.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._tags = count(1)
        self._span_ns = 0
        self._models: list[str] = []

    def plan(self) -> Plan:
        rng = self._rng
        self._span_ns = self._of(_SPANS_MS) * NS_PER_MS
        models = 1 if rng.random() < 0.5 else 2
        loads = bool(rng.random() < 0.12)
        self._models = [*NAMES[:models], *(NAMES[-1:] if loads else ())]
        workers = self._of((1, 2, 2, 3))
        return Plan(
            workers=workers,
            models=models,
            policy=self._of(_POLICIES),
            timeout_action="delay" if rng.random() < 0.2 else "reject",
            max_queued=self._of((8, 30, 100)),
            visits=self._visits(),
            faults=self._faults(workers, loads=loads),
            hasty=rng.random() < 0.2,
            overlapping=rng.random() < 0.4,
        )

    def _of(self, values: Sequence[_T]) -> _T:
        return values[int(self._rng.integers(len(values)))]

    def _visits(self) -> list[Visit]:
        asked, wanted, visits = 0, int(self._rng.integers(50, 150)), []
        while asked < wanted:
            size = min(int(self._rng.geometric(0.2)), 20)
            visits.append(self._visit(size))
            asked += size
        return visits

    def _visit(self, size: int) -> Visit:
        rng = self._rng
        begin_ns = int(rng.integers(self._span_ns))
        gaps = rng.exponential(self._of((0.0, 2.0, 10.0)) * NS_PER_MS, size).astype(np.int64)
        sendings: list[Sending] = []
        end_ns = begin_ns
        for gap_ns in gaps.tolist():
            end_ns += gap_ns
            sendings.extend(self._sendings(end_ns))
            end_ns = sendings[-1].at_ns
        if rng.random() < 0.05 and sendings[-1].first:
            sendings.pop()  # the rest of the last one never comes
        manner = rng.random()
        leaving = blind = None
        if manner < 0.25:
            away_ns = begin_ns + int(rng.integers(end_ns - begin_ns + 30 * NS_PER_MS))
            leaving = Leaving(at_ns=away_ns, reset=bool(rng.random() < 0.5))
        elif manner < 0.32:
            blind = begin_ns + 1, begin_ns + int(rng.integers(400 * NS_PER_MS))
        return Visit(
            at_ns=begin_ns,
            delay_ns=int(rng.integers(20, 500)) * NS_PER_US,
            sendings=sendings,
            leaving=leaving,
            blind=blind,
        )

    def _sendings(self, at_ns: int) -> list[Sending]:
        """One request: whole, or in two parts."""
        rng, ask = self._rng, self._ask()
        if rng.random() < 0.9:
            return [Sending(at_ns, ask)]
        cut = float(rng.random())
        later_ns = at_ns + int(rng.integers(20 * NS_PER_MS))
        return [Sending(at_ns, ask, 0.0, cut), Sending(later_ns, ask, cut, 1.0)]

    def _ask(self) -> Ask:
        rng = self._rng
        tag = next(self._tags)
        odd = rng.random()
        if odd < 0.01:
            tag |= POISON
        elif odd < 0.02:
            tag |= RAISES
        return Ask(
            tag=tag,
            model=self._of(self._models),
            rows=BATCHES[-1] + 1 if odd > 0.98 else int(self._of((1, 1, 1, 2, 3, BATCHES[-1]))),
            timeout_us=int(self._of((1_000, 10_000, 30_000, 60_000, 150_000, 400_000))),
            floor=99.0 if 0.96 < odd <= 0.98 else float(self._of((0.0, 0.0, 0.0, 70.5, 71.5))),
            priority=int(self._of((0, 0, 1, 2))),
            binary=bool(rng.random() < 0.8),
            padding=int(self._of(_PADDINGS)) if 0.9 < odd <= 0.96 else 0,
        )

    def _faults(self, workers: int, *, loads: bool) -> list[Fault]:
        rng = self._rng
        faults = [
            Fault(
                int(rng.integers(self._span_ns)),
                self._of(_ODD_EVENTS),
                int(rng.integers(workers)),
                float(rng.random()),
                self._of(list(Trouble)),
                self._of(list(StartTrouble)),
            )
            for _ in range(int(rng.integers(2, 7)))
        ]
        if loads:
            faults.append(Fault(int(rng.integers(self._span_ns)), Event.LOAD))
            faults.append(Fault(int(rng.integers(self._span_ns, 2 * self._span_ns)), Event.UNLOAD))
        return sorted(faults, key=lambda fault: fault.at_ns)


def draw(rng: np.random.Generator) -> Plan:
    """The life that a seed's generator gives."""
    return _Drawer(rng).plan()
