"""The connection: requests in pieces, in order, slow and gone clients, limits on connections."""

import json

import pytest

from superserve.clock import NS_PER_S
from superserve.errors import QueueFullError
from superserve.frontend.exchange import Exchange
from support.http_bench import GET, POST, Bench, Handler, echo, only, responses


def test_a_request_is_answered_in_one_write() -> None:
    """With its length, type and id; the connection stays open."""
    transport = Bench().exchange(POST)
    status, headers, body = only(transport)
    assert (status, json.loads(body)) == (200, ["/b", "hello"])
    assert headers == {"content-type": "application/json", "content-length": "15", "x-request-id": "mine"}
    assert len(transport.written) == 1
    assert not transport.closed


@pytest.mark.parametrize("cut", range(1, len(POST)))
def test_a_request_may_be_cut_anywhere(cut: int) -> None:
    """Two reads, then byte by byte, give what one read gives."""
    bench = Bench()
    protocol, transport = bench.connect()
    protocol.data_received(POST[:cut])
    assert transport.sent == b""
    protocol.data_received(POST[cut:])
    for index in range(len(POST)):
        protocol.data_received(POST[index : index + 1])
    assert bench.handler.bodies == [b"hello", b"hello"]
    assert [exchange.headers for exchange in bench.handler.exchanges] == [
        {b"content-length": b"5", b"x-request-id": b"mine"}
    ] * 2
    assert [status for status, _, _ in responses(transport.sent)] == [200, 200]


def test_a_chunked_body_is_put_together() -> None:
    """Chunk by chunk, with a trailer that is not mistaken for a header."""
    bench = Bench()
    protocol, _ = bench.connect()
    data = (
        b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nX-SLO-MS: 1\r\n\r\n"
    )
    for index in range(len(data)):
        protocol.data_received(data[index : index + 1])
    assert bench.handler.bodies == [b"hello"]
    assert bench.handler.exchanges[0].headers == {b"transfer-encoding": b"chunked"}


def test_pipelined_requests_are_answered_in_order() -> None:
    """They are worked on together; answers that come out of order wait for the earlier ones."""
    bench = Bench(Handler())
    protocol, transport = bench.connect()
    protocol.data_received(GET + POST + GET)
    assert len(bench.handler.exchanges) == 3
    for position, sent in ((2, 0), (0, 1), (1, 3)):
        bench.handler.exchanges[position].respond_json(b"%d" % position)
        assert len(responses(transport.sent)) == sent
    assert [body for _, _, body in responses(transport.sent)] == [b"0", b"1", b"2"]


def test_no_more_is_read_while_too_many_wait() -> None:
    """Reading stops at the limit and goes on when one is answered."""
    bench = Bench(Handler())
    protocol, transport = bench.connect()
    protocol.data_received(GET * 3)
    reading = [transport.reading]
    protocol.data_received(GET)
    reading.append(transport.reading)
    bench.handler.exchanges[0].respond_json(b"")
    assert [*reading, transport.reading] == [True, False, True]


def test_a_client_that_does_not_read_is_not_read_from() -> None:
    """Back-pressure works through to the request side; after the write timeout the connection is cut."""
    bench = Bench()
    protocol, transport = bench.connect()
    protocol.pause_writing()
    reading = [transport.reading]
    protocol.resume_writing()
    assert [*reading, transport.reading] == [False, True]
    protocol.pause_writing()
    bench.clock.advance(20 * NS_PER_S - 1)
    assert not transport.closed
    bench.clock.advance(1)
    assert transport.aborted


def test_head_is_get_without_a_body() -> None:
    """Same headers, nothing behind them."""
    transport = Bench().exchange(GET.replace(b"GET", b"HEAD"))
    assert transport.sent.endswith(b"\r\n\r\n")
    assert b"Content-Length: 10\r\n" in transport.sent


@pytest.mark.parametrize(
    ("version", "connection", "kept", "said"),
    [
        (b"1.1", None, True, None),
        (b"1.1", b"keep-alive", True, "keep-alive"),
        (b"1.1", b"close", False, "close"),
        (b"1.0", None, False, "close"),
        (b"1.0", b"keep-alive", True, "keep-alive"),
    ],
)
def test_connections_are_kept_as_asked(version: bytes, connection: bytes | None, kept: bool, said: str | None) -> None:
    """HTTP/1.1 keeps them by default, 1.0 does not; the answer says so."""
    header = b"" if connection is None else b"Connection: %b\r\n" % connection
    transport = Bench().exchange(b"GET /a HTTP/%b\r\n%b\r\n" % (version, header))
    assert only(transport)[1].get("connection") == said
    assert transport.closed is not kept


