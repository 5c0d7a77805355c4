"""Latency quantiles from samples, many or few."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]

QUANTILES: Final = (0.50, 0.95, 0.99)

#: So many samples are wanted beyond a quantile before it is read off.
_BEYOND: Final = 5


def cell_quantiles(cells: Sequence[Samples]) -> npt.NDArray[np.float64]:
    """Median, p95 and p99 of each cell's latency.

    The median is the cell's own. A tail quantile is the cell's own if at least five of its samples lie beyond it (100
    samples for p95, 500 for p99). With fewer, it is the median times the quantile of *relative* deviations pooled over
    the cells of most similar median, as many cells as it takes to have five beyond it: what delays a batch
    (interrupts, neighbours on the memory bus, the clock speed) depends on how long it runs, not on which subnet runs.
    A deviation is a sample over the median of the cell's *other* samples, which is what the next batch would see;
    over the median of all, few samples would look steadier than they are.

    Args:
        cells: samples per cell, positive, at least one each.

    Returns:
        (cells, 3) array, rising along the second axis.
    """
    medians = np.array([np.median(samples) for samples in cells])
    deviations = [_deviations(samples) for samples in cells]
    rows = [
        [median, *(_tail(cell, quantile, cells, medians, deviations) for quantile in QUANTILES[1:])]
        for cell, median in enumerate(medians)
    ]
    return np.maximum.accumulate(np.array(rows), axis=1)


def _tail(
    cell: int, quantile: float, cells: Sequence[Samples], medians: Samples, deviations: Sequence[Samples]
) -> float:
    wanted = round(_BEYOND / (1 - quantile))
    if len(cells[cell]) >= wanted:
        return float(np.quantile(cells[cell], quantile))
    nearest = np.argsort(np.abs(np.log(medians / medians[cell])), kind="stable")
    reached = np.searchsorted(np.cumsum([len(deviations[index]) for index in nearest]), wanted) + 1
    pooled = np.concatenate([deviations[index] for index in nearest[:reached]])
    return float(medians[cell] * np.quantile(pooled, quantile)) if len(pooled) else float(cells[cell].max())


def _deviations(samples: Samples) -> Samples:
    """Each sample over the median of the others; empty for a single sample."""
    n = len(samples)
    if n < 2:
        return np.empty(0)
    ordered = np.sort(samples)
    ranks = np.arange(n)
    low, high = (n - 2) // 2, (n - 1) // 2  # positions of the middle of n - 1 values
    others = (ordered[low + (ranks <= low)] + ordered[high + (ranks <= high)]) / 2
    deviations: Samples = ordered / others
    return deviations
