"""The HTTP front end as a whole: a listening socket and its connections."""

import asyncio
import errno
from typing import Final

from superserve.clock import NS_PER_S, Clock
from superserve.errors import ConfigError
from superserve.frontend.authorization import Access
from superserve.frontend.common import Common
from superserve.frontend.exchange import RequestHandler
from superserve.frontend.http import HttpProtocol
from superserve.frontend.known_heads import KnownHeads
from superserve.serving.config import HttpConfig

#: Connections count against their limit from the end of their handshake on, which must not take long therefore.
_HANDSHAKE_S: Final = 5.0


class HttpServer:
    """Accepts connections and ends them.

    Args:
        handler: answers requests.
        clock: time and timers.
        config: limits.
        common: what it shares with the server's other front ends; default: it has none.
        access: what it asks of those who connect; default: what all front ends do.
    """

    def __init__(
        self,
        handler: RequestHandler,
        clock: Clock,
        config: HttpConfig,
        common: Common | None = None,
        access: Access | None = None,
    ) -> None:
        self._handler = handler
        self._clock = clock
        self._config = config
        self._connections: dict[HttpProtocol, None] = {}
        """In the order in which they came: a set's would differ from run to run."""
        self._server: asyncio.Server | None = None
        self._all_closed: asyncio.Event | None = None
        common = common or Common()
        self._ids = common.ids
        self.access = access or common.access
        """What it asks of those who connect."""
        self.memory = common.memory
        """Of all bodies."""
        self.heads = KnownHeads()
        """Of requests that have been seen before."""

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None, "start the server first"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self, host: str, port: int, *, flag: str = "--http-port") -> None:
        """Listen; ``flag`` is how a user says where.

        Raises:
            ConfigError: if the address cannot be listened on; the message names it and the flag. If the certificate
                cannot be used.
        """
        loop = asyncio.get_running_loop()
        tls = self.access.tls()
        handshake_s = None if tls is None else min(self._config.read_timeout_s, _HANDSHAKE_S)
        try:
            self._server = await loop.create_server(
                self.connection, host, port, backlog=1024, ssl=tls, ssl_handshake_timeout=handshake_s
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"port {port} on {host} is in use: choose another with {flag} (0 takes a free one)"
                ) from None
            raise ConfigError(f"cannot listen on {host}, port {port} (--host, {flag}): {error}") from None

    async def stop(self, timeout_s: float = 5.0) -> None:
        """Accept nothing more, close each connection when what it received is answered; idempotent.

        Answers that a client does not take within ``timeout_s`` seconds are lost.
        """
        if self._server is None:
            return
        self._server.close()
        if self._connections:
            self._all_closed = asyncio.Event()
            for connection in list(self._connections):
                connection.stop()
            bound = self._clock.call_at(self._clock.now_ns() + int(timeout_s * NS_PER_S), self._all_closed.set)
            await self._all_closed.wait()
            bound.cancel()
        self.abort()
        await self._server.wait_closed()
        self._server = None

    def abort(self) -> None:
        """Close every connection at once."""
        for connection in list(self._connections):
            connection.abort()

    def connection(self) -> HttpProtocol:
        """The protocol of a new connection."""
        return HttpProtocol(self._handler, self, self._clock, self._config)

    def add(self, connection: HttpProtocol) -> bool:
        """See `Connections.add`."""
        if len(self._connections) >= self._config.max_connections:
            return False
        self._connections[connection] = None
        return True

    def discard(self, connection: HttpProtocol) -> None:
        """See `Connections.discard`."""
        self._connections.pop(connection, None)
        if not self._connections and self._all_closed is not None:
            self._all_closed.set()

    def next_request_id(self) -> bytes:
        """See `Connections.next_request_id`."""
        return self._ids.next()
