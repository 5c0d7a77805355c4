"""What batches are planned with, which may change while requests wait; what was in force before is remembered."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from superserve.profile import LatencyTable
from superserve.scheduling.policy import Policy

#: Plans that are remembered: a change every few seconds for some minutes.
_REMEMBERED: Final = 64


class Plan(NamedTuple):
    """What batches were planned with, and since when."""

    since_ns: int
    policy: Policy
    tables_of: Sequence[Sequence[LatencyTable]]
    """By device and bucket."""


class Plans:
    """The latest plans in force, to explain decisions of before.

    Args:
        first: what is planned with from the beginning.
    """

    def __init__(self, first: Plan) -> None:
        self._plans: deque[Plan] = deque([first], _REMEMBERED)

    def change(self, plan: Plan) -> None:
        """From now on this one is in force."""
        self._plans.append(plan)

    def at(self, at_ns: int) -> Plan:
        """What was planned with at an instant; the oldest that is remembered if that is too long ago."""
        return next((plan for plan in reversed(self._plans) if plan.since_ns <= at_ns), self._plans[0])


def none_slower(before: Sequence[Policy], after: Sequence[Policy], floors: Iterable[float]) -> bool:
    """Whether the fastest subnet above each of these accuracy floors takes no longer after a change than before.

    Args:
        before: the policy by bucket.
        after: the same with other tables, of the same batch sizes.
        floors: of requests.
    """
    for floor in floors:
        old, new = (policies[-1].usable(floor)[0] for policies in (before, after))
        for was, will in zip((one.table for one in before), (one.table for one in after), strict=True):
            for of_old, of_new in ((was.latency_ns, will.latency_ns), (was.typical_ns, will.typical_ns)):
                if any(of_new[new][rows] > of_old[old][rows] for rows in was.batches):
                    return False
    return True
