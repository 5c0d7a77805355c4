"""One client query on its way to exactly one outcome."""

from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """How a request ended. Every request ends in exactly one of these."""

    SERVED = "served"
    """Answered within its deadline."""
    LATE = "late"
    """Answered after its deadline."""
    EXPIRED = "expired"
    """Admitted, but its deadline could no longer be met; never executed."""
    REJECTED = "rejected"
    """Refused when it arrived."""
    CANCELLED = "cancelled"
    """The client gave up before an answer."""
    FAILED = "failed"
    """A worker failed on it, or no worker was left to serve it."""


class Reason(StrEnum):
    """Why a request ended as it did."""

    ANSWERED = "answered"
    QUEUE_FULL = "queue full"
    INFEASIBLE = "deadline infeasible on arrival"
    PREDICTED_LATE = "deadline infeasible behind what waits"
    FLOOR = "no subnet of the policy reaches the accuracy floor"
    EXPIRED = "deadline no longer feasible"
    SHED = "shed by the policy"
    CLIENT_GONE = "cancelled by the client"
    NO_WORKER = "no live worker"
    WORKER_FAILED = "worker failed on the batch"
    WORKER_LOST = "worker lost and too little slack left to run again"
    POISON = "two workers lost while they ran it"
    STOPPING = "server stopping"

    @property
    def label(self) -> str:
        """Its name on the wire and in metrics."""
        return self.name.lower()


class RequestState(StrEnum):
    """Where the scheduler has a request at present."""

    NEW = "new"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"


class _Progress(msgspec.Struct, kw_only=True, eq=False):
    """What the scheduler keeps with a request."""

    latest_start_ns: int = 0
    state: RequestState = RequestState.NEW
    losses: int = 0
    alone: bool = False


class Request(_Progress, eq=False):
    """What the scheduler knows of a client query: a descriptor, never its tensors.

    ``rows`` is the leading dimension of its tensors. ``min_accuracy`` is the accuracy floor in per cent (0: none).
    ``priority`` follows Triton: 1 is the most urgent, larger numbers are given up first; 0, not given, is like 1.
    ``bucket`` is the least of `Profile.buckets` that its rows fit into: a batch runs at the largest of its members'.
    ``latest_start_ns``, ``state``, ``losses`` (how many workers were lost while they ran it) and ``alone`` (it is to
    be run in a batch of its own) belong to the `Scheduler`.

    It is a `msgspec.Struct`, as `Finish` and `Launch` are: one is made in a third of the time of a data class.
    """

    id: int
    arrival_ns: int
    deadline_ns: int
    rows: int = 1
    min_accuracy: float = 0.0
    priority: int = 0
    bucket: int = 0
