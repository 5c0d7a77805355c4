"""Samples per cell within a time budget."""

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from superserve.profiler.plan import allocate, next_round, shuffled

costs = st.lists(st.floats(1e5, 1e8), min_size=1, max_size=20).map(np.array)


def test_cells_share_the_time_not_the_samples() -> None:
    assert allocate(np.array([1e6, 2e6, 10e6]), 60e6, 1, 1000).tolist() == [20, 10, 2]


def test_limits_come_first() -> None:
    assert allocate(np.array([1e6, 10e6]), 60e6, 4, 15).tolist() == [15, 4]
    assert allocate(np.array([1e6, 10e6]), 0, 4, 15).tolist() == [4, 4]
    assert allocate(np.array([1e6, 10e6]), -5, 4, 15).tolist() == [4, 4]


def test_time_left_over_by_full_cells_goes_to_the_others() -> None:
    assert allocate(np.array([1e6, 10e6]), 100e6, 0, 9).tolist() == [9, 9]


@given(costs, st.floats(0, 1e10), st.integers(0, 5), st.integers(5, 50))
def test_the_budget_holds_unless_the_least_already_exceeds_it(
    costs_ns: np.ndarray[tuple[int], np.dtype[np.float64]], budget_ns: float, least: int, most: int
) -> None:
    found = allocate(costs_ns, budget_ns, least, most)
    assert ((found >= least) & (found <= most)).all()
    assert found @ costs_ns <= max(budget_ns, least * costs_ns.sum()) * (1 + 1e-9)


def test_rounds_reach_the_least_and_stop_at_the_most_even_without_time() -> None:
    taken = np.array([1, 1, 9])
    for rounds_left in range(4, 0, -1):
        plan = next_round(taken, np.array([1e6] * 3), budget_ns=-1.0, rounds_left=rounds_left, least=6, most=10)
        taken = taken + plan
    assert taken.tolist() == [6, 6, 9]
    for rounds_left in range(4, 0, -1):
        plan = next_round(taken, np.array([1e6] * 3), budget_ns=1e12, rounds_left=rounds_left, least=6, most=10)
        taken = taken + plan
    assert taken.tolist() == [10, 10, 10]


def test_what_one_round_takes_too_long_the_next_ones_save() -> None:
    slow = next_round(np.array([0]), np.array([1e6]), budget_ns=20e6, rounds_left=4, least=0, most=100)
    assert slow.tolist() == [5]
    late = next_round(np.array([5]), np.array([2e6]), budget_ns=12e6, rounds_left=3, least=0, most=100)
    assert late.tolist() == [2]


def test_a_round_visits_each_cell_as_often_as_planned_in_random_order() -> None:
    order = shuffled(np.array([3, 0, 5]), np.random.default_rng(0))
    assert sorted(order) == [0, 0, 0, 2, 2, 2, 2, 2]
    assert order != sorted(order)
    assert order == shuffled(np.array([3, 0, 5]), np.random.default_rng(0))
