"""Sends requests at their instants over a pool of connections."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from superserve.client.address import Address
from superserve.client.http import HttpConnection, Response
from superserve.client.recorder import Recorder
from superserve.client.timerfd import PreciseTimer
from superserve.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from superserve.errors import UnreachableError

#: Connections opened at once: below the backlog that servers commonly listen with.
CONNECT_CHUNK: Final = 64
#: Requests sent before the loop turns to answers again, so that a burst delays neither its own tail nor them.
SEND_CHUNK: Final = 32
#: From the last connection opened ahead to the first request.
LEAD_NS: Final = 50 * NS_PER_MS


class Generator:
    """An open-loop schedule under way: owner of its connections and its timer.

    Each connection carries one request at a time. A request that finds none idle waits for the next one to become so,
    or for a new one; both count as lateness.

    Args:
        address: of the server.
        arrivals_ns: when to send, from the start of the run; never decreasing.
        render: the bytes of a request, by its index and its lateness in nanoseconds.
        recorder: told what comes of each request.
        max_connections: bound of the pool.

    Attributes:
        start_ns: the monotonic instant of the schedule's zero, once running.
        sent: number of requests on their way or answered.
        lateness_ns: per request, actual minus scheduled instant of sending.
    """

    def __init__(
        self,
        address: Address,
        arrivals_ns: list[int],
        render: Callable[[int, int], bytes],
        recorder: Recorder,
        max_connections: int,
    ) -> None:
        self._address = address
        self._tls = address.tls()
        self._arrivals = arrivals_ns
        self._render = render
        self._recorder = recorder
        self._max_connections = max_connections
        self._next = 0
        self._idle: list[HttpConnection] = []
        self._open: set[HttpConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._waiting: deque[int] = deque()  # bounded by the number of arrivals
        self._closed = False
        self._done = asyncio.Event()
        self._all_closed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._timer = PreciseTimer(self._loop, self._send_due)
        self.start_ns = 0
        self.sent = 0
        self.lateness_ns = [0] * len(arrivals_ns)

    async def open(self, count: int) -> None:
        """Open connections ahead of the first request.

        Raises:
            UnreachableError: if none can be made.
        """
        self._timer.start()
        for first in range(0, count, CONNECT_CHUNK):
            await asyncio.gather(*(self._connect() for _ in range(min(CONNECT_CHUNK, count - first))))
        if not self._idle:
            raise UnreachableError(f"no connection to {self._address.url}: is the server running there?")

    async def run(self, last_ns: int) -> None:
        """Send everything; return when all requests have ended, or at ``last_ns`` after the start."""
        self.start_ns = monotonic_ns() + LEAD_NS
        self._timer.arm(self.start_ns + self._arrivals[0])
        try:
            await asyncio.wait_for(self._done.wait(), (LEAD_NS + last_ns) / NS_PER_S)
        except TimeoutError:
            return

    async def close(self) -> None:
        """Drop all connections; idempotent."""
        self._closed = True
        self._timer.close()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for connection in self._open:
            connection.close()
        if self._open:
            await self._all_closed.wait()

    def elapsed_ns(self) -> int:
        """Time since the schedule's zero."""
        return monotonic_ns() - self.start_ns

    def _send_due(self) -> None:
        """Send what is due, a chunk at a time; then sleep until the next instant."""
        if self._closed:
            return
        for _ in range(SEND_CHUNK):
            if self._next == len(self._arrivals):
                return
            due_ns = self.start_ns + self._arrivals[self._next]
            if due_ns > monotonic_ns():
                self._timer.arm(due_ns)
                return
            self._next += 1
            self._dispatch(self._next - 1)
        self._loop.call_soon(self._send_due)

    def _dispatch(self, index: int) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                self._send(connection, index)
                return
        self._waiting.append(index)
        if len(self._open) + len(self._connecting) < self._max_connections:
            task = self._loop.create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def _send(self, connection: HttpConnection, index: int) -> None:
        lateness_ns = self.elapsed_ns() - self._arrivals[index]
        self.lateness_ns[index] = lateness_ns
        self.sent += 1
        connection.token = index
        connection.send(self._render(index, lateness_ns))

    def on_response(self, connection: HttpConnection, response: Response) -> None:
        """See `ConnectionOwner.on_response`."""
        index, connection.token = connection.token, -1
        if index < 0:
            connection.close()  # an answer to nothing: the peer does not speak the protocol
            return
        self._recorder.answered(index, self.elapsed_ns(), response)
        if connection.usable:
            self._reuse(connection)
        self._check_done()

    def on_lost(self, connection: HttpConnection, message: str) -> None:  # noqa: ARG002  (the log has no room for it)
        """See `ConnectionOwner.on_lost`: what was on its way has failed."""
        self._open.discard(connection)
        if self._closed:
            if not self._open:
                self._all_closed.set()
            return
        if connection.token >= 0:
            self._recorder.failed(connection.token, self.elapsed_ns())
            connection.token = -1
        self._fail_stranded()
        self._check_done()

    async def _connect(self) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: HttpConnection(self), self._address.host, self._address.port, ssl=self._tls
            )
        except OSError:
            self._fail_stranded(connecting=1)
            self._check_done()
            return
        if connection.usable:
            self._open.add(connection)
            self._reuse(connection)

    def _reuse(self, connection: HttpConnection) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _fail_stranded(self, connecting: int = 0) -> None:
        """Requests that wait have failed once no connection is left, or on its way, to carry them."""
        if self._open or len(self._connecting) > connecting:
            return
        while self._waiting:
            index = self._waiting.popleft()
            self.lateness_ns[index] = self.elapsed_ns() - self._arrivals[index]
            self.sent += 1
            self._recorder.failed(index, self.elapsed_ns())

    def _check_done(self) -> None:
        if self._recorder.complete:
            self._done.set()
