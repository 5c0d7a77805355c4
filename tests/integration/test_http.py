"""The HTTP front end on real sockets, on both event loops: what a fake transport cannot show."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import uvloop

from superserve.clock import MonotonicClock
from superserve.frontend.http_server import HttpServer
from superserve.frontend.routes import V2Routes
from superserve.request import Outcome
from superserve.serving.config import HttpConfig
from superserve.serving.dataplane import DataPlane, ServedModel
from superserve.serving.fake_pool import FakePool
from superserve.serving.router import Router
from support.serving import MODEL, make_router

pytestmark = pytest.mark.integration

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

INPUTS = [
    {"name": "image", "shape": [1, 2, 2], "datatype": "UINT8", "data": [1, 2, 3, 4]},
    {"name": "scale", "shape": [1], "datatype": "FP32", "data": [0.5]},
]
BODY = json.dumps({"inputs": INPUTS}).encode()
INFER = b"POST /v2/models/tiny/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@asynccontextmanager
async def server(pool: FakePool | None = None, **limits: Any) -> AsyncIterator[tuple[int, Router]]:
    """A server with workers that answer after 2 ms, or those of ``pool``; its port and router."""
    clock = MonotonicClock(asyncio.get_running_loop())
    workers = pool or FakePool(2, clock=clock, service_ns=lambda _: 2_000_000)
    router = make_router(workers, clock, max_queued=20_000)
    plane = DataPlane([ServedModel(MODEL, router, slo_ms=1000.0)], version="0")
    http = HttpServer(V2Routes(plane), clock, HttpConfig(**limits))
    await http.start("127.0.0.1", 0)
    await router.start()
    try:
        yield http.port, router
    finally:
        await http.stop(1.0)
        await router.stop()


def on_both_loops(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[str], None]:
    """Run a coroutine on either loop."""

    @pytest.mark.parametrize("loop", LOOPS)
    def run(loop: str) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(asyncio.wait_for(test(), 8))

    run.__doc__ = test.__doc__
    return run


async def talk(port: int, data: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    received = await reader.read()
    writer.close()
    return received


async def eventually(happened: Callable[[], bool]) -> None:
    """Until something has happened on the server's side; the test's own limit bounds it."""
    while not happened():  # noqa: ASYNC110  (a server tells nobody that a client has gone)
        await asyncio.sleep(0.005)


async def is_served(port: int) -> bool:
    """Whether a new client gets its answer."""
    answer = await talk(port, INFER.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    return answer.startswith(b"HTTP/1.1 200 ") and b'"data":[1,2,3,4]' in answer


@on_both_loops
async def test_an_oversized_body_is_answered_while_it_is_still_sent() -> None:
    """The client can read the 413 although it has not finished sending, and others are served on."""
    async with server(max_body_bytes=1_000_000) as (port, _):
        head = b"POST /v2/models/tiny/infer HTTP/1.1\r\nContent-Length: 50000000\r\n\r\n"
        received = await talk(port, head + bytes(5_000_000))
        assert received.startswith(b"HTTP/1.1 413 ")
        assert b"1000000 bytes" in received
        assert await is_served(port)


@on_both_loops
async def test_garbage_and_slow_senders_are_cut_and_others_served() -> None:
    """400 for garbage, 408 for half a request, while somebody else is served."""
    async with server(read_timeout_s=0.2) as (port, _):
        slow = asyncio.create_task(talk(port, INFER[:-1]))
        assert (await talk(port, b"\x16\x03\x01 this is TLS\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert await is_served(port)
        assert (await slow).startswith(b"HTTP/1.1 408 ")


@on_both_loops
async def test_a_client_that_disconnects_is_taken_out_of_the_queue() -> None:
    """Its waiting request never runs."""
    pool = FakePool()
    async with server(pool) as (port, router):
        _, first = await asyncio.open_connection("127.0.0.1", port)
        first.write(INFER)
        _, second = await asyncio.open_connection("127.0.0.1", port)
        second.write(INFER)
        await eventually(lambda: router.unfinished == 2)
        second.close()
        await eventually(lambda: router.outcomes[Outcome.CANCELLED] == 1)
        pool.finish(0)
        assert len(pool.launched) == 1
        first.close()


@on_both_loops
async def test_hundreds_of_pipelined_requests_all_come_back() -> None:
    """More than may wait at once: reading stops and goes on, and each is answered in order."""
    requests = b"".join(INFER.replace(b"\r\n", b"\r\nx-request-id: r%d\r\n" % n, 1) for n in range(300))
    async with server(max_pipelined=8) as (port, router):
        received = await talk(port, requests + b"GET /v2 HTTP/1.1\r\nConnection: close\r\n\r\n")
        ids = [line.split(b": ")[1] for line in received.split(b"\r\n") if line.startswith(b"x-request-id: r")]
        assert ids == [b"r%d" % n for n in range(300)]
        assert router.outcomes[Outcome.SERVED] == 300


@on_both_loops
async def test_a_client_that_never_reads_is_cut() -> None:
    """Its answers fill the socket; nothing more is read from it, and after the write timeout it is gone."""
    async with server(write_timeout_s=0.3) as (port, _):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        cast("asyncio.Transport", writer.transport).pause_reading()
        sent = 0
        try:
            while sent < 100_000_000:
                data = b"GET /v2/models/tiny HTTP/1.1\r\n\r\n" * 1000
                writer.write(data)
                await writer.drain()
                sent += len(data)
        except ConnectionError:
            pass
        assert sent < 100_000_000
        writer.close()
        assert await is_served(port)
