"""Reading HTTP/1.1 responses, and a keep-alive connection of asyncio with one request on its way at a time."""

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


class ResponseReader:
    """Puts responses together from bytes: the callbacks of the httptools parser, with a bound."""

    __slots__ = ("_parser", "_partial", "failure")

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._partial = _Partial()
        self.failure = ""
        """Why nothing more can be read; empty if it can."""

    def feed(self, data: bytes) -> None:
        """Read some bytes; `completed` is called within for each response that they complete."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.failure = self.failure or f"not an HTTP response: {error}"

    def completed(self, response: Response, *, keeps_alive: bool) -> None:
        """A response is there; ``keeps_alive``: whether the connection may be used again."""
        raise NotImplementedError

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._partial.headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        """See httptools."""
        partial = self._partial
        partial.size += len(data)
        if partial.size > MAX_BODY_BYTES:
            self.failure = f"response above {MAX_BODY_BYTES} bytes"
            partial.chunks.clear()
            return
        partial.chunks.append(data)

    def on_message_complete(self) -> None:
        """See httptools."""
        partial, self._partial = self._partial, _Partial()
        status = self._parser.get_status_code()
        if status < 200 or self.failure:
            return
        body = partial.chunks[0] if len(partial.chunks) == 1 else b"".join(partial.chunks)
        self.completed(Response(status, partial.headers, body), keeps_alive=self._parser.should_keep_alive())


class HttpConnection(ResponseReader, asyncio.Protocol):
    """A bare asyncio protocol around the reader.

    Args:
        owner: told of responses and of the end.

    Attributes:
        token: the owner's mark of the request on its way; -1 if there is none.
    """

    __slots__ = ("_closing", "_owner", "_transport", "token")

    def __init__(self, owner: ConnectionOwner) -> None:
        super().__init__()
        self.token = -1
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._closing = False

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
        self.feed(data)
        if self.failure:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._closing = True
        self._owner.on_lost(self, self.failure or (str(exc) if exc else "connection closed by the server"))

    def completed(self, response: Response, *, keeps_alive: bool) -> None:
        """See `ResponseReader.completed`."""
        if not keeps_alive:
            self.close()
        self._owner.on_response(self, response)
