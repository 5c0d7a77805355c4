"""The EDF queue against a plain sorted list."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from superserve.request import Request
from superserve.scheduling import EDFQueue

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 50), st.integers(1, 4)),
        st.tuples(st.just("pop"), st.just(0), st.just(0)),
        st.tuples(st.just("take"), st.integers(1, 16), st.sampled_from([0, 0, 1, 3])),
        st.tuples(st.just("remove"), st.integers(0, 10_000), st.just(0)),
    ),
    max_size=200,
)


@given(OPERATIONS)
def test_behaves_as_a_sorted_list(operations: list[tuple[str, int, int]]) -> None:
    """Whatever is pushed, popped, taken or removed, order is by (deadline, id) and rows add up."""
    queue, model = EDFQueue(), list[Request]()
    for number, (operation, value, rows) in enumerate(operations):
        if operation == "push":
            request = Request(number, 0, value, rows)
            queue.push(request)
            model.append(request)
            model.sort(key=lambda request: (request.deadline_ns, request.id))
        elif operation == "pop" and model:
            assert queue.pop() is model.pop(0)
        elif operation == "take":
            taken = queue.take(value, 100.0, rows)
            behind = model[rows:]
            assert taken == behind[: len(taken)]
            assert sum(request.rows for request in taken) <= value
            fits_one_more = sum(request.rows for request in behind[: len(taken) + 1]) <= value
            assert not (fits_one_more and len(taken) < len(behind))
            del model[rows : rows + len(taken)]
        elif operation == "remove" and model:
            victim = model.pop(value % len(model))
            assert queue.remove(victim)
            assert not queue.remove(victim)
        assert [queue.peek(position) for position in range(len(queue))] == model
        assert queue.rows == sum(request.rows for request in model)


def test_consumed_front_is_cut_off() -> None:
    """A queue that is filled and emptied forever holds on to no old requests."""
    queue = EDFQueue()
    for number in range(10_000):
        queue.push(Request(number, 0, number))
        if number >= 100:
            assert queue.pop().id == number - 100
    assert len(queue._entries) < 2_000


def test_take_stops_before_a_floor_that_the_subnet_does_not_reach() -> None:
    """A batch stays contiguous: the request with the higher floor is not jumped over."""
    queue = EDFQueue()
    for number, floor in enumerate((0.0, 75.0, 80.0, 0.0)):
        queue.push(Request(number, 0, number, min_accuracy=floor))
    assert [request.id for request in queue.take(16, 76.0)] == [0, 1]


def test_empty_queue_has_nothing_to_peek_or_pop() -> None:
    """Both raise IndexError, also after use."""
    queue = EDFQueue()
    queue.push(Request(0, 0, 0))
    queue.pop()
    with pytest.raises(IndexError):
        queue.peek()
    with pytest.raises(IndexError):
        queue.pop()
    with pytest.raises(IndexError):
        queue.peek(-1)
