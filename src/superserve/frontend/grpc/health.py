"""gRPC's health checking protocol: ``grpc.health.v1.Health``."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from superserve.errors import InvalidRequestError, UnknownModelError
from superserve.frontend.grpc.answers import Context, answering
from superserve.frontend.request_ids import RequestIds
from superserve.protocol.messages import HEALTH, INFERENCE, HealthCheckRequest, HealthCheckResponse
from superserve.serving.dataplane import DataPlane


class HealthService:
    """Says of the server as a whole (``""``) and of the inference service whether they serve.

    Args:
        plane: whose readiness it tells.
        ids: of requests.
    """

    def __init__(self, plane: DataPlane, ids: RequestIds) -> None:
        self._plane = plane
        self._ids = ids

    def handlers(self) -> Any:
        """What a gRPC server needs to serve it."""
        return grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.unary_unary_rpc_method_handler(answering(self._ids, self._check)),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    async def _check(self, data: bytes, _: Context, _id: str) -> bytes:
        status = self._status(_service(data))
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise UnknownModelError(f"no service {_service(data)!r} here: ask for '' or {INFERENCE!r}")
        return _response(status)

    async def _watch(self, data: bytes, _: Context) -> AsyncIterator[bytes]:
        """The status, and each later one."""
        service = _service(data)
        changed = asyncio.Event()
        self._plane.watchers.add(changed.set)
        try:
            told = None
            while True:
                changed.clear()
                status = self._status(service)
                if status != told:
                    told = status
                    yield _response(status)
                await changed.wait()
        finally:
            self._plane.watchers.discard(changed.set)

    def _status(self, service: str) -> int:
        if service not in {"", INFERENCE}:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        return int(HealthCheckResponse.SERVING if self._plane.ready else HealthCheckResponse.NOT_SERVING)


def _service(data: bytes) -> str:
    try:
        return str(HealthCheckRequest.FromString(data).service)
    except DecodeError as error:
        raise InvalidRequestError(f"not a HealthCheckRequest: {error}") from None


def _response(status: int) -> bytes:
    return bytes(HealthCheckResponse(status=status).SerializeToString())
