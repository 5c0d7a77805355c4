"""gRPC for `Client` and `AsyncClient`: one channel, whose connection carries all calls.

gRPC does not tell whether a call that failed had been sent. So a call is made only on a channel that is connected:
what fails before that was certainly not sent.
"""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc

from superserve.client.address import Address
from superserve.client.calls import Request, Response
from superserve.client.deadline import Deadline
from superserve.client.http import MAX_BODY_BYTES
from superserve.client.refusals import GRPC_STATUS, RETRY_AFTER, http_status
from superserve.client.wire import OUTCOME_HEADER
from superserve.errors import UnavailableError, UnreachableError
from superserve.protocol.messages import INFERENCE

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),  # the client's own know the deadline and the budget
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

_HARMLESS: Final = f"/{INFERENCE}/ServerLive"

_READY: Final = grpc.ChannelConnectivity.READY
_HOPELESS: Final = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


def _unreachable(address: Address) -> UnreachableError:
    return UnreachableError(f"no connection to {address.url}: is the server running there?")


def _credentials(address: Address) -> Any:
    """For a channel; None without TLS."""
    if address.tls() is None:
        return None
    return grpc.ssl_channel_credentials(Path(address.ca_file).read_bytes() if address.ca_file else None)


def _metadata(address: Address, request: Request) -> tuple[tuple[str, str], ...]:
    told = tuple(request.headers.items())
    return (("authorization", f"Bearer {address.token}"), *told) if address.token else told


def _headers(metadata: Any) -> dict[str, str]:
    return {key: str(value) for key, value in metadata or ()}


def _refused(error: Any) -> Response:
    """The response for a call that failed.

    Raises:
        TimeoutError: if its deadline passed here rather than in the server.
    """
    name, details, headers = error.code().name, error.details() or "", _headers(error.trailing_metadata())
    if name == "DEADLINE_EXCEEDED" and OUTCOME_HEADER not in headers:
        raise TimeoutError from error
    return Response(http_status(name, details), headers | {GRPC_STATUS: name}, details.encode())


class BlockingGrpc:
    """A channel whose calls block; thread-safe.

    Args:
        address: of the server.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._channel: Any = None
        self._methods: dict[str, Any] = {}
        self._is_connected = False
        """As far as is known: calls that find it otherwise say so."""

    def exchange(self, render: Callable[[], Request], deadline: Deadline) -> Response:
        """See `BlockingTransport.exchange`."""
        if not self._is_connected:
            self._connect(deadline)
        request = render()
        try:
            data, done = self._call(self._method(request.path), request, deadline.left_s(), self._address)
        except grpc.RpcError as error:
            response = _refused(error)
            self._is_connected = response.status != 503 or RETRY_AFTER in response.headers
            return response
        return Response(200, _headers(done.trailing_metadata()), data)

    def close(self) -> None:
        """Close the channel; what is on its way is cancelled."""
        with self._lock:
            channel, self._channel = self._channel, None
            self._methods, self._is_connected = {}, False
        if channel is not None:
            channel.close()

    def _open(self) -> Any:
        with self._lock:
            if self._channel is None:
                credentials = _credentials(self._address)
                self._channel = (
                    grpc.insecure_channel(str(self._address), _OPTIONS)
                    if credentials is None
                    else grpc.secure_channel(str(self._address), credentials, _OPTIONS)
                )
            return self._channel

    def _connect(self, deadline: Deadline) -> None:
        """Ask something harmless: a blocking channel tells its state only through a thread that polls."""
        try:
            self._method(_HARMLESS).with_call(b"", timeout=deadline.left_s())
        except grpc.RpcError as error:
            response = _refused(error)
            if response.status == 503 and RETRY_AFTER not in response.headers:
                raise _unreachable(self._address) from error
        self._is_connected = True

    def _method(self, path: str) -> Any:
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._open().unary_unary(path)
        return method

    @staticmethod
    def _call(method: Any, request: Request, left_s: float, address: Address) -> tuple[bytes, Any]:
        data, metadata = b"".join(request.parts), _metadata(address, request)
        if request.is_bounded:
            answer, done = method.with_call(data, timeout=left_s, metadata=metadata)
            return answer, done
        call = method.future(data, metadata=metadata)
        try:
            return call.result(timeout=left_s), call
        except grpc.FutureTimeoutError:
            raise TimeoutError from None
        finally:
            call.cancel()  # no effect on one that has ended


class AsyncGrpc:
    """A channel for one event loop.

    Args:
        address: of the server.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._channel: Any = None
        self._methods: dict[str, Any] = {}

    async def exchange(self, render: Callable[[], Request], deadline: Deadline) -> Response:
        """See `AsyncTransport.exchange`. Cancelling this cancels the call."""
        async with asyncio.timeout(deadline.left_s()):
            await self._connect()
            request = render()
            left_s = deadline.left_s() if request.is_bounded else None
            metadata = _metadata(self._address, request)
            call = self._method(request.path)(b"".join(request.parts), timeout=left_s, metadata=metadata)
            try:
                data = await call
            except grpc.aio.AioRpcError as error:
                return _refused(error)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                raise UnavailableError(f"no answer from {self._address.url}: the client was closed") from None
            return Response(200, _headers(await call.trailing_metadata()), data)

    async def close(self) -> None:
        """Close the channel; what is on its way is cancelled."""
        channel, self._channel = self._channel, None
        self._methods = {}
        if channel is not None:
            await channel.close()

    async def _connect(self) -> None:
        if self._channel is None:
            credentials = _credentials(self._address)
            self._channel = (
                grpc.aio.insecure_channel(str(self._address), _OPTIONS)
                if credentials is None
                else grpc.aio.secure_channel(str(self._address), credentials, _OPTIONS)
            )
        channel = self._channel
        while (state := channel.get_state(try_to_connect=True)) is not _READY:
            if state in _HOPELESS:
                raise _unreachable(self._address)
            await channel.wait_for_state_change(state)

    def _method(self, path: str) -> Any:
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._channel.unary_unary(path)
        return method
