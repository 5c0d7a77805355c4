"""Cells of time, against sums over a fine grid."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from superserve.bounds.cells import Cells, Tariff, range_min


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 40))
def test_least_cost_is_the_least_over_starts_in_the_cell(per_cell: list[int], time_ns: int) -> None:
    """Starts at every nanosecond of the cell, ends included: the corners are at whole nanoseconds."""
    cells, prices = Cells(100, 7, len(per_cell)), np.array(per_cell, np.float64)
    per_ns = np.concatenate([np.repeat(prices, 7), np.zeros(time_ns + 7)])
    expected = [
        min(per_ns[start : start + time_ns].sum() for start in range(7 * cell, 7 * cell + 8))
        for cell in range(len(per_cell))
    ]
    assert Tariff(cells, prices, time_ns).least_cost(time_ns).tolist() == pytest.approx(expected)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(1, 40))
def test_busy_counts_batches_that_begin_with_a_cell(starts: list[int], time_ns: int) -> None:
    """Each is busy from its cell's first nanosecond on."""
    cells = Cells(0, 7, len(starts))
    busy_ns = np.zeros(7 * len(starts) + time_ns)
    for cell, count in enumerate(starts):
        busy_ns[7 * cell : 7 * cell + time_ns] += count
    expected = busy_ns[: 7 * len(starts)].reshape(-1, 7).mean(1)
    assert cells.busy(np.array(starts, np.float64), time_ns).tolist() == pytest.approx(expected.tolist())


@given(st.lists(st.integers(0, 99), min_size=1, max_size=20), st.data())
def test_range_minimum(values: list[int], data: st.DataObject) -> None:
    """Of every range, both ends included."""
    first = data.draw(st.integers(0, len(values) - 1))
    last = data.draw(st.integers(first, len(values) - 1))
    found = range_min(np.array(values, np.float64), np.array([first]), np.array([last]))
    assert found.tolist() == [min(values[first : last + 1])]


def test_windows_lie_inside_the_cells() -> None:
    """Arrivals and deadlines have a cell each, however long the trace; the number of cells is bounded."""
    arrival_ns = np.array([5, 10**15], np.int64)
    deadline_ns = arrival_ns + np.array([1000, 10**6])
    cells = Cells.over(arrival_ns, deadline_ns)
    assert cells.holding(arrival_ns)[0] == 0
    assert cells.holding(deadline_ns).max() == cells.count - 1
    assert cells.count <= (1 << 18) + 1
    assert cells.edges_ns[-1] > deadline_ns.max()