def test_nothing_behind_a_last_request_is_looked_at() -> None:
    """What a client sends after "Connection: close" is not a request."""
    bench = Bench(Handler())
    protocol, transport = bench.connect()
    protocol.data_received(b"GET /a HTTP/1.1\r\nConnection: close\r\n\r\n" + GET)
    protocol.data_received(GET)
    assert len(bench.handler.exchanges) == 1
    bench.handler.exchanges[0].respond_json(b"1")
    assert [body for _, _, body in responses(transport.sent)] == [b"1"]
    assert transport.closed


@pytest.mark.parametrize(
    ("own", "used"),
    [
        (b"abc-1.2:3_Z", True),
        (b"x" * 128, True),
        (b"x" * 129, False),
        (b"a b", False),
        (b'a"b', False),
        (b"\xff", False),
    ],
)
def test_a_sane_request_id_is_the_clients(own: bytes, used: bool) -> None:
    """Anything else is replaced, so that it can go into logs and headers as it is."""
    transport = Bench().exchange(b"GET /a HTTP/1.1\r\nx-request-id: %b\r\n\r\n" % own)
    assert (only(transport)[1]["x-request-id"].encode("latin-1") == own) is used


def test_new_request_ids_differ() -> None:
    """Within a server and between servers."""
    ids = {only(bench.exchange(GET))[1]["x-request-id"] for bench in [Bench(), Bench()] for _ in range(3)}
    assert len(ids) == 6


def test_100_continue_is_sent_at_once() -> None:
    """Before the body, and once."""
    protocol, transport = Bench().connect()
    protocol.data_received(b"POST /b HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n")
    assert transport.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    protocol.data_received(b"hello")
    assert [status for status, _, _ in responses(transport.sent)] == [100, 200]


