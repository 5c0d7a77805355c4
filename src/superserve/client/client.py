"""Clients for Python programs: arrays in, arrays out, refusals as the exceptions that the server raised.

`Client` blocks, `AsyncClient` does not; otherwise they are the same::

    with Client("http://localhost:8000") as client:
        reply = client.infer("digits", {"image": image}, slo_ms=50)
        reply.outputs["logits"], reply.parameters.subnet
"""

import asyncio
import http.client
from collections.abc import Mapping
from typing import Any, Final, Self

import numpy.typing as npt

from superserve.client.http import HttpConnection, Response
from superserve.client.refusals import error_of
from superserve.client.wire import (
    JSON_LENGTH_HEADER,
    Address,
    InferReply,
    ModelMetadata,
    decode_infer,
    decode_metadata,
    encode_infer,
    model_path,
    parse_length,
    request_head,
    slo_parameters,
)
from superserve.errors import ConfigError, SuperServeError, UnavailableError

DEFAULT_TIMEOUT_S: Final = 30.0

_READY_PATH: Final = "/v2/health/ready"
_NOT_V2: Final = "is this an Open Inference Protocol V2 server?"
_Inputs = Mapping[str, npt.NDArray[Any]]


def _checked(address: Address, status: int, headers: Mapping[str, str], body: bytes) -> InferReply:
    if status != 200:
        raise error_of(status, headers, body)
    try:
        return decode_infer(body, parse_length(headers.get(JSON_LENGTH_HEADER)))
    except ValueError as error:
        raise SuperServeError(f"http://{address} sent no infer response ({error}): {_NOT_V2}") from error


def _metadata(address: Address, status: int, headers: Mapping[str, str], body: bytes) -> ModelMetadata:
    if status != 200:
        raise error_of(status, headers, body)
    try:
        return decode_metadata(body)
    except ValueError as error:
        raise SuperServeError(f"http://{address} sent no model metadata ({error}): {_NOT_V2}") from error


def _no_answer(address: Address, reason: object) -> UnavailableError:
    return UnavailableError(f"no answer from http://{address}: {str(reason) or 'timed out'}")


class Client:
    """A blocking client with one keep-alive connection; not thread-safe.

    Args:
        url: ``http://host:port``.
        timeout_s: how long to wait for any one answer. This is no deadline that the server knows of: see ``slo_ms``.
    """

    def __init__(self, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._address = Address.parse(url)
        self._http = http.client.HTTPConnection(self._address.host, self._address.port, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection; idempotent."""
        self._http.close()

    def ready(self) -> bool:
        """Whether the server is there and ready to serve."""
        try:
            return self._request("GET", _READY_PATH)[0] == 200
        except UnavailableError:
            return False

    def metadata(self, model: str) -> ModelMetadata:
        """Names, datatypes and shapes of a model's tensors.

        Raises:
            UnknownModelError: if the server has no such model.
            UnavailableError: if it does not answer.
        """
        return _metadata(self._address, *self._request("GET", model_path(model)))

    def infer(
        self,
        model: str,
        inputs: _Inputs,
        *,
        slo_ms: float | None = None,
        min_accuracy: float = 0.0,
        priority: int = 0,
        request_id: str = "",
    ) -> InferReply:
        """Ask for one inference.

        Args:
            model: its name.
            inputs: by tensor name; the leading dimension is rows.
            slo_ms: deadline from the request's arrival at the server; None leaves it to the model's own.
            min_accuracy: accuracy floor in per cent: no subnet below it may answer.
            priority: 1 is the most urgent, 0 the default, larger numbers are given up first.
            request_id: echoed in the reply.

        Returns:
            Outputs by tensor name, and what the server says of how it answered.

        Raises:
            InvalidRequestError: if the request does not fit the model.
            UnknownModelError: if the server has no such model.
            RefusedError: if the server ended the request without an answer; the subclass says why.
            WorkerError: if the server failed on it.
            UnavailableError: if it does not answer at all.
        """
        header, raw = encode_infer(inputs, slo_parameters(slo_ms, min_accuracy, priority), request_id)
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))}
        answer = self._request("POST", model_path(model, "infer"), header + raw, headers)
        return _checked(self._address, *answer)

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        try:
            self._http.request(method, path, body, headers or {})
            response = self._http.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        except (OSError, http.client.HTTPException) as error:
            self._http.close()  # whatever is still on its way must not be taken for the next answer
            raise _no_answer(self._address, error) from error


class AsyncClient:
    """An asyncio client with a pool of keep-alive connections.

    Args:
        url: ``http://host:port``.
        timeout_s: how long to wait for any one answer. This is no deadline that the server knows of: see ``slo_ms``.
        max_connections: how many requests may be on their way at once; further ones wait for their turn.
    """

    def __init__(self, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S, max_connections: int = 64) -> None:
        if max_connections < 1:
            raise ConfigError(f"max_connections = {max_connections}: at least one is needed")
        self._address = Address.parse(url)
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(max_connections)
        self._idle: list[HttpConnection] = []
        self._waiters: dict[HttpConnection, asyncio.Future[Response]] = {}
        self._closed: dict[HttpConnection, asyncio.Future[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop all connections; what is on its way gets an `UnavailableError`. Idempotent."""
        ends = list(self._closed.values())
        for connection in list(self._closed):
            connection.close()
        await asyncio.gather(*ends)

    async def ready(self) -> bool:
        """Whether the server is there and ready to serve."""
        try:
            return (await self._get(_READY_PATH))[0] == 200
        except UnavailableError:
            return False

    async def metadata(self, model: str) -> ModelMetadata:
        """See `Client.metadata`."""
        return _metadata(self._address, *await self._get(model_path(model)))

    async def infer(
        self,
        model: str,
        inputs: _Inputs,
        *,
        slo_ms: float | None = None,
        min_accuracy: float = 0.0,
        priority: int = 0,
        request_id: str = "",
    ) -> InferReply:
        """See `Client.infer`. Cancelling this drops the connection, which tells the server to give up."""
        header, raw = encode_infer(inputs, slo_parameters(slo_ms, min_accuracy, priority), request_id)
        size = len(header) + len(raw)
        head = request_head(
            "POST", model_path(model, "infer"), self._address, json_length=len(header), body_length=size
        )
        return _checked(self._address, *await self._exchange(head + header + raw))

    async def _get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        return await self._exchange(request_head("GET", path, self._address))

    async def _exchange(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        async with self._turns:
            try:
                async with asyncio.timeout(self._timeout_s):
                    response = await self._send(await self._connection(), request)
            except OSError as error:  # TimeoutError is one
                raise _no_answer(self._address, error) from error
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers.items()}
        return response.status, headers, response.body

    async def _connection(self) -> HttpConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: HttpConnection(self), self._address.host, self._address.port
        )
        if not connection.usable:
            raise ConnectionResetError("connection closed by the server")
        self._closed[connection] = loop.create_future()
        return connection

    async def _send(self, connection: HttpConnection, request: bytes) -> Response:
        waiter = self._waiters[connection] = asyncio.get_running_loop().create_future()
        try:
            connection.send(request)
            response: Response = await waiter
        except BaseException:
            connection.close()  # its answer, should one come, has nobody to go to
            raise
        finally:
            self._waiters.pop(connection, None)
        if connection.usable:
            self._idle.append(connection)
        return response

    def on_response(self, connection: HttpConnection, response: Response) -> None:
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
