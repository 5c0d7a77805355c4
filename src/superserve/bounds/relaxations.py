"""What requests gain at most if worker time can be bought at given prices, but batches stay whole."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from superserve.bounds.cells import Cells, Tariff, range_min
from superserve.bounds.costs import Floats, Stamps
from superserve.bounds.offers import Offer


class Gain(NamedTuple):
    """Of a relaxation at some prices.

    ``total``: no choice of batches gains more, in per cent x requests. ``busy``: workers that a best choice keeps busy
    in each cell, float64 (cells,), about; zeros where it was not asked for.
    """

    total: float
    busy: Floats


class _Windows(NamedTuple):
    """When batches could run: from ``ready_ns``, in cell ``first``, until ``due_ns``; int64 (n,) each."""

    ready_ns: Stamps
    due_ns: Stamps
    first: Stamps


class _Pick(NamedTuple):
    """Windows that take an offer, and how much of the batch stands for each."""

    windows: Stamps
    share: float


class Relaxation(ABC):
    """Requests, cells and offers; see the two ways to make batches below.

    Args:
        arrival_ns: int64 (n,), never decreasing.
        deadline_ns: int64 (n,).
        cells: that hold all windows.
        offers: in rising order of rows.
    """

    def __init__(self, arrival_ns: Stamps, deadline_ns: Stamps, cells: Cells, offers: Sequence[Offer]) -> None:
        self.cells = cells
        self._offers = [offer for offer in offers if offer.rows <= len(arrival_ns)]
        self._all = _Windows(arrival_ns, deadline_ns, cells.holding(arrival_ns))

    def gain(self, prices: Floats, *, with_busy: bool) -> Gain:
        """The most gain at prices per nanosecond, float64 (cells,): accuracies less the cost of the worker time."""
        tariff = Tariff(self.cells, prices, max((offer.least_ns for offer in self._offers), default=0))
        total, picks = self._best(tariff, with_picks=with_busy)
        busy = np.zeros(self.cells.count)
        for number, pick in picks.items():
            offer = self._offers[number]
            cost = self._cost(offer, tariff)
            starts = _spread(cost, *self._starts(offer, pick.windows), pick.share)
            busy += self.cells.busy(starts, offer.least_ns)
        return Gain(total, busy)

    @abstractmethod
    def _best(self, tariff: Tariff, *, with_picks: bool) -> tuple[float, dict[int, _Pick]]:
        """The most gain, and what is picked of each offer, by its number."""

    @abstractmethod
    def _windows(self, offer: Offer) -> _Windows:
        """Windows that batches of an offer could run in."""

    def _cost(self, offer: Offer, tariff: Tariff) -> Floats:
        """Of a batch that begins in each cell."""
        return tariff.least_cost(offer.least_ns)

    def _starts(self, offer: Offer, windows: Stamps) -> tuple[Stamps, Stamps]:
        """First and last cell in which a batch could begin."""
        mine = self._windows(offer)
        return mine.first[windows], self.cells.holding(mine.due_ns[windows] - offer.least_ns)

    def _gains(self, offer: Offer, tariff: Tariff) -> tuple[Stamps, Floats]:
        """The windows that a batch fits, and its gain in each."""
        mine = self._windows(offer)
        length_ns = mine.due_ns - mine.ready_ns
        fits = np.flatnonzero(length_ns >= offer.least_ns)
        first, last = self._starts(offer, fits)
        gains = offer.value - range_min(self._cost(offer, tariff), first, last)
        if offer.most_ns > offer.least_ns:
            # Beyond the least time, a longer batch pays the lowest price in its window at least.
            lowest = range_min(tariff.prices, first, self.cells.holding(mine.due_ns[fits]))
            longer_ns = np.minimum(offer.most_ns, length_ns[fits]) - offer.least_ns
            gains += longer_ns * np.maximum(0.0, offer.slope - lowest)
        return fits, gains


class InOrder(Relaxation):
    """Batches of consecutive requests, each request in one at most: a shortest path over the requests.

    Deadlines must come in order of arrival.
    """

    def _windows(self, offer: Offer) -> _Windows:
        count, last = len(self._all.ready_ns) - offer.rows + 1, offer.rows - 1
        return _Windows(self._all.ready_ns[last:], self._all.due_ns[:count], self._all.first[last:])

    def _best(self, tariff: Tariff, *, with_picks: bool) -> tuple[float, dict[int, _Pick]]:
        most = self._offers[-1].rows if self._offers else 0
        # Gains of batches by the position after their last request and by their rows, largest first.
        table = np.full((len(self._all.ready_ns), most), -np.inf)
        which = np.zeros(table.shape, np.int64)
        for number, offer in enumerate(self._offers):
            fits, gains = self._gains(offer, tariff)
            ends, column = fits + offer.rows - 1, most - offer.rows
            better = gains > table[ends, column]
            table[ends[better], column] = gains[better]
            which[ends[better], column] = number
        total, path = _longest_path(table)
        if not with_picks:
            return total, {}
        ends = np.flatnonzero(path)
        numbers = which[ends, most - path[ends]]
        return total, {
            int(number): _Pick(ends[numbers == number] - self._offers[number].rows + 1, 1.0)
            for number in np.unique(numbers)
        }


class OneByOne(Relaxation):
    """Every request takes its own best share of a batch that enough requests could be part of."""

    def _windows(self, offer: Offer) -> _Windows:  # noqa: ARG002  (the same for all)
        return self._all

    def _cost(self, offer: Offer, tariff: Tariff) -> Floats:
        cost = super()._cost(offer, tariff)
        fits = np.flatnonzero(self._all.due_ns - self._all.ready_ns >= offer.least_ns)
        first, last = self._starts(offer, fits)
        count = len(cost)
        present = np.cumsum(np.bincount(first, minlength=count) - np.bincount(last + 1, minlength=count + 1)[:count])
        return np.where(present >= offer.rows, cost, np.inf)

    def _best(self, tariff: Tariff, *, with_picks: bool) -> tuple[float, dict[int, _Pick]]:
        best = np.zeros(len(self._all.ready_ns))
        which = np.full(len(best), -1)
        for number, offer in enumerate(self._offers):
            fits, gains = self._gains(offer, tariff)
            gains /= offer.rows
            better = gains > best[fits]
            best[fits[better]] = gains[better]
            which[fits[better]] = number
        numbers = np.unique(which[which >= 0]).tolist() if with_picks else []
        return float(best.sum()), {
            number: _Pick(np.flatnonzero(which == number), 1.0 / self._offers[number].rows) for number in numbers
        }


def _longest_path(table: Floats) -> tuple[float, Stamps]:
    """The most gain, and the rows of the batch that ends after each position, 0 where none does; see `InOrder`."""
    count, most = table.shape
    # Position 0 stands behind as many that cannot be reached as a batch may have rows.
    value = np.full(most + count + 1, -np.inf)
    value[most] = best = 0.0
    taken = np.zeros(count, np.int64)
    for end, row in enumerate(table):
        options = value[end + 1 : end + 1 + most] + row
        column = int(options.argmax()) if most else 0
        if most and options[column] > best:
            best = float(options[column])
            taken[end] = most - column
        value[most + end + 1] = best
    end = count - 1
    while end >= 0:
        rows = int(taken[end])
        if rows:
            taken[end - rows + 1 : end] = 0
        end -= max(1, rows)
    return best, taken


def _spread(cost: Floats, first: Stamps, last: Stamps, share: float) -> Floats:
    """Batches begun per cell, each in the cheapest cells of its range, in equal parts where there are several."""
    starts = np.zeros(len(cost))
    keys, counts = np.unique(first * len(cost) + last, return_counts=True)
    for key, number in zip(keys.tolist(), counts.tolist(), strict=True):
        low, high = divmod(key, len(cost))
        part = cost[low : high + 1]
        cheapest = part <= part.min() * (1.0 + 1e-9)
        starts[low : high + 1][cheapest] += share * number / np.count_nonzero(cheapest)
    return starts
