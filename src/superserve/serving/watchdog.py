"""Finds out that a worker hangs."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from superserve.clock import NS_PER_S, Clock, Timer

#: A worker that hangs is found with a delay of one part in so many.
_LOOKS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLimits:
    """How long a worker may take for a batch."""

    unplanned_ns: int = 30 * NS_PER_S
    """For one of which nobody knows how long it should take."""
    least_ns: int = 2 * NS_PER_S
    """For any other at least."""
    factor: int = 30
    """So many times what it is planned to take: more than any slow-down with which a worker is still of use."""

    @property
    def look_ns(self) -> int:
        """Between two looks at whether a worker is through with a batch."""
        return min(self.unplanned_ns, self.least_ns) // _LOOKS

    def patience_ns(self, planned_ns: int) -> int:
        """For a batch that is planned to take so long; 0 if nobody knows."""
        return max(self.least_ns, self.factor * planned_ns) if planned_ns else self.unplanned_ns


class Watchdog:
    """Watches the batches that a worker has been given, of which it runs the first.

    One timer serves many batches, and time is counted in its looks: when the whole machine has slept in between, that
    is one look, whatever clocks say.

    Args:
        clock: drives the looks.
        limits: how patient to be.
        on_hang: called, with how long was waited, when a batch takes longer than it may.
    """

    def __init__(self, clock: Clock, limits: AnswerLimits, on_hang: Callable[[int], None]) -> None:
        self._clock = clock
        self._limits = limits
        self._on_hang = on_hang
        self._patience_ns: deque[int] = deque()
        self._looks = 0
        """How often in a row the same batch was found running."""
        self._timer: Timer | None = None

    def __len__(self) -> int:
        """How many batches the worker has not answered."""
        return len(self._patience_ns)

    def began(self, planned_ns: int) -> None:
        """The worker was given a batch that is planned to take so long; 0 if nobody knows."""
        self._patience_ns.append(self._limits.patience_ns(planned_ns))
        if self._timer is None:
            self._looks = 0
            self._arm()

    def ended(self) -> None:
        """The worker answered the batch that it ran."""
        self._patience_ns.popleft()
        self._looks = 0

    def clear(self) -> None:
        """The worker is gone, and so are its batches."""
        self._patience_ns.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = self._clock.call_at(self._clock.now_ns() + self._limits.look_ns, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._patience_ns:
            return
        patience_ns = self._patience_ns[0]
        if self._looks * self._limits.look_ns >= patience_ns:
            self._on_hang(patience_ns)
            return
        self._looks += 1
        self._arm()
