"""The gRPC front end as a whole: a listening port and the services behind it."""

from typing import Any

import grpc

from superserve.clock import Clock
from superserve.errors import ConfigError
from superserve.frontend.common import Common
from superserve.frontend.grpc.authorization import TokenInterceptor
from superserve.frontend.grpc.health import HealthService
from superserve.frontend.grpc.inference import InferenceService
from superserve.frontend.grpc.reflection import reflection_handlers
from superserve.frontend.repository import ModelRepository
from superserve.serving.config import GrpcConfig
from superserve.serving.dataplane import DataPlane


class GrpcServer:
    """Serves the Open Inference Protocol, health checking and reflection over gRPC.

    Args:
        plane: what to serve.
        clock: stamps arrivals.
        config: limits.
        common: ids of requests, and memory for their messages.
        repository: what can be loaded, if anything.
    """

    def __init__(
        self,
        plane: DataPlane,
        clock: Clock,
        config: GrpcConfig,
        common: Common,
        repository: ModelRepository | None = None,
    ) -> None:
        self._handlers = (
            InferenceService(plane, clock, common, repository).handlers(),
            HealthService(plane, common.ids).handlers(),
            *reflection_handlers(),
        )
        self._access = common.access
        self._config = config
        self._server: Any = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port that it listens on; 0 if it does not."""
        return self._port

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            ConfigError: if the address cannot be listened on; the message names it and the flag. If the certificate
                cannot be used.
        """
        config, pem = self._config, self._access.pem()
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # else two servers share a port, and each gets half of the calls
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", config.max_metadata_bytes),
                ("grpc.max_concurrent_streams", config.max_streams_per_connection),
            ],
            maximum_concurrent_rpcs=config.max_calls,
            interceptors=(TokenInterceptor(self._access),),
        )
        server.add_generic_rpc_handlers(self._handlers)
        try:
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            if pem is None:
                self._port = server.add_insecure_port(address)
            else:
                self._port = server.add_secure_port(address, grpc.ssl_server_credentials([pem]))
        except RuntimeError:
            raise ConfigError(
                f"cannot listen on {host}, port {port} for gRPC: choose another with --grpc-port (0 takes a free one)"
            ) from None
        await server.start()
        self._server = server

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Accept nothing more, and end when what is under way is answered, or after ``timeout_s``.

        Idempotent; a second call with a shorter time cuts the first one short.
        """
        if self._server is not None:
            await self._server.stop(timeout_s)

    async def abort(self) -> None:
        """End every call at once."""
        await self.stop(0)
