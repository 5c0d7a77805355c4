"""Draws have the profile's quantiles."""

import numpy as np
import pytest

from superserve.latency import LatencySampler
from superserve.profile import Device, Profile, SubnetProfile

PROFILE = Profile(
    device=Device(name="t", kind="fixture", threads=1, engine="none", dtype="float32", torch="none"),
    model_hash="t",
    batches=(2, 8),
    dispatch_overhead_us=0.0,
    subnets=(
        SubnetProfile(id="a", accuracy=90.0, p50_us=(1000.0, 4000.0), p95_us=(2000.0, 5000.0), p99_us=(3000.0, 9000.0)),
    ),
)


def draws(rows: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    sampler = LatencySampler(PROFILE, np.random.default_rng(0))
    return np.array([sampler.sample_ns(0, rows) for _ in range(20_000)]) / 1e3


def test_quantiles_are_the_profiles() -> None:
    """Median, p95 and maximum at a profiled batch size."""
    times = draws(8)
    assert np.quantile(times, 0.5) == pytest.approx(4000, rel=0.01)
    assert np.quantile(times, 0.95) == pytest.approx(5000, rel=0.01)
    assert times.max() == pytest.approx(9000, rel=0.01)


def test_partial_batches_lie_between() -> None:
    """5 rows: half-way from 2 to 8; 1 row: as 2."""
    assert np.quantile(draws(5), 0.5) == pytest.approx(2500, rel=0.01)
    assert np.quantile(draws(1), 0.5) == pytest.approx(1000, rel=0.01)


def test_same_seed_same_draws() -> None:
    """Seeded, and over several blocks."""
    assert np.array_equal(draws(3), draws(3))
