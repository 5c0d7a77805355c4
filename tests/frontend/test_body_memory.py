"""The bodies of all connections together: bounded, and every byte is given back, however a request ends."""

import gzip
import tracemalloc

import pytest

from superserve.clock import NS_PER_S
from superserve.frontend.exchange import Exchange
from support.http_bench import GET, Bench, Handler, error_of, only, responses
from support.transport import FakeTransport


def post(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((b"POST /b HTTP/1.1", b"Content-Length: %d" % len(body), *headers, b"", body))


BODY = bytes(400)
PACKED = post(gzip.compress(bytes(300_000)), b"Content-Encoding: gzip")


@pytest.mark.parametrize("times", [1, 3], ids=["a head never seen", "a known head"])
def test_one_body_too_many_is_refused(times: int) -> None:
    """Told when to come again; the others are answered, and then there is room."""
    bench = Bench(Handler(), memory_bytes=1000, max_connections=10)
    for _ in range(times - 1):
        bench.exchange(post(BODY))
        bench.handler.exchanges.pop().respond_json(b"")
    transports = [bench.exchange(post(BODY)) for _ in range(2)]
    assert bench.memory.held == 800
    status, headers, body = only(bench.exchange(post(BODY)))
    assert (status, headers["retry-after"], headers["x-superserve-outcome"]) == (503, "1", "rejected")
    assert headers["connection"] == "close"
    assert "max_body_memory_bytes" in error_of(body)
    for exchange in bench.handler.exchanges:
        exchange.respond_json(b"{}")
    assert [only(transport)[0] for transport in transports] == [200, 200]
    bench.exchange(post(BODY))
    assert bench.memory.held == 400


def test_bodies_that_have_not_come_yet_take_nothing() -> None:
    """What a client announces keeps nobody else out; what it has sent does. Requests without a body always pass."""
    bench = Bench(Handler(), memory_bytes=1000, max_connections=10)
    for _ in range(2):
        bench.exchange(post(bytes(999))[:-998])
    assert bench.memory.held == 2
    bench.exchange(post(bytes(998)))
    assert only(bench.exchange(post(b"x")))[0] == 503
    bench.exchange(GET)
    assert len(bench.handler.exchanges) == 2


def test_a_body_in_many_pieces_takes_little_more_than_its_bytes() -> None:
    """One in chunks of a byte or two was held as an object of thirty bytes for each."""
    bench = Bench(Handler(), max_body_bytes=400_000)
    protocol, _ = bench.connect()
    protocol.data_received(b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    tracemalloc.start()
    for _ in range(100):
        protocol.data_received(b"2\r\nxy\r\n" * 1000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bench.memory.held == 200_000
    assert held < 500_000
    protocol.data_received(b"0\r\n\r\n")
    assert bench.handler.bodies == [b"xy" * 100_000]


def test_half_received_bodies_do_not_wait_for_each_other() -> None:
    """Two that fit one by one but not together: one is refused, and so the other ends."""
    bench = Bench(Handler(), memory_bytes=1000, max_connections=10)
    (first, one), (second, other) = bench.connect(), bench.connect()
    for protocol in (first, second):
        protocol.data_received(post(bytes(600))[:-150])
    second.data_received(bytes(150))
    assert only(other)[0] == 503
    first.data_received(bytes(150))
    bench.handler.exchanges[0].respond_json(b"{}")
    assert only(one)[0] == 200
    assert bench.memory.held == 0


def ended(bench: Bench, transport: FakeTransport, how: str) -> None:
    exchanges = bench.handler.exchanges
    if how == "answered":
        exchanges[0].respond_json(b"")
    elif how == "lost":
        transport.close()
    elif how == "answered late":
        transport.close()
        exchanges[0].respond_json(b"")
    else:
        bench.clock.advance(11 * NS_PER_S)


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (post(BODY), "answered"),
        (post(BODY), "lost"),
        (post(BODY), "answered late"),
        (post(BODY)[:-1], "lost"),
        (post(BODY)[:-1], "timed out"),
        (post(BODY) + post(BODY)[:-1], "lost"),
        (post(BODY) + post(BODY), "lost"),
        (post(BODY) + b"nonsense\r\n\r\n", "answered"),
        (post(BODY, b"Transfer-Encoding: chunked"), "timed out"),
        (b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n190\r\n%b\r\nzz" % BODY, "timed out"),
        (PACKED, "lost"),
        (PACKED[:-30], "timed out"),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_every_byte_is_given_back(data: bytes, how: str, times: int) -> None:
    """Whatever becomes of a request; also where its head is known."""
    bench = Bench(Handler(), max_body_bytes=400_000)
    for _ in range(times):
        bench.handler.exchanges.clear()
        transport = bench.exchange(data)
        ended(bench, transport, how)
        bench.clock.advance(NS_PER_S)
        assert bench.memory.held == 0


@pytest.mark.parametrize(("memory_bytes", "status"), [(1_000_000, 200), (300_000, 503)])
def test_an_expanded_body_counts_too(memory_bytes: int, status: int) -> None:
    """While it grows: a small body must not stand for more than there is room."""
    held: list[int] = []

    def answer(exchange: Exchange) -> None:
        held.append(bench.memory.held)
        exchange.respond_json(b"")

    bench = Bench(Handler(answer), memory_bytes=memory_bytes, max_body_bytes=400_000)
    transport = bench.exchange(PACKED + GET)
    bench.clock.advance(1)
    assert [found for found, _, _ in responses(transport.sent)] == [status, 200]
    assert max(held) <= memory_bytes
    assert bench.memory.held == 0
