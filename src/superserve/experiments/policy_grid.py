"""The verdict of the policy grid: is our policy worse than the best of the others anywhere, how far from the bound?"""

from collections.abc import Sequence
from typing import Final

import msgspec

from superserve.experiments.grid_cells import Cell
from superserve.experiments.grid_runs import OURS, SLACKFIT, Run
from superserve.intervals import Estimate, estimate, paired

#: Points of goodput-weighted accuracy that our policy may lose against the best of the others.
TOLERANCE: Final = 0.1
#: Where SlackFit attains less, most of what it misses must be recovered.
MANY_MISSES: Final = 0.97
MIN_RECOVERED: Final = 0.75
#: Mean distance to the bound: at most this share of SlackFit's, and at most so many points.
MAX_DISTANCE_SHARE: Final = 0.25
MAX_DISTANCE: Final = 0.6


class CellVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a cell. Goodput-weighted accuracies in per cent, attainments 0..1, means over seeds.

    ``advantage``: of our policy over the best of the others (by its mean), paired by seed. ``distance``: from the
    bound; ``recovered``: share of SlackFit's distance to the bound that our policy does not have, None where SlackFit
    attains `MANY_MISSES`; ``misses_recovered``: the same of missed requests, with no bound: some cannot be met by
    anyone.
    """

    cell: Cell
    seeds: int
    bound: float
    goodput: dict[str, float]
    attainment: dict[str, float]
    best_other: str
    advantage: Estimate
    distance: float
    slackfit_distance: float
    recovered: float | None
    misses_recovered: float | None

    @property
    def loses(self) -> bool:
        """Whether the interval of the advantage lies wholly below the tolerance."""
        return self.advantage.high < -TOLERANCE


class GridVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """All cells, worst first, and the figures that the grid is judged by."""

    cells: tuple[CellVerdict, ...]
    lost: int
    worst_advantage: float
    mean_distance: float
    slackfit_mean_distance: float
    distance_share: float
    cells_with_misses: int
    recovered: float | None
    """Over all cells in which SlackFit misses many: the share of its summed distance to the bound."""
    misses_recovered: float | None
    cells_below_recovery: int
    passes: bool


def judge(runs: Sequence[Run]) -> GridVerdict:
    """The verdict on the runs of a grid."""
    by_cell: dict[Cell, list[Run]] = {}
    for run in runs:
        by_cell.setdefault(run.cell, []).append(run)
    cells = sorted((_judge_cell(some) for some in by_cell.values()), key=lambda one: one.advantage.mean)
    distance = estimate([one.distance for one in cells]).mean
    slackfit = estimate([one.slackfit_distance for one in cells]).mean
    missing = [one for one in cells if one.recovered is not None]
    recovered = _share([one.distance for one in missing], [one.slackfit_distance for one in missing])
    misses = _share([1 - one.attainment[OURS] for one in missing], [1 - one.attainment[SLACKFIT] for one in missing])
    lost = sum(one.loses for one in cells)
    below = sum((one.recovered or 0.0) < MIN_RECOVERED for one in missing)
    return GridVerdict(
        cells=tuple(cells),
        lost=lost,
        worst_advantage=cells[0].advantage.mean,
        mean_distance=distance,
        slackfit_mean_distance=slackfit,
        distance_share=distance / slackfit,
        cells_with_misses=len(missing),
        recovered=recovered,
        misses_recovered=misses,
        cells_below_recovery=below,
        passes=not lost
        and distance <= min(MAX_DISTANCE, MAX_DISTANCE_SHARE * slackfit)
        and (recovered is None or recovered >= MIN_RECOVERED),
    )


def _judge_cell(runs: Sequence[Run]) -> CellVerdict:
    goodput: dict[str, list[float]] = {}
    attainment: dict[str, list[float]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        goodput.setdefault(run.policy, []).append(run.goodput)
        attainment.setdefault(run.policy, []).append(run.attainment)
    means = {policy: estimate(values).mean for policy, values in goodput.items()}
    attained = {policy: estimate(values).mean for policy, values in attainment.items()}
    best = max((policy for policy in means if policy != OURS), key=means.__getitem__)
    bound = estimate([run.bound for run in runs if run.policy == OURS]).mean
    distance, slackfit = bound - means[OURS], bound - means[SLACKFIT]
    many = attained[SLACKFIT] < MANY_MISSES
    return CellVerdict(
        cell=runs[0].cell,
        seeds=len(goodput[OURS]),
        bound=bound,
        goodput=means,
        attainment=attained,
        best_other=best,
        advantage=paired(goodput[OURS], goodput[best]),
        distance=distance,
        slackfit_distance=slackfit,
        recovered=_share([distance], [slackfit]) if many else None,
        misses_recovered=_share([1 - attained[OURS]], [1 - attained[SLACKFIT]]) if many else None,
    )


def _share(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Share of their sum that ours does not have."""
    return 1.0 - sum(ours) / sum(theirs) if sum(theirs) > 0 else None
