"""One worker process as its router sees it: started, spoken to, and buried."""

import asyncio
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

from superserve.errors import WorkerError
from superserve.serving.child import spawn
from superserve.serving.ipc import Channel, FromWorker, Launch, Setup, router_channel

#: How many of its last lines on standard error are told with a worker's death.
_LAST_LINES: Final = 8

_READ_BYTES: Final = 65_536

#: A line on standard error without an end is cut here.
_LINE_BYTES: Final = 4_096

#: glibc gives freed memory back to the kernel and maps large blocks afresh by default, so that every batch pays page
#: faults for the same activations again. With these it keeps what it has: batch 16 of a small residual network took
#: 25.6 ms instead of 47.8 (largest subnet) and 5.4 instead of 12.8 (``benchmarks/worker_pool.py``, 2-core machine).
#: The user's own settings win.
MALLOC_ENVIRONMENT: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
    "MALLOC_TOP_PAD_": str(64 << 20),
}

#: Where another thread loads than serves, the one uses the memory that the other has freed.
BACKGROUND_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1"}

#: One thread per worker: a second one would fight with the worker on the next core.
THREAD_ENVIRONMENT: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)


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
        background: whether it is to load only while its core has nothing else to do.
    """

    def __init__(self, setups: Sequence[Setup], core: int, owner: ProcessOwner, *, background: bool = False) -> None:
        self._setups = setups
        self._core = core
        self._owner = owner
        self._background = background
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._partial_line = b""
        self._cause = ""
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop
        self._channel: Channel[FromWorker]
        self._process: subprocess.Popen[bytes]
        self._stderr_fd = -1
        self._pid_fd = -1

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def start(self, loop: asyncio.AbstractEventLoop, memory_fd: int) -> None:
        """Start it; the shared memory stays the caller's.

        Raises:
            WorkerError: if the operating system refuses.
        """
        self._loop = loop
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stderr_fd, stderr_end = os.pipe()
        try:
            self._process = spawn(
                *_command(["--socket", str(theirs.fileno()), "--memory", str(memory_fd)], background=self._background),
                pass_fds=(theirs.fileno(), memory_fd),
                core=self._core,
                environment={
                    **malloc_environment(),
                    **THREAD_ENVIRONMENT,
                    **(BACKGROUND_ENVIRONMENT if self._background else {}),
                },
                output_fd=stderr_end,
            )
        except OSError as error:
            ours.close()
            os.close(self._stderr_fd)
            raise WorkerError(f"worker {self._setups[0].worker} cannot be started: {error}") from error
        finally:
            theirs.close()
            os.close(stderr_end)
        self._pid_fd = os.pidfd_open(self._process.pid)
        ours.settimeout(0)  # never blocks
        os.set_blocking(self._stderr_fd, False)
        self._channel = router_channel(ours)
        self._watch()
        for setup in self._setups:
            self._channel.send(setup)

    def launch(self, message: Launch) -> None:
        """Send a batch's descriptor; if the process has died, its owner hears of that."""
        with suppress(OSError):
            self._channel.send(message)

    def ask_to_stop(self) -> None:
        """Let it end after the batch it runs, if any."""
        self._stopping = True
        self._channel.half_close()

    def kill(self, cause: str) -> None:
        """End it now; ``cause`` becomes part of the reason."""
        self._cause = self._cause or cause
        self._process.kill()

    def _watch(self) -> None:
        self._loop.add_reader(self._channel.fileno(), self._on_readable)
        self._loop.add_reader(self._stderr_fd, self._on_stderr)
        self._loop.add_reader(self._pid_fd, self._on_end)

    def _on_readable(self) -> None:
        try:
            message = self._channel.receive()
        except BlockingIOError:
            return
        if message is not None:
            self._owner.on_message(message)
            return
        self._loop.remove_reader(self._channel.fileno())
        if not self._stopping:  # a worker that no longer listens is of no use, should it still live
            self.kill("closed its socket")

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

    def _on_end(self) -> None:
        status = self._process.wait()
        self._drain()
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_reader(self._stderr_fd)
        self._loop.remove_reader(self._pid_fd)
        self._channel.close()
        os.close(self._stderr_fd)
        os.close(self._pid_fd)
        self._owner.on_exit(self._reason(status))

    def _drain(self) -> None:
        """Tell what it sent before it ended."""
        while self._on_stderr():
            pass
        with suppress(BlockingIOError):
            while (message := self._channel.receive()) is not None:
                self._owner.on_message(message)

    def _reason(self, status: int) -> str:
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        parts = [f"process {self.pid} {how}", *([self._cause] if self._cause else []), *self._last_lines]
        return "; ".join(parts)


def _command(arguments: list[str], *, background: bool) -> tuple[str, list[str]]:
    """Module and arguments; either way the process can be recognised by the module's name."""
    module = "superserve.serving.worker"
    if background:
        return "superserve.serving.background", [module, *arguments, "--background"]
    return module, arguments


def malloc_environment() -> dict[str, str]:
    """`MALLOC_ENVIRONMENT`, but what this process has been given goes first."""
    return {name: os.environ.get(name, value) for name, value in MALLOC_ENVIRONMENT.items()}
