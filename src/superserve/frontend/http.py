"""HTTP/1.1 as a bare asyncio protocol over llhttp (httptools): bytes to exchanges and back.

It knows nothing of the paths that are served: a `RequestHandler` answers each `Exchange`. All limits hold before
anything is parsed or kept: header size and count, body size, pipelined requests, and time for a slow sender.
"""

import asyncio
import logging
from collections import deque
from typing import Final, Protocol, cast

import httptools

from superserve.clock import NS_PER_S, Clock, Timer
from superserve.errors import PayloadTooLargeError, SuperServeError
from superserve.frontend.authorization import Access
from superserve.frontend.body_memory import BodyMemory
from superserve.frontend.compression import CODINGS, Inflater
from superserve.frontend.exchange import Exchange, RequestHandler, error_headers
from superserve.frontend.expansion import Expansion
from superserve.frontend.known_heads import Head, KnownHeads
from superserve.frontend.status import http_status
from superserve.serving.config import HttpConfig

_logger = logging.getLogger(__name__)

#: Request headers that anything here looks at.
_KEPT: Final = frozenset(
    {
        b"accept-encoding",
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"connection",
        b"expect",
        b"inference-header-content-length",
        b"traceparent",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
        b"x-slo-ms",
    }
)

#: How long a connection stays open after an error in mid-request, its input ignored: closing it at once would reset
#: it, and the client could lose the answer that says what was wrong (RFC 9112, section 9.6).
_LINGER_NS: Final = NS_PER_S

_CODINGS: Final = CODINGS | {b"identity"}
_CODINGS_OFFER: Final = b"Accept-Encoding: gzip, deflate\r\n"

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connections(Protocol):
    """Who knows all connections of a server."""

    @property
    def access(self) -> Access:
        """What is asked of clients."""

    @property
    def heads(self) -> KnownHeads:
        """Those that have been seen before."""

    @property
    def memory(self) -> BodyMemory:
        """Of all bodies."""

    def add(self, connection: "HttpProtocol") -> bool:
        """A connection was made; False if there are too many already."""

    def discard(self, connection: "HttpProtocol") -> None:
        """A connection ended."""

    def next_request_id(self) -> bytes:
        """A new request id."""


class _RefusedError(Exception):
    """Leaves a parser callback in mid-request; the answer is on its way."""


