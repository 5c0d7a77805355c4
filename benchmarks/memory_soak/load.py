"""Closed loops over HTTP and gRPC, part of whose requests are given up at any stage."""

import asyncio
import random
from collections import Counter
from typing import Any, Final

import grpc
import grpc.aio

from memory_soak.requests import JSON_SHARE, grpc_requests, http_requests
from superserve.client.address import Address
from superserve.client.http import HttpConnection, Response
from superserve.protocol.messages import INFERENCE

HTTP_CONNECTIONS: Final = 48
GRPC_CALLS: Final = 32
#: Of all requests: these are dearer for client and server alike.
GRPC_SHARE: Final = 0.1
#: A client that gives up does so within this time: before, while and after its batch runs.
_PATIENCE_S: Final = 0.006
_TIMEOUT_S: Final = 30.0
_ANSWERED, _GIVING_UP = 0, 1


class Load:
    """So many requests, and what became of them.

    Args:
        total: requests to make, unless it is stopped before.
        seed: of sizes and cancels.
        cancelled: share of the requests that are given up.

    Attributes:
        begun: requests so far.
        begun_grpc, cancelled_grpc: how many over gRPC, and how many of those were cancelled before their answer.
        outcomes: how many ended how: an HTTP status, a gRPC status, ``cancelled`` or ``lost``.
    """

    def __init__(self, total: int, seed: int, cancelled: float = 0.2) -> None:
        self.total = total
        self.cancelled = cancelled
        self.begun = 0
        self.begun_grpc = 0
        self.cancelled_grpc = 0
        self.outcomes: Counter[str] = Counter()
        self.random = random.Random(seed)  # noqa: S311  (sizes, not secrets)

    async def run(self, url: str, grpc_address: str) -> None:
        """Make them."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_HttpClients(self, url).run())
            tasks.create_task(_grpc_clients(self, grpc_address))

    def stop(self) -> None:
        """Make no more requests."""
        self.total = self.begun

    def take(self, *, over_grpc: bool) -> bool:
        """Whether there is one more to make, and if so count it."""
        if self.begun >= self.total:
            return False
        self.begun += 1
        self.begun_grpc += over_grpc
        return True

    def gives_up(self) -> bool:
        """Whether the client of the next request will."""
        return self.random.random() < self.cancelled


class _HttpClients:
    """One request at a time on each connection; giving up is closing it."""

    def __init__(self, load: Load, url: str) -> None:
        self._load = load
        self._address = Address.parse(url)
        self._binary, self._json = http_requests(url)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0
        self._done = asyncio.Event()

    async def run(self) -> None:
        for _ in range(HTTP_CONNECTIONS):
            await self._connect()
        await self._done.wait()

    def on_response(self, connection: HttpConnection, response: Response) -> None:
        """See `ConnectionOwner.on_response`."""
        self._load.outcomes[str(response.status)] += 1
        connection.token = -1
        if connection.usable:
            self._next(connection)

    def on_lost(self, connection: HttpConnection, message: str) -> None:  # noqa: ARG002
        """See `ConnectionOwner.on_lost`."""
        self._open -= 1
        if connection.token >= 0:
            self._load.outcomes["cancelled" if connection.token == _GIVING_UP else "lost"] += 1
        if self._load.begun < self._load.total:
            task = self._loop.create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif not self._open:
            self._done.set()

    async def _connect(self) -> None:
        self._open += 1
        _, connection = await self._loop.create_connection(
            lambda: HttpConnection(self), self._address.host, self._address.port
        )
        self._next(connection)

    def _next(self, connection: HttpConnection) -> None:
        if not self._load.take(over_grpc=False):
            connection.close()
            return
        draw = self._load.random
        request = draw.choice(self._json if draw.random() < JSON_SHARE else self._binary)
        if not self._load.gives_up():
            connection.token = _ANSWERED
            connection.send(request)
            return
        connection.token = _GIVING_UP
        if draw.random() < 0.25:  # while it is still sending
            request = request[: draw.randrange(1, len(request))]
        connection.send(request)
        self._loop.call_later(draw.random() * _PATIENCE_S, self._give_up, connection)

    def _give_up(self, connection: HttpConnection) -> None:
        """Unless it was answered; if its next request is to be given up as well, that is given up early."""
        if connection.token == _GIVING_UP and connection.usable:
            connection.close()


async def _grpc_clients(load: Load, address: str) -> None:
    requests = grpc_requests()
    async with grpc.aio.insecure_channel(address) as channel:
        method = channel.unary_unary(f"/{INFERENCE}/ModelInfer")
        async with asyncio.TaskGroup() as tasks:
            for _ in range(GRPC_CALLS):
                tasks.create_task(_grpc_client(load, method, requests))


async def _grpc_client(load: Load, method: Any, requests: list[bytes]) -> None:  # noqa: ANN401  (grpc has no types)
    while load.begun < load.total:
        if load.begun_grpc > GRPC_SHARE * load.begun:
            await asyncio.sleep(0.002)
        elif load.take(over_grpc=True):
            load.outcomes[await _grpc_call(load, method, load.random.choice(requests))] += 1


async def _grpc_call(load: Load, method: Any, request: bytes) -> str:  # noqa: ANN401
    call = method(request, timeout=_TIMEOUT_S)
    if load.gives_up():
        await asyncio.sleep(load.random.random() * _PATIENCE_S)
        call.cancel()
    try:
        await call
    except asyncio.CancelledError:
        load.cancelled_grpc += 1
        return "cancelled"
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"
