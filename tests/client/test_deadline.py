import pytest

from superserve.client.deadline import Deadline
from superserve.clock import NS_PER_MS, NS_PER_S, ManualClock
from superserve.errors import ExpiredError, InvalidRequestError, UnavailableError


def test_a_deadline_bounds_the_wait_and_shrinks_for_the_server() -> None:
    """What the server is told is what is left when it is told."""
    clock = ManualClock(5)
    deadline = Deadline.start(clock.now_ns, 40.0, None, 30_000.0)
    assert (deadline.left_s(), deadline.slo_left_us()) == (0.04, 40_000)
    clock.advance(15 * NS_PER_MS)
    assert (deadline.left_s(), deadline.slo_left_us()) == (0.025, 25_000)
    assert deadline.allows(clock.now_ns() + 25 * NS_PER_MS - 1)
    assert not deadline.allows(clock.now_ns() + 25 * NS_PER_MS)
    clock.advance(25 * NS_PER_MS)
    for late in (deadline.left_s, deadline.slo_left_us):
        with pytest.raises(TimeoutError):
            late()
    assert isinstance(deadline.missed("u"), ExpiredError)
    assert "40.0 ms" in str(deadline.missed("u"))


def test_without_one_the_server_is_told_nothing() -> None:
    """Only the wait is bounded."""
    clock = ManualClock()
    deadline = Deadline.start(clock.now_ns, None, None, 2000.0)
    assert (deadline.left_s(), deadline.slo_left_us()) == (2.0, None)
    assert not deadline.allows(2 * NS_PER_S)
    missed = deadline.missed("u")
    assert isinstance(missed, UnavailableError)
    assert "timed out" in str(missed)


def test_a_longer_wait_takes_late_answers() -> None:
    """The server's deadline stays; nothing begins anew behind it."""
    clock = ManualClock()
    deadline = Deadline.start(clock.now_ns, 10.0, 1000.0, 1.0)
    assert (deadline.left_s(), deadline.slo_left_us()) == (1.0, 10_000)
    assert not deadline.allows(10 * NS_PER_MS)
    clock.advance(500 * NS_PER_MS)
    assert deadline.left_s() == 0.5


def test_a_shorter_wait_is_no_expiry() -> None:
    """The deadline was not missed: nobody waited for it."""
    deadline = Deadline.start(ManualClock().now_ns, 1000.0, 10.0, 1.0)
    assert isinstance(deadline.missed("u"), UnavailableError)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["slo_ms", "wait_ms"])
def test_times_that_are_none_are_refused_by_name(name: str, bad: float) -> None:
    times = {"slo_ms": None, "wait_ms": None, name: bad}
    with pytest.raises(InvalidRequestError, match=name):
        Deadline.start(ManualClock().now_ns, times["slo_ms"], times["wait_ms"], 1.0)
