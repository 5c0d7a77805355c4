"""How much slower batches run than profiled."""

from bisect import bisect_left, insort
from collections import deque
from math import fsum
from typing import Final, NamedTuple

from superserve.clock import NS_PER_S
from superserve.scheduling.quantile import RunningQuantile
from superserve.scheduling.ranking import Ranking

#: The estimate is told in steps of this size, so that tables which depend on it are rarely made anew.
_GRAIN: Final = 1.0 / 64.0
#: A worker is slow from this many times the others' drift on: what remains below is in the p99 that plans are made of.
_SLOW: Final = 1.05
#: Batches of a worker that tell whether it is slow: so many until one that has recovered is trusted again.
_RECENT: Final = 64
#: A slow worker whose last batch is so long ago is tried again: it may have recovered, and nothing else would show it.
_FORGIVE_NS: Final = 2 * NS_PER_S


class DriftEstimate:
    """What planned latencies are to be multiplied by: running p99 of time taken over time planned, per worker.

    A profile is a measurement of the past: neighbours, heat and other processes slow a machine down for seconds or for
    good. Planned latencies are a p99 already, so that the estimate is 1 while the profile holds, and it is never less:
    a machine that has become faster is profiled anew. One factor is for all subnets and batch sizes: what slows one
    batch down slows the next one down, whatever its subnet.

    It is the median over workers (the lower one of an even number), for a single slow or hanging worker must not make
    the others' plans worse. A worker that has become slower than the others is *slow*, and has a drift of its own: the
    second largest of its recent ratios, so that two bad batches make it slow, one does not, and 64 good ones end it.

    The work per batch is logarithmic in the number of workers, and linear in that of slow ones.
    """

    def __init__(self) -> None:
        self._workers: dict[int, _Observed] = {}
        self._quantiles = Ranking()
        self._levels = Ranking()
        self._slow: dict[int, float] = {}
        """Drift by slow worker."""
        self.planned = 1.0
        """What to plan with: the estimate, rounded up to a grain."""

    @property
    def uneven(self) -> bool:
        """Whether any worker is slow."""
        return bool(self._slow)

    def of(self, worker: int) -> float:
        """What to plan with on a worker: more than `planned` if that one is slow."""
        return max(self.planned, self._slow.get(worker, 1.0))

    def slow(self, worker: int) -> bool:
        """Whether a worker is."""
        return worker in self._slow

    def capacity(self, workers: int) -> float:
        """What so many workers carry, slow ones among them, as a share of what they would carry if none was slow."""
        lost = fsum(1.0 - self.planned / self.of(worker) for worker in self._slow)
        return max(0.0, 1.0 - lost / max(1, workers))

    def observe(self, worker: int, taken_ns: int, planned_ns: int, now_ns: int) -> None:
        """A batch took so long in a worker, where so much was planned."""
        observed = self._workers.get(worker)
        if observed is None:
            observed = self._workers[worker] = _Observed(RunningQuantile(1.0, least=1.0), _Recent())
            self._rank(worker, observed)
        quantile, recent = observed
        value, level, ratio = quantile.value, recent.level, taken_ns / planned_ns
        quantile.observe(ratio)
        if quantile.value != value:
            self._quantiles.put(worker, quantile.value)
            self._plan()
        if recent.observe(ratio, now_ns) != level:
            self._levels.put(worker, recent.level)
        if recent.level > _SLOW * self.planned or self._slow:
            self._compare()

    def forgive(self, now_ns: int) -> None:
        """Think of slow workers that have run nothing for a while as of others, until their next batch."""
        for worker in [each for each in self._slow if now_ns - self._workers[each].recent.last_ns >= _FORGIVE_NS]:
            self._workers[worker].recent.forgive()
            self._rank(worker, self._workers[worker])
            self._compare()

    def relax(self) -> None:
        """Go half of the way back to the profile, on every worker."""
        for worker, observed in self._workers.items():
            observed.quantile.relax(1.0)
            self._rank(worker, observed)
        self._plan()
        self._compare()

    def forget(self, worker: int) -> None:
        """A worker is gone: what comes in its place is another process, perhaps in another place."""
        if self._workers.pop(worker, None) is not None:
            self._quantiles.drop(worker)
            self._levels.drop(worker)
            self._plan()
            self._compare()

    def _rank(self, worker: int, observed: "_Observed") -> None:
        self._quantiles.put(worker, observed.quantile.value)
        self._levels.put(worker, observed.recent.level)

    def _plan(self) -> None:
        self.planned = _grained(self._quantiles.lower_median(1.0))

    def _compare(self) -> None:
        """Which workers are slow: what most of them have in common makes none so."""
        least = _SLOW * max(self.planned, self._levels.lower_median(1.0))
        self._slow = {worker: _grained(level) for level, worker in self._levels.above(least)}


class _Recent:
    """The latest ratios of a worker.

    Attributes:
        level: the second largest of them; 1 while there are not two.
        last_ns: when the latest came.
    """

    def __init__(self) -> None:
        self.level = 1.0
        self.last_ns = 0
        self._ratios: deque[float] = deque()
        self._sorted: list[float] = []

    def observe(self, ratio: float, now_ns: int) -> float:
        """Take one more; returns the level."""
        self.last_ns = now_ns
        if len(self._ratios) == _RECENT:
            del self._sorted[bisect_left(self._sorted, self._ratios.popleft())]
        self._ratios.append(ratio)
        insort(self._sorted, ratio)
        self.level = self._sorted[-2] if len(self._sorted) > 1 else 1.0
        return self.level

    def forgive(self) -> None:
        """Keep but the worst: one more bad batch, and it is slow again."""
        self._ratios = deque(self._sorted[-1:])
        del self._sorted[:-1]
        self.level = 1.0


class _Observed(NamedTuple):
    """What is known of a worker."""

    quantile: RunningQuantile
    recent: _Recent


def _grained(drift: float) -> float:
    return 1.0 + -(-(drift - 1.0) // _GRAIN) * _GRAIN
