"""The dispatch overhead as it is observed."""

from typing import Final

from superserve.clock import NS_PER_MS, NS_PER_US
from superserve.scheduling.quantile import RunningQuantile
from superserve.scheduling.ranking import Ranking

#: The estimate is told in steps of this size, so that tables which depend on it are rarely made anew.
_GRAIN_NS: Final = 50 * NS_PER_US
#: The mean is over about so many batches.
_SPAN: Final = 64
#: The least that so many batches of a worker cost is the length of its way: what disturbs single ones is no part of it.
_BLOCK: Final = 8
#: A worker is far from this many times the usual length on, and so much more: what less costs is in the p99.
_FAR: Final = 2
_FAR_NS: Final = NS_PER_MS


class OverheadEstimate:
    """Running p99 and mean of the time that a batch costs outside the worker, answers included.

    Workers have one estimate in common while their ways are alike. One whose way is much longer than is usual (the
    lower median over workers), as to a distant host, is *far*: its batches have an estimate of their own, and are none
    of those that the common one is made of. Where most workers are far, they are what is usual.

    Args:
        start_ns: first estimate, as profiled.
    """

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self._common = _Estimate(start_ns, start_ns)
        self.typical_ns = start_ns
        """What to expect: the mean, told when it has moved by a grain."""
        self.planned_ns = start_ns
        """What to plan with: the estimate, rounded up to a grain; as profiled until there are samples."""
        self._ways: dict[int, _Way] = {}
        self._lengths = Ranking()
        self._far: dict[int, _Estimate] = {}
        self.uneven = False
        """Whether any worker is far."""

    def far(self, worker: int) -> bool:
        """Whether a worker is."""
        return worker in self._far

    def of(self, worker: int) -> int:
        """What to plan with on a worker."""
        own = self._far.get(worker)
        return self.planned_ns if own is None else own.planned_ns

    def observe(self, overhead_ns: int, worker: int) -> None:
        """A batch of a worker cost this much beyond its time there."""
        way = self._ways.get(worker)
        if way is None:
            way = self._ways[worker] = _Way()
        if way.observe(overhead_ns):
            self._lengths.put(worker, way.length_ns)
            self._compare()
        own = self._far.get(worker) if self.uneven else None
        (self._common if own is None else own).observe(overhead_ns)
        self._tell()

    def forget(self, worker: int) -> None:
        """A worker is gone: what comes in its place may be elsewhere."""
        if self._ways.pop(worker, None) is not None:
            self._lengths.drop(worker)
            self._far.pop(worker, None)
            self._compare()

    def relax(self) -> None:
        """Go half of the way back to the first estimate."""
        for estimate in (self._common, *self._far.values()):
            estimate.relax(self.start_ns)
        self._tell()

    def _compare(self) -> None:
        """Which workers are far; whoever becomes so, or is so no more, changes what it has in common with others."""
        usual_ns = self._lengths.lower_median(0.0)
        lengths_ns = {worker: length_ns for length_ns, worker in self._lengths.above(_FAR * usual_ns + _FAR_NS)}
        for worker in self._far.keys() - lengths_ns.keys():
            own = self._far.pop(worker)
            if usual_ns > _FAR * self._common.mean_ns + _FAR_NS:  # those have gone whose batches it is made of
                self._common = own
        for worker in lengths_ns.keys() - self._far.keys():
            more_ns = lengths_ns[worker] - usual_ns
            if self._common.mean_ns < usual_ns + more_ns / 2:
                self._far[worker] = self._common.plus(more_ns)
            else:  # it is made of batches like those of this one: the others have come later
                self._far[worker], self._common = self._common, self._common.plus(-more_ns)
        self.uneven = bool(self._far)
        self._tell()

    def _tell(self) -> None:
        common = self._common
        if not -_GRAIN_NS < common.mean_ns - self.typical_ns < _GRAIN_NS:
            self.typical_ns = int(common.mean_ns)
        self.planned_ns = common.planned_ns


class _Estimate:
    """Mean and p99 of the overhead of some batches, from what they are first believed to be."""

    def __init__(self, mean_ns: float, p99_ns: float) -> None:
        self.mean_ns = mean_ns
        self._quantile = RunningQuantile(p99_ns, least_step=_GRAIN_NS)

    @property
    def planned_ns(self) -> int:
        """The p99, rounded up to a grain."""
        return -(-int(self._quantile.value) // _GRAIN_NS) * _GRAIN_NS

    def observe(self, overhead_ns: int) -> None:
        """One more batch."""
        self._quantile.observe(overhead_ns)
        self.mean_ns += (overhead_ns - self.mean_ns) / _SPAN

    def relax(self, towards_ns: int) -> None:
        """Go half of the way to what was believed before."""
        self._quantile.relax(towards_ns)
        self.mean_ns = (self.mean_ns + towards_ns) / 2

    def plus(self, more_ns: float) -> "_Estimate":
        """The same of batches whose way is longer by so much."""
        return _Estimate(max(0.0, self.mean_ns + more_ns), max(0.0, self._quantile.value + more_ns))


class _Way:
    """How long the way to a worker is: the least of each block of overheads.

    Attributes:
        length_ns: 0 until a block is full.
    """

    def __init__(self) -> None:
        self.length_ns = 0
        self._least_ns = 0
        self._count = 0

    def observe(self, overhead_ns: int) -> bool:
        """One more batch; whether the length is another now."""
        if not self._count or overhead_ns < self._least_ns:
            self._least_ns = overhead_ns
        self._count += 1
        if self._count < _BLOCK:
            return False
        self._count = 0
        if -_GRAIN_NS < self._least_ns - self.length_ns < _GRAIN_NS:
            return False
        self.length_ns = self._least_ns
        return True
