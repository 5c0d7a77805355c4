"""Schedules that know all arrivals, between policies and optima."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from superserve.bounds.clairvoyant import clairvoyant_schedule
from superserve.bounds.costs import BatchCosts, Floats, Stamps
from superserve.bounds.exact import exact_optimum
from superserve.bounds.one_worker import single_worker_optimum
from superserve.profile import Profile
from superserve.traces.trace import Trace
from support.instances import deadlines, instances, whole_profiles


def free(instants_ns: Stamps) -> Floats:
    """Worker time that costs nothing."""
    return np.zeros(len(instants_ns))


@given(whole_profiles(), instances(mixed=False), st.integers(1, 3))
def test_a_wide_beam_finds_the_optimum(profile: Profile, trace: Trace, workers: int) -> None:
    """Whatever the prices: with so few requests nothing is dropped. A narrow one finds no more."""
    costs, due_ns = BatchCosts.of(profile, 0), deadlines(trace)
    optimum, _ = exact_optimum(trace.arrival_ns, due_ns, costs, workers)
    if workers == 1:
        assert optimum == pytest.approx(single_worker_optimum(trace.arrival_ns, due_ns, costs))
    assert clairvoyant_schedule(trace.arrival_ns, due_ns, costs, workers, free, width=10_000) == pytest.approx(optimum)
    assert clairvoyant_schedule(trace.arrival_ns, due_ns, costs, workers, free, width=1) <= optimum + 1e-6
