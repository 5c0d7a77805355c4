"""Child processes that live no longer than their parent, and end only when it says so."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from superserve.processes import end_with_parent

#: prctl(2).
_PR_SET_TIMERSLACK: Final = 29


def spawn(
    module: str,
    arguments: Sequence[str],
    *,
    pass_fds: Sequence[int],
    core: int,
    environment: Mapping[str, str] | None = None,
    output_fd: int | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a module of this package as a process of its own; it must call `adopt` first of all.

    Args:
        module: what to run, as in ``python -m``; it stands so in the process list.
        arguments: its command line.
        pass_fds: descriptors that it inherits, under the same numbers.
        core: the core it is pinned to, before it has imported anything.
        environment: added to this process's environment.
        output_fd: where its output and errors go; None leaves them where this process's go.

    Raises:
        OSError: if the operating system refuses.
    """
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109  (a string is wanted)
    # A child inherits the blocked signals: so Ctrl-C cannot end it before `adopt`.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
            [sys.executable, "-P", "-m", module, *arguments],
            pass_fds=tuple(pass_fds),
            stdin=subprocess.DEVNULL,
            stdout=output_fd,
            stderr=output_fd,
            env={**os.environ, **(environment or {}), "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        os.sched_setaffinity(process.pid, {core})
    except OSError:
        process.kill()
        process.wait()
        raise
    return process


def adopt() -> None:
    """Make this process a child: only its parent ends it, and the parent's end does.

    Ctrl-C and ``SIGTERM`` reach whole process groups; what they mean is the parent's business.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    # A child notices the end of its sockets when it looks at them; this ends it at once, whatever it does.
    end_with_parent()
    # By default the kernel may end any sleep 50 us late.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_TIMERSLACK, 1)
