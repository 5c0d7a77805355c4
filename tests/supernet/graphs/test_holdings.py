"""Which graphs there are: against a model that is a list, and the promises of the docstring."""

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import given

from superserve.supernet.graphs import Cell, GraphHoldings, GraphLimits

CELLS = [Cell(subnet, rows, ((8, 8),)) for subnet in range(4) for rows in (1, 4)]
MS = 1_000_000


def capture(holdings: GraphHoldings, grown: int = 0, taken_ns: int = MS) -> Cell:
    cell = holdings.next(None)
    assert cell is not None
    holdings.captured(cell, grown, taken_ns)
    return cell


@given(
    st.data(),
    st.lists(st.sampled_from(["use", "use", "use", "spare", "fail"]), max_size=80),
    st.builds(GraphLimits, graphs=st.integers(1, 4), pool_bytes=st.integers(1, 100), after=st.integers(1, 3)),
)
def test_bounds_hold_whatever_comes(data: st.DataObject, steps: list[str], limits: GraphLimits) -> None:
    """The least recently used goes, never more than has to; what was refused never comes back; what is held is used."""
    holdings = GraphHoldings(limits)
    held: list[Cell] = []
    refused: set[Cell] = set()
    wishes: Counter[Cell] = Counter()
    pool = 0
    for step in steps:
        if step == "use":
            cell = data.draw(st.sampled_from(CELLS))
            assert holdings.use(cell) == (cell in held)
            if cell in held:
                held.remove(cell)
                held.append(cell)
            elif cell not in refused:
                wishes[cell] += 1
        else:
            wanted = holdings.next(None)
            most = max(wishes.values(), default=0)
            needed = 1 if len(held) < limits.graphs else limits.after
            assert (wanted is not None) == (most >= needed)
            if wanted is None:
                continue
            assert wanted not in held
            assert wanted not in refused
            assert wishes.pop(wanted) == most
            if step == "fail":
                holdings.failed(wanted)
                refused.add(wanted)
                continue
            grown = data.draw(st.integers(0, 60))
            gone = holdings.captured(wanted, grown, MS)
            pool += grown
            held.append(wanted)
            if pool > limits.pool_bytes:
                assert list(gone) == held
                refused.add(wanted)
                held, pool = [], 0
            else:
                assert list(gone) == held[: max(0, len(held) - limits.graphs)]
                held = held[len(gone) :]
        assert list(holdings.held) == held
        assert (holdings.refused, holdings.pool_bytes) == (refused, pool)
        assert len(held) <= limits.graphs
        assert pool <= limits.pool_bytes


def test_a_free_place_is_taken_at_first_sight_and_a_taken_one_only_by_what_comes_often() -> None:
    holdings = GraphHoldings(GraphLimits(graphs=2, after=3))
    first, second, third = CELLS[:3]
    for cell in (first, second):
        assert not holdings.use(cell)
        assert capture(holdings) == cell
    for _ in range(2):
        assert not holdings.use(third)
        assert holdings.next(None) is None
    assert holdings.use(first)
    holdings.use(third)
    assert capture(holdings) == third
    assert holdings.held == (first, third), "the other one was used more recently"


def test_what_is_wanted_most_comes_first() -> None:
    holdings = GraphHoldings(GraphLimits())
    for cell in (CELLS[0], CELLS[1], CELLS[1]):
        holdings.use(cell)
    assert [capture(holdings), capture(holdings)] == [CELLS[1], CELLS[0]]
    assert holdings.next(None) is None


def test_nobody_waits_for_a_capture_that_takes_longer_than_a_limit_or_nobody_knows_how_long() -> None:
    holdings = GraphHoldings(GraphLimits())
    for cell in CELLS[:3]:
        holdings.use(cell)
    assert holdings.next(10 * MS) is None, "the first capture loads kernels: who knows for how long"
    capture(holdings, taken_ns=12 * MS)
    assert holdings.next(12 * MS - 1) is None
    assert holdings.next(12 * MS) is not None


def test_one_slow_capture_is_forgotten_in_time() -> None:
    """Else the first one, which loads kernels, would be the last one of the process."""
    holdings = GraphHoldings(GraphLimits())
    for rows in range(17):
        holdings.use(Cell(0, rows, ()))
        capture(holdings, taken_ns=2_000 * MS if not rows else MS)
    assert holdings.expected_ns == MS


def test_cells_that_are_too_large_cost_the_pool_at_most_once_each() -> None:
    """The others come back, and stay."""
    holdings = GraphHoldings(GraphLimits(graphs=8, pool_bytes=100, after=1))
    need = dict(zip(CELLS, (10, 120, 30, 40, 150, 20, 90, 60), strict=True))
    ends = 0
    for _ in range(12):
        for cell in CELLS:
            holdings.use(cell)
        while (wanted := holdings.next(None)) is not None:
            ends += wanted in holdings.captured(wanted, max(0, need[wanted] - holdings.pool_bytes), MS)
    assert ends == 2
    assert set(holdings.held) == {cell for cell in CELLS if need[cell] <= 100}
    assert holdings.pool_bytes == 90


@pytest.mark.parametrize("bad", [{"graphs": 0}, {"pool_bytes": 0}, {"after": 0}])
def test_limits_are_positive(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        GraphLimits(**bad)
