"""What cannot be accepted is refused before it is read, with an answer that a client can read."""

import pytest

from superserve.clock import NS_PER_S
from support.http_bench import GET, Bench, Handler, error_of, only, responses


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((b"POST /b HTTP/1.1", *lines, b"", b""))


@pytest.mark.parametrize(
    ("data", "status", "pattern"),
    [
        (b"nonsense\r\n\r\n", 400, "malformed HTTP"),
        (b"GET /a HTTP/1.1\r\nno colon\r\n\r\n", 400, "malformed HTTP"),
        (head(b"Content-Length: 1", b"Content-Length: 2"), 400, "malformed HTTP"),
        (head(b"Content-Length: -1"), 400, "malformed HTTP"),
        (head(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400, "malformed HTTP"),
        (head(b"Transfer-Encoding: chunked") + b"zz\r\n", 400, "malformed HTTP"),
        (head(b"Content-Length: 1001"), 413, "1000 bytes"),
        (head(b"Content-Length: 1001", b"Expect: 100-continue"), 413, "1000 bytes"),
        (head(b"Transfer-Encoding: chunked") + b"3e9\r\n" + bytes(1001), 413, "1000 bytes"),
        (head(b"Transfer-Encoding: chunked") + b"1f4\r\n" + bytes(500) + b"\r\n1f5\r\n" + bytes(501), 413, "1000"),
        (head(b"X: " + bytes(b"y" * 600)), 431, "500 bytes"),
        (head(*[b"X%d: 1" % n for n in range(11)]), 431, "10 headers"),
        (b"GET /" + b"a" * 600, 431, "500 bytes"),
        (head(b"Expect: the-impossible", b"Content-Length: 5"), 417, "the-impossible"),
        (head(b"Content-Encoding: br", b"Content-Length: 5"), 415, "'br' is not gzip or deflate"),
        (head(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 5"), 400, "Upgrade"),
    ],
)
def test_what_cannot_be_accepted_is_refused_before_it_is_read(data: bytes, status: int, pattern: str) -> None:
    """With an answer that a client can read: input is ignored for a second before the connection is closed."""
    bench = Bench()
    protocol, transport = bench.connect()
    protocol.data_received(data)
    found, headers, body = only(transport)
    assert found == status
    assert pattern in error_of(body)
    assert headers["x-request-id"]
    assert headers["connection"] == "close"
    assert transport.half_closed
    protocol.data_received(bytes(100_000) + GET)
    assert bench.handler.exchanges == []
    assert not transport.closed
    bench.clock.advance(NS_PER_S)
    assert transport.closed


def test_an_endless_header_is_noticed_piece_by_piece() -> None:
    """The parser keeps an unfinished header to itself; its bytes count all the same."""
    protocol, transport = Bench().connect()
    protocol.data_received(b"GET /a HTTP/1.1\r\nX: ")
    for _ in range(60):
        protocol.data_received(b"y" * 10)
    assert only(transport)[0] == 431


def test_a_refusal_waits_for_the_answers_before_it() -> None:
    """A good request, then garbage: both are answered, in order."""
    bench = Bench(Handler())
    protocol, transport = bench.connect()
    protocol.data_received(GET + b"garbage\r\n\r\n")
    bench.clock.advance(100 * NS_PER_S)
    assert transport.sent == b""
    bench.handler.exchanges[0].respond_json(b"1")
    assert [status for status, _, _ in responses(transport.sent)] == [200, 400]
