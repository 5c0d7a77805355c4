"""Synthetic arrival processes, all seeded."""

import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_S
from superserve.errors import TraceError
from superserve.traces.trace import Trace


def gamma_arrivals(rate: float, cv2: float, seconds: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Arrival instants with independent gamma-distributed gaps, in nanoseconds.

    The gaps have mean ``1 / rate`` and squared coefficient of variation ``cv2``: shape 1/cv2, scale cv2/rate (paper
    section 6.1). ``cv2`` = 0 gives even spacing, 1 a Poisson process.

    Raises:
        TraceError: for a negative rate or cv2, or a duration that is not positive.
    """
    _check(rate, cv2, seconds)
    if rate == 0.0:
        return np.empty(0, np.int64)
    if cv2 == 0.0:
        return (np.arange(int(rate * seconds)) / rate * NS_PER_S).astype(np.int64)
    arrivals = np.empty(0)
    end = 0.0
    block = max(64, int(1.2 * rate * seconds))
    while end < seconds:
        gaps = rng.gamma(1.0 / cv2, cv2 / rate, block)
        arrivals = np.concatenate([arrivals, end + np.cumsum(gaps)])
        end = float(arrivals[-1])
    return (arrivals[arrivals < seconds] * NS_PER_S).astype(np.int64)


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> Trace:
    """A Poisson process of ``rate`` requests per second."""
    return Trace(f"poisson-{rate:g}", gamma_arrivals(rate, 1.0, seconds, rng))


def gamma(rate: float, cv2: float, seconds: float, rng: np.random.Generator) -> Trace:
    """Gamma-distributed gaps; see `gamma_arrivals`."""
    return Trace(f"gamma-{rate:g}-cv2-{cv2:g}", gamma_arrivals(rate, cv2, seconds, rng))


def base_plus_gamma(base_rate: float, gamma_rate: float, cv2: float, seconds: float, rng: np.random.Generator) -> Trace:
    """The paper's bursty trace (b): evenly spaced base traffic plus gamma-distributed variant traffic (section 6.1)."""
    base = gamma_arrivals(base_rate, 0.0, seconds, rng)
    variant = gamma_arrivals(gamma_rate, cv2, seconds, rng)
    return Trace(f"bursty-{base_rate:g}+{gamma_rate:g}-cv2-{cv2:g}", np.sort(np.concatenate([base, variant])))


def _check(rate: float, cv2: float, seconds: float) -> None:
    for name, value in (("rate", rate), ("cv2", cv2)):
        if not np.isfinite(value) or value < 0:
            raise TraceError(f"{name} = {value}: must be a number of at least 0")
    if not np.isfinite(seconds) or seconds <= 0:
        raise TraceError(f"seconds = {seconds}: must be a number above 0")
