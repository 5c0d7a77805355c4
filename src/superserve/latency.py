"""Times drawn from a profile: what emulated workers sleep, and what simulated batches take."""

import numpy as np

from superserve.clock import NS_PER_US
from superserve.profile import Profile

#: Uniform draws are taken from the generator in blocks: one call each would cost more than the rest of a sample.
_BLOCK = 4096


class LatencySampler:
    """Draws the time of one batch from the profiled quantiles of its cell.

    The quantile function is p50 up to the median, then linear through p95 to p99, and p99 above: the profile says
    nothing of the tails beyond. The median and p95 of the draws are the profile's. Between two profiled batch sizes
    quantiles are interpolated, and below the smallest they are its own. (Plans are more careful: for them a partial
    batch costs what the next larger profiled size does, see `LatencyTable`.)

    Args:
        profile: where the quantiles come from, used as it is.
        rng: source of randomness.
    """

    def __init__(self, profile: Profile, rng: np.random.Generator) -> None:
        self._rng = rng
        self._draws: list[float] = []
        rows = np.arange(profile.batches[-1] + 1)
        self._cells = [
            np.stack(
                [NS_PER_US * np.interp(rows, profile.batches, subnet.quantile_us(q)) for q in ("p50", "p95", "p99")], 1
            ).tolist()
            for subnet in profile.subnets
        ]

    def sample_ns(self, subnet: int, rows: int) -> int:
        """The time of one batch of ``rows`` rows at a subnet, in nanoseconds."""
        if not self._draws:
            self._draws = self._rng.random(_BLOCK).tolist()
        return _quantile_ns(self._draws.pop(), *self._cells[subnet][rows])


class OverheadSampler:
    """Draws the dispatch overhead of one batch: the same form of quantile function, with the profiled mean.

    Where the profile knows no p99, every batch takes the mean.

    Args:
        profile: where the quantiles come from.
        rng: source of randomness.
    """

    def __init__(self, profile: Profile, rng: np.random.Generator) -> None:
        self._rng = rng
        self._draws: list[float] = []
        usual_us, p99_us = profile.usual_overhead_us, profile.dispatch_overhead_p99_us
        self.varies = p99_us is not None
        p95_us = usual_us if p99_us is None else profile.dispatch_overhead_us
        self._quantiles = (usual_us * NS_PER_US, p95_us * NS_PER_US, (p99_us or usual_us) * NS_PER_US)

    def sample_ns(self) -> int:
        """The overhead of one batch, in nanoseconds."""
        if not self._draws:
            self._draws = self._rng.random(_BLOCK).tolist()
        return _quantile_ns(self._draws.pop(), *self._quantiles)


def _quantile_ns(u: float, p50: float, p95: float, p99: float) -> int:
    if u <= 0.5:
        return int(p50)
    if u <= 0.95:
        return int(p50 + (u - 0.5) / 0.45 * (p95 - p50))
    return int(p95 + (min(u, 0.99) - 0.95) / 0.04 * (p99 - p95))
