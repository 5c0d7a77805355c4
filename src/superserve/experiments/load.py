"""The demo's load: an SLO and a bursty trace that fit the machine, derived from its profile."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from superserve.clock import NS_PER_S, NS_PER_US
from superserve.errors import ConfigError
from superserve.profile import Profile, Quantile
from superserve.traces.arrivals import base_plus_gamma
from superserve.traces.trace import Trace

#: SLO over the slowest cell: the paper serves at 36 ms with a largest latency of 30.7 ms (section 6).
SLO_FACTOR: Final = 1.17
#: Share of the steady part: the paper's bursty trace has 1,500 of 1,500 + 5,550 requests/s (section 6.3.1).
STEADY_SHARE: Final = 0.21
#: Mean load over what the middle subnet carries at full batches. The largest subnet carries far less than that.
LOAD_FACTOR: Final = 0.9
SLO_QUANTILE: Final[Quantile] = "p95"


@dataclass(frozen=True)
class Load:
    """An SLO, and bursty traffic: evenly spaced base arrivals plus gamma-distributed ones (paper section 6.1).

    Rates are requests per second; ``cv2`` is the squared coefficient of variation of the gamma gaps.
    """

    slo_ms: float
    base_rate: float
    gamma_rate: float
    cv2: float

    @property
    def mean_rate(self) -> float:
        """Requests per second over both parts."""
        return self.base_rate + self.gamma_rate

    def trace(self, seconds: float, seed: int) -> Trace:
        """The arrivals of that many seconds."""
        return base_plus_gamma(self.base_rate, self.gamma_rate, self.cv2, seconds, np.random.default_rng(seed))


def derive_load(profile: Profile, *, workers: int, cv2: float) -> Load:
    """The load that shows what a supernet is for, on the device of a profile.

    The mean is `LOAD_FACTOR` of what the middle subnet carries at full batches on all workers: too much for larger
    subnets, little for smaller ones, and for the middle one too much whenever a burst comes.

    Raises:
        ConfigError: for less than one worker, or a negative ``cv2``.
    """
    if workers < 1:
        raise ConfigError(f"workers = {workers}: at least one is needed")
    if not cv2 >= 0:
        raise ConfigError(f"cv2 = {cv2}: must be a number of at least 0")
    mean_rate = LOAD_FACTOR * full_batch_rate(profile, len(profile.subnets) // 2) * workers
    return Load(
        slo_ms=SLO_FACTOR * profile.largest_cell_ms(SLO_QUANTILE),
        base_rate=STEADY_SHARE * mean_rate,
        gamma_rate=(1 - STEADY_SHARE) * mean_rate,
        cv2=cv2,
    )


def full_batch_rate(profile: Profile, subnet: int) -> float:
    """Rows per second that one worker carries at a subnet and the largest batch, at the median latency.

    The median is what it really carries. A noisy machine's p95 would make the load lighter than it is meant to be.
    """
    latency_us = profile.subnets[subnet].p50_us[-1]
    return profile.batches[-1] * NS_PER_S / (latency_us * NS_PER_US)
