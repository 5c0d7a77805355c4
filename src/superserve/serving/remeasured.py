"""A profile as samples of idle time have it now."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from superserve.clock import NS_PER_US
from superserve.conditions import Conditions, rounds_spread
from superserve.errors import UnavailableError
from superserve.profile import Profile, SubnetProfile

Tails = Callable[[Sequence[npt.NDArray[np.float64]]], npt.NDArray[np.float64]]
"""Median, p95 and p99 of each cell from its samples, (cells, 3): `superserve.profiler.estimate.cell_quantiles`."""


class Cell(NamedTuple):
    """A subnet (an index of the front) and a profiled batch size."""

    subnet: int
    rows: int


class _Change(NamedTuple):
    """What becomes of a cell: its median's factor, and its tails over its median (None: the same factor for them)."""

    factor: float
    tails: tuple[float, float] | None


def profiled_us(profile: Profile, cell: Cell) -> float:
    """What samples of idle time are held against: the median on a machine at rest.

    Of a doubtful profile it is the median that is planned with: what it holds of a machine at rest may be of none.
    """
    subnet = profile.subnets[cell.subnet]
    at_rest = () if profile.doubts else subnet.quiet_p50_us
    return (at_rest or subnet.p50_us)[profile.batches.index(cell.rows)]


def ratios(profile: Profile, samples: Mapping[Cell, Sequence[int]]) -> dict[Cell, float]:
    """Of each cell with samples: what it takes over what it took."""
    return {cell: median(taken) / NS_PER_US / profiled_us(profile, cell) for cell, taken in samples.items()}


def remeasured(profile: Profile, samples: Mapping[Cell, Sequence[int]], tails: Tails) -> Profile:
    """The profile with each cell multiplied by its ratio; of a doubtful profile, with tails from the samples, too.

    Tails of a machine at rest are shorter than those beside a busy router, which a sound profile has; of a doubtful one
    they are another program's. Cells without samples get what the one with samples gets that is nearest in time, and
    those with shorter texts what those with the longest get. A lever report of doubtful latencies is left out.

    Args:
        profile: as it was.
        samples: nanoseconds by cell.
        tails: used for doubtful profiles.

    Raises:
        UnavailableError: if there are no samples.
    """
    if not samples:
        raise UnavailableError("there are no samples of any cell")
    changes = _changes(profile, samples, tails)

    def change(cell: Cell) -> _Change:
        taken_us = profiled_us(profile, cell)
        nearest = min(changes, key=lambda other: abs(profiled_us(profile, other) - taken_us))
        return changes.get(cell) or changes[nearest]

    def all_changed(subnets: Sequence[SubnetProfile]) -> tuple[SubnetProfile, ...]:
        return tuple(
            _changed(subnet, [change(Cell(number, rows)) for rows in profile.batches])
            for number, subnet in enumerate(subnets)
        )

    return replace(
        profile,
        subnets=all_changed(profile.subnets),
        shorter=tuple(replace(bucket, subnets=all_changed(bucket.subnets)) for bucket in profile.shorter),
        conditions=Conditions(spread=_spread(samples)),
        levers=None if profile.doubts else profile.levers,
    ).repaired()


def _changes(profile: Profile, samples: Mapping[Cell, Sequence[int]], tails: Tails) -> dict[Cell, _Change]:
    factors = ratios(profile, samples)
    if not profile.doubts:
        return {cell: _Change(factor, None) for cell, factor in factors.items()}
    quantiles = tails([np.array(taken, np.float64) for taken in samples.values()])
    relative = (quantiles[:, 1:] / quantiles[:, :1]).tolist()
    return {cell: _Change(factors[cell], (p95, p99)) for cell, (p95, p99) in zip(samples, relative, strict=True)}


def _changed(subnet: SubnetProfile, changes: Sequence[_Change]) -> SubnetProfile:
    def times(row: Sequence[float]) -> list[float]:
        return [value * change.factor for value, change in zip(row, changes, strict=True)]

    middle, sound95, sound99 = times(subnet.p50_us), times(subnet.p95_us), times(subnet.p99_us)
    at_rest = middle if changes[0].tails else times(subnet.quiet_p50_us or subnet.p50_us)
    return replace(
        subnet,
        p50_us=_rounded(middle),
        p95_us=_rounded(_tail(middle, sound95, changes, 0)),
        p99_us=_rounded(_tail(middle, sound99, changes, 1)),
        quiet_p50_us=_rounded(at_rest),
    )


def _tail(middle: Sequence[float], sound: Sequence[float], changes: Sequence[_Change], which: int) -> list[float]:
    return [
        kept if change.tails is None else value * change.tails[which]
        for value, kept, change in zip(middle, sound, changes, strict=True)
    ]


def _rounded(row: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 1) for value in row)


def _spread(samples: Mapping[Cell, Sequence[int]]) -> float | None:
    """That of rounds: idle work visits each cell once in each."""
    count = max(map(len, samples.values()))
    return rounds_spread([[list(taken[number : number + 1]) for taken in samples.values()] for number in range(count)])
