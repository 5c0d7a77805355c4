import pytest

from superserve.client.refusals import error_of
from superserve.errors import (
    CancelledError,
    ExpiredError,
    InfeasibleError,
    InvalidRequestError,
    PayloadTooLargeError,
    QueueFullError,
    SuperServeError,
    UnavailableError,
    UnknownModelError,
    WorkerError,
)
from superserve.frontend.status import http_status


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (400, {}, InvalidRequestError),
        (404, {}, UnknownModelError),
        (405, {}, InvalidRequestError),
        (413, {}, PayloadTooLargeError),
        (429, {"retry-after": "2"}, QueueFullError),
        (499, {}, CancelledError),
        (500, {}, WorkerError),
        (503, {}, UnavailableError),
        (504, {"x-superserve-outcome": "rejected"}, InfeasibleError),
        (504, {"x-superserve-outcome": "expired"}, ExpiredError),
        (504, {}, ExpiredError),
    ],
)
def test_status_and_headers_name_the_class_that_the_server_raised(
    status: int, headers: dict[str, str], expected: type[SuperServeError]
) -> None:
    error = error_of(status, headers, b'{"error":"because"}')
    assert type(error) is expected
    assert "because" in str(error)
    assert str(status) in str(error)
    assert status in {405, http_status(error)}


def test_queue_full_carries_when_to_come_back() -> None:
    for value, expected in (("1.5", 1.5), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)):
        error = error_of(429, {"retry-after": value}, b"")
        assert isinstance(error, QueueFullError)
        assert error.retry_after_s == expected
