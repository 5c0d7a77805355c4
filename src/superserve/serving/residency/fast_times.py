"""What packed subnets take: as profiled, or as timed beside the engine behind when they were packed."""

from collections.abc import Collection, Sequence

import msgspec

from superserve.profile import Profile, SubnetProfile
from superserve.scheduling.composition import compose_policies
from superserve.scheduling.policy import Policy, TimeoutAction
from superserve.supernet.packed_store import PackRecord


class FastTimes:
    """The two profiles behind the plan of a model on the packed engine.

    A profile of the packed engine holds if there is one (``superserve profile MODEL --engine packed``). Else a packed
    subnet takes what the engine behind takes, times the ratio that was measured between both in turns when it was
    packed: whatever else the machine did then happened to both. Until that is known it counts as no faster.

    Args:
        behind: the profile of the engine that runs what is not packed.
        measured: that of the packed engine, if there is one; of the same model.
    """

    def __init__(self, behind: Profile, measured: Profile | None = None) -> None:
        self.behind = behind.repaired()
        self._measured = measured if measured is not None and measured.batches == behind.batches else None
        self._ratios: dict[int, Sequence[float]] = {}

    def built(self, subnet: int, record: PackRecord) -> None:
        """A subnet has been packed."""
        # Never slower: batches of such a size are run behind it.
        self._ratios[subnet] = [min(1.0, record.ratio(rows)) for rows in self.behind.batches]

    @property
    def fast(self) -> Profile:
        """What each subnet takes when it is packed."""
        if self._measured is not None:
            return self._measured.repaired()
        shorter = tuple(
            msgspec.structs.replace(bucket, subnets=self._scaled(bucket.subnets)) for bucket in self.behind.shorter
        )
        return msgspec.structs.replace(self.behind, subnets=self._scaled(self.behind.subnets), shorter=shorter)

    def row_ns(self) -> list[float]:
        """What a row of a full batch takes at each subnet on the engine behind, in nanoseconds."""
        return [1000 * subnet.p50_us[-1] / self.behind.batches[-1] for subnet in self.behind.subnets]

    def policies(self, name: str, resident: Collection[int], timeout_action: TimeoutAction) -> tuple[Policy, ...]:
        """The policy of a name while these subnets are resident."""
        return compose_policies(name, self.behind, self.fast, resident, timeout_action)

    def _scaled(self, subnets: Sequence[SubnetProfile]) -> tuple[SubnetProfile, ...]:
        return tuple(
            msgspec.structs.replace(
                subnet,
                p50_us=_times(subnet.p50_us, self._ratios.get(number)),
                p95_us=_times(subnet.p95_us, self._ratios.get(number)),
                p99_us=_times(subnet.p99_us, self._ratios.get(number)),
            )
            for number, subnet in enumerate(subnets)
        )


def _times(cells: tuple[float, ...], ratios: Sequence[float] | None) -> tuple[float, ...]:
    return cells if ratios is None else tuple(cell * ratio for cell, ratio in zip(cells, ratios, strict=True))
