"""Scaling keeps the shape."""

import numpy as np
import pytest

from superserve.clock import NS_PER_S
from superserve.errors import TraceError
from superserve.traces.squeeze import MAX_ARRIVALS, Counts, draw, scale
from superserve.traces.trace import Trace

SHAPE = np.array([1.0, 5.0, 0.0, 2.0, 2.0])


def test_rate_and_shape_survive() -> None:
    """Five bins of a minute in 10 s at 2,000/s: each bin of 2 s has its share, within sampling error."""
    arrival_ns, origin = draw(Counts.regular(SHAPE, 60.0), squeeze_s=10.0, rate=2000.0, rng=np.random.default_rng(0))
    assert len(arrival_ns) == pytest.approx(20_000, rel=0.03)
    found = np.bincount(arrival_ns // (2 * NS_PER_S), minlength=5)
    assert found == pytest.approx(20_000 * SHAPE / SHAPE.sum(), rel=0.05)
    assert (found == np.bincount(origin, minlength=5)).all()


def test_without_a_rate_the_counts_stay() -> None:
    """Nothing is drawn but the places inside the bins."""
    arrival_ns, _ = draw(Counts.regular(SHAPE, 60.0), squeeze_s=None, rate=None, rng=np.random.default_rng(0))
    assert np.bincount(arrival_ns // (60 * NS_PER_S)).tolist() == SHAPE.tolist()


@pytest.mark.parametrize("dispersion", [0.0, 1.0, 10.0])
def test_dispersion_is_variance_over_mean(dispersion: float) -> None:
    """Of the numbers per bin, over 5,000 equal bins."""
    counts = Counts.regular(np.ones(5000), 1.0)
    rng = np.random.default_rng(0)
    _, origin = draw(counts, squeeze_s=None, rate=40.0, rng=rng, dispersion=dispersion)
    numbers = np.bincount(origin, minlength=5000)
    assert numbers.var() / numbers.mean() == pytest.approx(dispersion, rel=0.1, abs=1e-9)


def test_scaling_time_keeps_every_gap_ratio() -> None:
    """One of duration and rate alone: the same arrivals, closer together."""
    trace = Trace("t", np.array([0, 1, 3, 10], np.int64) * NS_PER_S, np.array([4, 3, 2, 1], np.int64))
    squeezed = scale(trace, squeeze_s=5.0, rate=None, rng=np.random.default_rng(0))
    assert (squeezed.arrival_ns * 2 == trace.arrival_ns).all()
    assert squeezed.slo_ns is not None
    assert squeezed.slo_ns.tolist() == [4, 3, 2, 1]
    assert scale(trace, squeeze_s=None, rate=0.8, rng=np.random.default_rng(0)).duration_s == pytest.approx(5.0)


def test_redrawn_arrivals_keep_their_origins_slo() -> None:
    """Ten times as many requests: each near the one it stands for, with its deadline."""
    trace = Trace("t", np.array([0, 2, 8, 10], np.int64) * NS_PER_S, np.array([1, 2, 3, 4], np.int64))
    drawn = scale(trace, squeeze_s=10.0, rate=1000.0, rng=np.random.default_rng(0))
    assert drawn.slo_ns is not None
    assert len(drawn) == pytest.approx(10_000, rel=0.05)
    middles_s = np.array([1.0, 5.0, 9.0])
    assert (np.searchsorted(middles_s, drawn.arrival_ns / NS_PER_S) + 1 == drawn.slo_ns).mean() > 0.999


@pytest.mark.parametrize(
    ("counts", "rate", "named"), [(np.zeros(3), 1.0, "nothing arrived"), (SHAPE, float(MAX_ARRIVALS), "lower")]
)
def test_hopeless_scalings_are_refused(counts: np.ndarray, rate: float, named: str) -> None:
    """The message says why."""
    with pytest.raises(TraceError, match=named):
        draw(Counts.regular(counts, 1.0), squeeze_s=None, rate=rate, rng=np.random.default_rng(0))


def test_coincident_arrivals_cannot_be_scaled() -> None:
    """A duration of zero has no ratio to another one."""
    trace = Trace("t", np.zeros(3, np.int64))
    with pytest.raises(TraceError, match="coincide"):
        scale(trace, squeeze_s=1.0, rate=None, rng=np.random.default_rng(0))
