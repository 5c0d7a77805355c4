"""Synthetic arrivals have the statistics they are named after."""

import numpy as np
import pytest

from superserve.errors import TraceError
from superserve.traces.arrivals import base_plus_gamma, gamma, gamma_arrivals, poisson


@pytest.mark.parametrize("cv2", [0.5, 1.0, 4.0])
def test_gamma_gaps_have_rate_and_variation(cv2: float) -> None:
    """Mean gap 1/rate and squared coefficient of variation cv2, within sampling error at 100,000 gaps."""
    gaps = np.diff(gamma_arrivals(1000.0, cv2, 100.0, np.random.default_rng(0)))
    assert gaps.mean() == pytest.approx(1e6, rel=0.03)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.05)


def test_zero_variation_is_even_spacing() -> None:
    """CV^2 = 0 is the paper's base traffic."""
    gaps = np.diff(gamma_arrivals(200.0, 0.0, 1.0, np.random.default_rng(0)))
    assert set(gaps.tolist()) == {5_000_000}


def test_base_plus_gamma_adds_up() -> None:
    """Both parts are there, sorted, inside the duration."""
    trace = base_plus_gamma(500.0, 1500.0, 2.0, 10.0, np.random.default_rng(0))
    assert len(trace) == pytest.approx(20_000, rel=0.03)
    assert trace.arrival_ns[-1] < 10e9
    assert trace.mean_rate == pytest.approx(2000, rel=0.03)


def test_same_seed_same_trace() -> None:
    """Seeds decide everything."""
    one = poisson(100.0, 5.0, np.random.default_rng(3)).arrival_ns
    assert np.array_equal(one, poisson(100.0, 5.0, np.random.default_rng(3)).arrival_ns)
    assert not np.array_equal(one, poisson(100.0, 5.0, np.random.default_rng(4)).arrival_ns)


@pytest.mark.parametrize(("rate", "cv2", "seconds"), [(-1, 1, 1), (1, -1, 1), (1, 1, 0), (float("nan"), 1, 1)])
def test_bad_parameters_are_named(rate: float, cv2: float, seconds: float) -> None:
    """Negative, zero or missing numbers."""
    with pytest.raises(TraceError, match="must be a number"):
        gamma(rate, cv2, seconds, np.random.default_rng(0))
