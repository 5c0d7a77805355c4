"""The gRPC front end as a configuration wants it: on a port, on the usual one if that is free, or not at all."""

import logging
from typing import TYPE_CHECKING, Final

from superserve.clock import Clock
from superserve.errors import ConfigError
from superserve.frontend.common import Common
from superserve.frontend.repository import ModelRepository
from superserve.serving.config import Config
from superserve.serving.dataplane import DataPlane

if TYPE_CHECKING:
    from superserve.frontend.grpc.server import GrpcServer

_logger = logging.getLogger(__name__)

#: What clients of the protocol assume.
DEFAULT_PORT: Final = 8001


class GrpcFrontEnd:
    """Starts a `superserve.frontend.grpc.server.GrpcServer` if one is wanted, and imports gRPC only then.

    Args:
        plane: what to serve.
        clock: stamps arrivals.
        config: says whether and where.
        common: ids of requests, and memory for their messages.
        repository: what can be loaded, if anything.
    """

    def __init__(
        self,
        plane: DataPlane,
        clock: Clock,
        config: Config,
        common: Common,
        repository: ModelRepository | None = None,
    ) -> None:
        self._repository = repository
        self._plane = plane
        self._clock = clock
        self._config = config
        self._common = common
        self._server: GrpcServer | None = None

    @property
    def port(self) -> int:
        """The port that it listens on; 0 if it does not."""
        return self._server.port if self._server else 0

    async def start(self) -> None:
        """Listen, if configured to.

        Raises:
            ConfigError: if the port that is configured cannot be listened on.
        """
        if not self._config.grpc.enabled:
            return
        from superserve.frontend.grpc.server import GrpcServer  # noqa: PLC0415  (takes 0.2 s and 20 MB)

        server = GrpcServer(self._plane, self._clock, self._config.grpc, self._common, self._repository)
        wanted = self._config.server.grpc_port
        try:
            await server.start(self._config.server.host, DEFAULT_PORT if wanted is None else wanted)
        except ConfigError as error:
            if wanted is not None:
                raise
            _logger.warning("no gRPC: %s", error)
            return
        self._server = server

    async def stop(self, timeout_s: float = 5.0) -> None:
        """See `GrpcServer.stop`."""
        if self._server is not None:
            await self._server.stop(timeout_s)
