"""What the kernel can do about the ends of processes."""

import ctypes
import signal
from typing import Final

#: prctl(2).
_PR_SET_PDEATHSIG: Final = 1


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, as it does when its process ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
