"""The manual clock, and the real one's order."""

import asyncio

import pytest

from superserve.clock import ManualClock, MonotonicClock


def test_timers_fire_in_order_at_their_own_time() -> None:
    """By time, then by the order in which they were made; also those that a timer makes."""
    clock, seen = ManualClock(), list[tuple[str, int]]()
    clock.call_at(20, lambda: seen.append(("b", clock.now_ns())))
    clock.call_at(10, lambda: clock.call_at(15, lambda: seen.append(("a", clock.now_ns()))))
    clock.call_at(20, lambda: seen.append(("c", clock.now_ns())))
    clock.advance(30)
    assert seen == [("a", 15), ("b", 20), ("c", 20)]
    assert clock.now_ns() == 30


def test_cancelled_timer_does_not_fire() -> None:
    """Also when it is due at once."""
    clock = ManualClock()
    timer = clock.call_at(0, pytest.fail)
    timer.cancel()
    clock.advance(1)


def test_does_not_go_back() -> None:
    """A clock never runs backwards."""
    with pytest.raises(ValueError, match="back"):
        ManualClock(10).advance_to(9)


async def test_real_clock_calls_back() -> None:
    """A timer that is due fires in the loop's next turns."""
    clock = MonotonicClock(asyncio.get_running_loop())
    done = asyncio.Event()
    clock.call_at(clock.now_ns(), done.set)
    await asyncio.wait_for(done.wait(), 5)
