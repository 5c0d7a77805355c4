import hypothesis.strategies as st
import pytest
from hypothesis import given

from superserve.conditions import Conditions, rounds_spread


def test_a_machine_at_rest_gives_no_doubts() -> None:
    assert Conditions(worker_waited=0.01, stolen=0.0, others=0.1, spread=0.08).doubts() == []


def test_what_nobody_can_tell_gives_no_doubts() -> None:
    assert Conditions().doubts() == []


@pytest.mark.parametrize(
    ("found", "figure"),
    [
        (Conditions(worker_waited=0.12), "worker's core 12% of the time"),
        (Conditions(stolen=0.31), "31% of the cores to other machines"),
        (Conditions(others=0.44), "44% of the router's and the worker's core"),
        (Conditions(spread=0.9), "90% longer"),
    ],
)
def test_each_sign_of_a_busy_machine_is_told_with_its_figure(found: Conditions, figure: str) -> None:
    (doubt,) = found.doubts()
    assert figure in doubt
    assert "at most" in doubt


def test_a_slow_while_shows_and_one_slow_cell_does_not() -> None:
    """Two cells over ten rounds: three rounds at double pace; or one cell that is slow in three of them."""
    paces = [1.0] * 7 + [2.0] * 3
    slow_while = [[[10.0 * pace] * 3, [50.0 * pace]] for pace in paces]
    assert rounds_spread(slow_while) == pytest.approx(1.0)
    odd_cell = [[[10.0], [50.0], [30.0 * pace]] for pace in paces]
    assert rounds_spread(odd_cell) == 0.0


def test_few_rounds_say_nothing() -> None:
    assert rounds_spread([[[1.0]], [[2.0]]]) is None


samples = st.lists(st.floats(0.1, 1000.0), max_size=3)


@given(st.lists(st.tuples(samples, st.lists(st.floats(0.1, 1000.0), min_size=1, max_size=3)), min_size=3, max_size=8))
def test_any_samples_have_a_spread_that_is_not_negative(rounds: list[tuple[list[float], list[float]]]) -> None:
    """A cell may be missing from some rounds, or from all of them."""
    found = rounds_spread(rounds)
    assert found is not None
    assert found >= 0
