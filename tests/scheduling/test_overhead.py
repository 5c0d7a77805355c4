"""The running quantile of the dispatch overhead."""

import numpy as np
import pytest

from superserve.scheduling.overhead import OverheadEstimate


@pytest.mark.parametrize("start_us", [10, 5000])
def test_rests_at_the_p99(start_us: int) -> None:
    """From far below and far above, within some thousand samples of an exponential distribution."""
    rng = np.random.default_rng(0)
    estimate = OverheadEstimate(start_us * 1000)
    planned = []
    for sample in rng.exponential(400_000, 8000):
        estimate.observe(int(sample))
        planned.append(estimate.planned_ns)
    assert np.mean(planned[4000:]) == pytest.approx(400_000 * np.log(100), rel=0.15)


def test_follows_a_change() -> None:
    """When the overhead triples, the plan does so within 300 batches."""
    estimate = OverheadEstimate(300_000)
    for _ in range(300):
        estimate.observe(900_000)
    assert estimate.planned_ns >= 900_000


def test_as_profiled_without_samples() -> None:
    """Not even rounded."""
    assert OverheadEstimate(123_456).planned_ns == 123_456
