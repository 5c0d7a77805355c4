from typing import Any

import msgspec
import numpy as np
import pytest

from superserve.client.http import Response
from superserve.client.recorder import Recorder
from superserve.metrics import NO_SUBNET, OUTCOME_CODES, UNLABELLED
from superserve.request import Outcome

LOGITS = np.array([[0, 0, 5]], "<f4")  # answers label 2


def answer(subnet: str = "a", accuracy: float = 90.0, **parameters: Any) -> Response:
    header = msgspec.json.encode(
        {
            "model_name": "m",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}],
            "parameters": {
                "superserve_subnet": subnet,
                "superserve_accuracy": accuracy,
                "superserve_batch_size": 4,
                "slo_met": True,
                **parameters,
            },
        }
    )
    length = str(len(header)).encode()
    return Response(200, {b"inference-header-content-length": length}, header + LOGITS.tobytes())


def refusal(status: int, outcome: str = "") -> Response:
    headers = {b"x-superserve-outcome": outcome.encode()} if outcome else {}
    return Response(status, headers, b'{"error":"no"}')


def one(response: Response, *, end_ns: int = 50, slo_ns: int | None = 100, label: int = 2) -> tuple[Outcome, Any]:
    recorder = Recorder([0], None if slo_ns is None else [slo_ns], [label])
    recorder.answered(0, end_ns, response)
    log = recorder.result(999)
    return list(Outcome)[log.outcome[0]], log


def test_answer_in_time_is_served_with_its_subnet_batch_and_label() -> None:
    outcome, log = one(answer())
    assert outcome is Outcome.SERVED
    assert (log.end_ns[0], log.subnet[0], log.accuracy[0], log.batch_rows[0], log.correct[0]) == (50, 0, 90.0, 4, 1)
    assert one(answer(), label=1)[1].correct[0] == 0
    assert one(answer(), label=UNLABELLED)[1].correct[0] == UNLABELLED


def test_deadline_itself_is_in_time_and_the_next_nanosecond_is_late() -> None:
    assert one(answer(), end_ns=100)[0] is Outcome.SERVED
    assert one(answer(), end_ns=101)[0] is Outcome.LATE


def test_server_says_late_even_where_the_client_would_not() -> None:
    assert one(answer(slo_met=False))[0] is Outcome.LATE
    assert one(answer(slo_met=False), slo_ns=None)[0] is Outcome.LATE
    assert one(answer(), end_ns=10**12, slo_ns=None)[0] is Outcome.SERVED


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (refusal(504, "rejected"), Outcome.REJECTED),
        (refusal(504, "expired"), Outcome.EXPIRED),
        (refusal(503, "rejected"), Outcome.REJECTED),
        (refusal(500, "failed"), Outcome.FAILED),
        (refusal(429), Outcome.REJECTED),
        (refusal(504), Outcome.EXPIRED),
        (refusal(503), Outcome.FAILED),
        (refusal(400), Outcome.FAILED),
        (Response(200, {}, b"<html>"), Outcome.FAILED),
        (Response(200, {b"inference-header-content-length": b"x"}, b"{}"), Outcome.FAILED),
    ],
)
def test_outcome_is_what_the_server_says_else_what_the_status_means(response: Response, expected: Outcome) -> None:
    outcome, log = one(response)
    assert outcome is expected
    assert (log.end_ns[0], log.subnet[0], log.batch_rows[0]) == (50, NO_SUBNET, 0)
    assert np.isnan(log.accuracy[0])


def test_emulated_answers_are_marked_and_held_against_no_label() -> None:
    recorder = Recorder([0], None, [2])
    recorder.answered(0, 1, answer(superserve_emulated=True))
    assert recorder.emulated
    assert recorder.result(9).correct[0] == UNLABELLED


def test_what_never_ended_has_failed_when_the_run_ended() -> None:
    recorder = Recorder([0, 10], [100, 100], [2, 2])
    recorder.answered(0, 20, answer())
    assert recorder.finished == 1
    log = recorder.result(777)
    assert log.outcome.tolist() == [OUTCOME_CODES[Outcome.SERVED], OUTCOME_CODES[Outcome.FAILED]]
    assert log.end_ns.tolist() == [20, 777]
    recorder.failed(1, 800)
    assert recorder.complete
    assert recorder.result(999).end_ns.tolist() == [20, 800]


def test_subnets_are_numbered_along_the_front_not_by_first_answer() -> None:
    recorder = Recorder([0] * 4, None, [2] * 4)
    for index, (subnet, accuracy) in enumerate([("big", 99.0), ("small", 80.0), ("big", 99.0)]):
        recorder.answered(index, 1, answer(subnet, accuracy))
    recorder.answered(3, 1, refusal(504))
    log = recorder.result(9)
    assert recorder.front() == ("small", "big")
    assert recorder.in_front_order(log.subnet, recorder.front()).tolist() == [1, 0, 1, NO_SUBNET]
    known = ("small", "middle", "big")
    assert recorder.front(known) == known
    assert recorder.in_front_order(log.subnet, known).tolist() == [2, 0, 2, NO_SUBNET]
    assert recorder.front(("other",)) == ("small", "big")


def test_running_totals_count_served_only() -> None:
    recorder = Recorder([0, 0], [100, 100], [2, 2])
    recorder.answered(0, 50, answer(accuracy=80.0))
    recorder.answered(1, 500, answer(accuracy=90.0))
    assert (recorder.finished, recorder.served, recorder.accuracy_sum) == (2, 1, 80.0)
