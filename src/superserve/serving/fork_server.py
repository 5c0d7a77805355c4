"""The router's end of the template process: asks it for worker processes, and sees to it that there is one."""

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from superserve.processes import adopt_orphans
from superserve.serving.child import spawn
from superserve.serving.ipc import Fork, Setup, WorkerSpec, router_channel
from superserve.serving.worker_environment import worker_environment

_MODULE: Final = "superserve.serving.template"

#: The template ends at once, or when the worker that it is forking has been forked: in tens of milliseconds.
_PATIENCE_S: Final = 2.0


class Forks(Protocol):
    """Where worker processes come from, and what the operating system can do about them.

    Attributes:
        models: what will be forked runs at least some of these.
    """

    models: Mapping[int, WorkerSpec]

    def fork(self, core: int, descriptors: Sequence[int], *, background: bool = False) -> None:
        """Ask for a worker. It says `Started` on its socket; if it cannot be forked that ends, perhaps with words.

        Args:
            core: what it is pinned to.
            descriptors: its socket, its shared memory and its output; they stay the caller's.
            background: whether it is to load only while its core has nothing else to do.

        Raises:
            OSError: if the operating system refuses.
        """

    def kill(self, pid: int) -> None:
        """End a worker that has not been waited for."""

    def watch(self, pid: int) -> int:
        """A new descriptor that is readable once a worker has ended; the caller's to close.

        Raises:
            OSError: if there is none left.
        """

    def wait(self, pid: int) -> int | None:
        """The wait status of a worker, once it has one; None if somebody else has waited for it."""

    def end(self) -> None:
        """Fork nothing more of what has been asked for. Idempotent."""


class ForkServer:
    """`Forks` from a template process that has loaded what workers run (``template.py``).

    The template is started with the first request, and again with the next one if it has died: nothing depends on it
    but how soon a worker is there. Workers are this process's children, not the template's.

    Args:
        models: what a template loads; workers load what they do not find there, and go without what they do not need.
    """

    def __init__(self, models: Mapping[int, WorkerSpec]) -> None:
        self.models = models
        """May be changed: the next template loads the new ones."""
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The template's process; None while there is none."""
        return self._process.pid if self._process else None

    def fork(self, core: int, descriptors: Sequence[int], *, background: bool = False) -> None:
        """See `Forks.fork`."""
        request = msgspec.msgpack.encode(Fork(core, background))
        if self._socket is not None:
            with suppress(BrokenPipeError, ConnectionResetError):  # the template has died
                socket.send_fds(self._socket, [request], list(descriptors))
                return
            self.end()
        socket.send_fds(self._start(core), [request], list(descriptors))

    def kill(self, pid: int) -> None:
        """See `Forks.kill`."""
        os.kill(pid, signal.SIGKILL)  # it is ours until it is waited for, and so is its number

    def watch(self, pid: int) -> int:
        """See `Forks.watch`."""
        return os.pidfd_open(pid)

    def wait(self, pid: int) -> int | None:
        """See `Forks.wait`."""
        try:
            return os.waitpid(pid, 0)[1]
        except ChildProcessError:  # where orphans are not adopted, the machine's first process has waited for it
            return None

    def end(self) -> None:
        """End the template; the sockets of workers that it has not forked yet end, too. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:  # it has been stopped, or the machine is about to be
                self._process.kill()
                self._process.wait()
            self._process = None

    def _start(self, core: int) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            adopt_orphans()
            self._process = spawn(
                _MODULE,
                ["--socket", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                core=core,
                environment=worker_environment(),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.settimeout(0)  # never blocks
        channel, numbers = router_channel(ours), list(self.models)
        for model, spec in self.models.items():
            channel.send(Setup(-1, spec, model, more=model != numbers[-1]))
        self._socket = ours
        return ours
