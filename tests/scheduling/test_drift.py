"""What batches take over what was planned."""

from collections import defaultdict

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from superserve.clock import NS_PER_S
from superserve.scheduling.drift import DriftEstimate
from superserve.scheduling.quantile import RunningQuantile


def observed(drift: DriftEstimate, worker: int, ratio: float, times: int, now_ns: int = 0) -> float:
    for _ in range(times):
        drift.observe(worker, round(ratio * 1_000_000), 1_000_000, now_ns)
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


def uneven() -> DriftEstimate:
    """Three workers as profiled, and worker 3 at ten times that since 0.5 s."""
    drift = DriftEstimate()
    for worker in range(3):
        observed(drift, worker, 0.9, 10)
    observed(drift, 3, 10.0, 2, now_ns=NS_PER_S // 2)
    return drift


def test_two_bad_batches_make_a_worker_slow_and_one_does_not() -> None:
    drift = DriftEstimate()
    for worker in range(4):
        observed(drift, worker, 0.9, 10)
    observed(drift, 3, 10.0, 1)
    assert not drift.slow(3)
    observed(drift, 3, 10.0, 1)
    assert [drift.slow(worker) for worker in range(5)] == [False, False, False, True, False]
    assert drift.of(3) == pytest.approx(10.0, abs=0.02)
    assert drift.of(0) == drift.of(4) == drift.planned == 1.0


def test_good_batches_end_slowness() -> None:
    drift = uneven()
    observed(drift, 3, 0.9, 62)
    assert drift.slow(3)
    observed(drift, 3, 0.9, 1)
    assert not drift.uneven


def test_a_slow_worker_that_has_run_nothing_for_a_while_gets_a_chance() -> None:
    """It may have recovered; one more bad batch and it is slow again, a good one and it is as others."""
    for ratio, again in ((10.0, True), (0.9, False)):
        drift = uneven()
        drift.forgive(2 * NS_PER_S)
        assert drift.slow(3)
        drift.forgive(3 * NS_PER_S)
        assert not drift.uneven
        observed(drift, 3, ratio, 1, now_ns=3 * NS_PER_S)
        assert drift.slow(3) is again


def test_when_all_are_slow_none_is() -> None:
    """What counts is how a worker compares with the others; what all have in common is in the plan."""
    drift = uneven()
    for worker in range(2):
        observed(drift, worker, 10.0, 2)
    assert not drift.uneven


def test_a_slow_worker_carries_its_part_of_the_load() -> None:
    assert uneven().capacity(4) == pytest.approx((3 + 0.1) / 4, abs=0.001)
    assert DriftEstimate().capacity(4) == 1.0


def test_a_lost_worker_is_forgotten() -> None:
    drift = DriftEstimate()
    assert observed(drift, 0, 2.0, 200) > 1.5
    drift.forget(0)
    drift.forget(7)
    assert drift.planned == 1.0
    lost = uneven()
    lost.forget(3)
    assert not lost.uneven


def lower_median(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2] if values else 1.0


class Plain:
    """The same estimate by its definition: everything is sorted anew for every batch."""

    def __init__(self) -> None:
        self.quantiles: dict[int, RunningQuantile] = {}
        self.ratios = defaultdict[int, list[float]](list)
        self.planned = 1.0
        self.slow: set[int] = set()

    def level(self, worker: int) -> float:
        worst = sorted(self.ratios[worker][-64:])
        return worst[-2] if len(worst) > 1 else 1.0

    def observe(self, worker: int, ratio: float) -> None:
        quantile = self.quantiles.setdefault(worker, RunningQuantile(1.0, least=1.0))
        before = quantile.value
        quantile.observe(ratio)
        if quantile.value != before:
            self.planned = grained(lower_median([each.value for each in self.quantiles.values()]))
        self.ratios[worker].append(ratio)
        levels = {each: self.level(each) for each in self.quantiles}
        if self.slow or levels[worker] > 1.05 * self.planned:
            least = 1.05 * max(self.planned, lower_median(list(levels.values())))
            self.slow = {each for each, level in levels.items() if level > least}


def grained(drift: float) -> float:
    """Rounded up to 64ths."""
    return 1.0 + -(-(drift - 1.0) // (1 / 64)) / 64


BATCHES = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.9, 1.02, 1.1, 1.3, 4.0])), max_size=200)


@given(BATCHES)
def test_it_is_what_its_definition_says(batches: list[tuple[int, float]]) -> None:
    """What to plan with, and who is slow, after each batch of any worker."""
    drift, plain = DriftEstimate(), Plain()
    for worker, ratio in batches:
        observed(drift, worker, ratio, 1)
        plain.observe(worker, ratio)
        assert drift.planned == plain.planned
        assert {each for each in range(5) if drift.slow(each)} == plain.slow
