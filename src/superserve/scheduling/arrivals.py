"""What recent arrivals say of the next ones."""

from collections import deque
from math import exp
from typing import Final

#: Time constant of the rate, in mean deadlines: long enough that one burst is not taken for a new rate, short enough
#: that a ramp is followed within a few deadlines. The policy's result hardly depends on it (1 to 16 were tried).
RATE_SPAN: Final = 4.0
#: Length of the windows whose counts are kept, in mean deadlines. What arrives in the second half of its deadline
#: before a batch ends can still be served by the next decision; what arrives before that may not.
WINDOW_SPAN: Final = 0.5
#: How many windows are kept: the memory for bursts.
WINDOWS: Final = 64


class ArrivalEstimate:
    """Rate, usual deadline and burst sizes of the requests that arrived so far.

    All counts are rows. The rate is an exponentially decaying count over `RATE_SPAN` usual deadlines; the usual
    deadline is a decaying mean; bursts are counts in consecutive windows of half a usual deadline.
    """

    __slots__ = (
        "_count",
        "_first_ns",
        "_in_window",
        "_last_ns",
        "_weight",
        "_window_end_ns",
        "_windows",
        "bursts",
        "slo_ns",
        "typical_rows",
    )

    def __init__(self) -> None:
        self.slo_ns = 0.0
        """Mean time from arrival to deadline of recent requests, in nanoseconds; 0 before the first."""
        self.bursts: list[int] = []
        """Rows of recent windows, largest first."""
        self.typical_rows = 0.0
        """Rows within a usual deadline at the rate of the median window: what bursts do not change."""
        self._count = 0.0
        self._weight = 0.0
        self._first_ns = self._last_ns = 0
        self._windows: deque[int] = deque(maxlen=WINDOWS)
        self._in_window = 0
        self._window_end_ns = 0.0

    def observe(self, now_ns: int, rows: int, slo_ns: int) -> None:
        """A request of ``rows`` rows arrived that is due ``slo_ns`` later; one that is late already says little."""
        slo_ns = max(slo_ns, 1)
        if not self._weight:
            self.slo_ns = float(slo_ns)
            self._first_ns = now_ns
            self._window_end_ns = now_ns + WINDOW_SPAN * slo_ns
        else:
            decay = exp((self._last_ns - now_ns) / (RATE_SPAN * self.slo_ns)) if now_ns > self._last_ns else 1.0
            self._count *= decay
            self._weight *= decay
            self.slo_ns += (slo_ns - self.slo_ns) / (self._weight + 1.0)
        self._last_ns = now_ns
        self._count += rows
        self._weight += 1.0
        if now_ns >= self._window_end_ns:
            self._close_windows(now_ns)
        self._in_window += rows

    def rows_within(self, now_ns: int, span_ns: float) -> float:
        """Rows expected in the next ``span_ns``."""
        if not self._weight:
            return 0.0
        span = RATE_SPAN * self.slo_ns
        # A young estimate has not seen a whole time constant; the first arrival alone says nothing of a rate.
        seen = 1.0 - exp(-max(now_ns - self._first_ns, WINDOW_SPAN * self.slo_ns) / span)
        return self._count * exp((self._last_ns - now_ns) / span) / (span * seen) * span_ns

    def _close_windows(self, now_ns: int) -> None:
        length = max(1.0, WINDOW_SPAN * self.slo_ns)
        self._windows.append(self._in_window)
        self._in_window = 0
        empty = min(WINDOWS, int((now_ns - self._window_end_ns) / length))
        self._windows.extend([0] * empty)
        self._window_end_ns = max(self._window_end_ns + length * (empty + 1), now_ns + 1.0 if empty == WINDOWS else 0.0)
        self.bursts = sorted(self._windows, reverse=True)
        self.typical_rows = self.bursts[len(self.bursts) // 2] / WINDOW_SPAN
