"""From an error response to the exception that says the same, whatever the protocol."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

from superserve.client.wire import OUTCOME_HEADER
from superserve.clock import epoch_ms
from superserve.errors import (
    CancelledError,
    ExpiredError,
    ForbiddenError,
    InfeasibleError,
    InvalidRequestError,
    PayloadTooLargeError,
    QueueFullError,
    SuperServeError,
    UnauthorizedError,
    UnavailableError,
    UnknownModelError,
    WorkerError,
)
from superserve.request import Outcome

RETRY_AFTER: Final = "retry-after"
#: The same in milliseconds: deadlines here are much shorter than a second.
RETRY_AFTER_MS: Final = "retry-after-ms"
#: The name of a gRPC status, put among the headers of a response.
GRPC_STATUS: Final = "grpc-status"

_CLASS_OF_STATUS: Final[dict[int, type[SuperServeError]]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: UnknownModelError,
    413: PayloadTooLargeError,
    499: CancelledError,
}

#: HTTP's statuses for gRPC's; where there is none, the server failed.
_HTTP_OF_GRPC: Final = {
    "OK": 200,
    "CANCELLED": 499,
    "DEADLINE_EXCEEDED": 504,
    "FAILED_PRECONDITION": 400,
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "OUT_OF_RANGE": 400,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 405,
}

#: How gRPC's library words that a message exceeds a limit; its status is that of a full queue, too.
_TOO_LARGE: Final = "larger than max"


def http_status(grpc_status: str, details: str) -> int:
    """HTTP's status for the name of a gRPC one, such as ``"NOT_FOUND"``, and its message."""
    if grpc_status == "RESOURCE_EXHAUSTED":
        return 413 if _TOO_LARGE in details else 429
    return _HTTP_OF_GRPC.get(grpc_status, 500)


def error_of(status: int, headers: Mapping[str, str], message: str, label: str) -> SuperServeError:
    """The exception for a response that is an error: the class that the server raised.

    Args:
        status: HTTP's.
        headers: names in lower case.
        message: the server's; may be empty.
        label: what the protocol calls the status.
    """
    words = f"{message or 'no message'} ({label})"
    if status == 429:
        return QueueFullError(words, _retry_after_s(headers))
    if status == 503:
        return UnavailableError(words, _retry_after_s(headers))
    if status == 504:
        rejected = headers.get(OUTCOME_HEADER) == Outcome.REJECTED.value
        return InfeasibleError(words, _retry_after_s(headers)) if rejected else ExpiredError(words)
    if status in _CLASS_OF_STATUS:
        return _CLASS_OF_STATUS[status](words)
    return WorkerError(words) if status >= 500 else InvalidRequestError(words)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """When to come back; 0 if nobody said so."""
    try:
        milliseconds = float(headers.get(RETRY_AFTER_MS, ""))
    except ValueError:
        return _seconds(headers.get(RETRY_AFTER))
    return milliseconds / 1000 if milliseconds > 0 else 0.0


def _seconds(text: str | None) -> float:
    """The seconds of a Retry-After header, which may be a date (RFC 9110, section 10.2.3); 0 if it says nothing."""
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text or "").timestamp() - epoch_ms() / 1000)
    except ValueError:
        return 0.0
