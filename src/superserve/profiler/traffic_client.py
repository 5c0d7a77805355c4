"""The sending half of `RouterTraffic`, a process of its own.

    ``python -m superserve.profiler.traffic_client --socket FD --share 0.4 --seed 0``

It sends open-loop, at random times, and sets its rate such that sender and answerer together take the wanted share of
their core: every answer carries the processor time of the process that gives it.
"""

import argparse
import asyncio
import socket
from typing import Final, cast

import httptools
import numpy as np
import uvloop

from superserve.clock import NS_PER_MS, NS_PER_S, monotonic_ns, process_cpu_ns
from superserve.serving.child import adopt

_BODY: Final = bytes(3 * 1024)
_FIRST_RATE: Final = 1_000.0
_RATES: Final = (50.0, 50_000.0)

#: The rate is set anew this often.
_CONTROL_NS: Final = 50 * NS_PER_MS

#: More requests than this do not wait for answers.
_MAX_IN_FLIGHT: Final = 64


def next_rate(rate: float, share: float, wanted: float) -> float:
    """The rate that would have taken the wanted share of the core, by at most a factor of two away."""
    low, high = _RATES
    return min(max(rate * min(max(wanted / max(share, 1e-3), 0.5), 2.0), low), high)


class _Client(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, share: float, rng: np.random.Generator) -> None:
        self._loop = loop
        self._share = share
        self._rng = rng
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._rate = _FIRST_RATE
        self._in_flight = 0
        self._due_ns = 0
        self._server_cpu_ns = 0
        self._since_ns = 0
        self._since_cpu_ns = 0
        self.ended = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._due_ns = monotonic_ns()
        self._tick()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (either way the router is gone)
        self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-cpu-ns":
            self._server_cpu_ns = int(value)

    def on_message_complete(self) -> None:
        self._in_flight -= 1

    def _tick(self) -> None:
        now_ns = monotonic_ns()
        if now_ns - self._since_ns >= _CONTROL_NS:
            self._set_rate(now_ns)
        while self._due_ns <= now_ns:
            self._send()
            self._due_ns += max(1, round(self._rng.exponential(NS_PER_S / self._rate)))
        if not self.ended.done():
            self._loop.call_later((self._due_ns - now_ns) / NS_PER_S, self._tick)

    def _send(self) -> None:
        if self._in_flight >= _MAX_IN_FLIGHT:
            return
        self._in_flight += 1
        head = (
            "POST /v2/models/m/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\n"
            f"x-cpu-ns: {process_cpu_ns()}\r\ncontent-length: {len(_BODY)}\r\n\r\n"
        )
        self._transport.write(head.encode() + _BODY)

    def _set_rate(self, now_ns: int) -> None:
        cpu_ns = process_cpu_ns() + self._server_cpu_ns
        wall_ns = now_ns - self._since_ns
        if wall_ns < 2 * _CONTROL_NS:
            self._rate = next_rate(self._rate, (cpu_ns - self._since_cpu_ns) / wall_ns, self._share)
        else:  # this process was stopped meanwhile, or has just started: nothing to learn, nothing to catch up on
            self._due_ns = now_ns
        self._since_ns, self._since_cpu_ns = now_ns, cpu_ns


async def _run(sock: socket.socket, share: float, seed: int) -> None:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: _Client(loop, share, np.random.default_rng(seed)), sock=sock)
    await client.ended


def main() -> None:
    """Send until the other end of the socket is closed."""
    adopt()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the connection")
    parser.add_argument("--share", type=float, required=True, help="share of the core that the traffic should take")
    parser.add_argument("--seed", type=int, required=True, help="of the times between requests")
    args = parser.parse_args()
    uvloop.run(_run(socket.socket(fileno=args.socket), args.share, args.seed))


if __name__ == "__main__":
    main()
