"""Latencies drawn from a profile."""

import msgspec
import numpy as np
import pytest

from superserve.latency import LatencySampler, OverheadSampler
from superserve.profile import Profile
from support.profiles import make_profile


def jittery() -> Profile:
    """Two subnets at batches 1 and 4, p95 1.5 times and p99 twice the median."""
    profile = make_profile([[1.0, 2.0], [4.0, 8.0]], batches=(1, 4))
    return msgspec.structs.replace(
        profile,
        subnets=tuple(
            msgspec.structs.replace(
                subnet,
                p95_us=tuple(1.5 * value for value in subnet.p50_us),
                p99_us=tuple(2 * value for value in subnet.p50_us),
            )
            for subnet in profile.subnets
        ),
    )


@pytest.mark.parametrize(("subnet", "rows", "median_ms"), [(0, 1, 1), (0, 4, 2), (1, 1, 4), (1, 2, 16 / 3), (1, 4, 8)])
def test_median_and_tail_of_the_draws_are_the_profiles(subnet: int, rows: int, median_ms: float) -> None:
    """Between two profiled batch sizes they are interpolated."""
    sampler = LatencySampler(jittery(), np.random.default_rng(0))
    draws_ms = np.array([sampler.sample_ns(subnet, rows) for _ in range(20_000)]) / 1e6
    found = np.quantile(draws_ms, [0.4, 0.5, 0.95, 0.99, 1.0])
    np.testing.assert_allclose(found, median_ms * np.array([1, 1, 1.5, 2, 2]), rtol=0.02)


def test_without_jitter_every_draw_is_the_cell() -> None:
    sampler = LatencySampler(make_profile([[1.0, 2.0]], batches=(1, 4)), np.random.default_rng(0))
    assert {sampler.sample_ns(0, 4) for _ in range(1000)} == {2_000_000}


def test_equal_seeds_draw_equally() -> None:
    first, second, other = (LatencySampler(jittery(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    draws = [[sampler.sample_ns(1, 4) for _ in range(100)] for sampler in (first, second, other)]
    assert draws[0] == draws[1] != draws[2]


def with_overhead(p99_us: float | None) -> Profile:
    """Overheads of 400 µs on average, 1,000 µs at the p95."""
    return msgspec.structs.replace(
        jittery(), dispatch_overhead_us=1000.0, dispatch_overhead_mean_us=400.0, dispatch_overhead_p99_us=p99_us
    )


def test_mean_and_tail_of_the_overheads_are_the_profiles() -> None:
    profile = with_overhead(2000.0)
    sampler = OverheadSampler(profile, np.random.default_rng(0))
    draws_us = np.array([sampler.sample_ns() for _ in range(50_000)]) / 1e3
    assert sampler.varies
    np.testing.assert_allclose(draws_us.mean(), 400.0, rtol=0.02)
    np.testing.assert_allclose(np.quantile(draws_us, [0.95, 0.99]), [1000.0, 2000.0], rtol=0.03)
    assert abs(draws_us.min() - profile.usual_overhead_us) < 0.001


def test_without_a_p99_every_overhead_is_the_mean() -> None:
    sampler = OverheadSampler(with_overhead(None), np.random.default_rng(0))
    assert not sampler.varies
    assert {sampler.sample_ns() for _ in range(100)} == {400_000}
