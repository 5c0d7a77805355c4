"""A V2 infer server that runs no model: what the clients' tests talk to.

Run as a script it serves on a free port, which it prints, until its standard input closes.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
import msgspec
import numpy as np
import uvloop


@dataclass
class Heard:
    """One request as the server read it."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        length = int(self.headers.get("inference-header-content-length") or len(self.body))
        decoded: dict[str, Any] = json.loads(self.body[:length])
        return decoded

    @property
    def raw(self) -> bytes:
        return self.body[int(self.headers["inference-header-content-length"]) :]


def http(status: int, body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def logits_reply(label: int, *, subnet: str = "s0", accuracy: float = 90.0, **parameters: Any) -> bytes:
    """A binary answer whose argmax over ten classes is ``label``."""
    logits = np.zeros((1, 10), "<f4")
    logits[0, label] = 1.0
    said = {"superserve_subnet": subnet, "superserve_accuracy": accuracy, "superserve_batch_size": 2, "slo_met": True}
    header = msgspec.json.encode(
        {
            "model_name": "m",
            "outputs": [
                {"name": "logits", "datatype": "FP32", "shape": [1, 10], "parameters": {"binary_data_size": 40}}
            ],
            "parameters": {**said, **parameters},
        }
    )
    extra = f"inference-header-content-length: {len(header)}\r\nx-superserve-outcome: served\r\n"
    return http(200, header + logits.tobytes(), extra)


@dataclass
class EchoServer:
    """Answers each request with what ``answer`` makes of it; None drops the connection."""

    answer: Callable[[Heard], bytes | None]
    delay_s: float = 0.0
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    peers: "set[_Peer]" = field(default_factory=set)

    async def start(self) -> str:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Peer(self), "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> str:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        self.shut()
        await self._server.wait_closed()

    def shut(self) -> None:
        """Stop listening and drop every connection, as a server does that is killed."""
        self._server.close()
        for peer in list(self.peers):
            peer.abort()


class _Peer(asyncio.Protocol):
    def __init__(self, server: EchoServer) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections += 1
        self._server.peers.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._server.peers.discard(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._path, self._headers, self._body = b"", dict[str, str](), b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        heard = Heard(self._path.decode(), self._headers, self._body)
        self._server.heard.append(heard)
        answer = self._server.answer(heard)
        if self._server.delay_s:
            asyncio.get_running_loop().call_later(self._server.delay_s, self._write, answer)
        else:
            self._write(answer)

    def _write(self, answer: bytes | None) -> None:
        if answer is None:
            self._transport.abort()
        else:
            self._transport.write(answer)


async def _main() -> None:
    canned = logits_reply(3)
    server = EchoServer(lambda _: canned)
    server.heard = _Nowhere()
    print(await server.start(), flush=True)  # noqa: T201  (how its parent learns the port)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


class _Nowhere(list[Heard]):
    def append(self, heard: Heard) -> None:
        """Keep nothing: a load test must not fill the memory."""


if __name__ == "__main__":
    uvloop.run(_main())
