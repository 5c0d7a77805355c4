"""Simulated runs over their seeds."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from scaling.shards import Outcomes, Sharding


class Mean(NamedTuple):
    """A load and a sharding, the mean of its seeds; ``accuracy`` is over all that was offered."""

    load: str
    sharding: Sharding
    shards: int
    workers: int
    seconds: float
    offered: float
    attainment: float
    accuracy: float


def means(outcomes: Sequence[Outcomes]) -> list[Mean]:
    """One per load, sharding and number of shards, in order."""
    groups = defaultdict[tuple[str, Sharding, int], list[Outcomes]](list)
    for one in outcomes:
        groups[one.load, one.sharding, one.shards].append(one)
    return [
        Mean(
            *key,
            group[0].workers,
            group[0].seconds,
            fmean(one.offered for one in group),
            fmean(one.slo_attainment for one in group),
            fmean(one.goodput_weighted_accuracy for one in group),
        )
        for key, group in groups.items()
    ]


def unsharded(one: Mean, found: Sequence[Mean]) -> Mean:
    """The same load without shards: by hash one scheduler, by model all models on all workers."""
    sharding, shards = (Sharding.HASH, 1) if one.sharding is Sharding.HASH else (Sharding.HOSTED, one.shards)
    return next(each for each in found if (each.load, each.sharding, each.shards) == (one.load, sharding, shards))
