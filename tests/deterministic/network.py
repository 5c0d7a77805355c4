"""A network in memory: bytes take their time, arrive in order, and stop where somebody stops reading."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from deterministic.loop import VirtualLoop

#: What a connection takes from the server before it asks it to stop; small, so that clients that read late are felt.
_HIGH_WATER_BYTES = 2_048


class Peer(Protocol):
    """The client's end of a connection."""

    def on_written(self, data: bytes) -> None:
        """The server has written this."""

    def on_arrival(self, position: int) -> None:
        """The server is about to read the client's bytes up to this position of the stream."""

    def on_closed(self) -> None:
        """The server is about to hear that the connection is gone, or has closed it."""


class _Listener:
    """Stands in for `asyncio.Server`."""

    def __init__(self, network: "Network", port: int) -> None:
        self._network = network
        self._port = port
        self.sockets = (self,)

    def getsockname(self) -> tuple[str, int]:
        return ("memory", self._port)

    def close(self) -> None:
        self._network.listeners.pop(self._port, None)

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""


class Network:
    """Who listens where.

    Args:
        loop: has the time.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.open = 0
        """Connections that the server has not been told the end of."""
        self.listeners: dict[int, Callable[[], asyncio.Protocol]] = {}
        loop.listen = self._listen

    def connect(self, port: int, peer: Peer) -> "Connection | None":
        """A connection to whoever listens; None if nobody does."""
        factory = self.listeners.get(port)
        if factory is None:
            return None
        self.open += 1
        return Connection(self, factory(), peer)

    def _listen(self, factory: Callable[[], asyncio.Protocol], port: int) -> _Listener:
        port = port or 8_000 + len(self.listeners)
        self.listeners[port] = factory
        return _Listener(self, port)


@dataclass
class _Uplink:
    """What is under way from the client to the server."""

    under_way: deque[bytes] = field(default_factory=deque)
    pieces: deque[bytes] = field(default_factory=deque)
    position: int = 0
    latest_ns: int = 0
    ended: bool = False


class Connection(asyncio.Transport):
    """One connection: the server's transport, and the client's handle.

    Args:
        network: whose it is.
        protocol: the server's.
        peer: the client's.
    """

    def __init__(self, network: Network, protocol: asyncio.Protocol, peer: Peer) -> None:
        super().__init__()
        self._network = network
        self._loop = network.loop
        self._protocol = protocol
        self._peer = peer
        self._up = _Uplink()
        self._reading = True
        self._peer_reads = True
        self._unread = 0
        self._full = False
        self._closing = False
        self._gone = False
        protocol.connection_made(self)

    # ---- the client's end

    def send(self, data: bytes, delay_ns: int) -> None:
        """Bytes for the server, which arrive after a while, behind what was sent before."""
        self._up.latest_ns = max(self._up.latest_ns, self._loop.now_ns + delay_ns)
        self._up.under_way.append(data)
        self._loop.at(self._up.latest_ns, self._arrive)

    def leave(self, *, reset: bool) -> None:
        """The client goes: at once, or behind what it has sent."""
        if reset:
            self._lose(ConnectionResetError("reset by the client"))
        else:
            self.send(b"", 0)

    def read(self, *, on: bool) -> None:
        """The client reads what the server writes, or leaves it where it is."""
        self._peer_reads = on
        if on:
            self._unread = 0
            self._relax()
            if self._closing:
                self._loop.call_soon(self._lose, None)

    # ---- the server's end

    def write(self, data: Any) -> None:
        """See `asyncio.WriteTransport`."""
        if self._gone or self._closing:
            return
        self._peer.on_written(bytes(data))
        if self._peer_reads:
            return
        self._unread += len(data)
        if self._unread > _HIGH_WATER_BYTES and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def close(self) -> None:
        """See `asyncio.BaseTransport`: what has been written still goes out."""
        if not self._closing:
            self._closing = True
            if not self._unread:
                self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """See `asyncio.WriteTransport`."""
        self._closing = True
        self._loop.call_soon(self._lose, None)

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self._closing or self._gone

    def can_write_eof(self) -> bool:
        """See `asyncio.WriteTransport`."""
        return True

    def write_eof(self) -> None:
        """See `asyncio.WriteTransport`."""

    def pause_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        assert self._reading, "paused twice"
        self._reading = False

    def resume_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        assert not self._reading, "resumed twice"
        self._reading = True
        self._loop.call_soon(self._deliver)

    # ---- in between

    def _arrive(self) -> None:
        if data := self._up.under_way.popleft():  # timers of one instant may come in any order
            self._up.pieces.append(data)
        else:
            self._up.ended = True
        self._deliver()

    def _deliver(self) -> None:
        up = self._up
        while up.pieces and self._reading and not self.is_closing():
            data = b"".join(up.pieces)  # as a socket does with what has come meanwhile
            up.pieces.clear()
            up.position += len(data)
            self._peer.on_arrival(up.position)
            self._protocol.data_received(data)
        if up.ended and self._reading and not self.is_closing():
            self._protocol.eof_received()
            self.close()

    def _relax(self) -> None:
        if self._full:
            self._full = False
            if not self._gone:
                self._protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        if not self._gone:
            self._gone = True
            self._network.open -= 1
            self._peer.on_closed()
            self._protocol.connection_lost(error)
