"""The policy grid for people: a page of markdown and a figure."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from superserve.experiments.grid_cells import Cell
from superserve.experiments.grid_runs import OURS, SLACKFIT
from superserve.experiments.policy_grid import (
    MANY_MISSES,
    MAX_DISTANCE,
    MAX_DISTANCE_SHARE,
    MIN_RECOVERED,
    TOLERANCE,
    CellVerdict,
    GridVerdict,
)
from superserve.plots import LIGHT, Theme, styled_axes

_WORST_SHOWN: Final = 20

_INTRODUCTION: Final = f"""\
{{cells}} cells x {{seeds}} seeds, 20,000 to 40,000 simulated requests a run, all policies
giving up what cannot be met. Each cell draws load, burstiness, profile, number of subnets and
workers, SLO, overhead and mix of deadlines at random from the levels in the last table. Regenerate with `make
bench-policies`; every figure is in [policy-grid.json](policy-grid.json).

*Advantage*: goodput-weighted accuracy (sum of the accuracies of requests served in time / all requests), in
points, of {OURS} over the best in this cell of SlackFit, MaxBatch, MaxAcc and every fixed subnet (eight
spread over the front where there are more), with the 95 % interval of the paired difference over seeds. *To
bound*: points below what no policy can pass. Attainments stand in brackets. The recorded loads are samples of
public data sets, not whole ones: `maf2019` are 9,027 functions of the Azure Functions trace, a biased subset."""

#: What cells are grouped by in the page's second table.
_FACTORS: Final[dict[str, Callable[[Cell], str]]] = {
    "arrivals": lambda cell: cell.recording or f"{cell.arrivals}, CV² {cell.cv2:g}",
    "load": lambda cell: f"{cell.load:g}",
    "profile": lambda cell: cell.shape,
    "subnets": lambda cell: f"{cell.subnets}",
    "workers": lambda cell: f"{cell.workers}",
    "SLO / largest cell": lambda cell: f"{cell.slo_factor:g}",
    "deadlines": lambda cell: "mixed" if cell.mixed_slos else "alike",
    "overhead, ms": lambda cell: f"{cell.overhead_ms:g}",
}


def grid_page(verdict: GridVerdict, figure: str) -> str:
    """The page; ``figure`` is the file of `grid_figure`, relative to it."""
    seeds = sorted({one.seeds for one in verdict.cells})
    worst = ("cell", "advantage", "best other", OURS, "to bound", "SlackFit to bound")
    factors = ("factor", "level", "cells", "mean advantage", "least", "to bound", "SlackFit to bound")
    return "\n".join(
        [
            "# DrainFit against the other policies",
            "",
            _INTRODUCTION.format(cells=len(verdict.cells), seeds=" or (where CV² >= 16) ".join(map(str, seeds))),
            "",
            *_checks(verdict),
            "",
            f"![advantage per cell, and distance to the bound]({figure})",
            "",
            f"## The {_WORST_SHOWN} cells with the least advantage",
            "",
            *_table(worst, [_cells(one) for one in verdict.cells[:_WORST_SHOWN]]),
            "",
            "## By factor",
            "",
            *_table(factors, [row for name in _FACTORS for row in _levels(verdict.cells, name)]),
            "",
        ]
    )


def grid_figure(verdict: GridVerdict, theme: Theme = LIGHT) -> Figure:
    """Every cell's advantage, sorted; and its distance to the bound against SlackFit's."""
    figure, (left, right) = styled_axes((10.0, 4.4), 1, 2, theme)
    advantage = np.array([one.advantage.mean for one in verdict.cells])
    half = np.array([one.advantage.half_width or 0.0 for one in verdict.cells])
    left.errorbar(
        np.arange(len(advantage)), advantage, half, fmt=".", color=theme.series[0], elinewidth=0.8, markersize=3
    )
    left.axhline(-TOLERANCE, color=theme.series[1], linewidth=1.0, linestyle="--", label=f"tolerance, -{TOLERANCE}")
    left.set_yscale("symlog", linthresh=1.0)
    left.set_xlabel("cells, by advantage", color=theme.ink)
    left.set_ylabel("points over the best other policy", color=theme.ink)
    left.legend(loc="upper left", frameon=False, labelcolor=theme.ink, fontsize=9)
    slackfit = np.maximum(0.01, [one.slackfit_distance for one in verdict.cells])
    ours = np.maximum(0.01, [one.distance for one in verdict.cells])
    right.loglog(slackfit, ours, "o", color=theme.series[0], markersize=4, alpha=0.7)
    ends = [0.01, float(max(slackfit.max(), ours.max()))]
    right.loglog(ends, ends, color=theme.muted, linewidth=0.8, label="equal")
    right.loglog(
        ends, [end / 4 for end in ends], color=theme.series[1], linestyle="--", linewidth=1.0, label="a quarter"
    )
    right.set_xlabel("SlackFit: points below the bound", color=theme.ink)
    right.set_ylabel(f"{OURS}: points below the bound", color=theme.ink)
    right.legend(loc="upper left", frameon=False, labelcolor=theme.ink, fontsize=9)
    return figure


def _checks(verdict: GridVerdict) -> list[str]:
    share, few = verdict.distance_share, verdict.cells_with_misses
    rows = [
        (f"no cell with the whole interval below -{TOLERANCE}", f"{verdict.lost} cells", verdict.lost == 0),
        (
            f"mean distance to the bound <= {MAX_DISTANCE}",
            f"{verdict.mean_distance:.2f}",
            verdict.mean_distance <= MAX_DISTANCE,
        ),
        (
            f"... and <= {MAX_DISTANCE_SHARE} of SlackFit's ({verdict.slackfit_mean_distance:.2f})",
            f"{share:.3f}",
            share <= MAX_DISTANCE_SHARE,
        ),
    ]
    if verdict.recovered is not None:
        claim = f"where SlackFit attains < {MANY_MISSES} ({few} cells), >= {MIN_RECOVERED} of its distance is recovered"
        value = f"{verdict.recovered:.3f} ({verdict.cells_below_recovery} cells below)"
        rows.append((claim, value, verdict.recovered >= MIN_RECOVERED))
    if verdict.misses_recovered is not None:
        claim = "... and of the requests that it misses, avoidable or not"
        rows.append((claim, f"{verdict.misses_recovered:.3f}", verdict.misses_recovered >= MIN_RECOVERED))
    return _table(("claim", "figure", "holds"), [(*words, "yes" if holds else "**no**") for *words, holds in rows])


def _cells(one: CellVerdict) -> tuple[str, ...]:
    return (
        one.cell.name,
        one.advantage.text(2),
        f"{one.best_other} {one.goodput[one.best_other]:.2f} ({one.attainment[one.best_other]:.4f})",
        f"{one.goodput[OURS]:.2f} ({one.attainment[OURS]:.4f})",
        f"{one.distance:.2f}",
        f"{one.slackfit_distance:.2f} ({one.attainment[SLACKFIT]:.4f})",
    )


def _levels(cells: Sequence[CellVerdict], factor: str) -> list[tuple[str, ...]]:
    level = _FACTORS[factor]
    groups: dict[str, list[CellVerdict]] = {}
    for one in cells:
        groups.setdefault(level(one.cell), []).append(one)
    return [
        (
            factor,
            name,
            f"{len(group)}",
            f"{fmean(one.advantage.mean for one in group):.2f}",
            f"{min(one.advantage.mean for one in group):.2f}",
            f"{fmean(one.distance for one in group):.2f}",
            f"{fmean(one.slackfit_distance for one in group):.2f}",
        )
        for name, group in sorted(groups.items(), key=lambda item: _order(item[0]))
    ]


def _order(level: str) -> tuple[float, str]:
    return (float(level), "") if level.replace(".", "").isdecimal() else (0.0, level)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
