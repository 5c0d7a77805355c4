"""Compressed bodies, in both directions."""

import gzip
import zlib
from collections.abc import Callable

import pytest

from support.http_bench import GET, Bench, Handler, echo, error_of, only, responses

BOMB = gzip.compress(bytes(50_000_000))


@pytest.mark.parametrize("coding", [b"gzip", b"GZIP", b"x-gzip", b"deflate", b"identity"])
def test_a_compressed_body_is_expanded(coding: bytes) -> None:
    """Whole, before the handler sees it."""
    body = {b"deflate": zlib.compress(b"hello"), b"identity": b"hello"}.get(coding, gzip.compress(b"hello"))
    head = b"POST /b HTTP/1.1\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, len(body))
    bench = Bench()
    assert only(bench.exchange(head + body))[0] == 200
    assert bench.handler.bodies == [b"hello"]


def test_a_bomb_is_refused_and_the_connection_goes_on() -> None:
    """At the limit for plain bodies; the next request on the connection is answered behind it."""
    bench = Bench(max_body_bytes=10_000_000)
    transport = bench.exchange(
        b"POST /b HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b%b" % (len(BOMB), BOMB, GET)
    )
    assert transport.sent == b""
    assert bench.handler.bodies == [b""]  # the second request did not wait
    bench.clock.advance(1)
    assert [status for status, _, _ in responses(transport.sent)] == [413, 200]


def test_a_client_that_leaves_ends_the_expansion() -> None:
    """Nothing is handled for it later."""
    bench = Bench(max_body_bytes=60_000_000)
    protocol, _ = bench.connect()
    protocol.data_received(
        b"POST /b HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(BOMB), BOMB)
    )
    protocol.connection_lost(None)
    bench.clock.advance(1)
    assert bench.handler.exchanges == []


@pytest.mark.parametrize(
    "body",
    [b"hello", BOMB[:100], gzip.compress(b"hello")[:-1], gzip.compress(b"hello") + b"junk"],
    ids=["plain", "cut to a part", "cut at the end", "too long"],
)
def test_a_damaged_body_is_told(body: bytes) -> None:
    """400, not 500; the connection stays."""
    head = b"POST /b HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    bench = Bench(max_body_bytes=60_000_000)
    transport = bench.exchange(head + body)
    bench.clock.advance(1)
    status, _, answer = only(transport)
    assert status == 400
    assert "Content-Encoding" in error_of(answer)
    assert not transport.closed


@pytest.mark.parametrize(("accepted", "expand"), [(b"gzip", gzip.decompress), (b"deflate", zlib.decompress)])
def test_a_response_is_compressed_for_who_asks(accepted: bytes, expand: Callable[[bytes], bytes]) -> None:
    """JSON and tensors; the length of the JSON is that of the plain one."""
    handler = Handler(lambda exchange: exchange.respond_tensors(b"{}", [b"a" * 5000]))
    for answer, whole in ((Handler(echo), b'["/a", ""]'), (handler, b"{}" + b"a" * 5000)):
        transport = Bench(answer).exchange(GET[:-2] + b"Accept-Encoding: %b\r\n\r\n" % accepted)
        status, headers, body = only(transport)
        assert (status, headers["content-encoding"], headers["vary"]) == (200, accepted.decode(), "Accept-Encoding")
        assert expand(body) == whole
        assert headers.get("inference-header-content-length", "2") == "2"
