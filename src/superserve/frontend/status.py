"""The one table from errors to protocol statuses."""

from http import HTTPStatus
from math import ceil
from typing import Final, NamedTuple

from superserve.errors import (
    CancelledError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InfeasibleError,
    PayloadTooLargeError,
    QueueFullError,
    RefusedError,
    SuperServeError,
    UnauthorizedError,
    UnavailableError,
    UnknownModelError,
    UnknownRequestError,
    UnsupportedError,
    UsageError,
    WorkerError,
)
from superserve.request import Outcome

#: nginx's status for a client that has gone; nobody is left to read it, logs show it.
CLIENT_CLOSED_REQUEST: Final = 499


class _Status(NamedTuple):
    http: int
    grpc: str
    outcome: Outcome | None = None


#: A class not listed has the status of its nearest listed ancestor. The outcome is that of a request which the
#: scheduler knew: other errors are found before a request is offered to it.
_STATUSES: Final[dict[type[SuperServeError], _Status]] = {
    SuperServeError: _Status(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL"),
    UsageError: _Status(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT"),
    PayloadTooLargeError: _Status(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RESOURCE_EXHAUSTED"),
    UnauthorizedError: _Status(HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED"),
    ForbiddenError: _Status(HTTPStatus.FORBIDDEN, "PERMISSION_DENIED"),
    UnknownModelError: _Status(HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    UnknownRequestError: _Status(HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    ConflictError: _Status(HTTPStatus.CONFLICT, "FAILED_PRECONDITION"),
    UnsupportedError: _Status(HTTPStatus.NOT_IMPLEMENTED, "UNIMPLEMENTED"),
    RefusedError: _Status(HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", Outcome.REJECTED),
    QueueFullError: _Status(HTTPStatus.TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", Outcome.REJECTED),
    InfeasibleError: _Status(HTTPStatus.GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED", Outcome.REJECTED),
    ExpiredError: _Status(HTTPStatus.GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED", Outcome.EXPIRED),
    CancelledError: _Status(CLIENT_CLOSED_REQUEST, "CANCELLED", Outcome.CANCELLED),
    UnavailableError: _Status(HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", Outcome.REJECTED),
    WorkerError: _Status(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", Outcome.FAILED),
}


def _status(error: SuperServeError) -> _Status:
    return next(_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)


def http_status(error: SuperServeError) -> int:
    """The HTTP status that says what an error says."""
    return _status(error).http


def grpc_status(error: SuperServeError) -> str:
    """The name of the gRPC status that says what an error says."""
    return _status(error).grpc


def outcome_of(error: SuperServeError) -> Outcome | None:
    """How the request ended, if it was one that the scheduler knew."""
    return _status(error).outcome


class RetryAfter(NamedTuple):
    """When it is worth trying again: as HTTP tells it, and as it is."""

    seconds: int
    """At least 1."""
    milliseconds: int
    """At least 1."""


def retry_after(error: SuperServeError) -> RetryAfter | None:
    """When it is worth trying again; None if it is not for the server to say."""
    if isinstance(error, QueueFullError) or (isinstance(error, InfeasibleError) and error.retry_after_s > 0):
        return RetryAfter(max(1, ceil(error.retry_after_s)), max(1, ceil(error.retry_after_s * 1000)))
    return RetryAfter(1, 1000) if isinstance(error, UnavailableError) else None


def reason_phrase(status: int) -> str:
    """The words behind a status in the status line."""
    return "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase
