"""Hanging workers, on a manual clock."""

from hypothesis import given
from hypothesis import strategies as st

from superserve.clock import NS_PER_MS, ManualClock
from superserve.serving.watchdog import AnswerLimits, Watchdog

LIMITS = AnswerLimits(unplanned_ns=800 * NS_PER_MS, least_ns=400 * NS_PER_MS, factor=10)


def watched() -> tuple[Watchdog, ManualClock, list[int]]:
    clock, hung = ManualClock(), list[int]()
    return Watchdog(clock, LIMITS, hung.append), clock, hung


@given(
    planned_ms=st.sampled_from([0, 1, 39, 41, 100]),
    idle_ms=st.integers(0, 300),
)
def test_a_batch_is_given_its_time_and_no_more_than_two_looks_longer(planned_ms: int, idle_ms: int) -> None:
    """Whenever it begins between two looks; the look that finds it late comes soon."""
    dog, clock, hung = watched()
    dog.began(0)
    dog.ended()
    clock.advance(idle_ms * NS_PER_MS)
    dog.began(planned_ms * NS_PER_MS)
    patience_ms = {0: 800, 1: 400, 39: 400, 41: 410, 100: 1000}[planned_ms]
    clock.advance(patience_ms * NS_PER_MS - 1)
    assert not hung
    clock.advance(2 * LIMITS.look_ns)
    assert hung == [patience_ms * NS_PER_MS]


def test_a_busy_worker_that_answers_is_left_alone() -> None:
    dog, clock, hung = watched()
    for _ in range(50):
        dog.began(0)
        clock.advance(700 * NS_PER_MS)
        dog.ended()
    assert not hung


def test_of_two_batches_only_the_time_of_the_one_that_runs_counts() -> None:
    dog, clock, hung = watched()
    dog.began(0)
    dog.began(0)
    clock.advance(700 * NS_PER_MS)
    dog.ended()
    clock.advance(700 * NS_PER_MS)
    assert not hung
    assert len(dog) == 1
    clock.advance(300 * NS_PER_MS)
    assert len(hung) == 1


def test_a_machine_that_slept_is_no_reason_to_kill() -> None:
    """One timer that fires an hour late is one look."""
    dog, clock, hung = watched()
    dog.began(0)

    class Asleep(ManualClock):
        def now_ns(self) -> int:
            return super().now_ns() + 3600 * 1_000 * NS_PER_MS

    clock.__class__ = Asleep
    clock.advance(LIMITS.look_ns)
    assert not hung


def test_a_worker_that_is_gone_is_not_watched() -> None:
    dog, clock, hung = watched()
    dog.began(0)
    dog.clear()
    clock.advance(10_000 * NS_PER_MS)
    assert not hung
    assert not len(dog)
