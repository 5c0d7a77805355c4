"""What a profile was measured under: whether the machine had other things to do.

A profile of a busy machine says that everything takes longer than it does, tails most of all, and a server that plans
with it answers with small subnets although nobody disturbs it.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

#: Beyond these shares a profile is doubtful. Of the worker's core nearly nothing may be missing: what it waits for, its
#: cells take longer. A process that has the router's core for half of the time is a quarter of both: it is in no
#: worker's way, but in that of every dispatch.
_WAITED: Final = 0.05
_STOLEN: Final = 0.05
_OTHERS: Final = 0.25
#: The slow rounds of a machine at rest are a few per cent behind its quick ones (docs/performance.md).
_SPREAD: Final = 0.25


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the machine did besides, while a profile was measured; null where it does not tell."""

    worker_waited: float | None = None
    """Share of the time that the worker was ready to run but other processes had its core, 0..1."""
    stolen: float | None = None
    """Share of the two cores measured on that the hypervisor gave to other machines, 0..1."""
    others: float | None = None
    """Share of these two cores that other processes of this machine took, 0..1."""
    spread: float | None = None
    """How much slower slow rounds of samples were than quick ones: 0.1 is 10 %; see `rounds_spread`."""

    def doubts(self) -> list[str]:
        """Why figures measured under these conditions are doubtful, each with its figure; none if they are not."""
        known = (
            (self.worker_waited, _WAITED, "other processes had the worker's core {:.0%} of the time"),
            (self.stolen, _STOLEN, "the hypervisor gave {:.0%} of the cores to other machines"),
            (self.others, _OTHERS, "other processes took {:.0%} of the router's and the worker's core"),
            (self.spread, _SPREAD, "slow rounds took {:.0%} longer than quick ones"),
        )
        return [
            f"{text.format(value)} (at most {limit:.0%} is sound)"
            for value, limit, text in known
            if value is not None and value > limit
        ]


def rounds_spread(rounds: Sequence[Sequence[Sequence[float]]]) -> float | None:
    """How much slower slow rounds were than quick ones, over all cells alike.

    A round's pace is the median, over cells, of the cell's median in this round over its median in all rounds: what one
    cell suffers once does not show, what slows the machine for a while does. Told is the ninth decile of these over the
    first, less one.

    Args:
        rounds: samples (positive) of each cell in each round; a cell may have none in some.

    Returns:
        None with fewer than three rounds.
    """
    if len(rounds) < 3:
        return None
    cells = [cell for cell in zip(*rounds, strict=True) if any(map(len, cell))]
    levels = [np.median(np.concatenate(cell)) for cell in cells]
    paces = [
        np.median([np.median(cell[number]) / level for cell, level in zip(cells, levels, strict=True) if cell[number]])
        for number in range(len(rounds))
        if any(cell[number] for cell in cells)
    ]
    low, high = np.quantile(paces, [0.1, 0.9])
    return round(float(high / low - 1), 4)
