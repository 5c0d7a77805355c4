"""A timer of the event loop that keeps microseconds.

The timers of uvloop (libuv) and of asyncio's epoll loop count whole milliseconds: a request due 0.4 ms from now would
go out up to 1 ms late. The kernel's timerfd has no such grain, and the loop waits for it like for a socket.
"""

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Final

from superserve.clock import NS_PER_S

# From <time.h> and <sys/timerfd.h>.
_CLOCK_MONOTONIC: Final = 1
_TFD_TIMER_ABSTIME: Final = 1
_TFD_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _ITimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


class PreciseTimer:
    """Calls back at absolute instants of the machine's monotonic clock; one instant at a time.

    Args:
        loop: where the callback runs.
        callback: called once for each `arm`, never early.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1

    def start(self) -> None:
        """Open the timer.

        Raises:
            OSError: if the kernel gives none.
        """
        self._fd = self._checked(self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS))
        self._loop.add_reader(self._fd, self._fire)

    def arm(self, when_ns: int) -> None:
        """Call back at ``when_ns``, at once if that has passed; replaces an earlier instant."""
        seconds, nanoseconds = divmod(max(1, when_ns), NS_PER_S)
        spec = _ITimerspec(_Timespec(0, 0), _Timespec(seconds, nanoseconds))
        self._checked(self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None))

    def close(self) -> None:
        """Close the timer; idempotent."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _fire(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # armed anew between the loop's wake-up and this call
        self._callback()

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
