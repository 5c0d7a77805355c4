"""From an error response to the exception that says the same."""

from collections.abc import Mapping
from typing import Final

from superserve.client.wire import OUTCOME_HEADER, decode_error
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
from superserve.request import Outcome

_CLASS_OF_STATUS: Final[dict[int, type[SuperServeError]]] = {
    400: InvalidRequestError,
    404: UnknownModelError,
    413: PayloadTooLargeError,
    499: CancelledError,
    503: UnavailableError,
}


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> SuperServeError:
    """The exception for a response with a status of 400 or above: the class that the server raised.

    Args:
        status: of the response.
        headers: names in lower case.
        body: with the message.
    """
    message = f"{decode_error(body) or 'no message'} (HTTP {status})"
    if status == 429:
        return QueueFullError(message, _number(headers.get("retry-after")))
    if status == 504:
        rejected = headers.get(OUTCOME_HEADER) == Outcome.REJECTED.value
        return InfeasibleError(message) if rejected else ExpiredError(message)
    if status in _CLASS_OF_STATUS:
        return _CLASS_OF_STATUS[status](message)
    return WorkerError(message) if status >= 500 else InvalidRequestError(message)


def _number(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:  # the header may also be a date, which says no less but nothing that a retry needs exactly
        return 0.0
