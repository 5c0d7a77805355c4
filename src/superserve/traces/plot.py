"""A trace at two scales: all of it, and its busiest moment."""

from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from superserve.clock import NS_PER_S
from superserve.errors import TraceError
from superserve.plots import LIGHT, Theme, styled_axes
from superserve.traces.trace import Trace

#: Bins across the whole trace: as many as a figure's width shows.
_BINS: Final = 240
#: Bins of the busiest moment are as long as a short deadline, unless all of the trace is shorter than 240 of them.
_FINE_S: Final = 0.01


def trace_figure(trace: Trace, *, theme: Theme = LIGHT) -> Figure:
    """Rate of arrivals over time: the whole trace in 240 bins, and 240 bins of 10 ms around its fullest one.

    The shaded stretch of the upper panel is what the lower one shows.

    Raises:
        TraceError: for a trace without duration.
    """
    if not trace.duration_s:
        raise TraceError(f"trace {trace.name!r}: no time passes between its {len(trace)} arrivals, so it has no rate")
    figure, (whole, moment) = styled_axes((9.0, 5.2), 2, 1, theme)
    fine_s = min(_FINE_S, trace.duration_s / _BINS)
    start_s = _busiest_start(trace, fine_s)
    _draw(whole, trace, 0.0, trace.duration_s / _BINS, theme)
    _draw(moment, trace, start_s, fine_s, theme)
    whole.axvspan(start_s, start_s + fine_s * _BINS, color=theme.series[1], alpha=0.3, linewidth=0)
    whole.axhline(trace.mean_rate, color=theme.muted, linewidth=0.8)
    title = f"{trace.name}: {len(trace):,} requests in {trace.duration_s:,.4g} s, {trace.mean_rate:,.4g}/s on average"
    whole.set_title(title, color=theme.ink, fontsize=11, loc="left")
    moment.set_title("around the busiest moment", color=theme.ink, fontsize=9, loc="left")
    moment.set_xlabel("time, s", color=theme.ink)
    figure.align_ylabels([whole, moment])
    return figure


def _busiest_start(trace: Trace, fine_s: float) -> float:
    """Where to start so that the fullest fine bin is in the middle, as far as the trace's ends allow."""
    counts = np.bincount((trace.arrival_ns / (fine_s * NS_PER_S)).astype(np.int64))
    middle_s = (int(counts.argmax()) + 0.5) * fine_s
    return float(np.clip(middle_s - fine_s * _BINS / 2, 0.0, trace.duration_s - fine_s * _BINS))


def _draw(ax: Axes, trace: Trace, start_s: float, bin_s: float, theme: Theme) -> None:
    edges_s = start_s + bin_s * np.arange(_BINS + 1)
    rates: npt.NDArray[np.float64] = np.histogram(trace.arrival_ns / NS_PER_S, edges_s)[0] / bin_s
    ax.stairs(rates, edges_s, fill=True, color=theme.series[0], alpha=0.85, linewidth=0)
    ax.set_xlim(edges_s[0], edges_s[-1])
    ax.set_ylim(bottom=0)
    unit = f"{bin_s * 1000:.4g} ms" if bin_s < 1 else f"{bin_s:.4g} s"
    ax.set_ylabel(f"requests/s\nin bins of {unit}", color=theme.ink, fontsize=9)
