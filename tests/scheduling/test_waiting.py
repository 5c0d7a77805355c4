"""Rows by kind against plain sums."""

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given

from superserve.request import Request
from superserve.scheduling.waiting import Kind, WaitingQueue

steps = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "pop", "take", "remove"]),
        st.integers(0, 9),
        st.integers(1, 3),
        st.sampled_from([0.0, 0.0, 50.0]),
        st.integers(0, 3),
        st.sampled_from([0, 0, 1]),
    )
)


@given(steps, st.integers(0, 10))
def test_counts_rows_by_kind(steps: list[tuple[str, int, int, float, int, int]], due: int) -> None:
    """Whatever comes and goes in whichever way."""
    queue, model = WaitingQueue(lambda floor: int(floor > 0)), list[Request]()
    for number, (what, value, rows, floor, priority, bucket) in enumerate(steps):
        if what == "push":
            model.append(Request(number, 0, value, rows, floor, priority, bucket))
            queue.push(model[-1])
        elif model and what == "pop":
            model.remove(queue.pop())
        elif model and what == "take":
            for request in queue.take(rows, 100.0):
                model.remove(request)
        elif model and what == "remove":
            assert queue.remove(model.pop(value % len(model)))
        assert queue.rows_until(due) == sum(request.rows for request in model if request.deadline_ns <= due)
        assert queue.position_of(due) == sum(request.deadline_ns <= due for request in model)
        if not queue.is_mixed:
            assert all(request.priority <= 1 and not request.min_accuracy and not request.bucket for request in model)
        counted = Counter[Kind]()
        for request in model:
            kind = Kind(request.priority or 1, int(request.min_accuracy > 0), request.bucket)
            counted[kind] += request.rows if request.deadline_ns <= due else 0
        assert Counter(dict(queue.rows_of_kinds(due))) == counted
