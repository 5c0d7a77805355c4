"""The dispatch overhead as it is observed."""

from typing import Final

from superserve.clock import NS_PER_US
from superserve.scheduling.quantile import RunningQuantile

#: The estimate is told in steps of this size, so that tables which depend on it are rarely made anew.
_GRAIN_NS: Final = 50 * NS_PER_US
#: The mean is over about so many batches.
_SPAN: Final = 64


class OverheadEstimate:
    """Running p99 and mean of the time that a batch costs outside the worker, answers included.

    Args:
        start_ns: first estimate, as profiled.
    """

    def __init__(self, start_ns: int) -> None:
        self.start_ns = start_ns
        self._mean_ns = float(start_ns)
        self.typical_ns = start_ns
        """What to expect: the mean, told when it has moved by a grain."""
        self._quantile = RunningQuantile(float(start_ns), least_step=_GRAIN_NS)
        self.planned_ns = start_ns
        """What to plan with: the estimate, rounded up to a grain; as profiled until there are samples."""

    def observe(self, overhead_ns: int) -> None:
        """A batch cost this much beyond its time in the worker."""
        self._quantile.observe(overhead_ns)
        self._mean_ns += (overhead_ns - self._mean_ns) / _SPAN
        self._tell()

    def relax(self) -> None:
        """Go half of the way back to the first estimate."""
        self._quantile.relax(self.start_ns)
        self._mean_ns = (self._mean_ns + self.start_ns) / 2
        self._tell()

    def _tell(self) -> None:
        if abs(self._mean_ns - self.typical_ns) >= _GRAIN_NS:
            self.typical_ns = int(self._mean_ns)
        self.planned_ns = -(-int(self._quantile.value) // _GRAIN_NS) * _GRAIN_NS
