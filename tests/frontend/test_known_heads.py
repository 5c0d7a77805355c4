"""A request whose head has been seen before means what it meant to the parser."""

import re

import pytest

from superserve.frontend.known_heads import Head, KnownHeads
from support.http_bench import GET, POST, Bench, responses

CHUNKED = b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"

REQUESTS = {
    "a body": POST,
    "no body": GET,
    "an empty body": POST.replace(b"5", b"0").removesuffix(b"hello"),
    "HEAD": GET.replace(b"GET", b"HEAD"),
    "CONNECT": GET.replace(b"GET", b"CONNECT"),
    "a body with the end of a head in it": POST.replace(b"5", b"10") + b"\r\n\r\n!",
    "empty lines before it": b"\r\n\r\n" + POST,
    "chunks": CHUNKED,
    "chunks and a length": CHUNKED.replace(b"\r\n\r\n5", b"\r\nContent-Length: 5\r\n\r\n5"),
    "two lengths": POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 0"),
    "lines without a carriage return": POST.replace(b"\r\n", b"\n") + b"\r\n\r\n",
    "an expectation": POST.replace(b"Host", b"Expect: 100-continue\r\nHost"),
    "an offer": GET.replace(b"Host", b"Connection: upgrade\r\nUpgrade: h2c\r\nHost"),
    "the last of a connection": POST.replace(b"Host", b"Connection: close\r\nHost"),
    "HTTP/1.0": POST.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0, kept": POST.replace(b"HTTP/1.1", b"HTTP/1.0\r\nConnection: keep-alive"),
    "a compressed body": POST.replace(b"Host", b"Content-Encoding: gzip\r\nHost"),
    "a large head": POST.replace(b"Host: x", b"Host: " + bytes(b"x" * 2000)),
    "two in a row": POST + GET,
    "one and a half": POST + GET[:10],
}


def learned(bench: Bench) -> int:
    """How many heads a server knows."""
    return len(bench.server.heads)


@pytest.mark.parametrize("piece", REQUESTS.values(), ids=REQUESTS.keys())
@pytest.mark.parametrize("before", [b"", POST, GET + POST, POST[:-2]], ids=["nothing", "one", "two", "most of one"])
def test_the_second_time_is_like_the_first(before: bytes, piece: bytes) -> None:
    """Whatever else came on the connection, the handler and the client see the same on a server that knows the head."""
    seen = []
    for knows in (False, True):
        bench = Bench(max_header_bytes=4000, max_connections=10)
        if knows:
            for _ in range(3):
                bench.exchange(piece)
        bench.handler.exchanges.clear()
        protocol, transport = bench.connect()
        for data in (before, piece, POST):
            if data and not transport.closed:
                protocol.data_received(data)
        told = [
            (exchange.method, exchange.url, exchange.headers, exchange.body, exchange.keep_alive)
            for exchange in bench.handler.exchanges
        ]
        answers = re.sub(rb"x-request-id: [0-9a-f-]+", b"", transport.sent)
        seen.append((told, answers, transport.closed))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("request_named", "count"),
    [
        ("a body", 1),
        ("no body", 1),
        ("HTTP/1.0, kept", 1),
        ("chunks", 0),
        ("an expectation", 0),
        ("an offer", 0),
        ("the last of a connection", 0),
        ("HTTP/1.0", 0),
        ("empty lines before it", 0),
        ("a large head", 0),
    ],
)
def test_only_plain_heads_are_learned(request_named: str, count: int) -> None:
    """One head that leads one whole request with a body of known length, on a connection that goes on."""
    bench = Bench(max_header_bytes=4000, max_connections=10)
    for _ in range(2):
        bench.exchange(REQUESTS[request_named])
    assert learned(bench) == count


def test_a_known_head_needs_no_parser() -> None:
    """What it is all for: the third request never reaches it."""
    bench = Bench(max_connections=10)
    for _ in range(2):
        bench.exchange(POST)
    protocol, transport = bench.connect()
    protocol._parser = None
    protocol.data_received(POST.replace(b"hello", b"world"))
    assert bench.handler.bodies == [b"hello", b"hello", b"world"]
    assert responses(transport.sent)[0][0] == 200


@pytest.mark.parametrize("times", [1, 3])
def test_ever_new_heads_fill_no_memory(times: int) -> None:
    """As with clients that number their requests; only what comes twice is remembered at all."""
    heads = KnownHeads()
    for number in range(5000):
        data = b"GET /%d HTTP/1.1\r\n\r\n" % (number // times)
        if heads.match(data) is None:
            heads.learn(len(data), Head(b"GET", b"/", {}, 0))
    assert (len(heads) > 0, len(heads) <= 128) == (times > 1, True)
