"""How a run went over time: a `RunLog` in bins."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_S
from superserve.metrics import RunLog
from superserve.request import Outcome

#: Bins of a figure: as many as its width can show.
BINS: Final = 80

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One value per bin; NaN where nothing happened.

    ``time_s``: middle of the bin. ``offered``, ``served``, ``missed``: requests per second, by arrival; ``missed`` is
    what was not served within its deadline. ``accuracy``: mean profiled accuracy of requests served in time, in per
    cent, ``batch``: mean rows of executed batches, both by the time of the answer. ``waiting``: requests in the system
    at ``time_s``.
    """

    time_s: _Floats
    offered: _Floats
    served: _Floats
    missed: _Floats
    accuracy: _Floats
    batch: _Floats
    waiting: _Floats


def dynamics(log: RunLog, bins: int = BINS) -> Series:
    """Bin a run from its start to its last arrival; what ends after that falls into the last bin.

    Raises:
        ValueError: for a run in which nothing was offered.
    """
    if not len(log):
        raise ValueError("nothing was offered in this run: it has no course")
    edges = np.linspace(0.0, max(1.0, float(log.arrival_ns[-1])), bins + 1)
    width_s = float(edges[1]) / NS_PER_S
    served = log.is_outcome(Outcome.SERVED)
    answered = log.is_outcome(Outcome.SERVED, Outcome.LATE)
    arrived, ended = _bin(log.arrival_ns, edges), _bin(log.end_ns, edges)
    middles = (edges[:-1] + edges[1:]) / 2
    # A batch of b requests appears b times in the log: each counts for 1/b of a batch.
    shares = 1.0 / np.maximum(log.batch_rows[answered], 1)
    return Series(
        time_s=middles / NS_PER_S,
        offered=_count(arrived, bins) / width_s,
        served=_count(arrived[served], bins) / width_s,
        missed=_count(arrived[~served], bins) / width_s,
        accuracy=_ratio(_count(ended[served], bins, log.accuracy[served]), _count(ended[served], bins)),
        batch=_ratio(_count(ended[answered], bins), _count(ended[answered], bins, shares)),
        waiting=np.searchsorted(log.arrival_ns, middles) - np.searchsorted(np.sort(log.end_ns), middles).astype(float),
    )


def _bin(times_ns: npt.NDArray[np.int64], edges: _Floats) -> npt.NDArray[np.intp]:
    return np.clip(np.searchsorted(edges, times_ns, side="right") - 1, 0, len(edges) - 2)


def _count(index: npt.NDArray[np.intp], bins: int, weights: npt.NDArray[Any] | None = None) -> _Floats:
    return np.bincount(index, weights, bins).astype(np.float64)


def _ratio(above: _Floats, below: _Floats) -> _Floats:
    ratio = np.full(len(above), np.nan)
    np.divide(above, below, out=ratio, where=below > 0)
    return ratio
