"""What would have come of recorded requests under other settings: the recording beside its simulation.

The recorded arrivals, deadlines, priorities, floors and rows are played again, clients that gave up give up again after
the same time, and plans are made with the server's profile. Batches take what the recorded ones took about that time
(`RecordedTimes`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.metrics import NO_SUBNET, ResultRow, RunLog, summarise
from superserve.profile import Profile
from superserve.request import Outcome
from superserve.simulator import Conditions
from superserve.traces.recording import Recorded

#: A client that did not give up waits for longer than anything takes.
_PATIENT_NS: Final = 1 << 62


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """A request that would have ended otherwise. Latencies are from arrival, null without an answer."""

    arrival_s: float
    was: Outcome
    would_be: Outcome
    was_subnet: str | None
    would_be_subnet: str | None
    accuracy_change: float
    """Profiled accuracy where it is in time, 0 where it is not: what it adds to the goodput, in points."""
    was_ms: float | None
    would_be_ms: float | None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Of a simulated run from the recorded one, request by request."""

    requests: int
    in_time_in_both: int
    missed_in_both: int
    now_in_time: int
    """Missed as recorded."""
    now_missed: int
    """In time as recorded."""
    more_accurate: int
    """Of those in time in both."""
    less_accurate: int
    accuracy_change: float | None
    """Mean over those in time in both, in points; null if there are none."""


def with_patience(conditions: Conditions, recorded: Recorded) -> Conditions:
    """Clients that gave up do so again, as long after their arrival."""
    gone = recorded.log.is_outcome(Outcome.CANCELLED)
    if conditions.patience_ns is not None or not gone.any():
        return conditions
    waited_ns = recorded.log.end_ns - recorded.log.arrival_ns
    return replace(conditions, patience_ns=np.where(gone, waited_ns, _PATIENT_NS))


def recorded_row(recorded: Recorded) -> ResultRow:
    """What the server reached."""
    settings = recorded.settings
    return summarise(
        recorded.log,
        policy=f"{settings.policy}, as recorded",
        trace=recorded.trace.name,
        seed=0,
        workers=settings.workers,
        slo_ms=settings.slo_ms,
        emulated=settings.emulated,
    )


def difference(recorded: RunLog, simulated: RunLog) -> Difference:
    """How two runs of the same requests differ."""
    was, would_be = recorded.is_outcome(Outcome.SERVED), simulated.is_outcome(Outcome.SERVED)
    both = was & would_be
    change = simulated.accuracy[both] - recorded.accuracy[both]
    return Difference(
        requests=len(recorded),
        in_time_in_both=int(both.sum()),
        missed_in_both=int((~was & ~would_be).sum()),
        now_in_time=int((~was & would_be).sum()),
        now_missed=int((was & ~would_be).sum()),
        more_accurate=int((change > 0).sum()),
        less_accurate=int((change < 0).sum()),
        accuracy_change=float(change.mean()) if len(change) else None,
    )


def most_changed(recorded: RunLog, simulated: RunLog, profile: Profile, count: int) -> list[Changed]:
    """The requests whose part in the goodput changes most, losses and gains alike; the earliest first among equals."""
    change = _goodput(simulated) - _goodput(recorded)
    order = np.argsort(-np.abs(change), kind="stable")[:count]
    outcomes = list(Outcome)
    was_subnet, would_be_subnet = _names(recorded, profile), _names(simulated, profile)
    was_ms, would_be_ms = _latency(recorded), _latency(simulated)
    return [
        Changed(
            arrival_s=float(recorded.arrival_ns[index]) / NS_PER_S,
            was=outcomes[recorded.outcome[index]],
            would_be=outcomes[simulated.outcome[index]],
            was_subnet=was_subnet(index),
            would_be_subnet=would_be_subnet(index),
            accuracy_change=float(change[index]),
            was_ms=was_ms(index),
            would_be_ms=would_be_ms(index),
        )
        for index in order.tolist()
        if change[index]
    ]


COLUMNS = ("at s", "was", "ms", "subnet", "would be", "ms", "subnet", "goodput")


def cells(changed: Sequence[Changed]) -> list[list[object]]:
    """Rows of a table with `COLUMNS`."""
    return [
        [
            f"{one.arrival_s:.3f}",
            one.was,
            one.was_ms,
            one.was_subnet,
            one.would_be,
            one.would_be_ms,
            one.would_be_subnet,
            f"{one.accuracy_change:+.2f}",
        ]
        for one in changed
    ]


def _goodput(log: RunLog) -> npt.NDArray[np.float64]:
    return np.where(log.is_outcome(Outcome.SERVED), np.nan_to_num(log.accuracy), 0.0)


def _names(log: RunLog, profile: Profile) -> Callable[[int], str | None]:
    return lambda index: None if log.subnet[index] == NO_SUBNET else profile.subnets[log.subnet[index]].id


def _latency(log: RunLog) -> Callable[[int], float | None]:
    answered = log.is_outcome(Outcome.SERVED, Outcome.LATE)
    latency_ms = ((log.end_ns - log.arrival_ns) / NS_PER_MS).tolist()
    return lambda index: latency_ms[index] if answered[index] else None
