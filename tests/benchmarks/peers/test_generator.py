import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest

from peers.catalog import OURS
from peers.generator import run
from peers.jobs import CNN
from peers.messages import grpc_raw
from superserve.clock import NS_PER_MS

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
]

REQUEST = b"POST /x HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
Answer = Callable[[asyncio.StreamWriter, int], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Reads requests of `REQUEST`'s length and lets ``answer`` write what it wants, by number."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                seen.append(await reader.readexactly(len(REQUEST)))
                await answer(writer, len(seen) - 1)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], seen


async def ok(writer: asyncio.StreamWriter, _: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


async def test_every_request_of_a_schedule_is_sent_once_and_its_answer_recorded() -> None:
    times = np.arange(50) * NS_PER_MS
    async with server(ok) as (port, seen):
        done = await asyncio.to_thread(run, OURS, port, REQUEST, times, connections=8, seconds=5.0)
    assert seen == [REQUEST] * 50
    assert done.ok.all()
    assert done.records["scheduled"].tolist() == times.tolist()
    assert (done.records["sent"] >= times).all()
    assert (done.records["done"] > done.records["sent"]).all()
    assert done.body == b"hello"


async def test_answers_in_chunks_and_in_pieces_are_read_whole() -> None:
    async def chunks(writer: asyncio.StreamWriter, _: int) -> None:
        for piece in (
            b"HTTP/1.1 200 OK\r\nTransfer-Enc",
            b"oding: chunked\r\n\r\n3\r\nabc\r\n",
            b"2\r\nde\r\n0\r\n\r\n",
        ):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    async with server(chunks) as (port, _):
        done = await asyncio.to_thread(run, OURS, port, REQUEST, np.zeros(3, np.int64), connections=1, seconds=5.0)
    assert done.ok.all()
    assert done.body == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


async def test_a_closed_connection_is_opened_again_and_refusals_keep_their_status() -> None:
    async def moody(writer: asyncio.StreamWriter, number: int) -> None:
        if number % 3 == 0:
            writer.write(b"HTTP/1.1 504 Late\r\ncontent-length: 0\r\n\r\n")
        elif number % 3 == 1:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n.")
        else:
            writer.close()

    async with server(moody) as (port, _):
        done = await asyncio.to_thread(run, OURS, port, REQUEST, np.zeros(9, np.int64), connections=1, seconds=5.0)
    assert sorted(done.records["status"].tolist()) == [-1, -1, -1, 200, 200, 200, 504, 504, 504]


async def test_a_closed_loop_keeps_every_connection_busy_and_counts_what_is_answered() -> None:
    async with server(ok) as (port, seen):
        done = await asyncio.to_thread(run, OURS, port, REQUEST, None, connections=4, seconds=0.2)
    assert 4 < done.ok.sum() <= len(seen) <= len(done.records)  # what is sent at the very end may never be read
    assert done.rate() > 0


async def test_a_server_that_never_answers_does_not_hold_the_run() -> None:
    async def silent(_: asyncio.StreamWriter, __: int) -> None:
        pass

    async with server(silent) as (port, _):
        done = await asyncio.to_thread(run, OURS, port, REQUEST, np.zeros(2, np.int64), connections=1, seconds=0.1)
    assert done.records["status"].tolist() == [0, 0]
    assert done.goodput(1000) == 0


async def test_grpc_frames_are_spoken_by_the_book() -> None:
    """Preface, settings and windows first; the answer of the right stream ends the request, a PING is answered."""
    message = b"\0\0\0\0\4data"
    heard = bytearray()

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.readexactly(24))
        writer.write(frame(4, 0, 0, b"") + frame(6, 0, 0, b"pingping"))
        while head := await reader.read(9):
            size = int.from_bytes(head[:3], "big")
            stream = int.from_bytes(head[5:], "big")
            heard.extend(head + (await reader.readexactly(size)))
            if head[3] == 0:
                writer.write(frame(1, 4, stream, b"\x88") + frame(0, 0, stream, message) + frame(1, 5, stream, b"\x88"))
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        peer = replace(OURS, protocol="grpc")
        done = await asyncio.to_thread(
            run, peer, port, grpc_raw(CNN), np.zeros(3, np.int64), connections=1, seconds=5.0
        )
    assert done.ok.all()
    assert done.body == message
    assert heard.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert frame(6, 1, 0, b"pingping") in heard
    assert frame(4, 1, 0, b"") in heard
    assert frame(0, 1, 3, b"\0\0\0\0\x40" + CNN.row().tobytes()) in heard, "the second stream's message"
