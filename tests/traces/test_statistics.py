"""Burstiness figures, by hand and on known processes."""

import numpy as np
import pytest

from superserve.traces.arrivals import poisson
from superserve.traces.statistics import statistics
from superserve.traces.trace import Trace


def test_counts_by_hand() -> None:
    """Bins of 1 s with 3, 1 and 2 arrivals; what follows the last whole bin is left out."""
    arrivals = np.array([0.0, 0.1, 0.2, 1.5, 2.1, 2.9, 3.0]) * 1e9
    (row,) = statistics(Trace("t", arrivals.astype(np.int64)), [1.0])
    assert row.mean_rate == pytest.approx(2.0)
    assert row.peak_rate == pytest.approx(3.0)
    assert row.peak_to_mean == pytest.approx(1.5)
    assert row.dispersion == pytest.approx((1 + 1 + 0) / 3 / 2)


def test_poisson_has_dispersion_one() -> None:
    """At every scale, within sampling error."""
    rows = statistics(poisson(2000.0, 50.0, np.random.default_rng(0)), [0.01, 0.1])
    assert [row.dispersion for row in rows] == pytest.approx([1.0, 1.0], rel=0.1)


def test_scales_longer_than_the_trace_are_left_out() -> None:
    """Two bins at least."""
    assert [row.bin_s for row in statistics(poisson(100.0, 3.0, np.random.default_rng(0)))] == [0.01, 0.1, 1.0]
