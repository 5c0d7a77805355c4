import numpy as np
import pytest

from peers.generator import _RECORD, Run
from peers.measure import arrivals
from superserve.clock import NS_PER_MS, NS_PER_S


@pytest.mark.parametrize("cv2", [1, 4, 16])
def test_arrivals_have_the_rate_and_the_burstiness_that_were_asked_for(cv2: float) -> None:
    times = arrivals(1000, cv2, 100, seed=3)
    gaps = np.diff(times)
    assert len(times) == 100_000
    assert times[-1] / NS_PER_S == pytest.approx(100)
    assert gaps.min() >= 0
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.15)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    assert np.array_equal(arrivals(100, 4, 5, seed=1), arrivals(100, 4, 5, seed=1))
    assert not np.array_equal(arrivals(100, 4, 5, seed=1), arrivals(100, 4, 5, seed=2))


def test_goodput_counts_all_requests_and_latency_starts_at_the_scheduled_time() -> None:
    """One in time, one late since it waited in the generator, one refused, one never answered."""
    records = np.zeros(4, _RECORD)
    records["scheduled"] = 0
    records["ready"] = records["sent"] = [NS_PER_MS, 45 * NS_PER_MS, NS_PER_MS, NS_PER_MS]
    records["done"] = [40 * NS_PER_MS, 60 * NS_PER_MS, 2 * NS_PER_MS, 0]
    records["status"] = [200, 200, 504, 0]
    run = Run(records, 1.0, 0, b"")
    assert run.latency_ms.tolist() == [40, 60]
    assert run.goodput(50) == 0.25
    assert run.lateness_ms() == 0


def test_lateness_is_what_the_generator_adds() -> None:
    records = np.zeros(100, _RECORD)
    records["ready"] = 5 * NS_PER_MS
    records["sent"] = 7 * NS_PER_MS
    assert Run(records, 1.0, 0, b"").lateness_ms() == pytest.approx(2)
