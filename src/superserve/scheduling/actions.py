"""What a scheduler wants done: batches to launch, and requests that have ended."""

from enum import StrEnum

import msgspec

from superserve.request import Outcome, Reason, Request
from superserve.scheduling.admission import Prediction
from superserve.scheduling.policy import Bound


class BatchFate(StrEnum):
    """What became of a batch that was launched."""

    RUNNING = "running"
    ANSWERED = "answered"
    FAILED = "failed"
    """The worker could not run it."""
    LOST = "lost"
    """Its worker was lost; what had slack left waits again."""
    OVERDUE = "overdue"
    """It has no answer yet, and should have; what had slack left waits again, for another worker."""


class Launch(msgspec.Struct, eq=False):
    """Run these requests as one batch on a worker. Its subnet is an index into the table.

    With what the decision was made on, and what came of it: all that `superserve why` needs to explain it later.

    ``bound``: why it is not a more accurate subnet. ``waiting``: requests that stayed behind. ``idle`` and ``workers``:
    how many were idle, this one among them, and how many there were. ``overhead_ns``, ``drift``, this worker's, and
    ``bucket``, the largest of the requests': what was planned with; by the profile of ``device``, which the worker has,
    it takes ``planned_ns`` there. ``behind_ns``: how much longer than the overhead it was planned to wait for the batch
    before it on its worker. ``input_ns`` is what it took to hand it over. ``fate``, ``ended_ns``, ``taken_ns`` (the
    time that it had the worker for itself) and ``waited_ns`` (there, for the batch before) follow when it ends;
    ``overdue``, if it was that at any time: its requests may have been in other batches since.

    A batch without requests is idle work (`Scheduler.launch_idle`).
    """

    worker: int
    subnet: int
    requests: list[Request]
    rows: int
    launched_ns: int
    bound: Bound
    waiting: int
    idle: int
    workers: int
    overhead_ns: int
    drift: float
    bucket: int = 0
    planned_ns: int = 0
    device: int = 0
    behind_ns: int = 0
    input_ns: int = 0
    fate: BatchFate = BatchFate.RUNNING
    ended_ns: int = 0
    taken_ns: int = 0
    waited_ns: int = 0
    overdue: bool = False

    @property
    def around_ns(self) -> int:
        """What it has cost outside the worker when it has been answered: its dispatch overhead, but for the answers."""
        return self.ended_ns - self.launched_ns - self.waited_ns - self.taken_ns


class Finish(msgspec.Struct, eq=False):
    """A request ended. ``launch`` is the batch that answered it, ``prediction`` why it was not admitted, if so."""

    request: Request
    outcome: Outcome
    reason: Reason
    launch: Launch | None = None
    prediction: Prediction | None = None


Action = Launch | Finish
