"""Small instances of the scheduling problem for hypothesis, whose optimum can be found."""

import hypothesis.strategies as st
import numpy as np

from superserve.bounds.costs import Stamps
from superserve.clock import NS_PER_MS
from superserve.profile import Profile
from superserve.traces.trace import Trace
from support.profiles import make_profile


@st.composite
def whole_profiles(draw: st.DrawFn) -> Profile:
    """1-3 subnets, batches of 1, 2 and 3, whole milliseconds: few instants at which a batch could start."""
    first = draw(st.lists(st.integers(1, 4), min_size=3, max_size=3))
    rows = [first]
    for _ in range(draw(st.integers(0, 2))):
        rows.append([low + draw(st.integers(0, 3)) for low in rows[-1]])
    return make_profile([[float(value) for value in np.maximum.accumulate(row)] for row in rows], (1, 2, 3))


@st.composite
def instances(draw: st.DrawFn, *, mixed: bool) -> Trace:
    """Up to six requests within 10 ms, with SLOs of up to 14 ms: all alike, or each its own."""
    arrivals = sorted(draw(st.lists(st.integers(0, 10), min_size=1, max_size=6)))
    slo = st.integers(1, 14)
    slos = [draw(slo) for _ in arrivals] if mixed else [draw(slo)] * len(arrivals)
    return Trace("tiny", np.array(arrivals, np.int64) * NS_PER_MS, np.array(slos, np.int64) * NS_PER_MS)


def deadlines(trace: Trace) -> Stamps:
    """When each request is due."""
    assert trace.slo_ns is not None
    return trace.arrival_ns + trace.slo_ns
