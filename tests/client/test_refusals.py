from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from superserve.client.refusals import error_of
from superserve.client.refusals import http_status as status_of_grpc
from superserve.clock import epoch_ms
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
from superserve.frontend.status import grpc_status, http_status


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
    error = error_of(status, headers, "because", f"HTTP {status}")
    assert type(error) is expected
    assert "because" in str(error)
    assert str(status) in str(error)
    assert status in {405, http_status(error)}


def test_milliseconds_are_finer_than_seconds() -> None:
    """A request that was not admitted may be asked again after a few of them; nonsense is passed over."""
    headers = {"x-superserve-outcome": "rejected", "retry-after": "1", "retry-after-ms": "12"}
    error = error_of(504, headers, "", "HTTP")
    assert isinstance(error, InfeasibleError)
    assert error.retry_after_s == 0.012
    for value in ("-1", "nan", "inf "):
        assert getattr(error_of(504, {**headers, "retry-after-ms": value}, "", "HTTP"), "retry_after_s") >= 0  # noqa: B009
    assert getattr(error_of(504, {**headers, "retry-after-ms": "x"}, "", "HTTP"), "retry_after_s") == 1  # noqa: B009


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_carry_when_to_come_back(status: int) -> None:
    for value, expected in (
        ("1.5", 1.5),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", 0.0),
        ("nan", 0.0),
        (None, 0.0),
    ):
        headers = {} if value is None else {"retry-after": value}
        error = error_of(status, headers, "", "HTTP")
        assert isinstance(error, QueueFullError | UnavailableError)
        assert error.retry_after_s == expected


def test_a_date_to_come_back_counts_from_now() -> None:
    date = format_datetime(datetime.fromtimestamp(epoch_ms() / 1000 + 100, UTC), usegmt=True)
    error = error_of(503, {"retry-after": date}, "", "HTTP")
    assert isinstance(error, UnavailableError)
    assert 90 < error.retry_after_s <= 100


REJECTED = {"x-superserve-outcome": "rejected", "retry-after": "1"}


@pytest.mark.parametrize(
    ("raised", "headers"),
    [
        (InvalidRequestError("because"), {}),
        (UnknownModelError("because"), {}),
        (QueueFullError("because", 1.0), REJECTED),
        (InfeasibleError("because"), {"x-superserve-outcome": "rejected"}),
        (ExpiredError("because"), {"x-superserve-outcome": "expired"}),
        (CancelledError("because"), {}),
        (UnavailableError("because"), REJECTED),
        (WorkerError("because"), {"x-superserve-outcome": "failed"}),
    ],
)
def test_errors_are_the_same_over_either_protocol(raised: SuperServeError, headers: dict[str, str]) -> None:
    """What the server raised, by its own table of statuses."""
    over_http = error_of(http_status(raised), headers, "because", "HTTP")
    over_grpc = error_of(status_of_grpc(grpc_status(raised), "because"), headers, "because", "gRPC")
    assert type(over_http) is type(over_grpc) is type(raised)


def test_the_librarys_own_statuses_are_told_apart() -> None:
    """A message over the limit is no full queue; a status that nobody gave is the server's failure."""
    assert status_of_grpc("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 8)") == 413
    assert status_of_grpc("RESOURCE_EXHAUSTED", "Concurrent RPC limit exceeded!") == 429
    assert status_of_grpc("DATA_LOSS", "") == 500
