"""The worker pool: what the router knows of the processes that run batches.

The interface says nothing of how tensors travel, so that local processes with shared memory (``local_pool.py``),
emulated devices and actors on other machines look the same from above.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from superserve.serving.ipc import WorkerSpec

Buffer = bytes | bytearray | memoryview


@dataclass(slots=True, eq=False)
class Batch:
    """What a worker is to run.

    ``inputs[i][j]`` holds the bytes of input tensor ``j`` of request ``i``, C-contiguous and little-endian, in the
    order of the model's ``config.json``; ``rows`` is the sum of the requests' rows. ``subnet`` is a front index,
    ``model`` the pool's number of the model. ``planned_ns`` is what it should take in the worker, ``due_ns`` how long
    after its launch its answer should be there at most; 0 if nobody knows.
    """

    subnet: int
    rows: int
    inputs: Sequence[Sequence[Buffer]]
    model: int = 0
    planned_ns: int = 0
    due_ns: int = 0


@dataclass(slots=True, eq=False)
class BatchResult:
    """What a worker answered.

    ``outputs[j]`` holds the bytes of output tensor ``j`` for all rows of the batch, in request order. The buffers are
    valid only during the `PoolListener` call that hands them over. ``infer_ns`` is the time in the worker from having
    read the descriptor to having written the outputs, ``actuate_ns`` the part of it that actuation took, ``device_ns``
    the part of it by the clock of a device beside the processor; 0 where there is none. ``waited_ns`` is the time in
    the worker before that, while it was not through with the batch before.
    """

    outputs: Sequence[memoryview]
    infer_ns: int
    actuate_ns: int
    device_ns: int = 0
    waited_ns: int = 0


class PoolListener(Protocol):
    """Who is told what happens in a pool, always in the event loop's thread.

    A worker is ``ready`` before anything else, and ``lost`` at most once until it is ready again. It has one batch at a
    time, or two from when it is said to overlap them, and answers the one that came first. Only pools whose workers may
    be out of reach tell of a batch that is overdue: it may still be answered, or its worker be lost.
    """

    def on_worker_ready(self, worker: int) -> None:
        """A worker is warm and idle."""

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        """A worker takes another batch while it runs one, from now on, or does so no more; told before it is ready.

        It does not until this is told. What it has been given when it stops to do so, it runs.
        """

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        """A worker answered a batch: it goes on with the other one that it has, or is idle."""

    def on_batch_failed(self, worker: int, message: str) -> None:
        """A worker could not run a batch; it lives, and goes on with the other one that it has, or is idle."""

    def on_batch_overdue(self, worker: int) -> None:
        """A worker should have answered its batch, and has not: others may run it, too. May be told again."""

    def on_worker_lost(self, worker: int, reason: str) -> None:
        """A worker died or stopped answering; its batches, if any, have no answers."""


class WorkerPool(Protocol):
    """Processes that run batches; workers are numbered from 0 to ``size - 1``. Each of them runs every model."""

    @property
    def size(self) -> int:
        """How many workers the pool keeps up; where workers come and go by themselves, at present."""

    def device(self, worker: int) -> str:
        """The name of what a ready worker runs on, as profiles have it."""

    async def start(self, listener: PoolListener) -> None:
        """Start all workers and return when each is ready, or where they come and go, when the first one is.

        Raises:
            WorkerError: if a worker fails to start, or where they come and go, all do; nothing is left behind.
        """

    def launch(self, worker: int, batch: Batch) -> None:
        """Hand a batch to a worker that is idle, or overlaps batches and has one.

        The buffers may be reused when this returns. Never blocks.

        If the worker has died, the listener hears of that instead of an answer.
        """

    async def add(self, spec: "WorkerSpec") -> int:
        """Have every worker run one more model; batches of the others go on meanwhile.

        Returns:
            The model's number.

        Raises:
            WorkerError: if a worker cannot load it; then none has it, and the others run as before.
        """

    async def remove(self, model: int) -> None:
        """Have no worker run a model any more, of which no batch runs.

        Raises:
            WorkerError: if a worker cannot be started without it; then all keep it until the next model comes or goes.
        """

    async def stop(self) -> None:
        """End all workers; idempotent. Nothing of them is left behind."""


@runtime_checkable
class ResidentPool(WorkerPool, Protocol):
    """A pool whose workers may have subnets resident: see `superserve.engine.ResidentEngine`."""

    async def reside(self, model: int, subnets: Sequence[int]) -> tuple[int, ...]:
        """Have every worker, later ones included, have exactly these subnets of a model resident.

        What goes does so between two batches: what is launched after this has begun finds it gone. What comes is
        mapped beside batches.

        Returns:
            Those that are resident in every worker, once each has said so. No process has any other one mapped then.
        """
