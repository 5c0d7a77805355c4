"""Time cut into equal cells, each with a price for worker time."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from superserve.bounds.costs import Floats, Stamps

#: As many cells per request, but no fewer than 32 and no more than 256 per shortest window.
_PER_REQUEST: Final = 2
_PER_WINDOW: Final = (32, 256)
#: However short the shortest window is, the longest one and the whole trace have no more cells.
_PER_LONGEST: Final = 1024
_MOST: Final = 1 << 18


@dataclass(frozen=True, eq=False)
class Cells:
    """Cell k is the time from ``start_ns + k x cell_ns`` to its end, for k below ``count``."""

    start_ns: int
    cell_ns: int
    count: int

    @classmethod
    def over(cls, arrival_ns: Stamps, deadline_ns: Stamps) -> "Cells":
        """Cells that hold all windows; ``arrival_ns`` int64 (n,), never decreasing, n > 0; ``deadline_ns`` after it."""
        window_ns = deadline_ns - arrival_ns
        shortest, longest = int(window_ns.min()), int(window_ns.max())
        start_ns, end_ns = int(arrival_ns[0]), int(deadline_ns.max())
        length_ns = end_ns - start_ns
        few, many = _PER_WINDOW
        cell_ns = min(shortest // few, max(shortest // many, length_ns // (_PER_REQUEST * len(arrival_ns))))
        cell_ns = max(1, cell_ns, longest // _PER_LONGEST, length_ns // _MOST)
        return cls(start_ns, cell_ns, length_ns // cell_ns + 1)

    @property
    def edges_ns(self) -> Stamps:
        """Of the cells, int64 (count + 1,)."""
        return self.start_ns + self.cell_ns * np.arange(self.count + 1)

    @property
    def middles_ns(self) -> Stamps:
        """Of the cells, int64 (count,)."""
        return self.edges_ns[:-1] + self.cell_ns // 2

    def holding(self, instants_ns: Stamps) -> Stamps:
        """The cell that each instant lies in; instants must lie in some."""
        return (instants_ns - self.start_ns) // self.cell_ns

    def busy(self, starts: Floats, time_ns: int) -> Floats:
        """Workers busy in each cell if so many batches of ``time_ns`` begin in each, float64 (count,)."""
        whole, rest = divmod(time_ns, self.cell_ns)
        begun = np.concatenate([np.zeros(whole + 1), np.cumsum(starts)])
        before = begun[: self.count + 1]
        return np.asarray(begun[whole + 1 :] - before[1:] + rest / self.cell_ns * np.diff(before), np.float64)


class Tariff:
    """A price per cell.

    Args:
        cells: of time.
        prices: float64 (count,), of a nanosecond of worker time; after the last cell it is free.
        longest_ns: the longest time that will be asked for.
    """

    def __init__(self, cells: Cells, prices: Floats, longest_ns: int) -> None:
        self.prices = prices
        self._cells = cells
        self._price = np.concatenate([prices, np.zeros(longest_ns // cells.cell_ns + 2)])
        self._paid = np.concatenate([[0.0], np.cumsum(self._price * cells.cell_ns)])

    def least_cost(self, time_ns: int) -> Floats:
        """The least cost of so much of one worker's time on end, by the cell in which it begins, float64 (count,).

        The cost is piecewise linear in the start, with corners where the start or the end crosses an edge: a cell has
        three of them.
        """
        whole, rest = divmod(time_ns, self._cells.cell_ns)
        edges = self._cells.count + 1
        until = self._paid[whole : whole + edges]
        at_edge = until + rest * self._price[whole : whole + edges] - self._paid[:edges]
        ends_at_edge = self._paid[whole + 1 : whole + edges] - self._paid[1:edges] + rest * self.prices
        return np.asarray(np.minimum(np.minimum(at_edge[:-1], at_edge[1:]), ends_at_edge), np.float64)


def range_min(values: Floats, first: Stamps, last: Stamps) -> Floats:
    """Minimum over each range of positions, both ends included, by a table of minima over powers of two."""
    level = np.frexp(last - first + 1)[1] - 1
    result = np.empty(len(first))
    table = values
    for power in range(int(level.max(initial=0)) + 1):
        span = 1 << power
        here = np.flatnonzero(level == power)
        result[here] = np.minimum(table[first[here]], table[last[here] - span + 1])
        table = np.minimum(table[:-span], table[span:]) if len(table) > span else table
    return result
