"""What serving a request costs at the very least."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_US
from superserve.profile import Profile

Floats = npt.NDArray[np.float64]
Stamps = npt.NDArray[np.int64]
#: What a nanosecond of worker time costs at some rising instants, in per cent x requests.
Prices = Callable[[Stamps], Floats]


@dataclass(frozen=True, eq=False)
class BatchCosts:
    """The shortest times that batches can take on a worker.

    ``time_ns``: int64 (subnets, max rows + 1), worker time of a batch of each size, its dispatch overhead included;
    column 0 is not used. ``accuracies``: float64 (subnets,), rising, in per cent.
    """

    time_ns: Stamps
    accuracies: Floats

    @classmethod
    def of(cls, profile: Profile, overhead_ns: int, factor: float = 1.0) -> "BatchCosts":
        """The costs in simulated runs of a profile, its latencies multiplied by a factor.

        A simulated batch takes no less than the profiled median, interpolated between sizes (`LatencySampler`), so a
        bound on these costs holds whatever the latency draws are.
        """
        rows = np.arange(profile.batches[-1] + 1)
        medians = [np.interp(rows, profile.batches, subnet.p50_us) for subnet in profile.subnets]
        time_ns = ((NS_PER_US * np.stack(medians)).astype(np.int64) * factor).astype(np.int64) + overhead_ns
        return cls(time_ns, np.array([subnet.accuracy for subnet in profile.subnets]))

    @property
    def max_rows(self) -> int:
        """The largest batch."""
        return int(self.time_ns.shape[1]) - 1

    def thinned(self, most: int) -> "BatchCosts":
        """At most so many of the subnets, spread evenly, the first and the last among them."""
        kept = np.unique(np.linspace(0, len(self.accuracies) - 1, most).round().astype(np.int64))
        return BatchCosts(self.time_ns[kept], self.accuracies[kept])

    def padded(self) -> "BatchCosts":
        """The costs if not all rows of a batch need count.

        A batch of which some requests are late may be taken for a batch of the others alone: where a larger batch
        takes less, so does a smaller one.
        """
        time_ns = self.time_ns.copy()
        time_ns[:, 1:] = np.minimum.accumulate(time_ns[:, :0:-1], axis=1)[:, ::-1]
        return BatchCosts(time_ns, self.accuracies)

    def envelope(self, window_ns: float) -> "Envelope":
        """The most accuracy for a given worker time per request, of batches that fit a window."""
        rows = np.arange(1, self.max_rows + 1)
        time_ns = self.time_ns[:, 1:]
        per_row = np.where(time_ns <= window_ns, time_ns / rows, np.inf).min(1)
        return Envelope.of(per_row, self.accuracies)


@dataclass(frozen=True, eq=False)
class Envelope:
    """A concave, never decreasing, piecewise linear function from 0: accuracy for worker time per request.

    ``time_ns`` and ``accuracy``: float64, its corners, rising from (0, 0); constant after the last.
    """

    time_ns: Floats
    accuracy: Floats

    @classmethod
    def of(cls, time_ns: Floats, accuracy: Floats) -> "Envelope":
        """The least concave function through (0, 0) that is nowhere below the given points (infinite times: none)."""
        corners = [(0.0, 0.0)]
        for time, value in sorted(zip(time_ns.tolist(), accuracy.tolist(), strict=True)):
            if value <= corners[-1][1] or not np.isfinite(time):
                continue
            while len(corners) > 1 and _bends_up(corners[-2], corners[-1], (time, value)):
                corners.pop()
            corners.append((time, value))
        return cls(*np.array(corners).T)

    def __call__(self, time_ns: Floats) -> Floats:
        """Accuracy for worker times per request, of any shape."""
        return np.interp(time_ns, self.time_ns, self.accuracy)

    def surplus(self, price: Floats) -> Floats:
        """The most of accuracy less price x time, at prices per nanosecond of any shape (the convex conjugate)."""
        # The best corner is the last one whose segment still pays: slopes fall from corner to corner.
        best = np.searchsorted(-self.slopes, -price, side="left")
        return self.accuracy[best] - price * self.time_ns[best]

    @cached_property
    def slopes(self) -> Floats:
        """Of the segments between corners, falling."""
        return np.diff(self.accuracy) / np.diff(self.time_ns)


@dataclass(frozen=True)
class Capacity:
    """How many workers there are from each of some instants on; fractions and sums of speeds are fine.

    Before the first instant the first value holds.
    """

    at_ns: Sequence[int]
    workers: Sequence[float]

    @classmethod
    def constant(cls, workers: float) -> "Capacity":
        """The same number all the time."""
        return cls((0,), (workers,))

    def work_ns(self, instants_ns: npt.NDArray[np.int64 | np.float64]) -> Floats:
        """Worker time from the start of the trace to each instant, float64."""
        at_ns = np.array(self.at_ns, np.float64)
        workers = np.array(self.workers, np.float64)
        done = np.concatenate([[0.0], np.cumsum(np.diff(at_ns) * workers[:-1])])
        piece = np.clip(np.searchsorted(at_ns, instants_ns, side="right") - 1, 0, None)
        return np.asarray(done[piece] + (instants_ns - at_ns[piece]) * workers[piece], np.float64)


def _bends_up(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    rise, run = middle[1] - first[1], middle[0] - first[0]
    return (last[1] - first[1]) * run >= rise * (last[0] - first[0])
