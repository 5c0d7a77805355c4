"""Latencies drawn from a profile."""

import msgspec
import numpy as np
import pytest

from superserve.latency import LatencySampler
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
