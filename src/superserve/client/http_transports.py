"""HTTP for `Client` and `AsyncClient`: keep-alive connections, each with one request on its way at a time."""

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final

from superserve.client.address import Address
from superserve.client.calls import Request, Response
from superserve.client.deadline import Deadline
from superserve.client.http import HttpConnection, ResponseReader
from superserve.client.http import Response as HttpResponse
from superserve.client.wire import request_head
from superserve.errors import UnavailableError, UnreachableError

_RECEIVE_BYTES: Final = 256 * 1024
_CLOSED: Final = "connection closed by the server"


def _bytes(address: Address, request: Request) -> bytes:
    length = sum(map(len, request.parts))
    return b"".join((request_head(address, request.path, length, request.headers), *request.parts))


def _response(response: HttpResponse) -> Response:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers.items()}
    return Response(response.status, headers, response.body)


def _unreachable(address: Address, error: OSError) -> UnreachableError:
    return UnreachableError(f"no connection to {address.url} ({error}): is the server running there?")


def _no_answer(address: Address, reason: object) -> UnavailableError:
    return UnavailableError(f"no answer from {address.url}: {reason}")


class _BlockingConnection(ResponseReader):
    """A connection whose socket blocks."""

    __slots__ = ("_poll", "_responses", "_socket", "usable")

    def __init__(self, connected: socket.socket) -> None:
        super().__init__()
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self._responses: list[HttpResponse] = []
        self.usable = True

    @property
    def stale(self) -> bool:
        """Whether the server has closed it, or said something that nobody asked for."""
        return bool(self._poll.poll(0))

    def exchange(self, data: bytes, deadline: Deadline) -> HttpResponse:
        """Send a request and wait for its response.

        Raises:
            TimeoutError: if the deadline passes.
            OSError: if the connection ends, or what comes is no response.
        """
        self._socket.settimeout(deadline.left_s())
        self._socket.sendall(data)
        while not self._responses:
            self._socket.settimeout(deadline.left_s())
            received = self._socket.recv(_RECEIVE_BYTES)
            if not received:
                raise ConnectionResetError(_CLOSED)
            self.feed(received)
            if self.failure:
                raise ConnectionAbortedError(self.failure)
        return self._responses.pop(0)

    def completed(self, response: HttpResponse, *, keeps_alive: bool) -> None:
        """See `ResponseReader.completed`."""
        self.usable = keeps_alive and not self._responses  # an answer to nothing: the peer does not speak the protocol
        self._responses.append(response)

    def close(self) -> None:
        """Drop it."""
        self._socket.close()


class BlockingHttp:
    """A connection per thread that is waiting, kept for the next request; thread-safe.

    Args:
        address: of the server.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._tls = address.tls()
        self._idle: list[_BlockingConnection] = []  # appending and popping are atomic

    def exchange(self, render: Callable[[], Request], deadline: Deadline) -> Response:
        """See `BlockingTransport.exchange`."""
        connection = self._connection(deadline)
        try:
            response = connection.exchange(_bytes(self._address, render()), deadline)
        except BaseException as error:
            connection.close()  # its answer, should one come, has nobody to go to
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                raise _no_answer(self._address, error) from error
            raise
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.close()
        return _response(response)

    def close(self) -> None:
        """Drop the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _connection(self, deadline: Deadline) -> _BlockingConnection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not connection.stale:
                return connection
            connection.close()
        left_s = deadline.left_s()
        try:
            connected = socket.create_connection((self._address.host, self._address.port), left_s)
            if self._tls is not None:
                connected = self._tls.wrap_socket(connected, server_hostname=self._address.host)
            return _BlockingConnection(connected)
        except TimeoutError:
            raise
        except OSError as error:
            raise _unreachable(self._address, error) from error


class AsyncHttp:
    """A pool of connections for one event loop.

    Args:
        address: of the server.
        max_connections: how many requests may be on their way at once; further ones wait for their turn.
    """

    def __init__(self, address: Address, max_connections: int) -> None:
        self._address = address
        self._tls = address.tls()
        self._turns = asyncio.Semaphore(max_connections)
        self._idle: list[HttpConnection] = []
        self._waiters: dict[HttpConnection, asyncio.Future[HttpResponse]] = {}
        self._closed: dict[HttpConnection, asyncio.Future[None]] = {}

    async def exchange(self, render: Callable[[], Request], deadline: Deadline) -> Response:
        """See `AsyncTransport.exchange`."""
        async with asyncio.timeout(deadline.left_s()), self._turns:
            connection = await self._connection()
            return _response(await self._send(connection, _bytes(self._address, render())))

    async def close(self) -> None:
        """Drop all connections; what is on its way gets an `UnavailableError`."""
        ends = list(self._closed.values())
        for connection in list(self._closed):
            connection.close()
        await asyncio.gather(*ends)

    async def _connection(self) -> HttpConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        host, port = self._address.host, self._address.port
        try:
            _, connection = await loop.create_connection(lambda: HttpConnection(self), host, port, ssl=self._tls)
        except OSError as error:
            raise _unreachable(self._address, error) from error
        if not connection.usable:
            raise _unreachable(self._address, ConnectionResetError(_CLOSED))
        self._closed[connection] = loop.create_future()
        return connection

    async def _send(self, connection: HttpConnection, request: bytes) -> HttpResponse:
        waiter = self._waiters[connection] = asyncio.get_running_loop().create_future()
        try:
            connection.send(request)
            response: HttpResponse = await waiter
        except BaseException as error:
            connection.close()  # its answer, should one come, has nobody to go to
            if isinstance(error, OSError):
                raise _no_answer(self._address, error) from error
            raise
        finally:
            self._waiters.pop(connection, None)
        if connection.usable:
            self._idle.append(connection)
        return response

    def on_response(self, connection: HttpConnection, response: HttpResponse) -> None:
        """See `ConnectionOwner.on_response`."""
        waiter = self._waiters.get(connection)
        if waiter is None:
            connection.close()  # an answer to nothing: the peer does not speak the protocol
        elif not waiter.done():
            waiter.set_result(response)

    def on_lost(self, connection: HttpConnection, message: str) -> None:
        """See `ConnectionOwner.on_lost`."""
        waiter, end = self._waiters.get(connection), self._closed.pop(connection, None)
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionResetError(message))
        if end is not None:
            end.set_result(None)