class HttpProtocol(asyncio.Protocol):
    """One connection.

    Requests that arrive together (pipelining) are worked on together and answered in order. A client that closes its
    side has gone: what it still waits for is cancelled.

    Args:
        handler: answers requests.
        connections: the server's.
        clock: time and timers.
        config: limits.
    """

    def __init__(self, handler: RequestHandler, connections: Connections, clock: Clock, config: HttpConfig) -> None:
        self._handler = handler
        self._connections = connections
        self._access = connections.access
        self._heads = connections.heads
        self._memory = connections.memory
        self.next_request_id = connections.next_request_id
        """Makes a new request id."""
        self._clock = clock
        self._config = config
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._waiting: deque[Exchange] = deque()
        """Received and not yet answered, in order."""
        self._current: Exchange | None = None
        """Being received."""
        self._body: bytes | bytearray = b""
        self._body_bytes = 0
        self._head_bytes = 0
        self._head_count = 0
        self._in_head = True
        self._began_behind = False
        """Whether the request being received began behind another one in the piece that came last."""
        self._whole_bytes = 0
        """Length of the piece that came last, if its head was not known and no request has ended in it yet."""
        self._continue_due = False
        self._ignoring_input = False
        self._linger = False
        self._reading = True
        self._writable = True
        self._timer: Timer | None = None
        self._timer_ns = 0
        self._idle_since_ns = 0
        self._receiving_since_ns: int | None = None
        self._write_blocked_since_ns = 0
        self._lingering_since_ns: int | None = None

    # ---- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self._parser = httptools.HttpRequestParser(self)
        if not self._connections.add(self):
            self._reject(503, "too many connections: try again later", b"Retry-After: 1\r\n", linger=False)
            return
        self._idle_since_ns = self._clock.now_ns()
        self._arm(self._idle_since_ns + self._config.idle_timeout_ns)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        between_requests = self._current is None and not self._ignoring_input
        known = self._heads.match(data) if between_requests else None
        if known is not None and self._memory.take(known[0].body_bytes):
            head, end = known
            self._received(
                Exchange(self, head.method, head.url, head.headers, data[end:], head.body_bytes, keep_alive=True)
            )
            return
        self._began_behind = False
        self._whole_bytes = len(data) if between_requests and known is None else 0
        rest = data
        while rest and not self._ignoring_input and self._parser is not None:
            rest = self._parse(self._parser, rest)
        if self._current is not None:
            self._still_receiving(data)

    def _parse(self, parser: httptools.HttpRequestParser, data: bytes) -> bytes:
        """What the parser has not taken: it stops behind a request that offers to upgrade."""
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The offer is declined by going on with HTTP/1.1 (RFC 9110, section 7.8).
            return data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _RefusedError):
                raise
        except httptools.HttpParserError as error:
            if not self._ignoring_input:  # bytes behind a request with "Connection: close" are nobody's
                self._reject(400, f"malformed HTTP: {error}")
        return b""

    def eof_received(self) -> None:
        """See `asyncio.Protocol`. Returning nothing closes the transport."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        """See `asyncio.BaseProtocol`."""
        self._transport = None
        self._parser = None  # it refers back to this object
        self._forget_current()
        if self._timer is not None:
            self._timer.cancel()
        self._connections.discard(self)
        self._abandon_waiting()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`. A client that does not read its answers gets to send nothing more."""
        self._writable = False
        self._write_blocked_since_ns = self._clock.now_ns()
        self._arm(self._write_blocked_since_ns + self._config.write_timeout_ns)
        self._adjust_reading()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable = True
        self._adjust_reading()

    # ---- what the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._current = Exchange(self)
        self._in_head = True
        self._head_bytes = self._head_count = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        assert self._current is not None
        self._current.url += url
        self._head_bytes += len(url)
        if self._head_bytes > self._config.max_header_bytes:
            self._refuse_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind a chunked body."""
        assert self._current is not None
        self._head_bytes += len(name) + len(value)
        self._head_count += 1
        if self._head_bytes > self._config.max_header_bytes or self._head_count > self._config.max_headers:
            self._refuse_head()
        name = name.lower()
        if name in _KEPT and self._in_head:
            self._current.headers[name] = value

    def on_headers_complete(self) -> None:
        """The head is there; refuse now what cannot be accepted."""
        exchange, parser = self._current, self._parser
        assert exchange is not None
        assert parser is not None
        self._in_head = False
        exchange.method = parser.get_method()
        headers = exchange.headers
        try:  # a head that is known has been allowed
            self._access.check_path(exchange.url, headers.get(b"authorization"))
        except SuperServeError as error:
            self._refuse_with(error)
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._config.max_body_bytes:
            self._refuse_body()
        if b"upgrade" in headers and (length not in {None, b"0"} or b"transfer-encoding" in headers):
            self._refuse(400, "Upgrade: no other protocol is spoken here: send the request without this header")
        coding = headers.get(b"content-encoding")
        if coding is not None and coding.lower() not in _CODINGS:
            self._refuse(
                415, f"Content-Encoding: {coding[:32].decode('latin-1')!r} is not gzip or deflate", _CODINGS_OFFER
            )
        if b"expect" in headers:
            self._expectation(headers[b"expect"])

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        size = len(data)
        if self._body_bytes + size > self._config.max_body_bytes:
            self._refuse_body()
        if not self._memory.take(size):
            self._refuse_with(self._memory.refusal())
        self._body_bytes += size
        if not self._body:
            self._body = data
            return
        if isinstance(self._body, bytes):  # pieces may be of a byte each, and every object of its own takes thirty more
            self._body = bytearray(self._body)
        self._body += data

    def on_message_complete(self) -> None:
        """The request is there."""
        exchange, parser = self._current, self._parser
        assert exchange is not None
        assert parser is not None
        self._current = None
        self._began_behind = True
        self._receiving_since_ns = None
        self._continue_due = False
        exchange.body, self._body = bytes(self._body), b""
        exchange.keep_alive = parser.should_keep_alive()
        self._ignoring_input = not exchange.keep_alive
        if self._whole_bytes and exchange.keep_alive:
            self._heads.learn(
                self._whole_bytes, Head(exchange.method, exchange.url, exchange.headers, self._body_bytes)
            )
        self._whole_bytes = 0
        exchange.held, self._body_bytes = self._body_bytes, 0
        self._received(exchange)

    # ---- what exchanges and the server call

    def send(self, exchange: Exchange, response: bytes) -> None:
        """Send a response when those of all earlier requests are sent."""
        waiting = self._waiting
        if not waiting:
            return  # the connection is lost
        exchange.response = response
        exchange.work = None  # which refers back: nothing of an exchange is left to the garbage collector
        while waiting and waiting[0].response is not None:
            first = waiting.popleft()
            self._memory.give_back(first.held)
            assert first.response is not None
            self._write(first.response)
            if not first.keep_alive:
                self._abandon_waiting()
                self._close()
                return
        if not self._reading:
            self._adjust_reading()
        if self._continue_due and not waiting:
            self._continue_due = False
            self._write(_CONTINUE)

    def stop(self) -> None:
        """Close when what has been received is answered."""
        if self._waiting:
            self._waiting[-1].keep_alive = False
            self._ignoring_input = True
        elif self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # ---- refusing

    def _refuse_head(self) -> None:
        config = self._config
        self._refuse(
            431, f"the request's head is larger than {config.max_header_bytes} bytes or {config.max_headers} headers"
        )

    def _refuse_body(self) -> None:
        limit = self._config.max_body_bytes
        self._refuse_with(
            PayloadTooLargeError(f"the body is larger than {limit} bytes (max_body_bytes): send fewer rows at once")
        )

    def _refuse_with(self, error: SuperServeError) -> None:
        self._refuse(http_status(error), str(error), error_headers(error))

    def _refuse(self, status: int, message: str, extra_headers: bytes = b"") -> None:
        self._reject(status, message, extra_headers)
        raise _RefusedError

    def _reject(self, status: int, message: str, extra_headers: bytes = b"", *, linger: bool = True) -> None:
        """Answer what has been received so far with an error, as the last answer of this connection."""
        exchange = self._current or Exchange(self)
        exchange.keep_alive = False
        self._forget_current()
        self._ignoring_input = True
        self._receiving_since_ns = None
        self._linger = linger
        self._waiting.append(exchange)
        exchange.respond_error(status, message, extra_headers)

    def _forget_current(self) -> None:
        """What has been received of a request is not needed any more."""
        self._current = None
        self._body = b""
        self._memory.give_back(self._body_bytes)
        self._body_bytes = 0

    def _expectation(self, expected: bytes) -> None:
        if expected.lower() != b"100-continue":
            self._refuse(417, f"Expect: {expected[:32].decode('latin-1')!r} cannot be met; 100-continue can")
        if self._waiting:
            self._continue_due = True  # earlier requests are answered first
        else:
            self._write(_CONTINUE)

    # ---- the rest

    def _received(self, exchange: Exchange) -> None:
        exchange.arrival_ns = self._idle_since_ns = self._clock.now_ns()
        self._waiting.append(exchange)
        if len(self._waiting) >= self._config.max_pipelined:
            self._adjust_reading()
        if b"content-encoding" in exchange.headers and exchange.body:
            self._expand(exchange)
        else:
            self._handle(exchange)

    def _expand(self, exchange: Exchange) -> None:
        coding = exchange.headers[b"content-encoding"].lower()
        if coding == b"identity":
            self._handle(exchange)
            return
        inflater = Inflater(exchange.body, coding, self._config.max_body_bytes)
        expansion = Expansion(inflater, exchange, self._clock, self._memory)
        exchange.work = expansion
        expansion.go_on(self._handle)

    def _handle(self, exchange: Exchange) -> None:
        try:
            self._handler.handle(exchange)
        except Exception:  # a defect here must cost one request, not the connection
            _logger.exception("cannot handle %s %s", exchange.method, exchange.url)
            if exchange.response is None:
                exchange.respond_error(500, "internal error; the server's log says more")

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _close(self) -> None:
        transport = self._transport
        if transport is None:
            return
        if not self._linger:
            transport.close()
            return
        self._lingering_since_ns = self._clock.now_ns()
        if transport.can_write_eof():
            transport.write_eof()
        self._arm(self._lingering_since_ns + _LINGER_NS)

    def _abandon_waiting(self) -> None:
        waiting = list(self._waiting)
        self._waiting.clear()
        for exchange in waiting:
            self._memory.give_back(exchange.held)
            if exchange.work is not None and exchange.response is None:
                exchange.work.cancel()

    def _adjust_reading(self) -> None:
        wanted = self._writable and len(self._waiting) < self._config.max_pipelined
        if wanted is self._reading or self._transport is None:
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
            if self._receiving_since_ns is not None:
                self._start_receiving()  # anew: it was not the sender that waited
        else:
            self._transport.pause_reading()

    def _still_receiving(self, data: bytes) -> None:
        if self._in_head and not self._began_behind:
            # The parser keeps an unfinished line to itself, so that `on_header` alone would miss an endless one. What
            # stands before that line has been counted. Behind another request its begin is not known: then what comes
            # next is counted.
            self._head_bytes += len(data) - data.rfind(b"\n") - 1
            if self._head_bytes > self._config.max_header_bytes:
                self._reject(431, f"the request's head is larger than {self._config.max_header_bytes} bytes")
                return
        if self._receiving_since_ns is None:
            self._start_receiving()

    def _start_receiving(self) -> None:
        self._receiving_since_ns = self._clock.now_ns()
        self._arm(self._receiving_since_ns + self._config.read_timeout_ns)

    # ---- one timer for everything that takes too long

    def _arm(self, due_ns: int) -> None:
        """See to it that `_on_timer` runs by ``due_ns``; a timer that comes too early does no harm."""
        if self._timer is not None:
            if self._timer_ns <= due_ns:
                return
            self._timer.cancel()
        self._timer_ns = due_ns
        self._timer = self._clock.call_at(due_ns, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._transport is None:
            return
        due_ns = self._due_ns()
        if self._clock.now_ns() < due_ns:
            self._arm(due_ns)
        elif self._lingering_since_ns is not None or not self._writable:
            self._transport.abort()
        elif self._receiving_since_ns is not None:
            self._reject(408, f"the request was not complete after {self._config.read_timeout_s:g} s")
        else:
            self._transport.close()

    def _due_ns(self) -> int:
        config = self._config
        if self._lingering_since_ns is not None:
            return self._lingering_since_ns + _LINGER_NS
        if not self._writable:
            return self._write_blocked_since_ns + config.write_timeout_ns
        if self._receiving_since_ns is not None and self._reading:
            return self._receiving_since_ns + config.read_timeout_ns
        if self._waiting or self._receiving_since_ns is not None:  # it waits for us
            return self._clock.now_ns() + config.idle_timeout_ns
        return self._idle_since_ns + config.idle_timeout_ns
