"""The expiry queue against a plain sorted list."""

import hypothesis.strategies as st
from hypothesis import given

from superserve.request import Request, RequestState
from superserve.scheduling.expiry import ExpiryQueue


def waiting(number: int, latest_ns: int) -> Request:
    request = Request(number, 0, latest_ns)
    request.latest_start_ns, request.state = latest_ns, RequestState.QUEUED
    return request


@given(st.lists(st.tuples(st.sampled_from(["push", "pop", "stop"]), st.integers(0, 20))))
def test_pops_in_order_of_instant_then_id(steps: list[tuple[str, int]]) -> None:
    """Whatever is pushed in which order; those that stopped waiting never come out."""
    queue, model = ExpiryQueue(), list[Request]()
    for number, (what, value) in enumerate(steps):
        if what == "push":
            model.append(waiting(number, value))
            queue.push(model[-1])
        elif model and what == "stop":
            model.pop(value % len(model)).state = RequestState.RUNNING
        model.sort(key=lambda request: (request.latest_start_ns, request.id))
        assert queue.next_ns() == (model[0].latest_start_ns if model else None)
        if model and what == "pop":
            assert queue.pop() is model.pop(0)


def test_a_request_that_waits_again_is_there_again() -> None:
    """As after the loss of its worker: pushed twice, it expires once."""
    queue, request = ExpiryQueue(), waiting(1, 5)
    queue.push(request)
    request.state = RequestState.RUNNING
    request.state = RequestState.QUEUED
    queue.push(request)
    assert queue.next_ns() == 5
    assert queue.pop() is request
    request.state = RequestState.DONE
    assert queue.next_ns() is None
