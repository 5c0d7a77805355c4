"""The page of errors, from their tree and the one table that maps them."""

from collections.abc import Iterator
from http import HTTPStatus

from reference.markdown import code, field_docs, summary, table
from superserve.errors import SuperServeError, UsageError
from superserve.frontend.status import CLIENT_CLOSED_REQUEST, grpc_status, http_status, outcome_of
from superserve.request import Outcome, Reason

_HEAD = """\
# Errors

Every error that SuperServe raises on purpose is a `SuperServeError`, and each class has one meaning everywhere: as an
exception of the library and of its client, as a status of HTTP and of gRPC, and as the exit code of a command. The
message names the field and the fix. Over HTTP it is `{"error": "..."}`; over gRPC it is the status's details.

"""

_REASONS = """
## Why requests end without an answer

Errors of requests that the scheduler knew carry `x-superserve-outcome` and `x-superserve-reason` (headers over HTTP,
trailing metadata over gRPC), which `superserve_unanswered_total` has as labels. `superserve why REQUEST_ID` tells the
arithmetic behind each. A refusal that is worth another try carries `Retry-After` in seconds, and `retry-after-ms`.

"""

_OUTCOMES = """
## Outcomes

Every request ends in exactly one, which `superserve_requests_total` counts.

"""


def errors() -> str:
    """Every class with its statuses, outcomes and reasons."""
    columns = ("class", "HTTP", "gRPC", "exit code", "outcome", "meaning")
    body = table(columns, (_row(kind, depth) for kind, depth in _tree(SuperServeError, 0)))
    reasons = table(
        ("reason", "meaning"), ([code(one.label), one.value] for one in Reason if one is not Reason.ANSWERED)
    )
    return _HEAD + body + _REASONS + reasons + _OUTCOMES + _outcomes()


def _tree(kind: type[SuperServeError], depth: int) -> Iterator[tuple[type[SuperServeError], int]]:
    yield kind, depth
    for child in kind.__subclasses__():
        if child.__module__ == SuperServeError.__module__:
            yield from _tree(child, depth + 1)


def _row(kind: type[SuperServeError], depth: int) -> list[str]:
    # The table is by class: what a class is made of does not matter.
    error = kind.__new__(kind)
    outcome = outcome_of(error)
    return [
        "&emsp;" * depth + code(kind.__name__),
        f"{http_status(error)} {_phrase(http_status(error))}",
        code(grpc_status(error)),
        "2" if issubclass(kind, UsageError) else "1",
        outcome.value if outcome else "",
        summary(kind),
    ]


def _phrase(status: int) -> str:
    return "" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase


def _outcomes() -> str:
    docs = field_docs(Outcome)
    return table(("outcome", "meaning"), ([code(one.value), docs[one.name]] for one in Outcome))
