"""What batches of each size are worth to their requests, and what worker time they take."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from superserve.bounds.costs import BatchCosts, Floats, Stamps

#: Offers per batch size at most: with 1,000 subnets, 300 lowered the bound by less than 0.07 points more.
MOST: Final = 128


@dataclass(frozen=True)
class Offer:
    """Some subnets for a batch of ``rows`` requests, and all that lies between them.

    They take from ``least_ns`` to ``most_ns``; a batch of time t has a sum of accuracies of at most ``value`` +
    ``slope`` x (t - ``least_ns``), in per cent x requests.
    """

    rows: int
    least_ns: int
    most_ns: int
    value: float
    slope: float

    @classmethod
    def covering(cls, rows: int, time_ns: Stamps, value: Floats) -> "Offer":
        """Some subnets; ``time_ns`` rising."""
        least_ns, most_ns = int(time_ns[0]), int(time_ns[-1])
        slope = float(value[-1] - value[0]) / max(1, most_ns - least_ns)
        return cls(rows, least_ns, most_ns, float((value - slope * (time_ns - least_ns)).max()), slope)


def offers(costs: BatchCosts, most: int = MOST) -> list[Offer]:
    """Offers that cover every subnet at every batch size, at most ``most`` per size, in rising order of size."""
    sizes = range(1, costs.max_rows + 1)
    return [offer for rows in sizes for offer in _of_size(rows, costs.time_ns[:, rows], costs, most)]


def _of_size(rows: int, time_ns: Stamps, costs: BatchCosts, most: int) -> Iterator[Offer]:
    order = np.lexsort([-costs.accuracies, time_ns])
    accuracies = costs.accuracies[order]
    better = np.concatenate([[True], accuracies[1:] > np.maximum.accumulate(accuracies)[:-1]])
    kept = order[better]
    for part in np.array_split(kept, min(most, len(kept))):
        yield Offer.covering(rows, time_ns[part], rows * costs.accuracies[part])
