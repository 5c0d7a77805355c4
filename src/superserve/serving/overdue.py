"""Finds out that a batch is not answered when it should be."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from superserve.clock import NS_PER_MS, Clock, Timer


@dataclass(frozen=True, slots=True, kw_only=True)
class OverdueLimits:
    """How long after its predicted p99 a batch is waited for."""

    least_ns: int = 100 * NS_PER_MS
    """At least so long: what a busy machine or a lost packet takes now and then is no reason to do the work twice."""
    factor: float = 1.0
    """So many times the prediction, if that is more."""

    def margin_ns(self, due_ns: int) -> int:
        """For a batch whose answer is predicted so long after its launch."""
        return max(self.least_ns, round(self.factor * due_ns))


class OverdueWatch:
    """Watches the batches that a worker has been given, of which it runs the first.

    It looks twice, the second time half of the margin after the first: an answer that has come while the whole process
    was stopped is told between the two. A batch behind another is watched from when it is the first.

    Args:
        clock: drives the looks.
        limits: how long to wait.
        on_overdue: called when a batch should have been answered, and again after every further half of the margin.
    """

    def __init__(self, clock: Clock, limits: OverdueLimits, on_overdue: Callable[[], None]) -> None:
        self._clock = clock
        self._limits = limits
        self._on_overdue = on_overdue
        self._due_ns: deque[int] = deque()
        self._half_ns = 0
        self._seen = False
        self._timer: Timer | None = None

    def began(self, due_ns: int) -> None:
        """A batch was launched whose answer is predicted so long after; 0 if nobody knows."""
        self._due_ns.append(due_ns)
        if len(self._due_ns) == 1:
            self._watch()

    def ended(self) -> None:
        """The first batch was answered."""
        self._due_ns.popleft()
        self._cancel()
        if self._due_ns:
            self._watch()

    def clear(self) -> None:
        """The worker is gone, and so are its batches."""
        self._due_ns.clear()
        self._cancel()

    def _watch(self) -> None:
        due_ns = self._due_ns[0]
        if due_ns:
            self._half_ns = self._limits.margin_ns(due_ns) // 2
            self._seen = False
            self._arm(due_ns + self._half_ns)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, delay_ns: int) -> None:
        self._timer = self._clock.call_at(self._clock.now_ns() + delay_ns, self._look)

    def _look(self) -> None:
        self._arm(self._half_ns)
        if self._seen:
            self._on_overdue()
        self._seen = True
