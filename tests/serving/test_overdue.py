"""When a batch is given up waiting for, in virtual time."""

import pytest

from superserve.clock import NS_PER_MS, ManualClock
from superserve.serving.overdue import OverdueLimits, OverdueWatch


class Bench:
    """A batch whose answer is predicted after 20 ms at most, of a worker that has 60 ms more."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.told_ms: list[float] = []
        limits = OverdueLimits(least_ns=60 * NS_PER_MS, factor=2.0)
        self.watch = OverdueWatch(self.clock, limits, lambda: self.told_ms.append(self.clock.now_ns() / NS_PER_MS))
        self.watch.began(20 * NS_PER_MS)

    def pass_ms(self, delta_ms: float) -> None:
        self.clock.advance(round(delta_ms * NS_PER_MS))


@pytest.mark.parametrize(("due_ms", "margin_ms"), [(1, 60), (30, 60), (31, 62), (1000, 2000)])
def test_the_margin_grows_with_what_was_predicted(due_ms: int, margin_ms: int) -> None:
    """But never falls below the least one."""
    limits = OverdueLimits(least_ns=60 * NS_PER_MS, factor=2.0)
    assert limits.margin_ns(due_ms * NS_PER_MS) == margin_ms * NS_PER_MS


def test_told_when_the_margin_has_passed_and_again() -> None:
    """There may be nobody else at first who could run it."""
    bench = Bench()
    bench.pass_ms(79.9)
    assert not bench.told_ms
    bench.pass_ms(60.1)
    assert bench.told_ms == [80, 110, 140]


def test_an_answer_ends_it() -> None:
    """Whenever it comes; the next batch is watched on its own."""
    bench = Bench()
    bench.pass_ms(79.9)
    bench.watch.ended()
    bench.pass_ms(100)
    assert not bench.told_ms
    bench.watch.began(10 * NS_PER_MS)
    bench.pass_ms(69.9)
    assert not bench.told_ms
    bench.pass_ms(0.1)
    assert len(bench.told_ms) == 1


def test_a_batch_behind_another_is_watched_from_when_that_is_answered() -> None:
    """What the first one takes too long is not the second one's."""
    bench = Bench()
    bench.watch.began(10 * NS_PER_MS)
    bench.pass_ms(79.9)
    bench.watch.ended()
    bench.pass_ms(69.9)
    assert not bench.told_ms
    bench.pass_ms(0.1)
    assert len(bench.told_ms) == 1
    bench.watch.clear()
    bench.pass_ms(1_000)
    assert len(bench.told_ms) == 1, "its worker is gone"


def test_what_was_not_predicted_is_not_overdue() -> None:
    """Such as the batches that a profile is measured with."""
    bench = Bench()
    bench.watch.ended()
    bench.watch.began(0)
    bench.pass_ms(10_000)
    assert not bench.told_ms
    bench.watch.ended()


def test_a_process_that_was_stopped_looks_twice() -> None:
    """Its timer fires late; the answer, which has come meanwhile, is told after that."""
    bench = Bench()
    bench.clock._now_ns += 500 * NS_PER_MS  # nothing of the process ran
    bench.pass_ms(0)
    assert not bench.told_ms
    bench.watch.ended()
    bench.pass_ms(100)
    assert not bench.told_ms
