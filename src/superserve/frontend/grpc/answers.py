"""How calls end: with an answer, or with a status that says what the error says."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc

from superserve.errors import SuperServeError
from superserve.frontend.request_ids import RequestIds
from superserve.frontend.status import grpc_status, outcome_of, retry_after

_logger = logging.getLogger(__name__)

REQUEST_ID: Final = "x-request-id"

#: Clients drop answers whose headers exceed 8 KiB, and each byte of a message may take three there. Messages quote
#: what was sent.
_MAX_DETAILS: Final = 2000

Context = Any  # grpc.aio.ServicerContext, of which no types are published


async def fail(context: Context, error: SuperServeError) -> NoReturn:
    """End a call with the status of an error; what was set as trailing metadata goes along.

    Raises:
        grpc.aio.AbortError: always: this is how a call is left.
    """
    trailing = list(context.trailing_metadata() or ())
    outcome, retry = outcome_of(error), retry_after(error)
    if outcome is not None:
        trailing.append(("x-superserve-outcome", outcome.value))
    if error.reason:
        trailing.append(("x-superserve-reason", error.reason))
    if retry is not None:
        trailing += [("retry-after", str(retry.seconds)), ("retry-after-ms", str(retry.milliseconds))]
    details = str(error).encode()[:_MAX_DETAILS].decode("utf-8", "ignore")
    await context.abort(getattr(grpc.StatusCode, grpc_status(error)), details, tuple(trailing))
    raise AssertionError("abort raises")


def metadata_value(context: Context, name: str) -> str | None:
    """The last value of a key in a call's metadata."""
    found = None
    for key, value in context.invocation_metadata() or ():
        if key == name:
            found = value
    return found


def answering(
    ids: RequestIds, work: Callable[[bytes, Context, str], Awaitable[bytes]]
) -> Callable[[bytes, Context], Awaitable[bytes]]:
    """Give a call its request id, which ``work`` is told, and make a status of whatever goes wrong in it."""

    async def call(data: bytes, context: Context) -> bytes:
        request_id = ids.of(metadata_value(context, REQUEST_ID))
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        try:
            return await work(data, context, request_id)
        except SuperServeError as error:
            await fail(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:  # a defect here must cost one call, and tell the client nothing of our insides
            _logger.exception("cannot answer a call")
            await fail(context, SuperServeError("internal error; the server's log says more"))

    return call
