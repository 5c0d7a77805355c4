"""Events that are told a second time."""

from collections.abc import Sequence

import pytest

from scaling.one_scheduler import SITUATIONS, fresh, measure, taped
from scaling.tape import play
from superserve.scheduling import Action, Finish, Launch, Scheduler


def decided(actions: Sequence[Sequence[Action]]) -> list[tuple[object, ...]]:
    """What was launched and what ended, in order."""
    return [
        (each.worker, each.subnet, each.rows) if isinstance(each, Launch) else (each.request.id, each.outcome)
        for some in actions
        for each in some
    ]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_another_scheduler_decides_the_same(situation: str) -> None:
    """So its time is that of the run that was taped; each request is offered once, and ends once."""
    tape = taped("drainfit", 8, SITUATIONS[situation], scale=0.02)
    first, second = (play(tape, fresh(Scheduler, "drainfit")).actions for _ in range(2))
    assert decided(first) == decided(second)
    offered = [event.arguments[0].id for event in tape if event.method == "on_arrival"]
    ended = [each.request.id for some in first for each in some if isinstance(each, Finish)]
    assert sorted(ended) == sorted(offered) == list(range(len(offered)))


def test_a_cost_is_per_request() -> None:
    cost = measure("slackfit", "under load", 8, rounds=2, scale=0.02)
    assert cost.least_us <= cost.median_us <= cost.most_us
    assert cost.requests_per_s == pytest.approx(1e6 / cost.median_us)
    assert cost.requests == pytest.approx(1_200, rel=0.1)
    assert cost.slo_attainment > 0.9


def test_in_overload_not_everybody_is_served() -> None:
    """The situation is what it says it is."""
    assert measure("drainfit", "in overload", 8, rounds=1, scale=0.05).slo_attainment < 0.95
