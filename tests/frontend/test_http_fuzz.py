"""Any bytes at all, in any pieces, to a whole server without sockets, processes or real time."""

import asyncio
import gzip
import json
import tracemalloc
from typing import Any

import httptools
import hypothesis.strategies as st
from hypothesis import given

from superserve.clock import NS_PER_MS, NS_PER_S, ManualClock
from superserve.frontend.http_server import HttpServer
from superserve.frontend.routes import V2Routes
from superserve.serving.config import HttpConfig
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from support.fuzzing import no_defects, spoilt_bytes, spoilt_values
from support.serving import make_model, make_router
from support.transport import FakeTransport

LIMITS = HttpConfig(max_body_bytes=2000, max_header_bytes=600, max_headers=20, max_pipelined=4)

#: What may be answered to whatever comes. Not 500: no worker fails here.
ALLOWED = {100, 200, 400, 404, 405, 408, 413, 415, 417, 429, 431, 503, 504}

MESSAGE: dict[str, Any] = {
    "id": "me",
    "inputs": [
        {"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "data": [1, 2, 3, 4]},
        {"name": "scale", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}},
    ],
    "outputs": [{"name": "pixels", "parameters": {"binary_data": True}}, {"name": "factor"}],
    "parameters": {"timeout": 50_000, "priority": 1, "superserve_min_accuracy": 70.5, "binary_data_output": False},
}
PATHS = [
    "/v2",
    "/v2/health/ready",
    "/v2/models/tiny",
    "/v2/models/tiny/versions/1/stats",
    "/openapi.json",
    "/docs",
    "/",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "BREW"]


@st.composite
def infers(draw: st.DrawFn) -> bytes:
    """An infer request, right or spoilt in its JSON, its lengths or its coding."""
    text = json.dumps(draw(spoilt_values(MESSAGE))).encode()
    body = text + draw(st.sampled_from([b"\0\0\0?", b"", b"\0"]))
    length = draw(st.sampled_from([str(len(text)), str(len(body)), "0", "-1", "x", "9" * 30, None]))
    coding = draw(st.sampled_from([None, "gzip", "deflate", "identity", "br"]))
    headers = {"Inference-Header-Content-Length": length, "Content-Encoding": coding}
    if coding == "gzip":
        body = gzip.compress(body)
    headers["x-slo-ms"] = draw(st.sampled_from([None, None, "10", "nan", "-1", "1e999"]))
    headers["Accept-Encoding"] = draw(st.sampled_from([None, "gzip", "deflate;q=0.5, *;q=x"]))
    return (
        head("POST", "/v2/models/tiny/infer", draw(st.sampled_from([len(body), len(body), 10, None])), headers) + body
    )


