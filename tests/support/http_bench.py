"""An HTTP server without a socket, and what it sent read back."""

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from superserve.clock import ManualClock
from superserve.frontend.common import Common
from superserve.frontend.exchange import Exchange
from superserve.frontend.http import HttpProtocol
from superserve.frontend.http_server import HttpServer
from superserve.serving.config import HttpConfig, ServerConfig
from support.transport import FakeTransport

SMALL = HttpConfig(
    max_connections=3,
    max_body_bytes=1000,
    max_header_bytes=500,
    max_headers=10,
    max_pipelined=4,
    read_timeout_s=10.0,
    write_timeout_s=20.0,
    idle_timeout_s=60.0,
)

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-Request-ID: mine\r\n\r\nhello"


class Work:
    """Something under way."""

    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


class Handler:
    """Keeps exchanges; answers them at once if told how."""

    def __init__(self, answer: Callable[[Exchange], None] | None = None) -> None:
        self.exchanges: list[Exchange] = []
        self.works: list[Work] = []
        self._answer = answer

    def handle(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        work = Work()
        self.works.append(work)
        exchange.work = work
        if self._answer is not None:
            self._answer(exchange)

    @property
    def bodies(self) -> list[bytes]:
        return [exchange.body for exchange in self.exchanges]


def echo(exchange: Exchange) -> None:
    exchange.respond_json(json.dumps([exchange.url.decode(), exchange.body.decode("latin-1")]).encode())


class Bench:
    """A server without a socket."""

    def __init__(self, handler: Handler | None = None, *, memory_bytes: int = 1 << 30, **limits: Any) -> None:
        self.clock = ManualClock()
        self.handler = handler or Handler(echo)
        common = Common(ServerConfig(max_body_memory_bytes=memory_bytes))
        self.memory = common.memory
        self.server = HttpServer(self.handler, self.clock, msgspec.structs.replace(SMALL, **limits), common)

    def connect(self) -> tuple[HttpProtocol, FakeTransport]:
        protocol = self.server.connection()
        transport = FakeTransport(protocol)
        protocol.connection_made(transport)
        return protocol, transport

    def exchange(self, data: bytes) -> FakeTransport:
        protocol, transport = self.connect()
        protocol.data_received(data)
        return transport


def responses(sent: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Status, headers and body of each response; fails on anything that is no complete response."""
    found = []
    while sent:
        head, separator, rest = sent.partition(b"\r\n\r\n")
        assert separator
        status_line, *lines = head.decode().split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Z][A-Za-z ]+", status_line)
        assert match is not None, status_line
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", 0))
        assert len(rest) >= length
        found.append((int(match[1]), headers, rest[:length]))
        sent = rest[length:]
    return found


def only(transport: FakeTransport) -> tuple[int, dict[str, str], bytes]:
    (response,) = responses(transport.sent)
    return response


def error_of(body: bytes) -> str:
    (item,) = json.loads(body).items()
    assert item[0] == "error"
    return str(item[1])
