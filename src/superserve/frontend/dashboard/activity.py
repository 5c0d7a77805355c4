"""What the live page is told: the last minutes of a server, second by second, as values that become JSON.

Rates are per second. Where nothing happened that a value could be the mean of, it is null.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from superserve.serving.explanation import Summary
from superserve.serving.metadata import TensorMetadata
from superserve.serving.residency.report import ResidencyReport

WorkerState = Literal["busy", "idle", "slow", "away"]
"""``slow``: it takes longer than the others for the same; ``away``: it starts, or is started again."""

#: What stands for a state in `Second.workers`.
LETTERS: Final[dict[WorkerState, str]] = {"busy": "b", "idle": "i", "slow": "s", "away": "a"}


class ModelSecond(Struct, frozen=True, kw_only=True):
    """A second of a model."""

    offered: float
    """Requests that came."""
    served: float
    """Requests that ended so in this second, as the five that follow."""
    late: float
    expired: float
    rejected: float
    cancelled: float
    failed: float
    attainment: float | None
    """Of the requests that ended, the part that was served in time."""
    accuracy: float | None
    """Mean of the profiled accuracy that requests were answered with, in per cent."""
    given_up: float | None
    """Mean of what that is below the most accurate subnet, in points."""
    p50_ms: float | None
    """From arrival to answer; interpolated in a histogram whose bounds follow from the SLO."""
    p99_ms: float | None
    batch_rows: float | None
    """Mean over the batches that were answered."""
    queued: int
    """Requests that waited at the end of the second."""
    subnets: list[float]
    """Requests answered by each subnet, in the order of `ModelCard.subnets`."""
    packed: float | None
    """Requests answered from packed weights; null on other engines."""


class Second(Struct, frozen=True, kw_only=True):
    """A second of a server."""

    number: int
    """They are counted."""
    at_ms: int
    """The date of its end, in milliseconds since 1970."""
    busy: float
    """The part of the workers' time that batches took."""
    headroom: float
    """The part of what the workers can take at the fastest subnets that does not come; below 0: more comes."""
    workers: Annotated[str, Meta(description="A letter for each: busy, idle, slow or away at its end.")]
    models: dict[str, ModelSecond]


class SubnetCard(Struct, frozen=True):
    """A subnet and its profiled accuracy in per cent."""

    id: str
    accuracy: float


class ModelCard(Struct, frozen=True, kw_only=True):
    """What does not change about a model while it is served."""

    name: str
    task: str
    dataset: str
    emulated: bool
    """Whether its workers only pretend to run it."""
    policy: str
    slo_ms: float
    subnets: list[SubnetCard]
    """In rising order of accuracy."""
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    labels: Sequence[str]
    white: int | None
    """The largest value that a pixel of its images has; null if it takes none."""


class WorkerNow(Struct, frozen=True, kw_only=True):
    """A worker, and the batch that it runs."""

    worker: int
    state: WorkerState
    model: str | None = None
    subnet: str | None = None
    rows: int | None = None


class Activity(Struct, frozen=True, kw_only=True):
    """The latest seconds, and how things are now."""

    run: str
    """Changes when the server is started anew, and when models come, go or are replaced."""
    version: str
    ready: bool
    models: list[ModelCard] | None
    """Null for who knows this run already."""
    seconds: list[Second]
    """Those after the one that was named, the oldest first."""
    workers: list[WorkerNow]
    packed: dict[str, ResidencyReport]
    """What is resident beside the one copy of the weights, of models on the packed engine."""
    notable: list[Summary]
    """Requests without an answer, and the most urgent ones of batches that were late or ran another subnet than the
    best: of each kind the latest one, the latest first."""
