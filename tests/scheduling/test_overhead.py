"""The running quantile of the dispatch overhead."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from superserve.scheduling.overhead import OverheadEstimate

NEAR_NS, FAR_NS = 500_000, 30_000_000


@pytest.mark.parametrize("start_us", [10, 5000])
def test_rests_at_the_p99(start_us: int) -> None:
    """From far below and far above, within some thousand samples of an exponential distribution."""
    rng = np.random.default_rng(0)
    estimate = OverheadEstimate(start_us * 1000)
    planned = []
    for sample in rng.exponential(400_000, 8000):
        estimate.observe(int(sample), 0)
        planned.append(estimate.planned_ns)
    assert np.mean(planned[4000:]) == pytest.approx(400_000 * np.log(100), rel=0.15)


def test_follows_a_change() -> None:
    """When the overhead triples, the plan does so within 300 batches."""
    estimate = OverheadEstimate(300_000)
    for _ in range(300):
        estimate.observe(900_000, 0)
    assert estimate.planned_ns >= 900_000


def test_as_profiled_without_samples() -> None:
    """Not even rounded."""
    assert OverheadEstimate(123_456).planned_ns == 123_456


def observed(estimate: OverheadEstimate, worker: int, overhead_ns: int, times: int = 40) -> OverheadEstimate:
    """After so many batches of a worker, each a little longer than the one before."""
    for number in range(times):
        estimate.observe(overhead_ns + 1000 * number, worker)
    return estimate


def near_and_far() -> OverheadEstimate:
    """Workers 0 and 1 are near, worker 2 is not."""
    estimate = OverheadEstimate(NEAR_NS)
    for worker, overhead_ns in enumerate((NEAR_NS, NEAR_NS, FAR_NS)):
        observed(estimate, worker, overhead_ns)
    return estimate


def test_a_far_worker_changes_nothing_for_the_others() -> None:
    """And is planned with what its own way costs."""
    estimate = near_and_far()
    assert [estimate.far(worker) for worker in range(3)] == [False, False, True]
    assert estimate.of(0) == estimate.planned_ns < 2 * NEAR_NS
    observed(estimate, 0, NEAR_NS, 200)  # before anybody knew, eight of its batches were in the mean
    assert estimate.typical_ns < 2 * NEAR_NS
    assert FAR_NS < estimate.of(2) < 2 * FAR_NS


def test_single_batches_that_cost_much_make_no_worker_far() -> None:
    """Nor do all of them, by less than twice the usual and a millisecond."""
    estimate = near_and_far()
    for _ in range(20):
        observed(estimate, 1, FAR_NS, 7)
        observed(estimate, 1, 2 * NEAR_NS, 1)
    assert not estimate.far(1)


def test_a_worker_that_comes_nearer_is_one_of_the_others_again() -> None:
    """Within a block of batches; what it has cost before is forgotten."""
    estimate = near_and_far()
    planned_ns = estimate.planned_ns
    observed(estimate, 2, NEAR_NS, 16)
    assert not estimate.uneven
    assert estimate.planned_ns == pytest.approx(planned_ns, rel=0.2)


def test_where_the_near_ones_are_gone_the_far_one_is_usual() -> None:
    """At once: the next request must not be promised what nobody can keep; and near ones that come change that back."""
    estimate = near_and_far()
    far_ns = estimate.of(2)
    for worker in range(2):
        estimate.forget(worker)
    assert not estimate.uneven
    assert estimate.planned_ns == far_ns
    observed(estimate, 3, NEAR_NS)
    assert [estimate.far(worker) for worker in (2, 3)] == [True, False]
    assert estimate.of(2) >= FAR_NS
    assert estimate.of(3) == estimate.planned_ns < FAR_NS / 4


@given(ways=st.lists(st.tuples(st.integers(0, 4), st.sampled_from([NEAR_NS, FAR_NS])), max_size=60))
def test_most_workers_are_never_far(ways: list[tuple[int, int]]) -> None:
    """Whatever they cost, and whoever goes meanwhile; plans are never negative."""
    estimate = OverheadEstimate(NEAR_NS)
    seen: set[int] = set()
    for worker, overhead_ns in ways:
        if worker == 4 and seen:
            estimate.forget(gone := min(seen))
            seen.remove(gone)
        else:
            observed(estimate, worker, overhead_ns, 8)
            seen.add(worker)
        far = [worker for worker in range(5) if estimate.far(worker)]
        assert set(far) <= seen
        assert 2 * len(far) <= len(seen)
        assert min(estimate.planned_ns, estimate.typical_ns, *(estimate.of(worker) for worker in range(5))) >= 0
