"""Whom to give up: priorities decide, and no more than necessary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superserve.profile import Profile
from superserve.request import Outcome, Request
from superserve.scheduling.victims import level, victims
from superserve.simulator import simulate
from superserve.traces.arrivals import gamma
from superserve.traces.trace import Trace


def queue(*jobs: tuple[int, int]) -> list[Request]:
    """(deadline, priority) each, in deadline order."""
    return [Request(number, 0, deadline, priority=priority) for number, (deadline, priority) in enumerate(jobs)]


def numbers(found: list[Request]) -> list[int]:
    return [request.id for request in found]


def test_the_largest_number_goes_first() -> None:
    """Three of four can be in time."""
    assert numbers(victims(queue((40, 3), (40, 2), (40, 1), (40, 4)), 0, 13, 1)) == [3]


def test_of_equal_numbers_the_one_due_last_goes() -> None:
    assert numbers(victims(queue((10, 2), (20, 2), (20, 1)), 0, 10, 1)) == [1]


def test_nobody_goes_if_all_can_be_in_time() -> None:
    assert victims(queue((10, 3), (20, 2), (30, 1)), 0, 10, 1) == []


def test_one_level_is_left_to_the_policy() -> None:
    """Priorities that are not given count as 1."""
    assert victims(queue((10, 7), (10, 7)), 0, 10, 1) == []
    assert victims(queue((10, 0), (10, 1)), 0, 10, 1) == []


def test_batches_are_planned_whole() -> None:
    """Of four due at 15, two make up a batch of 10 ns: the third and fourth would end at 20."""
    assert numbers(victims(queue((15, 1), (15, 1), (15, 2), (15, 2)), 0, 10, 2)) == [2, 3]


def test_too_much_of_the_urgent_costs_no_others_that_can_be_in_time() -> None:
    """The second urgent one is late whatever happens: the one behind it is not given up for it."""
    assert victims(queue((10, 1), (10, 1), (30, 2)), 0, 10, 1) == []


@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(0, 4)), max_size=30).map(sorted),
    st.integers(0, 50),
    st.integers(1, 20),
)
def test_what_is_planned_is_in_time(jobs: list[tuple[int, int]], first: int, row: int) -> None:
    """No victim is of the most urgent level, and each went for somebody: putting one back makes somebody late."""
    waiting = queue(*jobs)
    found = victims(waiting, first, row, 1)
    assert len(set(numbers(found))) == len(found)
    levels = [level(request) for request in waiting]
    assert all(level(one) > min(levels) for one in found)
    if found:
        assert not _in_time(waiting, first, row)
    others = [one for one in waiting if one not in found and level(one) > min(levels)]
    assert _in_time(others, first, row)


def _in_time(requests: list[Request], first: int, row: int) -> bool:
    ends = first + row * np.arange(1, len(requests) + 1)
    return bool(np.all(ends <= [request.deadline_ns for request in requests]))


@pytest.mark.parametrize(
    ("policy", "least", "cost"),
    [
        ("drainfit", 0.999, 0.02),
        ("slackfit", 0.99, 0.25),
        ("maxacc", 0.4, 0.02),
        ("maxbatch", 0.9, 0.02),
        ("infaas", 0.9, 0.02),
    ],
)
def test_background_is_given_up_before_the_others(policy: str, least: float, cost: float) -> None:
    """1.3 times what the fastest subnet carries; every other request is background, and all are due alike.

    What a policy loses by batches that become too small it loses with priorities, too. SlackFit spends the time that
    refused background leaves on accuracy.
    """
    profile = Profile.load("r-profile")
    plain = gamma(1.3 * 2 * 2_170, 1.0, 3.0, np.random.default_rng(0))
    ranked = Trace("ranked", plain.arrival_ns, priority=np.where(np.arange(len(plain)) % 2, 5, 1).astype(np.int32))
    urgent = ranked.priority == 1
    with_priorities, without = (
        simulate(trace, profile, policy=policy, workers=2, slo_ms=36, overhead_ms=0).is_outcome(Outcome.SERVED)
        for trace in (ranked, plain)
    )
    assert with_priorities[urgent].mean() > max(least, without[urgent].mean() + 0.1)
    assert with_priorities.mean() > without.mean() - cost
