"""One keep-alive HTTP/1.1 connection to a server, with one request on its way at a time."""

import asyncio
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

import httptools

#: Larger answers are refused: no infer response is near it, and a broken peer must not fill the memory.
MAX_BODY_BYTES: Final = 256 * 1024 * 1024


@dataclass(slots=True)
class Response:
    """A complete response. Header names are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class ConnectionOwner(Protocol):
    """Who is told what happens on a connection."""

    def on_response(self, connection: "HttpConnection", response: Response) -> None:
        """The response to the request on its way; the connection is free again unless it is closing."""

    def on_lost(self, connection: "HttpConnection", message: str) -> None:
        """The connection is gone; called once, also after `HttpConnection.close`."""


@dataclass(slots=True)
class _Partial:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0


class HttpConnection(asyncio.Protocol):
    """A bare asyncio protocol around the httptools parser.

    Args:
        owner: told of responses and of the end.

    Attributes:
        token: the owner's mark of the request on its way; -1 if there is none.
    """

    __slots__ = ("_closing", "_failure", "_owner", "_parser", "_partial", "_transport", "token")

    def __init__(self, owner: ConnectionOwner) -> None:
        self.token = -1
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        self._partial = _Partial()
        self._transport: asyncio.Transport | None = None
        self._closing = False
        self._failure = ""

    @property
    def usable(self) -> bool:
        """Whether a request may be sent."""
        return not self._closing and self._transport is not None

    def send(self, data: bytes) -> None:
        """Send one whole request; the previous one must have been answered."""
        assert self._transport is not None, "send only after connecting"
        self._transport.write(data)

    def close(self) -> None:
        """Drop the connection at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._failure = f"not an HTTP response: {error}"
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._closing = True
        self._owner.on_lost(self, self._failure or (str(exc) if exc else "connection closed by the server"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._partial.headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        """See httptools."""
        partial = self._partial
        partial.size += len(data)
        if partial.size > MAX_BODY_BYTES:
            self._failure = f"response above {MAX_BODY_BYTES} bytes"
            self.close()
            return
        partial.chunks.append(data)

    def on_message_complete(self) -> None:
        """See httptools."""
        partial, self._partial = self._partial, _Partial()
        status = self._parser.get_status_code()
        if status < 200:
            return
        if not self._parser.should_keep_alive():
            self.close()
        body = partial.chunks[0] if len(partial.chunks) == 1 else b"".join(partial.chunks)
        self._owner.on_response(self, Response(status, partial.headers, body))
