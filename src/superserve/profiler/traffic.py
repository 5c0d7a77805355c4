"""Router-like work beside the worker while it is profiled.

An idle machine's latencies mispredict a loaded one: a busy router shares caches, memory bandwidth and clock speed with
the workers. So while cells are timed, the router's core answers HTTP requests: this process parses and answers, a
child process (`traffic_client`) on the same core sends, as clients on this machine would, so many of them that the two
together keep the core busy for a set share of the time.
"""

import asyncio
import signal
import socket
import subprocess
from typing import Final, Protocol, cast

import httptools

from superserve.clock import monotonic_ns, process_cpu_ns
from superserve.errors import WorkerError
from superserve.serving.child import spawn

#: Share of the router's core that the traffic takes: the middle of what the demo's load makes of it.
DEFAULT_SHARE: Final = 0.4

#: So many requests are seen through before the traffic counts as flowing again.
_SETTLED: Final = 20

#: The client starts in a fraction of a second.
_PATIENCE_S: Final = 60.0

_ANSWER: Final = bytes(40)


class Traffic(Protocol):
    """Something that keeps the router's core busy, or not."""

    async def start(self) -> None:
        """Get ready; nothing flows yet."""

    async def resume(self) -> None:
        """Return when it flows."""

    def pause(self) -> None:
        """Stop it flowing."""

    def stop(self) -> None:
        """End it; idempotent."""


class RouterTraffic:
    """HTTP requests between a child process and this process's event loop, on one core.

    Args:
        core: the router's core, on which this process should be.
        seed: of the times between requests.
        share: of the core that the traffic should take.
    """

    def __init__(self, core: int, seed: int, share: float = DEFAULT_SHARE) -> None:
        self._core = core
        self._seed = seed
        self._share = share
        self._process: subprocess.Popen[bytes] | None = None
        self._server = _Server()
        self._flowing_ns = 0
        self._cpu_ns = 0
        self._since = (0, 0)

    @property
    def measured_share(self) -> float:
        """The share of the core that this process and the child took while traffic flowed, so far."""
        return self._cpu_ns / self._flowing_ns if self._flowing_ns else 0.0

    @property
    def pid(self) -> int | None:
        """The child's process id while there is one."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """See `Traffic.start`.

        Raises:
            WorkerError: if the child cannot be started.
        """
        ours, theirs = socket.socketpair()
        arguments = ["--socket", str(theirs.fileno()), "--share", str(self._share), "--seed", str(self._seed)]
        with theirs:
            try:
                self._process = spawn(
                    "superserve.profiler.traffic_client", arguments, pass_fds=(theirs.fileno(),), core=self._core
                )
            except OSError as error:
                ours.close()
                raise WorkerError(f"cannot start router traffic: {error}") from error
        await asyncio.get_running_loop().create_connection(lambda: self._server, sock=ours)
        await self._server.seen(_SETTLED)
        self._signal(signal.SIGSTOP)

    async def resume(self) -> None:
        """See `Traffic.resume`."""
        self._signal(signal.SIGCONT)
        await self._server.seen(_SETTLED)
        self._since = monotonic_ns(), self._spent_ns()

    def pause(self) -> None:
        """See `Traffic.pause`."""
        self._signal(signal.SIGSTOP)
        began_ns, spent_ns = self._since
        self._flowing_ns += monotonic_ns() - began_ns
        self._cpu_ns += self._spent_ns() - spent_ns

    def stop(self) -> None:
        """See `Traffic.stop`."""
        self._server.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    def _spent_ns(self) -> int:
        """Processor time of this process and of the child."""
        return process_cpu_ns() + self._server.client_cpu_ns


class _Server(asyncio.Protocol):
    """Answers each request with what a router's answer weighs, and counts them."""

    def __init__(self) -> None:
        self.client_cpu_ns = 0
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._body = bytearray()
        self._count = 0
        self._target = 0
        self._reached: asyncio.Future[None] | None = None

    async def seen(self, count: int) -> None:
        """Return when so many more requests have been answered.

        Raises:
            WorkerError: if the client ends before.
            TimeoutError: if it does nothing at all.
        """
        self._reached = asyncio.get_running_loop().create_future()
        self._target = self._count + count
        async with asyncio.timeout(_PATIENCE_S):
            await self._reached

    def close(self) -> None:
        """Close the connection; the client ends."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reached is not None and not self._reached.done():
            self._reached.set_exception(WorkerError(f"the traffic client ended unexpectedly ({exc or 'closed'})"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"x-cpu-ns":
            self.client_cpu_ns = int(value)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        assert self._transport is not None
        bytes(self._body)  # the copy that a router makes into a worker's slot
        self._body.clear()
        head = f"HTTP/1.1 200 OK\r\nx-cpu-ns: {process_cpu_ns()}\r\ncontent-length: {len(_ANSWER)}\r\n\r\n"
        self._transport.write(head.encode() + _ANSWER)
        self._count += 1
        if self._count == self._target and self._reached is not None:
            self._reached.set_result(None)
