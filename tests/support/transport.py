"""An in-memory transport."""

import asyncio
from collections.abc import Callable
from typing import Any


class FakeTransport(asyncio.Transport):
    """Keeps what is written; ``lost`` is called when the protocol closes it."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.reading = True
        self.closed = False
        self.aborted = False
        self.half_closed = False
        self._protocol = protocol
        self.after_write: Callable[[], None] = lambda: None

    @property
    def sent(self) -> bytes:
        """Everything written so far."""
        return b"".join(self.written)

    def write(self, data: Any) -> None:
        """See `asyncio.WriteTransport`."""
        assert not self.half_closed, "written after write_eof"
        if not self.closed:
            self.written.append(bytes(data))
            self.after_write()

    def close(self) -> None:
        """See `asyncio.BaseTransport`; the protocol hears of it at once."""
        if not self.closed:
            self.closed = True
            self._protocol.connection_lost(None)

    def abort(self) -> None:
        """See `asyncio.WriteTransport`."""
        self.aborted = True
        self.close()

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self.closed

    def can_write_eof(self) -> bool:
        """See `asyncio.WriteTransport`."""
        return True

    def write_eof(self) -> None:
        """See `asyncio.WriteTransport`."""
        self.half_closed = True

    def pause_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        assert not self.reading, "resumed twice"
        self.reading = True
