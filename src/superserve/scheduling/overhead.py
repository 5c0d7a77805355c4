"""The dispatch overhead as it is observed."""

from typing import Final

from superserve.clock import NS_PER_US

#: The quantile that is tracked. Policies that use up the slack end every batch near its deadline, so the share of
#: batches whose overhead exceeds the plan is the share of late ones.
_QUANTILE: Final = 0.99
#: A sample moves the estimate by this share of itself at most: it follows a change within some hundred batches.
_STEP: Final = 0.02
#: The estimate is told in steps of this size, so that tables which depend on it are rarely made anew.
_GRAIN_NS: Final = 50 * NS_PER_US


class OverheadEstimate:
    """Running p99 of the time that a batch costs outside the worker, answers included.

    Stochastic approximation of a quantile (Robbins and Monro, 1951): each sample above the estimate raises it by 0.99
    of a step, each one below lowers it by 0.01 of one, so that it rests where 1 % of the samples lie above.

    Args:
        start_ns: first estimate, as profiled.
    """

    def __init__(self, start_ns: int) -> None:
        self._value = float(start_ns)
        self.planned_ns = start_ns
        """What to plan with: the estimate, rounded up to a grain; as profiled until there are samples."""

    def observe(self, overhead_ns: int) -> None:
        """A batch cost this much beyond its time in the worker."""
        step = _STEP * max(self._value, _GRAIN_NS)
        self._value += step * (_QUANTILE if overhead_ns > self._value else _QUANTILE - 1.0)
        self.planned_ns = -(-int(self._value) // _GRAIN_NS) * _GRAIN_NS
