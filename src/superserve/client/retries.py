"""Asking again: only what was certainly not executed, within the deadline, and within a budget.

A server that is overloaded gets more requests, not fewer, from clients that each ask again. So a client spends a
*token* per repetition, and earns a tenth of one per request: repetitions stay below a tenth of its requests, however
many fail. The share, and the bound of three attempts, are those of Beyer et al., *Site Reliability Engineering* (2016),
chapter 21; the account with deposits and withdrawals is that of Finagle's ``RetryBudget``.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from superserve.client.deadline import Deadline
from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.errors import (
    ConfigError,
    InfeasibleError,
    QueueFullError,
    SuperServeError,
    UnavailableError,
    UnreachableError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How a client asks again.

    What a server refuses with ``Retry-After`` waits for at least as long; anything else waits for a random part of a
    pause that doubles from attempt to attempt ("full jitter": Brooker, *Exponential Backoff And Jitter*, 2015), so
    that clients who failed together do not come back together.
    """

    max_attempts: int = 3
    """Of one request, the first one counted; 1: nothing is asked twice."""
    share: float = 0.1
    """Repetitions per request in the long run."""
    burst: float = 10.0
    """Repetitions that a client may make at once."""
    first_pause_ms: float = 20.0
    max_pause_ms: float = 1000.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or not 0 <= self.share <= 1 or not self.burst >= 0:
            raise ConfigError(f"{self}: max_attempts must be 1 or more, share 0 to 1, burst 0 or more")
        if not 0 <= self.first_pause_ms <= self.max_pause_ms:
            raise ConfigError(f"{self}: first_pause_ms must be 0 to max_pause_ms")

    def longest_pause_ns(self, attempts: int) -> int:
        """The longest pause after so many attempts, in nanoseconds."""
        return round(min(self.max_pause_ms, self.first_pause_ms * 2.0 ** (attempts - 1)) * NS_PER_MS)


class RetryBudget:
    """A client's tokens.

    Args:
        retries: the share that a request earns, and the most that can be saved up, which is there at the start.
    """

    def __init__(self, retries: Retries) -> None:
        self._share, self._burst = retries.share, retries.burst
        self._tokens = retries.burst

    def deposit(self) -> None:
        """A request was made."""
        self._tokens = min(self._burst, self._tokens + self._share)

    def withdraw(self) -> bool:
        """Pay for a repetition; False if there is nothing left to pay with."""
        if self._tokens < 1.0 - _ROUNDING:
            return False
        self._tokens -= 1.0
        return True


#: Errors with which a server may say when to come back.
_TELLING: Final = (QueueFullError, InfeasibleError, UnavailableError)

#: Ten tenths add up to a little less than one.
_ROUNDING: Final = 1e-9


class Attempts:
    """The attempts at one request.

    Args:
        retries: how to ask again.
        budget: the client's.
        rng: draws the pauses.
        deadline: of the request.
        is_idempotent: whether it may be asked again although it may have been executed.
    """

    def __init__(
        self,
        retries: Retries,
        budget: RetryBudget,
        rng: np.random.Generator,
        deadline: Deadline,
        *,
        is_idempotent: bool,
    ) -> None:
        self._retries, self._budget, self._rng = retries, budget, rng
        self._deadline = deadline
        self._is_idempotent = is_idempotent
        self._made = 0
        budget.deposit()

    def again_ns(self, error: SuperServeError) -> int:
        """When to make the next attempt after one that failed.

        Raises:
            SuperServeError: the error itself, if there must not be one.
        """
        self._made += 1
        told_s = error.retry_after_s if isinstance(error, _TELLING) else 0.0
        if self._made >= self._retries.max_attempts or not self._may_repeat(error, told_s):
            raise error
        if told_s * NS_PER_S >= self._deadline.until_ns:  # may be too long a time for a number of nanoseconds
            raise error
        pause_ns = round(told_s * NS_PER_S + self._rng.random() * self._retries.longest_pause_ns(self._made))
        when_ns = self._deadline.now_ns() + pause_ns
        if not self._deadline.allows(when_ns) or not self._budget.withdraw():
            raise error
        return when_ns

    def _may_repeat(self, error: SuperServeError, told_s: float) -> bool:
        """What a server refuses with a time to come back it has not executed; without one it may have."""
        if isinstance(error, UnreachableError) or told_s > 0:
            return True
        return self._is_idempotent and isinstance(error, UnavailableError)