def head(method: str, path: str, length: int | None, headers: dict[str, str | None]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1"] + ([] if length is None else [f"Content-Length: {length}"])
    lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode()


@st.composite
def others(draw: st.DrawFn) -> bytes:
    """Requests without a body, and chunked ones."""
    headers: dict[str, str | None] = {
        "Connection": draw(st.sampled_from([None, "close", "keep-alive", "upgrade"])),
        "Upgrade": draw(st.sampled_from([None, None, "h2c", "websocket"])),
        "Expect": draw(st.sampled_from([None, None, "100-continue", "more"])),
        "x-request-id": draw(st.sampled_from([None, "mine", "not sane"])),
        "x-long": draw(st.sampled_from([None, None, "x" * 700])),
    }
    start = head(draw(st.sampled_from(METHODS)), draw(st.sampled_from(PATHS)), None, headers)
    if draw(st.booleans()):
        return start
    return start[:-2] + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


streams = st.lists(
    (infers() | others()).flatmap(spoilt_bytes) | infers() | others() | st.binary(max_size=40), min_size=1, max_size=5
).map(b"".join)


class Bench:
    """One connection to a server; time, workers and the peer's reading do what the test says."""

    def __init__(self, max_queued: int = 2) -> None:
        self.clock = ManualClock()
        self.pool = FakePool()
        self.router = make_router(self.pool, self.clock, max_queued=max_queued)
        asyncio.run(self.router.start())
        self.server = HttpServer(V2Routes(DataPlane([make_model(self.router)], version="9")), self.clock, LIMITS)
        self.connect()

    def connect(self) -> None:
        self.protocol = self.server.connection()
        self.transport = FakeTransport(self.protocol)
        self.protocol.connection_made(self.transport)

    def feed(self, data: bytes) -> None:
        """As a transport does it: nothing while reading is paused or after the end."""
        if self.transport.reading and not self.transport.closed:
            self.protocol.data_received(data)
            self.held()

    def held(self) -> None:
        """What a connection keeps is bounded by its limits and the piece just received."""
        protocol = self.protocol
        assert len(protocol._body) == protocol._body_bytes <= LIMITS.max_body_bytes
        assert self.server.memory.held == sum(
            each._body_bytes + sum(waiting.held for waiting in each._waiting) for each in self.server._connections
        )
        assert all(len(waiting.body) <= LIMITS.max_body_bytes for waiting in protocol._waiting)

    def finish(self) -> None:
        while self.pool.running:
            self.pool.finish(0)

    def statuses(self) -> list[int]:
        """Of everything that was answered; it must be HTTP. Answers to HEAD have lengths without bodies."""
        found = _Statuses()
        found.read(self.transport.sent)
        return found.statuses


class _Statuses:
    def __init__(self) -> None:
        self.statuses: list[int] = []
        self._parser = httptools.HttpResponseParser(self)

    def read(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.statuses.append(self._parser.get_status_code())


def cut(data: st.DataObject, stream: bytes) -> list[bytes]:
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]


@given(streams, st.data())
def test_whatever_comes_is_answered_or_refused(stream: bytes, data: st.DataObject) -> None:
    """In any pieces, at any speed, with batches that end in between; and the next connection is served."""
    with no_defects():
        bench = Bench()
        for piece in cut(data, stream):
            bench.feed(piece)
            event = data.draw(st.sampled_from(["", "finish", "later", "block", "unblock", "much later"]))
            if event == "finish":
                bench.finish()
            elif event == "block" and not bench.transport.closed and bench.protocol._writable:
                bench.protocol.pause_writing()
            elif event == "unblock" and not bench.transport.closed and not bench.protocol._writable:
                bench.protocol.resume_writing()
            elif event:
                bench.clock.advance(5 * NS_PER_MS if event == "later" else 100 * NS_PER_S)
        bench.finish()
        bench.clock.advance(NS_PER_MS)
        if b"HEAD" not in stream:
            assert set(bench.statuses()) <= ALLOWED
        if data.draw(st.booleans()) and not bench.transport.closed:
            bench.transport.close()
        served_again(bench)


def served_again(bench: Bench) -> None:
    bench.finish()
    bench.connect()
    text = json.dumps({**MESSAGE, "outputs": None, "inputs": MESSAGE["inputs"]}).encode()
    length: dict[str, str | None] = {"Inference-Header-Content-Length": str(len(text))}
    bench.feed(head("POST", "/v2/models/tiny/infer", len(text) + 4, length) + text + b"\0\0\0?")
    bench.finish()
    assert bench.statuses() == [200]
    bench.transport.close()
    assert bench.router.unfinished == 0


PIPELINED = st.lists(st.sampled_from(["infer", "/v2", "/v2/health/live"]), min_size=1, max_size=8)


@given(PIPELINED, st.data())
def test_requests_that_are_right_are_all_served(kinds: list[str], data: st.DataObject) -> None:
    """However they are cut, and whatever came before them in the same piece."""
    text = json.dumps({"inputs": MESSAGE["inputs"], "padding": "x" * 1000}).encode()
    length: dict[str, str | None] = {"Inference-Header-Content-Length": str(len(text))}
    infer = head("POST", "/v2/models/tiny/infer", len(text) + 4, length) + text + b"\0\0\0?"
    stream = b"".join(infer if kind == "infer" else head("GET", kind, None, {}) for kind in kinds)
    bench = Bench(max_queued=100)
    with no_defects():
        for piece in cut(data, stream):
            while not bench.transport.reading:
                bench.finish()
            bench.feed(piece)
        bench.finish()
        assert bench.statuses() == [200] * len(kinds)


def test_offers_to_upgrade_are_declined_one_by_one() -> None:
    """As many as fit into a piece, and a refusal behind them is one."""
    offer = head("GET", "/v2", None, {"Connection": "upgrade", "Upgrade": "h2c"})
    bench = Bench()
    with no_defects():
        bench.feed(offer * 2000 + head("GET", "/v2", None, {"x-long": "x" * 700}))
    assert bench.statuses() == [200] * 2000 + [431]


@given(infers())
def test_an_infer_request_is_served_or_refused_by_name(request: bytes) -> None:
    """One answer to each that is complete, and none of its kind is a defect."""
    with no_defects():
        bench = Bench()
        bench.feed(request)
        bench.finish()
        bench.clock.advance(NS_PER_MS)
        assert set(bench.statuses()) <= ALLOWED
        served_again(bench)


@given(
    st.sampled_from([b"[", b'{"a":', b"[[],", b'[{"inputs":', b'{"inputs":[[', b"0,", b'"\\u0000",']),
    st.integers(1, 300),
)
def test_memory_is_bounded_by_what_may_be_sent(unit: bytes, count: int) -> None:
    """Deep or wide JSON of the largest size allowed takes no more than its size many times over."""
    body = (b'{"inputs":[{"name":"image","datatype":"UINT8","shape":[1,2,2],"data":[' + unit * count)[:2000]
    bench = Bench()
    tracemalloc.start()
    try:
        with no_defects():
            bench.feed(head("POST", "/v2/models/tiny/infer", len(body), {}) + body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bench.statuses() == [400]
    assert peak < 60_000 + 64 * LIMITS.max_body_bytes
