"""What the kernel can do about processes: their ends, their orphans, their names."""

import ctypes
import signal
from pathlib import Path
from typing import Final

#: prctl(2).
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

#: Of the first of two fields of ``/proc/PID/stat`` that say where the command line lies, behind the name: proc(5).
_ARG_START: Final = 45


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, as it does when its process ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, instead of the machine's first process; for good."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def show_command_line(*words: str) -> None:
    """Have the process list show another command line, cut to the length of the one that this process was started with.

    In place, as setproctitle does it: a process that was forked and never executes anything has its parent's.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = (int(field) for field in fields[_ARG_START : _ARG_START + 2])
    room = end - start
    if room > 0:  # the kernel does not tell everybody
        line = "\0".join(words).encode()[: room - 1]
        ctypes.memmove(start, line.ljust(room, b"\0"), room)
