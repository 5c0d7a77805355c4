"""What batches take over what was planned."""

import numpy as np
import pytest

from superserve.scheduling.drift import DriftEstimate


def observed(drift: DriftEstimate, worker: int, ratio: float, times: int) -> float:
    for _ in range(times):
        drift.observe(worker, round(ratio * 1_000_000), 1_000_000)
    return drift.planned


def test_as_profiled_while_the_profile_holds() -> None:
    """Batches at or below their planned time leave plans exactly as they are."""
    drift = DriftEstimate()
    assert observed(drift, 0, 1.0, 50) == 1.0
    assert observed(drift, 0, 0.3, 50) == 1.0


def test_follows_a_slow_spell_within_some_batches_and_returns() -> None:
    drift = DriftEstimate()
    assert observed(drift, 0, 1.3, 30) == pytest.approx(1.3, abs=0.05)
    assert observed(drift, 0, 0.9, 3000) == 1.0


def test_rests_where_one_in_a_hundred_is_slower() -> None:
    rng = np.random.default_rng(0)
    drift = DriftEstimate()
    planned = [observed(drift, 0, ratio, 1) for ratio in rng.lognormal(0.2, 0.1, 8000)]
    assert np.mean(planned[4000:]) == pytest.approx(float(np.exp(0.2 + 0.1 * 2.326)), rel=0.05)


def test_a_single_slow_worker_changes_nothing_for_the_others() -> None:
    drift = DriftEstimate()
    for worker in range(3):
        observed(drift, worker, 0.9, 10)
    assert observed(drift, 3, 10.0, 200) == 1.0


def test_a_lost_worker_is_forgotten() -> None:
    drift = DriftEstimate()
    assert observed(drift, 0, 2.0, 200) > 1.5
    drift.forget(0)
    drift.forget(7)
    assert drift.planned == 1.0
