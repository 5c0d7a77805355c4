"""Watch a few subnets while all of them train, and say early when one falls behind."""

from collections.abc import Mapping
from itertools import combinations

import msgspec

from superserve.intervals import wilson95
from superserve.subnet import SearchSpace, SubnetSpec

Watched = Mapping[str, SubnetSpec]
"""Subnets to watch by name, from small to large."""


class EpochRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an epoch came to."""

    epoch: int
    """From 1."""
    loss: float
    """The largest subnet's, mean over the epoch's steps."""
    accuracy: dict[str, float]
    """Of each watched subnet on validation images, in per cent, normalised by batch: close to that of a calibrated
    one, and quick."""
    warnings: tuple[str, ...] = ()
    """One sentence for each watched subnet that falls behind."""
    wall_s: float = 0.0
    """How long it took."""
    cpu_s: float = 0.0
    """Processor time of all processes."""
    planned: int = 0
    """How many epochs the run was to have then: the learning rate depends on it. 0: not kept."""

    def line(self) -> str:
        """The epoch in one line."""
        accuracy = ", ".join(f"{name} {value:.1f} %" for name, value in self.accuracy.items())
        return " ".join((f"epoch {self.epoch}: loss {self.loss:.3f}; {accuracy}", *map("[{}]".format, self.warnings)))


def watched(space: SearchSpace) -> Watched:
    """The smallest, the largest, and the one in the middle of every dimension."""
    ratios = {width.name: width.ratios[len(width.ratios) // 2] for width in space.widths}
    depths = tuple(stage.depths[len(stage.depths) // 2] for stage in space.stages)
    return {"smallest": space.smallest(), "middle": space.spec(depths, ratios), "largest": space.largest()}


def warnings(history: tuple[EpochRecord, ...], accuracy: Mapping[str, float], n: int) -> tuple[str, ...]:
    """What is wrong with an epoch's accuracies (per cent of n images), given the epochs before it.

    A subnet falls behind if it has lost accuracy since its best epoch, or a smaller one is better; by more than
    chance explains: the 95 % intervals do not meet.
    """
    said = []
    for name, now in accuracy.items():
        best = max(history, key=lambda record: record.accuracy[name], default=None)
        if best is not None and _clearly_below(now, best.accuracy[name], n):
            said.append(f"{name} falls behind: {now:.1f} %, after {best.accuracy[name]:.1f} % in epoch {best.epoch}")
    for small, large in combinations(accuracy, 2):
        if _clearly_below(accuracy[large], accuracy[small], n):
            said.append(f"{large} falls behind {small}: {accuracy[large]:.1f} % against {accuracy[small]:.1f} %")
    return tuple(said)


def _clearly_below(low: float, high: float, n: int) -> bool:
    return wilson95(round(low * n / 100), n)[1] < wilson95(round(high * n / 100), n)[0]
