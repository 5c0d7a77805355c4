"""How long a call may take."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Self

from superserve.clock import NS_PER_MS, NS_PER_S, NS_PER_US
from superserve.errors import ExpiredError, InvalidRequestError, SuperServeError, UnavailableError


@dataclass(frozen=True, slots=True)
class Deadline:
    """When an answer is of no use any more (``due_ns``), and when nobody waits for one any longer (``until_ns``).

    ``due_ns`` is None where the server's own deadline holds. Both are of the clock that ``now_ns`` reads.
    """

    now_ns: Callable[[], int]
    started_ns: int
    until_ns: int
    due_ns: int | None = None

    @classmethod
    def start(cls, now_ns: Callable[[], int], slo_ms: float | None, wait_ms: float | None, default_ms: float) -> Self:
        """From now on.

        Args:
            now_ns: a clock.
            slo_ms: until when an answer is of use; None leaves it to the server.
            wait_ms: how long to wait for one; None means as long as it is of use.
            default_ms: how long to wait where neither says so.

        Raises:
            InvalidRequestError: for times that are not positive.
        """
        slo_ns = None if slo_ms is None else _checked("slo_ms", slo_ms)
        wait_ns = _checked("timeout_s, in milliseconds,", default_ms) if slo_ns is None else slo_ns
        if wait_ms is not None:
            wait_ns = _checked("wait_ms", wait_ms)
        now = now_ns()
        return cls(now_ns, now, now + wait_ns, None if slo_ns is None else now + slo_ns)

    def left_s(self) -> float:
        """For how long somebody still waits, in seconds.

        Raises:
            TimeoutError: if nobody does.
        """
        left_ns = self.until_ns - self.now_ns()
        if left_ns <= 0:
            raise TimeoutError
        return left_ns / NS_PER_S

    def slo_left_us(self) -> int | None:
        """How much of the deadline is left for the server, in microseconds; None if it has its own.

        Raises:
            TimeoutError: if nothing is.
        """
        if self.due_ns is None:
            return None
        left_us = (self.due_ns - self.now_ns()) // NS_PER_US
        if left_us <= 0:
            raise TimeoutError
        return left_us

    def allows(self, when_ns: int) -> bool:
        """Whether it makes sense to begin anything at an instant."""
        return when_ns < min(self.until_ns, self.until_ns if self.due_ns is None else self.due_ns)

    def missed(self, url: str) -> SuperServeError:
        """What to say when it has passed."""
        waited_ms = (self.now_ns() - self.started_ns) / NS_PER_MS
        if self.due_ns is not None and self.due_ns <= self.until_ns:
            return ExpiredError(f"no answer from {url} within the deadline: gave up after {waited_ms:.1f} ms")
        return UnavailableError(f"no answer from {url}: timed out after {waited_ms:.1f} ms")


def _checked(name: str, value_ms: float) -> int:
    if not value_ms > 0 or not isfinite(value_ms):
        raise InvalidRequestError(f"{name} = {value_ms}: must be a number of milliseconds above 0")
    return max(1, round(value_ms * NS_PER_MS))
