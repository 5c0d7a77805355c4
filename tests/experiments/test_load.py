import numpy as np
import pytest

from superserve.errors import ConfigError
from superserve.experiments.load import derive_load, full_batch_rate
from superserve.profile import Profile
from support.profiles import make_profile

#: Three subnets; at batch 8 they take 10, 20 and 40 ms.
PROFILE = make_profile([[2.0, 10.0], [4.0, 20.0], [8.0, 40.0]], (1, 8))


def test_slo_and_rates_follow_from_the_profile() -> None:
    load = derive_load(PROFILE, workers=2, cv2=2.0)
    assert load.slo_ms == pytest.approx(1.17 * 40.0)
    assert full_batch_rate(PROFILE, 1) == pytest.approx(400.0)
    assert load.mean_rate == pytest.approx(0.9 * 400.0 * 2)
    assert load.base_rate == pytest.approx(0.21 * load.mean_rate)


def test_load_is_far_above_the_largest_subnet_and_below_the_smallest() -> None:
    for profile in (PROFILE, Profile.load("r-profile")):
        load = derive_load(profile, workers=1, cv2=2.0)
        assert load.mean_rate > 1.15 * full_batch_rate(profile, len(profile.subnets) - 1)
        assert load.mean_rate < 0.9 * full_batch_rate(profile, 0)


def test_trace_is_seeded_and_has_the_rate_and_the_bursts_that_were_asked_for() -> None:
    load = derive_load(PROFILE, workers=2, cv2=8.0)
    trace = load.trace(60.0, seed=3)
    assert np.array_equal(trace.arrival_ns, load.trace(60.0, seed=3).arrival_ns)
    assert not np.array_equal(trace.arrival_ns[:100], load.trace(60.0, seed=4).arrival_ns[:100])
    assert len(trace) == pytest.approx(60 * load.mean_rate, rel=0.05)
    counts = np.bincount(trace.arrival_ns // 100_000_000)
    assert counts.var() / counts.mean() > 3  # 1 for Poisson arrivals


def test_nonsense_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="workers"):
        derive_load(PROFILE, workers=0, cv2=2.0)
    for bad in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="cv2"):
            derive_load(PROFILE, workers=1, cv2=bad)
