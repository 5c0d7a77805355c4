"""The one table from errors to protocol statuses."""

from http import HTTPStatus
from typing import Final

from superserve.errors import (
    CancelledError,
    ExpiredError,
    InfeasibleError,
    PayloadTooLargeError,
    QueueFullError,
    RefusedError,
    SuperServeError,
    UnavailableError,
    UnknownModelError,
    UsageError,
    WorkerError,
)

#: nginx's status for a client that has gone; nobody is left to read it, logs show it.
CLIENT_CLOSED_REQUEST: Final = 499

#: A class not listed has the status of its nearest listed ancestor.
_HTTP_STATUS: Final[dict[type[SuperServeError], int]] = {
    SuperServeError: HTTPStatus.INTERNAL_SERVER_ERROR,
    UsageError: HTTPStatus.BAD_REQUEST,
    PayloadTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnknownModelError: HTTPStatus.NOT_FOUND,
    RefusedError: HTTPStatus.SERVICE_UNAVAILABLE,
    QueueFullError: HTTPStatus.TOO_MANY_REQUESTS,
    InfeasibleError: HTTPStatus.GATEWAY_TIMEOUT,
    ExpiredError: HTTPStatus.GATEWAY_TIMEOUT,
    CancelledError: CLIENT_CLOSED_REQUEST,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    WorkerError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def http_status(error: SuperServeError) -> int:
    """The HTTP status that says what an error says."""
    return next(_HTTP_STATUS[kind] for kind in type(error).__mro__ if kind in _HTTP_STATUS)


def reason_phrase(status: int) -> str:
    """The words behind a status in the status line."""
    return "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase
