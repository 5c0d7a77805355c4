"""Child processes of an experiment: each in a session of its own, none of them left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from superserve.errors import SuperServeError

#: From the request to end to the end by force. Servers answer what is in flight in that time.
GRACE_S: Final = 10.0
_LOG_TAIL_LINES: Final = 12


class ChildFailedError(SuperServeError):
    """A child process of an experiment ended when it should not have."""


class ChildProcess:
    """A Python module run as a child process.

    It has a session, and so a process group, of its own: a Ctrl-C in the terminal reaches the parent alone, and what
    the child started can be ended with it.

    Args:
        module: what to run, as in ``python -m``.
        arguments: its command line.
        log: file that takes its standard error, and its standard output unless that is read.
        read_output: whether `lines` will read its standard output.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        log: Path,
        read_output: bool = False,
    ) -> None:
        self._command = [sys.executable, "-P", "-m", module, *arguments]
        self._name = " ".join(["python -m", module, *arguments[:1]])
        self._log = log
        self._read_output = read_output
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._pidfd = -1

    @property
    def pid(self) -> int:
        """Its process id, once started."""
        assert self._process is not None, "start the child first"
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended, or was never started."""
        return self._ended is None or self._ended.done()

    async def __aenter__(self) -> Self:
        # No await between the start and here: a cancellation cannot slip in and leave the child to itself.
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        """Start it.

        Raises:
            OSError: if the operating system refuses.
        """
        loop = asyncio.get_running_loop()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and modules)
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._read_output else log,
                stderr=log,
                start_new_session=True,
            )
        self._ended = loop.create_future()
        self._pidfd = os.pidfd_open(self._process.pid)
        loop.add_reader(self._pidfd, self._on_end)

    async def wait(self) -> int:
        """Wait for its end; its exit status (negative: the signal that ended it)."""
        assert self._ended is not None, "start the child first"
        await asyncio.shield(self._ended)
        return self._reap()

    async def check(self) -> None:
        """Wait for its end.

        Raises:
            ChildFailedError: unless it ended with status 0.
        """
        if status := await self.wait():
            raise self.failure(f"ended with status {status}")

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """End it and whatever it started, by force after ``grace_s`` seconds; idempotent."""
        if self._process is None or self._ended is None:
            return
        if not self._ended.done():
            self._process.terminate()
            await asyncio.wait([self._ended], timeout=grace_s)
        # Before the child is reaped its id cannot belong to anyone else.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines of its standard output, until it closes that."""
        assert self._process is not None, "start the child first"
        assert self._process.stdout is not None, "its output goes to the log"
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout
        )
        try:
            while line := await reader.readline():
                yield line
        finally:
            transport.close()

    def failure(self, what: str) -> ChildFailedError:
        """An error that says what happened, with the end of the child's log."""
        tail = self._log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return ChildFailedError("\n".join([f"{self._name} {what}", *(f"  | {line}" for line in tail)]))

    def _on_end(self) -> None:
        assert self._ended is not None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set_result(None)

    def _reap(self) -> int:
        assert self._process is not None
        return self._process.wait()
