"""Calls in the words of HTTP: see ``wire.py`` for the bytes."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from superserve.client.address import Address
from superserve.client.calls import Ask, Call, Request, Response
from superserve.client.refusals import error_of
from superserve.client.reply import InferReply, ModelMetadata
from superserve.client.wire import (
    JSON_LENGTH_HEADER,
    JSON_LENGTH_NAME,
    REQUEST_ID_HEADER,
    InferBody,
    decode_error,
    decode_infer,
    decode_metadata,
    model_path,
    parse_length,
)
from superserve.errors import SuperServeError

T = TypeVar("T")


class HttpWording:
    """See `Wording`.

    Args:
        address: of the server, for messages.
    """

    def __init__(self, address: Address) -> None:
        self._address = address

    def ready(self) -> Call[bool]:
        """See `Wording.ready`."""
        return Call(lambda _: Request("/v2/health/ready"), lambda response: response.status == 200)

    def metadata(self, model: str, version: str) -> Call[ModelMetadata]:
        """See `Wording.metadata`."""
        request = Request(model_path(model, version=version))
        return Call(lambda _: request, partial(self._read, "model metadata", lambda got: decode_metadata(got.body)))

    def infer(self, ask: Ask) -> Call[InferReply]:
        """See `Wording.infer`."""
        body = InferBody(ask.inputs, ask.outputs, ask.request_id)
        path = model_path(ask.model, "infer", ask.version)

        def render(timeout_us: int | None) -> Request:
            header = body.header(ask.parameters(timeout_us))
            return Request(path, (header, *body.raws), {JSON_LENGTH_NAME: str(len(header)), **ask.headers})

        return Call(render, partial(self._read, "infer response", _inferred), ask.is_idempotent)

    def _read(self, what: str, decode: Callable[[Response], T], response: Response) -> T:
        if response.status != 200:
            message = decode_error(response.body)
            raise error_of(response.status, response.headers, message, f"HTTP {response.status}")
        try:
            return decode(response)
        except (ValueError, RecursionError) as error:
            raise SuperServeError(
                f"{self._address.url} sent no {what} ({error}): is this an Open Inference Protocol V2 server?"
            ) from error


def _inferred(response: Response) -> InferReply:
    length = parse_length(response.headers.get(JSON_LENGTH_HEADER))
    return decode_infer(response.body, length, response.headers.get(REQUEST_ID_HEADER, ""))
