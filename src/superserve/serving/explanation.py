"""The answer to "why was this request answered so, late, or not at all?", for programs and for people.

Durations are milliseconds. Instants are counted from the request's arrival.
"""

from typing import Final

from msgspec import Struct, field

from superserve.request import Outcome, Reason
from superserve.scheduling.actions import BatchFate
from superserve.scheduling.policy import Bound

#: Verdicts about subnets.
CHOSEN: Final = "chosen"
NOT_USED: Final = "not used by the policy"


class Candidate(Struct, frozen=True, kw_only=True):
    """A subnet that a batch could have run, as its decision saw it."""

    subnet: str
    accuracy: float
    head_ms: float
    """What the smallest batch that holds the most urgent request is planned to take in the worker."""
    batch_ms: float
    """What the batch that was run would have been planned to take."""
    verdict: str
    """`CHOSEN`, `NOT_USED`, or what spoke against it."""


class Attempt(Struct, frozen=True, kw_only=True):
    """A batch that the request was in: the decision to launch it, and what came of it."""

    launched_ms: float
    worker: int
    device: str | None = None
    """What it runs on, where workers are of several devices."""
    subnet: str
    accuracy: float
    batch_rows: int
    batch_requests: int
    position: int
    """Of the request in the batch; 0 is the most urgent one, which the decision was made for."""
    waiting: int
    """Requests that stayed behind in the queue."""
    idle: int
    """Workers that were idle, the one that was taken among them."""
    workers: int
    head_slack_ms: float
    """Of the most urgent request: time to its deadline, less the planned dispatch overhead."""
    drift: float
    """What batches were taking over what their profile says; planned times are multiplied by it."""
    planned_ms: float
    """In the worker."""
    planned_overhead_ms: float
    """For the way to the worker and back."""
    bound: Bound
    """What kept the decision from a more accurate subnet."""
    candidates: list[Candidate]
    """In rising order of accuracy."""
    fate: BatchFate
    overdue: bool = False
    """Whether it had not been answered when it should have been, so that others could run its requests, too."""
    ended_ms: float | None = None
    taken_ms: float | None = None
    """In the worker."""
    overhead_ms: float | None = None
    """For the way to the worker and back."""
    planned_behind_ms: float = 0.0
    """How much longer than the way there it was planned to wait for the batch before it on its worker."""
    waited_ms: float | None = None
    """How long it did."""


class Refusal(Struct, frozen=True, kw_only=True):
    """What was so when a request ended without an answer."""

    left_ms: float
    """Until its deadline."""
    fastest: str | None
    """The fastest subnet that reaches its accuracy floor; null if none does."""
    fastest_ms: float
    """What that one, or else the fastest of all, is planned to take in the worker."""
    planned_overhead_ms: float
    drift: float
    """What batches were taking over what their profile says; planned times are multiplied by it."""
    any_ms: float
    """What the fastest subnet of all is planned to take in the worker."""
    best_accuracy: float
    """Of the most accurate subnet that the policy may use."""
    waiting: int
    """Other requests in the queue."""
    max_queued: int
    workers: int
    """Live ones."""
    batches_meanwhile: int
    """Launched since the request came, as far as that is still known."""
    requests_meanwhile: int
    more_urgent_meanwhile: int
    """Those of them with earlier deadlines."""
    prediction: str | None
    """The arithmetic of a refusal behind what waited."""
    retry_after_ms: float
    """When a request like it would have been admitted, if nobody else had come; 0 if that is not known."""


class Explanation(Struct, frozen=True, kw_only=True):
    """Everything that is known of a request."""

    request_id: str
    model: str
    policy: str
    outcome: Outcome | None
    """Null while it runs."""
    reason: Reason | None
    arrived: str
    """The date, in UTC."""
    rows: int
    priority: int
    min_accuracy: float
    deadline_ms: float
    read_ms: float
    """When it had been read and was offered to the scheduler."""
    ended_ms: float | None
    attempts: list[Attempt]
    """None if it never ran; several if workers were lost under it, or did not answer in time."""
    refusal: Refusal | None
    why: list[str] = field(default_factory=list)
    """The same in sentences."""
    would_change: list[str] = field(default_factory=list)
    """What would have led to a better end."""

    @property
    def last(self) -> Attempt | None:
        """The attempt that it was answered by, else the latest one."""
        answered = [attempt for attempt in self.attempts if attempt.fate is BatchFate.ANSWERED]
        if answered:
            return min(answered, key=lambda attempt: attempt.ended_ms or 0.0)
        return self.attempts[-1] if self.attempts else None


class Summary(Struct, frozen=True, kw_only=True):
    """A line about a request in the list of the latest ones."""

    request_id: str
    model: str
    outcome: Outcome | None
    reason: Reason | None
    arrived: str
    deadline_ms: float
    ended_ms: float | None
    subnet: str | None
    """Of its last batch."""
    accuracy: float | None
    bound: Bound | None
    batches: int
    """That it was in; more than one if workers were lost under it."""
