"""Time as an argument.

Everything inside SuperServe counts integer nanoseconds of one monotonic clock. Only this module and the process
entry points read the machine's clock; code that needs "now" or a timer is given a `Clock`.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


class Timer(Protocol):
    """A pending call that can be called off."""

    def cancel(self) -> None:
        """Call it off; no effect once it has run."""


class Clock(Protocol):
    """A source of time and timers."""

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary fixed point; never decreases."""

    def call_at(self, when_ns: int, callback: Callable[[], object]) -> Timer:
        """Call ``callback`` at ``when_ns`` or soon after; at once if that has passed.

        A timer may fire up to a millisecond early (event loops round), so callbacks look at `now_ns`.
        """


class SleepingClock(Protocol):
    """A source of time for code that blocks."""

    def now_ns(self) -> int:
        """See `Clock.now_ns`."""

    def sleep_until_ns(self, when_ns: int) -> None:
        """Block until then; not at all if that has passed."""


def monotonic_ns() -> int:
    """The machine's monotonic clock: for processes that measure durations and own no `Clock`."""
    return time.monotonic_ns()


def epoch_ns() -> int:
    """The date as nanoseconds since 1970, for protocols that tell it. It may jump: never measure with it."""
    return time.time_ns()


def epoch_ms() -> int:
    """The same in milliseconds."""
    return epoch_ns() // NS_PER_MS


def process_cpu_ns() -> int:
    """Processor time that this process has used."""
    return time.process_time_ns()


def sleep_until_ns(when_ns: int) -> None:
    """Block until `monotonic_ns` reaches ``when_ns``: for processes that stand in for a device, never an event loop."""
    time.sleep(max(0, when_ns - time.monotonic_ns()) / NS_PER_S)


class MachineClock:
    """The machine's monotonic clock for code that blocks."""

    def now_ns(self) -> int:
        """See `SleepingClock.now_ns`."""
        return time.monotonic_ns()

    def sleep_until_ns(self, when_ns: int) -> None:
        """See `SleepingClock.sleep_until_ns`."""
        sleep_until_ns(when_ns)


async def wait_until_ns(clock: Clock, when_ns: int) -> None:
    """Until a clock says so, letting others run."""
    while clock.now_ns() < when_ns:
        due = asyncio.get_running_loop().create_future()
        timer = clock.call_at(when_ns, lambda due=due: due.done() or due.set_result(None))  # type: ignore[misc]
        try:
            await due
        finally:
            timer.cancel()


class MonotonicClock:
    """The machine's monotonic clock, with the timers of a running asyncio loop.

    On one Linux host all processes share this clock, so stamps may cross process boundaries there.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now_ns(self) -> int:
        """See `Clock.now_ns`."""
        return time.monotonic_ns()

    def call_at(self, when_ns: int, callback: Callable[[], object]) -> Timer:
        """See `Clock.call_at`."""
        # Rounded up to whole milliseconds: uvloop rounds to the nearest, and a timer of 0.4 ms would spin until due.
        delay_ms = -(min(0, time.monotonic_ns() - when_ns) // NS_PER_MS)
        return self._loop.call_later(delay_ms / 1000, callback)


class _ManualTimer:
    __slots__ = ("callback", "cancelled")

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualClock:
    """A clock that moves only when told to, for tests and virtual time.

    Timers of one instant fire in the order in which they were made.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns
        self._seq = itertools.count()
        self._timers: list[tuple[int, int, _ManualTimer]] = []

    def now_ns(self) -> int:
        """See `Clock.now_ns`."""
        return self._now_ns

    def call_at(self, when_ns: int, callback: Callable[[], object]) -> Timer:
        """See `Clock.call_at`; a time in the past fires at the next `advance_to`."""
        timer = _ManualTimer(callback)
        heapq.heappush(self._timers, (when_ns, next(self._seq), timer))
        return timer

    def sleep_until_ns(self, when_ns: int) -> None:
        """See `SleepingClock.sleep_until_ns`; time passes at once."""
        self.advance_to(max(self._now_ns, when_ns))

    def advance_to(self, when_ns: int) -> None:
        """Move to ``when_ns``, firing every timer due by then at its own time.

        Raises:
            ValueError: if ``when_ns`` lies in the past.
        """
        if when_ns < self._now_ns:
            raise ValueError(f"cannot move the clock back from {self._now_ns} to {when_ns} ns")
        while self._timers and self._timers[0][0] <= when_ns:
            due_ns, _, timer = heapq.heappop(self._timers)
            self._now_ns = max(self._now_ns, due_ns)
            if not timer.cancelled:
                timer.callback()
        self._now_ns = when_ns

    def advance(self, delta_ns: int) -> None:
        """Move forward by ``delta_ns``."""
        self.advance_to(self._now_ns + delta_ns)
