"""The figure shows the rates that the trace has."""

import numpy as np
import pytest
from matplotlib.patches import StepPatch

from superserve.errors import TraceError
from superserve.plots import DARK, LIGHT, Theme
from superserve.traces.arrivals import spikes
from superserve.traces.plot import trace_figure
from superserve.traces.trace import Trace


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_two_scales(theme: Theme) -> None:
    """12 s with a spike of 20 ms at the end of each fourth second: the zoom finds one, at its full height."""
    trace = spikes(100, 10_000, 4.0, 0.02, 0.0, 12.0, np.random.default_rng(0))
    whole, moment = trace_figure(trace, theme=theme).axes
    low, high = moment.get_xlim()
    assert high - low == pytest.approx(2.4)
    heights = [next(p for p in ax.patches if isinstance(p, StepPatch)).get_data()[0] for ax in (whole, moment)]
    assert [len(values) for values in heights] == [240, 240]
    assert heights[0].sum() * trace.duration_s / 240 == pytest.approx(len(trace), abs=1)
    assert heights[1].max() == pytest.approx(10_000, rel=0.02)
    assert any(low <= spike_s <= high for spike_s in (3.98, 7.98, 11.98))
    assert whole.get_ylabel() == "requests/s\nin bins of 50 ms"


def test_a_trace_without_duration_is_refused() -> None:
    """One arrival has no rate."""
    with pytest.raises(TraceError, match="no time passes"):
        trace_figure(Trace("t", np.zeros(1, np.int64)))
