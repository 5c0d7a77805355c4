"""What simulated batches take where a server has recorded what its batches took."""

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_US
from superserve.profile import Profile

#: Fewer batches say little of what others like them take.
ENOUGH: Final = 30


class _Known(NamedTuple):
    """Recorded batches in order of their launch: time taken over the profiled median, and the dispatch overhead."""

    launched_ns: list[int]
    factor: list[float]
    overhead_ns: list[int]


class RecordedTimes:
    """Times of batches on the recorded machine, as it was at each instant of the recording.

    A batch takes what the recorded one of its cell that was launched last before it took: the profiled median of its
    rows, times that one's time over its own profiled median. The dispatch overhead is that of the batch launched last
    before it. So a slow second of the machine is slow again, and tails are the recorded ones. Cells with fewer than
    `ENOUGH` recorded batches look at all of their subnet, or else at all.

    Args:
        profile: medians, accuracies and batch sizes of the device that was recorded.
        batches: ``launched_ns``, ``subnet``, ``rows``, ``taken_ns`` and ``overhead_ns`` of one batch at least.
    """

    def __init__(self, profile: Profile, batches: Mapping[str, npt.NDArray[Any]]) -> None:
        order = np.argsort(batches["launched_ns"], kind="stable")
        columns = {name: column[order] for name, column in batches.items()}
        subnet, rows = columns["subnet"], columns["rows"]
        all_rows = np.arange(profile.batches[-1] + 1)
        medians_ns = NS_PER_US * np.array([np.interp(all_rows, profile.batches, one.p50_us) for one in profile.subnets])
        columns["factor"] = columns["taken_ns"] / medians_ns[subnet, rows]
        size = np.searchsorted(profile.batches, rows)
        self._medians_ns: list[list[float]] = medians_ns.tolist()
        self._size: list[int] = np.searchsorted(profile.batches, all_rows).tolist()
        self._all = _known(columns, np.ones(len(rows), bool))
        self._cells: list[list[_Known]] = []
        for number in range(len(profile.subnets)):
            of_subnet = subnet == number
            usual = _known(columns, of_subnet) if of_subnet.sum() >= ENOUGH else self._all
            cells = (of_subnet & (size == one) for one in range(len(profile.batches)))
            self._cells.append([_known(columns, cell) if cell.sum() >= ENOUGH else usual for cell in cells])

    def latency_ns(self, now_ns: int, subnet: int, rows: int) -> int:
        """Of a batch that is launched now, in the worker."""
        known = self._cells[subnet][self._size[rows]]
        return max(1, round(self._medians_ns[subnet][rows] * known.factor[_at(known, now_ns)]))

    def overhead_ns(self, now_ns: int) -> int:
        """Of the same batch, everything else."""
        return self._all.overhead_ns[_at(self._all, now_ns)]


def _known(columns: Mapping[str, npt.NDArray[Any]], mask: npt.NDArray[np.bool_]) -> _Known:
    return _Known(*(columns[name][mask].tolist() for name in _Known._fields))


def _at(known: _Known, now_ns: int) -> int:
    return max(0, bisect_right(known.launched_ns, now_ns) - 1)
