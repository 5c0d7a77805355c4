"""An asyncio event loop whose time is virtual: it never waits, and the same calls give the same order of events.

The idea is FoundationDB's (Zhou et al., SIGMOD 2021, section 4) on asyncio: when nothing is ready, time jumps to the
next timer. Descriptors are real and polled without waiting: what stands on the other end of them lives in this thread.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any, Final

from superserve.clock import NS_PER_MS, NS_PER_S, NS_PER_US, Timer

#: Far from zero, as a machine's clock is; small enough for a double to tell nanoseconds apart.
_START_NS: Final = 1_000 * NS_PER_S

#: A life that takes longer than this hangs.
_END_NS: Final = _START_NS + 600 * NS_PER_S

#: Stepping through this many iterations without time passing is a loop that spins.
_MAX_SPINS: Final = 10_000


class DefectError(AssertionError):
    """The server broke a promise, or can go on no more."""


class _JumpingSelector(selectors.PollSelector):
    """Never waits: time passes instead. Poll tells descriptors in the order in which they were registered."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            self.loop.idle(timeout)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; `network` decides what listening means in it, threads run at once.

    Attributes:
        on_defect: told of what callbacks and tasks raised and nobody caught.
        on_quiet: called whenever everything that was due has been done, before time goes on.
    """

    def __init__(self) -> None:
        self.now_ns = _START_NS
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        self._descriptors = selector
        self.on_defect: Callable[[str], None] = lambda _: None
        self.on_quiet: Callable[[], None] = lambda: None
        self.listen: Callable[[Callable[[], asyncio.Protocol], int], Any] | None = None
        self._spins = 0
        self.set_exception_handler(self._on_defect)

    def time(self) -> float:
        """See `asyncio.AbstractEventLoop`."""
        return self.now_ns / NS_PER_S

    def at(self, when_ns: int, callback: Callable[..., object], *arguments: object) -> asyncio.TimerHandle:
        """Call back at a time; at once if that has passed."""
        return self.call_at(when_ns / NS_PER_S, callback, *arguments)

    def after(self, delay_ns: int, callback: Callable[..., object], *arguments: object) -> asyncio.TimerHandle:
        """Call back after a while."""
        return self.at(self.now_ns + delay_ns, callback, *arguments)

    def stall(self, span_ns: int) -> None:
        """The process is stopped, or one of its callbacks takes long: time leaps."""
        self.now_ns += span_ns

    def idle(self, timeout: float | None) -> None:
        """Nothing is ready; time goes on to what is due next."""
        if timeout == 0:  # callbacks wait already
            self._spins += 1
            if self._spins > _MAX_SPINS:
                raise DefectError("the event loop spins")
            return
        self._spins = 0
        self.on_quiet()
        if timeout is None:
            raise DefectError("everybody waits, and nothing will ever happen")
        self.now_ns += max(1, round(timeout * NS_PER_S))
        if self.now_ns > _END_NS:
            raise DefectError("it never ends")

    def pending_timers(self) -> list[str]:
        """What is still to be called."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return [repr(timer) for timer in timers if not timer.cancelled()]

    def watched_descriptors(self) -> int:
        """How many descriptors somebody reads or writes."""
        return len(self._descriptors.get_map()) - 1  # one wakes the loop from threads

    async def create_server(self, factory: Any, _host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        """See `asyncio.AbstractEventLoop`; a network of its own has the port."""
        assert self.listen is not None
        return self.listen(factory, port)

    def run_in_executor(self, _executor: Any, function: Callable[..., Any], *arguments: Any) -> Any:  # type: ignore[override]
        """See `asyncio.AbstractEventLoop`: done by a thread of its own, in no time but after a while."""
        done = self.create_future()

        def run() -> None:
            if done.cancelled():
                return
            try:
                done.set_result(function(*arguments))
            except Exception as error:  # noqa: BLE001  (whoever awaits it gets it)
                done.set_exception(error)

        self.after(NS_PER_MS, run)
        return done

    def _on_defect(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.on_defect(f"a defect: {context.get('message')}: {context.get('exception')!r}")


class VirtualClock:
    """`superserve.clock.Clock` on a virtual loop, as inexact as it allows itself to be.

    Args:
        loop: has the time.
        skew: how late a timer fires, in nanoseconds; below zero for early.
    """

    def __init__(self, loop: VirtualLoop, skew: Callable[[], int]) -> None:
        self._loop = loop
        self._skew = skew

    def now_ns(self) -> int:
        """See `Clock.now_ns`."""
        return self._loop.now_ns

    def call_at(self, when_ns: int, callback: Callable[[], object]) -> Timer:
        """See `Clock.call_at`."""
        now_ns = self._loop.now_ns
        if when_ns <= now_ns:
            return self._loop.call_soon(callback)
        # However early: a timer that is set anew because it came too early does not fire at the same instant again.
        return self._loop.at(max(now_ns + 50 * NS_PER_US, when_ns + self._skew()), callback)
