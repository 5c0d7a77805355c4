"""Burstiness figures, by hand and on known processes."""

import numpy as np
import pytest

from superserve.traces.arrivals import gamma, poisson
from superserve.traces.statistics import class_words, gap_cv2, statistics
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


@pytest.mark.parametrize("cv2", [0.0, 1.0, 8.0])
def test_variation_of_gaps_is_what_a_trace_is_made_with(cv2: float) -> None:
    """Within sampling error."""
    assert gap_cv2(gamma(2000.0, cv2, 50.0, np.random.default_rng(0))) == pytest.approx(cv2, rel=0.1, abs=1e-6)


def test_variation_needs_gaps() -> None:
    """One gap has no variation, and gaps of nothing no mean."""
    assert np.isnan(gap_cv2(Trace("t", np.array([0, 5], np.int64))))
    assert np.isnan(gap_cv2(Trace("t", np.zeros(9, np.int64))))


def test_words_name_deadlines_by_class() -> None:
    """Shares in per cent; nothing without deadlines; at most ten lines."""
    arrivals = np.arange(4, dtype=np.int64)
    slo_ns = np.array([20, 20, 20, 90], np.int64) * 1_000_000
    assert class_words(Trace("t", arrivals)) == []
    trace = Trace("t", arrivals, slo_ns, request_class=np.array([0, 0, 0, 1], np.int32))
    assert class_words(trace) == [
        "class 0: deadline 20 ms, 75.0 % of the requests",
        "class 1: deadline 90 ms, 25.0 % of the requests",
    ]
    many = np.arange(1, 21, dtype=np.int64) * 1_000_000
    assert class_words(Trace("t", many, many))[-1] == "and 10 more"