def test_100_continue_waits_for_earlier_answers() -> None:
    """Else a client would take it for the answer to the earlier request."""
    bench = Bench(Handler())
    protocol, transport = bench.connect()
    protocol.data_received(GET + b"POST /b HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert transport.sent == b""
    bench.handler.exchanges[0].respond_json(b"1")
    assert [status for status, _, _ in responses(transport.sent)] == [200, 100]


def test_an_offer_to_upgrade_is_declined_by_going_on() -> None:
    """As some clients offer h2c with every first request; the connection stays HTTP/1.1."""
    bench = Bench()
    protocol, transport = bench.connect()
    protocol.data_received(b"GET /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + POST)
    protocol.data_received(GET)
    assert [status for status, _, _ in responses(transport.sent)] == [200, 200, 200]
    assert bench.handler.bodies == [b"", b"hello", b""]


def test_a_slow_sender_is_told_and_cut() -> None:
    """The time counts from the first byte to the last, however steadily it drips."""
    bench = Bench()
    protocol, transport = bench.connect()
    bench.clock.advance(5 * NS_PER_S)
    for byte in POST[:9]:
        protocol.data_received(bytes([byte]))
        assert transport.sent == b""
        bench.clock.advance(NS_PER_S)
    bench.clock.advance(NS_PER_S - 1)
    assert transport.sent == b""
    bench.clock.advance(1)
    assert only(transport)[0] == 408
    bench.clock.advance(NS_PER_S)
    assert transport.closed


def test_a_slow_sender_is_told_once_and_in_order() -> None:
    """However long the request before it takes."""
    bench = Bench(Handler())
    protocol, transport = bench.connect()
    protocol.data_received(GET + POST[:20])
    for _ in range(10):
        bench.clock.advance(100 * NS_PER_S)
    bench.handler.exchanges[0].respond_json(b"1")
    assert [status for status, _, _ in responses(transport.sent)] == [200, 408]


def test_a_request_in_time_starts_no_clock_for_the_next() -> None:
    """Time between requests counts as idle, not as slow."""
    bench = Bench()
    protocol, transport = bench.connect()
    protocol.data_received(POST[:10])
    bench.clock.advance(9 * NS_PER_S)
    protocol.data_received(POST[10:])
    bench.clock.advance(30 * NS_PER_S)
    protocol.data_received(POST)
    assert [status for status, _, _ in responses(transport.sent)] == [200, 200]


def test_a_sender_is_not_slow_while_we_do_not_read() -> None:
    """Half a request behind a full pipeline may wait as long as we do; from then on its time counts."""
    bench = Bench(Handler())
    protocol, transport = bench.connect()
    protocol.data_received(GET * 4 + POST[:20])
    bench.clock.advance(100 * NS_PER_S)
    assert transport.sent == b""
    for exchange in bench.handler.exchanges[:4]:
        exchange.respond_json(b"1")
    bench.clock.advance(10 * NS_PER_S - 1)
    assert len(responses(transport.sent)) == 4
    bench.clock.advance(1)
    assert responses(transport.sent)[-1][0] == 408


def test_an_idle_connection_is_closed() -> None:
    """After the idle timeout since its last request, but not while an answer is due."""
    bench = Bench(Handler())
    protocol, transport = bench.connect()
    bench.clock.advance(59 * NS_PER_S)
    protocol.data_received(GET)
    bench.clock.advance(600 * NS_PER_S)
    assert not transport.closed
    bench.handler.exchanges[0].respond_json(b"1")
    bench.clock.advance(61 * NS_PER_S)
    assert transport.closed


def test_a_client_that_goes_away_is_cancelled() -> None:
    """What it waits for, and nothing that was answered; answers that come later go nowhere."""
    bench = Bench(Handler())
    protocol, transport = bench.connect()
    protocol.data_received(GET * 3)
    bench.handler.exchanges[0].respond_json(b"1")
    bench.handler.exchanges[2].respond_json(b"3")
    protocol.connection_lost(ConnectionResetError())
    assert [work.cancelled for work in bench.handler.works] == [0, 1, 0]
    bench.handler.exchanges[1].respond_json(b"2")
    assert len(responses(transport.sent)) == 1


def test_a_defect_costs_one_request(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, the client gets 500 without the details, and the connection goes on."""

    def broken(exchange: Exchange) -> None:
        if exchange.url == b"/b":
            raise RuntimeError("secret detail")
        echo(exchange)

    transport = Bench(Handler(broken)).exchange(POST + GET)
    first, second = responses(transport.sent)
    assert (first[0], second[0]) == (500, 200)
    assert b"secret" not in first[2]
    assert "secret detail" in caplog.text


def test_connections_are_bounded() -> None:
    """One too many is told and closed; when another ends there is room again."""
    bench = Bench()
    connections = [bench.connect() for _ in range(4)]
    status, headers, _ = only(connections[3][1])
    assert (status, headers["retry-after"]) == (503, "1")
    assert connections[3][1].closed
    connections[0][0].connection_lost(None)
    assert only(bench.exchange(GET))[0] == 200


def test_a_full_queue_says_when_to_come_back() -> None:
    """In whole seconds, rounded up."""
    for wait_s, said in ((0.01, "1"), (2.1, "3")):
        handler = Handler(lambda exchange, wait_s=wait_s: exchange.fail(QueueFullError("full", wait_s)))  # type: ignore[misc]
        status, headers, _ = only(Bench(handler).exchange(GET))
        assert (status, headers["retry-after"]) == (429, said)


def test_tensors_follow_the_json() -> None:
    """With the length of each part."""

    def answer(exchange: Exchange) -> None:
        exchange.respond_tensors(b"{}", [memoryview(b"abc"), memoryview(b"de")])

    transport = Bench(Handler(answer)).exchange(POST)
    _, headers, body = only(transport)
    assert body == b"{}abcde"
    assert headers["inference-header-content-length"] == "2"
    assert headers["content-type"] == "application/octet-stream"
    assert len(transport.written) == 1


def test_a_stopping_server_answers_what_it_has_and_closes() -> None:
    """Idle connections close at once, others after their last answer, which says so."""
    bench = Bench(Handler())
    idle, busy = bench.connect(), bench.connect()
    busy[0].data_received(GET * 2)
    for protocol in (idle[0], busy[0]):
        protocol.stop()
    assert idle[1].closed
    busy[0].data_received(GET)
    for exchange in bench.handler.exchanges:
        exchange.respond_json(b"1")
    answers = responses(busy[1].sent)
    assert [headers.get("connection") for _, headers, _ in answers] == [None, "close"]
    assert busy[1].closed
