"""What is told of a model on the packed engine: on the live page, in its metadata, in metrics and in the log."""

import sys
from typing import Literal

import msgspec

from superserve.memory_sizes import ALL, told
from superserve.supernet.packed_store import PackRecord

SubnetState = Literal["resident", "packing", "packed", "refused", "not packed"]
"""``resident``: packed, and mapped by every worker. ``packing``: under way. ``packed``: kept on disk, without room in
the budget or without use. ``refused``: packing it failed, or gained nothing. ``not packed``: nobody has needed it."""


class SubnetReport(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet of a model on the packed engine."""

    id: str
    state: SubnetState
    nbytes: int | None
    """What it takes beside the one copy of the weights while it is resident; null until it has been packed."""
    answered: int
    """Requests that it has answered while it was resident."""
    reason: str | None
    """Why it is refused; null if it is not."""

    @classmethod
    def of(
        cls,
        name: str,
        record: PackRecord | None,
        nbytes: int | None,
        state: SubnetState | None = None,
        *,
        answered: int = 0,
        failure: str | None = None,
    ) -> "SubnetReport":
        """What is told of a subnet.

        Args:
            name: its id.
            record: what is known of it if it has been packed.
            nbytes: see above.
            state: if it is resident or being packed.
            answered: see above.
            failure: why it could not be packed, or not be mapped.
        """
        reason = None if state is not None else failure or (None if record is None else gains_nothing(record))
        return cls(
            id=name,
            state=state or ("refused" if reason else "not packed" if record is None else "packed"),
            nbytes=nbytes,
            answered=answered,
            reason=reason,
        )


class ResidencyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a model has resident, and what came of it so far."""

    subnets: tuple[str, ...]
    """The resident ones, in front order."""
    nbytes: int
    """What they take on the machine beside the one copy of the weights."""
    budget: int
    """What those of all models may take together."""
    weights: int
    """Bytes of the one copy of the weights, which all subnets share."""
    front: tuple[SubnetReport, ...]
    """All subnets, in front order."""
    packed: int
    """Subnets that were packed, or found packed."""
    failures: int
    """Times that a subnet could not be packed or mapped."""
    evictions: int
    """Times that a resident subnet has given way."""
    answered: int
    """Requests that were answered by a subnet while it was resident."""
    requests: int
    """Requests that were answered, by whatever subnet."""

    @property
    def share(self) -> float | None:
        """The part of answered requests that packed subnets have answered; None without any."""
        return self.answered / self.requests if self.requests else None

    @property
    def refused(self) -> dict[str, str]:
        """Why subnets are refused, by id."""
        return {one.id: one.reason for one in self.front if one.reason is not None}

    def __str__(self) -> str:
        share = "none" if self.share is None else f"{self.share:.1%}"
        refused = "".join(f"; {name} is refused: {why}" for name, why in self.refused.items())
        resident = ", ".join(self.subnets) or "none"
        return (
            f"packed subnets answered {share} of {self.requests} requests; {resident} resident, {told(self.nbytes)} of "
            f"{budget_told(self.budget)} beside the weights' {told(self.weights)}{refused}"
        )


def gains_nothing(record: PackRecord) -> str | None:
    """Why a packed subnet is not worth any memory; None if it is."""
    return None if record.is_faster else f"is no faster packed than on engine {record.behind}"


def budget_told(budget: int) -> str:
    """A budget as people read it."""
    return ALL if budget >= sys.maxsize else told(budget)
