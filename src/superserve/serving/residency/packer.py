"""Runs the process that packs a subnet, without keeping anybody waiting for it."""

import asyncio
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import IO, Final, Protocol

import msgspec

from superserve.clock import NS_PER_S, Clock
from superserve.errors import WorkerError
from superserve.serving.residency.pack_task import PackTask
from superserve.serving.worker_environment import worker_environment
from superserve.supernet.packed_store import PackRecord

MODULE: Final = "superserve.serving.residency.pack_process"

#: It gets what time others leave: on a busy machine seconds of work take minutes.
LIMIT_NS: Final = 900 * NS_PER_S

#: How much of what a failed process wrote is told.
_LAST_CHARACTERS: Final = 1_000


class Packs(Protocol):
    """What packs a subnet."""

    async def pack(self, task: PackTask) -> PackRecord:
        """Pack a subnet, or find it packed.

        Raises:
            WorkerError: if it cannot be packed, saying why; nothing is left of the attempt that matters.
        """


def command(task: PackTask) -> list[str]:
    """What a Python interpreter is given to do a task."""
    # What it says is told to users: not what torch says to its own developers.
    return [sys.executable, "-W", "ignore", "-P", "-m", MODULE, msgspec.json.encode(task).decode()]


def environment() -> dict[str, str]:
    """Of that interpreter: of a worker, since what is packed may depend on its threads."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109  (a string is wanted)
    return {**os.environ, **worker_environment(), "PYTHONPATH": path}


class Packer:
    """Packs in a process of its own, of the lowest priority (``pack_process.py``).

    Args:
        clock: drives the limit.
        limit_ns: a process that takes longer is killed.
    """

    def __init__(self, clock: Clock, limit_ns: int = LIMIT_NS) -> None:
        self.pid: int | None = None
        """Of the process at work."""
        self._clock = clock
        self._limit_ns = limit_ns

    async def pack(self, task: PackTask) -> PackRecord:
        """See `Packs.pack`; whoever cancels this kills the process."""
        try:
            with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
                status = await self._run(task, output, errors)
                return _answer(status, output, errors)
        except OSError as error:  # no process, no descriptor, no room for what it says
            raise WorkerError(f"no process can be started to pack it: {error}") from error

    async def _run(self, task: PackTask, output: "IO[bytes]", errors: "IO[bytes]") -> int:
        """Run the process to its end; returns its status, negative if it was killed.

        Raises:
            OSError: if it cannot be started.
        """
        process = subprocess.Popen(  # noqa: S603, ASYNC220  (our own module; starting it takes a millisecond, as a worker)
            command(task),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=environment(),
        )
        self.pid = process.pid
        timer = self._clock.call_at(self._clock.now_ns() + self._limit_ns, process.kill)
        try:
            await _ended(process.pid)
        finally:
            timer.cancel()
            with suppress(ProcessLookupError):
                process.kill()
            status = process.wait()
            self.pid = None
        return status


async def _ended(pid: int) -> None:
    """Wait for a child's end."""
    loop = asyncio.get_running_loop()
    pid_fd = os.pidfd_open(pid)
    ended = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(pid_fd, end)
    try:
        await ended
    finally:
        loop.remove_reader(pid_fd)
        os.close(pid_fd)


def _answer(status: int, output: "IO[bytes]", errors: "IO[bytes]") -> PackRecord:
    """What a process has answered that has ended.

    Raises:
        WorkerError: if it has not.
    """
    if status:
        how = f"killed by signal {-status}" if status < 0 else f"status {status}"
        raise WorkerError(f"the process that packs it ended with {how}: {_tail(errors)}")
    output.seek(0)
    try:
        return msgspec.json.decode(output.read().splitlines()[-1], type=PackRecord)
    except (IndexError, msgspec.MsgspecError) as error:
        raise WorkerError(f"the process that packs it answered nonsense: {error}") from None


def _tail(errors: "IO[bytes]") -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - _LAST_CHARACTERS))
    return errors.read().decode(errors="replace").strip() or "it said nothing"
