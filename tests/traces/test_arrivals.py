"""Synthetic arrivals have the statistics they are named after."""

import numpy as np
import pytest

from superserve.errors import TraceError
from superserve.traces.arrivals import base_plus_gamma, gamma, gamma_arrivals, poisson, ramp, spikes


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


def test_ramp_follows_its_rate() -> None:
    """2,500/s until 2 s, then 500/s more every second up to 4,500: the paper's (c) with other numbers."""
    trace = ramp(2500, 4500, 500, 1.0, 10.0, np.random.default_rng(0), start_s=2.0)
    per_second = np.bincount(trace.arrival_ns // 1_000_000_000, minlength=10)
    expected = np.array([2500, 2500, 2750, 3250, 3750, 4250, 4500, 4500, 4500, 4500])
    assert per_second == pytest.approx(expected, rel=0.06)


def test_ramp_may_fall_and_end_early() -> None:
    """From a higher to a lower rate; a trace that ends on the slope."""
    trace = ramp(1000, 0, 100, 0.0, 5.0, np.random.default_rng(0))
    assert len(trace) == pytest.approx(5000 - 1250, abs=2)
    assert trace.duration_s <= 5.0


@pytest.mark.parametrize("cv2", [1.0, 8.0])
def test_ramp_keeps_the_variation_of_gaps(cv2: float) -> None:
    """In the trace's own time: where the rate is constant, cv2 is that of the gaps."""
    trace = ramp(5000, 5000.0001, 1.0, cv2, 20.0, np.random.default_rng(0))
    gaps = np.diff(trace.arrival_ns)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.1)


def test_spikes_come_periodically() -> None:
    """The last 0.2 s of every second has the spike's rate, the rest the base's; nothing between with base 0."""
    trace = spikes(100, 5000, 1.0, 0.2, 0.0, 10.0, np.random.default_rng(0))
    in_spike = trace.arrival_ns % 1_000_000_000 >= 800_000_000
    assert in_spike.sum() == pytest.approx(10_000, rel=0.01)
    assert (~in_spike).sum() == pytest.approx(800, rel=0.03)
    quiet = spikes(0, 5000, 1.0, 0.2, 1.0, 3.0, np.random.default_rng(0))
    assert (quiet.arrival_ns % 1_000_000_000 >= 799_999_999).all()


def test_impossible_shapes_are_refused() -> None:
    """Spikes longer than their period, a ramp that never moves."""
    rng = np.random.default_rng(0)
    with pytest.raises(TraceError, match="period_s"):
        spikes(1, 2, 1.0, 2.0, 1.0, 3.0, rng)
    with pytest.raises(TraceError, match="acceleration = 0"):
        ramp(1, 2, 0.0, 1.0, 3.0, rng)
