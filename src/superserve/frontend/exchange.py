"""One HTTP request and its response."""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from superserve.errors import SuperServeError, UnauthorizedError
from superserve.frontend.compression import choose, deflate
from superserve.frontend.request_ids import is_sane
from superserve.frontend.status import http_status, outcome_of, reason_phrase, retry_after
from superserve.serving.pool import Buffer

_HEAD: Final = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nx-request-id: %b\r\n%b\r\n"
_TENSOR_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nInference-Header-Content-Length: %d\r\n"
    b"Content-Length: %d\r\nx-request-id: %b\r\n%b\r\n"
)

_CODED: Final = b"Content-Encoding: %b\r\nVary: Accept-Encoding\r\n"


class Cancellable(Protocol):
    """Work that is under way for a client."""

    def cancel(self) -> None:
        """The client has gone."""


class Connection(Protocol):
    """The connection that an exchange belongs to."""

    def send(self, exchange: "Exchange", response: bytes) -> None:
        """Send a response, in the order of the requests."""

    def next_request_id(self) -> bytes:
        """A new request id."""


class Exchange(msgspec.Struct, eq=False):
    """One HTTP request and its response. Exactly one of the answering methods may be called, once.

    Attributes:
        method, url: as received; ``headers``: the known ones, names in lower case; ``body``: all of it.
        arrival_ns: when the last byte of it was there.
        work: what to cancel if the client goes away before the answer.
        held: bytes that its body takes in memory.
        known_as: its id, once somebody has asked for it.
    """

    connection: Connection
    method: bytes = b""
    url: bytes = b""
    headers: dict[bytes, bytes] = {}
    body: bytes = b""
    held: int = 0
    keep_alive: bool = False
    arrival_ns: int = 0
    work: Cancellable | None = None
    response: bytes | None = None
    known_as: bytes = b""

    def respond_json(self, body: bytes, status: int = 200, extra_headers: bytes = b"") -> None:
        """Answer with JSON, or with nothing if ``body`` is empty."""
        self._respond(b"application/json", body, status, extra_headers)

    def respond_text(self, media_type: bytes, body: bytes, extra_headers: bytes = b"") -> None:
        """Answer with something that is no JSON."""
        self._respond(media_type, body, 200, extra_headers)

    def _respond(self, media_type: bytes, body: bytes, status: int, extra_headers: bytes) -> None:
        phrase = reason_phrase(status).encode()
        coding = self._coding(len(body))
        if coding is not None:
            body = deflate(body, coding)
            extra_headers += _CODED % coding
        headers = extra_headers + self._connection_header()
        head = _HEAD % (status, phrase, media_type, len(body), self.request_id(), headers)
        self.connection.send(self, head if self.method == b"HEAD" else head + body)

    def respond_tensors(self, json: bytes, tensors: Sequence[Buffer]) -> None:
        """Answer with JSON and binary tensors; they are copied here, once."""
        length = len(json) + sum(map(len, tensors))
        coding = self._coding(length)
        if coding is not None:
            body = deflate(b"".join((json, *tensors)), coding)
            headers = _CODED % coding + self._connection_header()
            head = _TENSOR_HEAD % (len(json), len(body), self.request_id(), headers)
            self.connection.send(self, head + body)
            return
        head = _TENSOR_HEAD % (len(json), length, self.request_id(), self._connection_header())
        self.connection.send(self, b"".join((head, json, *tensors)))

    def fail(self, error: SuperServeError) -> None:
        """Answer with an error, under the status of its class."""
        self.respond_error(http_status(error), str(error), error_headers(error))

    def respond_error(self, status: int, message: str, extra_headers: bytes = b"") -> None:
        """Answer with an error that belongs to HTTP itself."""
        self.respond_json(msgspec.json.encode({"error": message}), status, extra_headers)

    def refuse_method(self, allowed: Sequence[bytes]) -> None:
        """Answer that the path has other methods."""
        methods = b", ".join(allowed)
        self.respond_error(
            405, f"use {methods.decode()} here, not {self.method.decode('latin-1')}", b"Allow: %b\r\n" % methods
        )

    def request_id(self) -> bytes:
        """The client's own id if it is sane, else a new one; always the same."""
        if not self.known_as:
            own = self.headers.get(b"x-request-id")
            self.known_as = own if own and is_sane(own) else self.connection.next_request_id()
        return self.known_as

    def _coding(self, size: int) -> bytes | None:
        accepted = self.headers.get(b"accept-encoding")
        return None if accepted is None else choose(accepted, size)

    def _connection_header(self) -> bytes:
        if not self.keep_alive:
            return b"Connection: close\r\n"
        # HTTP/1.0 clients that asked to keep the connection wait for this.
        return b"Connection: keep-alive\r\n" if b"connection" in self.headers else b""


def error_headers(error: SuperServeError) -> bytes:
    """What the headers of an answer say of an error: how the request ended and why, and when to try again."""
    outcome, retry = outcome_of(error), retry_after(error)
    told = b"" if outcome is None else b"x-superserve-outcome: %b\r\n" % outcome.encode()
    if isinstance(error, UnauthorizedError):
        told += b"WWW-Authenticate: Bearer\r\n"
    if error.reason:
        told += b"x-superserve-reason: %b\r\n" % error.reason.encode()
    return told if retry is None else told + b"Retry-After: %d\r\nretry-after-ms: %d\r\n" % retry


class RequestHandler(Protocol):
    """Who answers requests."""

    def handle(self, exchange: Exchange) -> None:
        """Answer it, at once or later."""
