"""Shape-preserving scaling: other duration, other rate, the same ups and downs."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_S
from superserve.errors import TraceError
from superserve.traces.trace import Trace

#: More arrivals than this are refused: 1.6 GB of stamps is a mistake far more often than a wish.
MAX_ARRIVALS: Final = 200_000_000


@dataclass(frozen=True, eq=False)
class Counts:
    """How many requests arrived in each of a row of bins.

    ``counts``: float64 (n,), at least 0 (sums over days may be scaled). ``edges_s``: float64 (n + 1,), rising.
    """

    counts: npt.NDArray[np.float64]
    edges_s: npt.NDArray[np.float64]

    @classmethod
    def regular(cls, counts: npt.NDArray[np.float64], bin_s: float) -> "Counts":
        """Bins of one width."""
        return cls(counts, np.arange(len(counts) + 1, dtype=np.float64) * bin_s)

    @classmethod
    def around(cls, trace: Trace) -> "Counts":
        """One bin per arrival, cut half-way to its neighbours: the finest bins that a trace gives."""
        at_s = trace.arrival_ns / NS_PER_S
        return cls(np.ones(len(at_s)), np.concatenate([at_s[:1], (at_s[1:] + at_s[:-1]) / 2, at_s[-1:]]))


def draw(
    counts: Counts,
    *,
    squeeze_s: float | None,
    rate: float | None,
    rng: np.random.Generator,
    dispersion: float = 1.0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Arrivals with the shape of some counts.

    The span is divided into its bins, bin i gets the rate ``rate x c[i] / mean(c)``; a number of arrivals is drawn
    per bin and placed uniformly inside it (the paper's "shape-preserving transformations" of section 6.2, which it
    does not define; this reading is that of the data sets' own documentation).

    Args:
        counts: the shape.
        squeeze_s: duration of the result in seconds; None keeps the counts' own.
        rate: mean requests per second of the result; None keeps the counts themselves, without a draw.
        rng: source of randomness.
        dispersion: variance over mean of the drawn numbers: 1 is Poisson, above it gamma-Poisson (negative
            binomial), 0 rounds the expected numbers.

    Returns:
        Arrival instants in nanoseconds, int64, never decreasing; and the bin that each came from, int64.

    Raises:
        TraceError: if nothing arrived, or too much would.
    """
    total = float(counts.counts.sum())
    if total <= 0:
        raise TraceError("nothing arrived in this trace: every count is 0")
    span_s = float(counts.edges_s[-1] - counts.edges_s[0])
    length_s = span_s if squeeze_s is None else squeeze_s
    expected = counts.counts if rate is None else counts.counts * (rate * length_s / total)
    if expected.sum() > MAX_ARRIVALS:
        raise TraceError(
            f"{expected.sum():,.0f} arrivals are more than the {MAX_ARRIVALS:,} that a trace may hold: give a lower "
            "rate or a shorter duration"
        )
    numbers = np.rint(expected) if rate is None else _numbers(expected, dispersion, rng)
    origin = np.repeat(np.arange(len(numbers)), numbers.astype(np.int64))
    low, width = counts.edges_s[:-1][origin], np.diff(counts.edges_s)[origin]
    at_s = (low - counts.edges_s[0] + width * rng.random(len(origin))) * (length_s / span_s if span_s else 0.0)
    order = np.argsort(at_s, kind="stable")
    return (at_s[order] * NS_PER_S).astype(np.int64), origin[order]


def scale(trace: Trace, *, squeeze_s: float | None, rate: float | None, rng: np.random.Generator) -> Trace:
    """A trace at another duration, another rate, or both.

    One of the two alone scales time and keeps every arrival, so that the order and relative size of all gaps stay.
    Both together redraw: each arrival becomes a Poisson number of arrivals near it, with its other columns.

    Raises:
        TraceError: for an empty trace, or one whose arrivals coincide when time is to be scaled.
    """
    if squeeze_s is None and rate is None:
        return trace
    if not trace.duration_s:
        raise TraceError(f"trace {trace.name!r}: all arrivals coincide, so its duration cannot be scaled")
    if squeeze_s is not None and rate is not None:
        return trace.replaced(*draw(Counts.around(trace), squeeze_s=squeeze_s, rate=rate, rng=rng))
    length_s = squeeze_s if squeeze_s is not None else len(trace) / (rate or 1.0)
    return trace.replaced(np.rint(trace.arrival_ns * (length_s / trace.duration_s)).astype(np.int64))


def _numbers(
    expected: npt.NDArray[np.float64], dispersion: float, rng: np.random.Generator
) -> npt.NDArray[np.int64] | npt.NDArray[np.float64]:
    if dispersion == 0.0:
        return np.rint(expected)
    if dispersion == 1.0:
        return rng.poisson(expected)
    if dispersion < 1.0:
        raise TraceError(f"dispersion = {dispersion}: must be 0, 1 or more")
    # Poisson with a gamma-distributed mean: variance = mean + mean x (dispersion - 1).
    return rng.poisson(rng.gamma(expected / (dispersion - 1.0), dispersion - 1.0))
