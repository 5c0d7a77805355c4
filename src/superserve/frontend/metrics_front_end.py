"""The port that Prometheus reads from."""

import logging
from collections.abc import Callable
from typing import Final

from superserve.clock import Clock
from superserve.errors import ConfigError
from superserve.frontend.common import Common
from superserve.frontend.http_server import HttpServer
from superserve.frontend.metrics_page import MetricsRoutes
from superserve.serving.config import Config
from superserve.serving.dataplane import DataPlane

_logger = logging.getLogger(__name__)

#: Triton's.
DEFAULT_PORT: Final = 8002


class MetricsFrontEnd:
    """Serves ``/metrics`` on a port of its own, on the usual one if that is free, or not at all.

    Args:
        plane: the models.
        clock: time and timers.
        config: says where; its limits for HTTP hold here, too.
        common: what is told of besides the models.
        headroom: see `superserve.frontend.metrics_page.ModelCollector`.
    """

    def __init__(
        self,
        plane: DataPlane,
        clock: Clock,
        config: Config,
        common: Common,
        headroom: Callable[[], float] | None = None,
    ) -> None:
        self._config = config
        routes = MetricsRoutes(plane, common.memory, headroom)
        self._server = HttpServer(routes, clock, config.http, access=common.access)
        self._listening = False

    @property
    def port(self) -> int:
        """The port that it listens on; 0 if it does not."""
        return self._server.port if self._listening else 0

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: if the port that is configured cannot be listened on.
        """
        wanted = self._config.server.metrics_port
        port = DEFAULT_PORT if wanted is None else wanted
        try:
            await self._server.start(self._config.server.host, port, flag="--metrics-port")
        except ConfigError as error:
            if wanted is not None:
                raise
            _logger.warning("no metrics: %s", error)
            return
        self._listening = True

    async def stop(self) -> None:
        """See `HttpServer.stop`."""
        self._listening = False
        await self._server.stop()

    def abort(self) -> None:
        """See `HttpServer.abort`."""
        self._server.abort()
