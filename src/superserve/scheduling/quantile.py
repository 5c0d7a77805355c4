"""A quantile of a stream of samples, followed as it changes."""

from typing import Final

#: The quantile that is tracked. Policies that use up the slack end every batch near its deadline, so the share of
#: batches beyond the plan is the share of late ones.
_QUANTILE: Final = 0.99
#: A sample moves the estimate by this share of itself at most: it follows a change within some hundred batches.
_STEP: Final = 0.02


class RunningQuantile:
    """Running p99 of positive samples.

    Stochastic approximation of a quantile (Robbins and Monro, 1951): each sample above the estimate raises it by 0.99
    of a step, each one below lowers it by 0.01 of one, so that it rests where 1 % of the samples lie above.

    Args:
        start: first estimate.
        least_step: steps are a share of the estimate, or of this if it is larger.
        least: the estimate does not fall below.
    """

    def __init__(self, start: float, *, least_step: float = 0.0, least: float = 0.0) -> None:
        self.value = start
        self._least_step = least_step
        self._least = least

    def observe(self, sample: float) -> None:
        """Take one more sample."""
        step = _STEP * max(self.value, self._least_step)
        moved = self.value + step * (_QUANTILE if sample > self.value else _QUANTILE - 1.0)
        self.value = max(self._least, moved)

    def relax(self, towards: float) -> None:
        """Believe the samples half as much: go half of the way to what was believed before them."""
        self.value = (self.value + towards) / 2
