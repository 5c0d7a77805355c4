"""How bursty a trace is, at several time scales."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.traces.trace import Trace

#: Bin widths in seconds: from a deadline's length to a minute.
SCALES_S: Final = (0.01, 0.1, 1.0, 10.0, 60.0)


class ScaleStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of arrivals in bins of one width."""

    bin_s: float
    mean_rate: float
    """Requests per second."""
    peak_rate: float
    """Of the fullest bin, requests per second."""
    peak_to_mean: float
    dispersion: float
    """Variance over mean of the counts: 1 for a Poisson process."""


def statistics(trace: Trace, scales_s: Sequence[float] = SCALES_S) -> list[ScaleStatistics]:
    """Statistics at each scale of which the trace has at least two bins."""
    return [_at_scale(trace, scale) for scale in scales_s if trace.duration_s >= 2 * scale]


def _at_scale(trace: Trace, bin_s: float) -> ScaleStatistics:
    # The last bin is cut off by the end of the trace: it would count as a lull.
    bins = int(trace.duration_s / bin_s)
    index = trace.arrival_ns // round(bin_s * NS_PER_S)
    counts = np.bincount(index[index < bins], minlength=bins)
    mean = float(counts.mean())
    return ScaleStatistics(
        bin_s=bin_s,
        mean_rate=mean / bin_s,
        peak_rate=float(counts.max()) / bin_s,
        peak_to_mean=float(counts.max()) / mean if mean else 0.0,
        dispersion=float(counts.var()) / mean if mean else 0.0,
    )


def gap_cv2(trace: Trace) -> float:
    """Squared coefficient of variation of the gaps between arrivals: 1 for a Poisson process, 0 for even spacing.

    NaN for a trace of less than two gaps, or without duration.
    """
    gaps = np.diff(trace.arrival_ns)
    mean = float(gaps.mean()) if len(gaps) > 1 else 0.0
    return float(gaps.var()) / mean**2 if mean else float("nan")


def class_words(trace: Trace) -> list[str]:
    """A line per deadline, or per class and deadline, that the trace gives to its requests; at most ten of them."""
    if trace.slo_ns is None:
        return []
    kinds = np.zeros(len(trace), np.int64) if trace.request_class is None else trace.request_class.astype(np.int64)
    pairs, counts = np.unique(np.stack([kinds, trace.slo_ns]), axis=1, return_counts=True)
    lines = [
        f"class {kind}: deadline {slo_ns / NS_PER_MS:g} ms, {100 * count / len(trace):.1f} % of the requests"
        for (kind, slo_ns), count in zip(pairs.T.tolist(), counts.tolist(), strict=True)
    ]
    return [*lines[:10], f"and {len(lines) - 10} more"] if len(lines) > 10 else lines
