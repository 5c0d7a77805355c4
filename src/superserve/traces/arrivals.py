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
    _at_least_0(rate=rate, cv2=cv2)
    _above_0(seconds=seconds)
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


def ramp(  # noqa: PLR0917  (the parameters of the paper's formula, in its order)
    rate1: float,
    rate2: float,
    acceleration: float,
    cv2: float,
    seconds: float,
    rng: np.random.Generator,
    start_s: float = 0.0,
) -> Trace:
    """The paper's time-varying trace (c): from one rate to another at a steady acceleration (section 6.3.2).

    The rate is ``rate1`` until ``start_s``, then changes by ``acceleration`` requests/s per second (its sign does not
    matter) until it is ``rate2``. Gaps are gamma-distributed with squared coefficient of variation ``cv2`` in the
    trace's own time, in which the rate is 1: each gap then has the mean of its place in the ramp.

    Raises:
        TraceError: for a negative rate, cv2 or start, or an acceleration or duration that is not positive.
    """
    _at_least_0(rate1=rate1, rate2=rate2, cv2=cv2, start_s=start_s)
    _above_0(seconds=seconds, acceleration=abs(acceleration))
    climb_s = abs(rate2 - rate1) / abs(acceleration)
    # The integral of the rate is quadratic on the slope: a millisecond grid is exact to 1e-6 requests at 8,000/s^2.
    slope_s = start_s + np.linspace(0.0, climb_s, max(2, int(climb_s * 1000) + 1))
    knots_s = np.concatenate([[0.0], slope_s, [max(seconds, start_s + climb_s) + 1.0]])
    rates = np.concatenate([[rate1], np.linspace(rate1, rate2, len(slope_s)), [rate2]])
    name = f"ramp-{rate1:g}-{rate2:g}-by-{abs(acceleration):g}-cv2-{cv2:g}"
    return Trace(name, _modulated(knots_s, rates, cv2, seconds, rng))


def spikes(  # noqa: PLR0917  (in the order of `ramp`)
    base_rate: float,
    spike_rate: float,
    period_s: float,
    spike_s: float,
    cv2: float,
    seconds: float,
    rng: np.random.Generator,
) -> Trace:
    """Periodic spikes: ``spike_rate`` for the last ``spike_s`` of every ``period_s``, ``base_rate`` otherwise.

    Raises:
        TraceError: for a negative rate or cv2, a duration that is not positive, or spikes longer than their period.
    """
    _at_least_0(base_rate=base_rate, spike_rate=spike_rate, cv2=cv2)
    _above_0(seconds=seconds, period_s=period_s, spike_s=spike_s)
    if period_s < spike_s:
        raise TraceError(f"period_s = {period_s}: must be at least spike_s = {spike_s}")
    starts_s = np.arange(0.0, seconds + period_s, period_s)
    knots_s = (starts_s[:, None] + [0.0, period_s - spike_s, period_s - spike_s, period_s]).ravel()
    rates = np.tile([base_rate, base_rate, spike_rate, spike_rate], len(starts_s))
    name = f"spikes-{base_rate:g}-{spike_rate:g}-every-{period_s:g}s-cv2-{cv2:g}"
    return Trace(name, _modulated(knots_s, rates, cv2, seconds, rng))


def _modulated(
    knots_s: npt.NDArray[np.float64],
    rates: npt.NDArray[np.float64],
    cv2: float,
    seconds: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """A renewal process of rate 1, bent so that its rate follows a piecewise linear function of time."""
    passed = np.concatenate([[0.0], np.cumsum(np.diff(knots_s) * (rates[1:] + rates[:-1]) / 2)])
    total = float(np.interp(seconds, knots_s, passed))
    if total <= 0.0:
        return np.empty(0, np.int64)
    own_time = gamma_arrivals(1.0, cv2, total, rng) / NS_PER_S
    return (np.interp(own_time, passed, knots_s) * NS_PER_S).astype(np.int64)


def _at_least_0(**values: float) -> None:
    for name, value in values.items():
        if not np.isfinite(value) or value < 0:
            raise TraceError(f"{name} = {value}: must be a number of at least 0")


def _above_0(**values: float) -> None:
    for name, value in values.items():
        if not np.isfinite(value) or value <= 0:
            raise TraceError(f"{name} = {value}: must be a number above 0")
