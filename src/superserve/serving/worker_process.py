"""One worker process as its router sees it: asked for, spoken to, and buried."""

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from superserve.serving.fork_server import Forks
from superserve.serving.ipc import Channel, FromWorker, Launch, Reside, Setup, Started, router_channel

#: How many of its last lines on standard error are told with a worker's death.
_LAST_LINES: Final = 8

_READ_BYTES: Final = 65_536

#: A line on standard error without an end is cut here.
_LINE_BYTES: Final = 4_096


class ProcessOwner(Protocol):
    """Who is told what a worker process does, in the event loop's thread."""

    def on_message(self, message: FromWorker) -> None:
        """It sent a message."""

    def on_exit(self, reason: str) -> None:
        """It has ended, all its messages have been told, and nothing of it is left; last call."""

    def on_stderr(self, line: str) -> None:
        """It wrote a line to its standard error or output."""


class WorkerProcess:
    """A worker process from its start to its end.

    Args:
        setups: what it is to run, one for each model.
        core: the core it is pinned to.
        owner: who hears of it.
        forks: where it comes from.
        background: whether it is to load only while its core has nothing else to do.
    """

    def __init__(
        self, setups: Sequence[Setup], core: int, owner: ProcessOwner, forks: Forks, *, background: bool = False
    ) -> None:
        self.pid: int | None = None
        """Its process id, as soon as it has told it."""
        self._setups = setups
        self._core = core
        self._owner = owner
        self._forks = forks
        self._background = background
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._partial_line = b""
        self._cause = ""
        self._trusted = True
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop
        self._channel: Channel[FromWorker]
        self._stderr_fd = -1
        self._pid_fd = -1

    def start(self, loop: asyncio.AbstractEventLoop, memory_fd: int) -> None:
        """Have it forked; the shared memory stays the caller's.

        Raises:
            OSError: if the operating system refuses; nothing is left behind.
        """
        self._loop = loop
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._stderr_fd, stderr_end = os.pipe()
            except OSError:
                ours.close()
                raise
            try:
                self._forks.fork(self._core, (theirs.fileno(), memory_fd, stderr_end), background=self._background)
            except OSError:
                ours.close()
                os.close(self._stderr_fd)
                raise
            finally:
                os.close(stderr_end)
        ours.settimeout(0)  # never blocks
        os.set_blocking(self._stderr_fd, False)
        self._channel = router_channel(ours)
        loop.add_reader(self._channel.fileno(), self._on_readable)
        loop.add_reader(self._stderr_fd, self._on_stderr)
        for setup in self._setups:
            self._channel.send(setup)

    def send(self, message: Launch | Reside) -> None:
        """Send a batch's descriptor, or what is to be resident; if the process has died, its owner hears of that."""
        with suppress(OSError):
            self._channel.send(message)

    def ask_to_stop(self) -> None:
        """Let it end after the batch it runs, if any."""
        self._stopping = True
        self._channel.half_close()

    def kill(self, cause: str) -> None:
        """End it now; ``cause`` becomes part of the reason."""
        self._cause = self._cause or cause
        if self.pid is not None:
            self._forks.kill(self.pid)
        else:  # whatever keeps it from being forked ends with the template
            self._forks.end()

    def distrust(self, cause: str) -> None:
        """End it now, and believe nothing of what it may have said besides."""
        self._trusted = False
        self.kill(cause)

    def _on_readable(self) -> None:
        try:
            message = self._channel.receive()
        except BlockingIOError:
            return
        except msgspec.MsgspecError as error:
            self.distrust(f"sent garbage: {error}")
            return
        if message is not None:
            self._on_message(message)
            return
        self._loop.remove_reader(self._channel.fileno())
        if self.pid is None:
            self._on_end(None)
        elif not self._stopping:  # a worker that no longer listens is of no use, should it still live
            self.kill("closed its socket")

    def _on_message(self, message: FromWorker) -> None:
        if not isinstance(message, Started):
            if self._trusted:
                self._owner.on_message(message)
            return
        self.pid = message.pid
        try:
            self._pid_fd = self._forks.watch(message.pid)
        except OSError as error:  # no descriptor left: it cannot be waited for without blocking later
            self.kill(f"cannot be watched: {error}")
            self._on_end(self._forks.wait(message.pid))
            return
        self._loop.add_reader(self._pid_fd, self._on_pid_fd)
        if self._cause:
            self.kill(self._cause)

    def _on_stderr(self) -> bool:
        """Read what there is; returns whether there may be more."""
        try:
            data = os.read(self._stderr_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._stderr_fd)
        *lines, rest = (self._partial_line + data).split(b"\n")
        if not data or len(rest) > _LINE_BYTES:
            lines, rest = [*lines, rest], b""
        self._partial_line = rest
        for line in lines:
            self._tell_line(line[:_LINE_BYTES].decode(errors="replace").rstrip())
        return bool(data)

    def _tell_line(self, line: str) -> None:
        if line:
            self._last_lines.append(line)
            self._owner.on_stderr(line)

    def _on_pid_fd(self) -> None:
        assert self.pid is not None
        self._loop.remove_reader(self._pid_fd)
        os.close(self._pid_fd)
        self._on_end(self._forks.wait(self.pid))

    def _on_end(self, status: int | None) -> None:
        """It has been waited for, with a wait status if it could be."""
        self._drain()
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_reader(self._stderr_fd)
        self._channel.close()
        os.close(self._stderr_fd)
        self._owner.on_exit(self._reason(status))

    def _drain(self) -> None:
        """Tell what it sent before it ended."""
        while self._on_stderr():
            pass
        with suppress(BlockingIOError, msgspec.MsgspecError):
            while (message := self._channel.receive()) is not None:
                self._on_message(message)

    def _reason(self, status: int | None) -> str:
        if self.pid is None:
            how = "its process could not be forked"
        elif status is None:
            how = f"process {self.pid} ended"
        elif os.WIFSIGNALED(status):
            how = f"process {self.pid} killed by {signal.Signals(os.WTERMSIG(status)).name}"
        else:
            how = f"process {self.pid} exited with status {os.WEXITSTATUS(status)}"
        return "; ".join([how, *([self._cause] if self._cause else []), *self._last_lines])
