"""A worker pool without workers, for tests and for measuring everything around them."""

from collections.abc import Callable, Sequence
from functools import partial

from superserve.clock import Clock
from superserve.serving.ipc import WorkerSpec
from superserve.serving.pool import Batch, BatchResult, PoolListener

Respond = Callable[[Batch], Sequence[bytes]]


def echo(batch: Batch) -> Sequence[bytes]:
    """Answer each input tensor as the output tensor of the same position."""
    return [b"".join(tensors) for tensors in zip(*batch.inputs, strict=True)]


class FakePool:
    """A `WorkerPool` whose batches end when a test says so, or by themselves after a given time.

    Args:
        size: number of workers; all are ready as soon as it is started.
        respond: makes the output tensors of a batch.
        clock: with ``service_ns``, ends each batch that long after its launch.
        service_ns: time of a batch, in nanoseconds; 0 ends it in the loop's next iteration.
        devices: what the workers run on, in turns.

    Attributes:
        launched: every launch so far, as (worker, batch).
        running: batch by busy worker; the first of them, if it has two.
        behind: the other one, by worker.
        models: numbers of the models that it runs.
        resident: by model, the subnets that are.
        resided: all that have been, one after the other.
        unmappable: subnets that cannot be.
        error: what `add` and `remove` raise, if a test says so.
    """

    def __init__(
        self,
        size: int = 1,
        respond: Respond = echo,
        clock: Clock | None = None,
        service_ns: Callable[[Batch], int] | None = None,
        devices: Sequence[str] = ("",),
    ) -> None:
        self.launched: list[tuple[int, Batch]] = []
        self.running: dict[int, Batch] = {}
        self.behind: dict[int, Batch] = {}
        self.models = {0}
        self.resident: dict[int, tuple[int, ...]] = {}
        self.resided: list[tuple[int, ...]] = []
        self.unmappable: set[int] = set()
        self.error: Exception | None = None
        self.stopped = False
        self._size = size
        self._overlapping: set[int] = set()
        self._numbers = 0
        self._respond = respond
        self._clock = clock
        self._service_ns = service_ns
        self._devices = devices
        self._listener: PoolListener | None = None

    @property
    def size(self) -> int:
        """See `WorkerPool.size`."""
        return self._size

    def device(self, worker: int) -> str:
        """See `WorkerPool.device`."""
        return self._devices[worker % len(self._devices)]

    async def start(self, listener: PoolListener) -> None:
        """See `WorkerPool.start`."""
        self._listener = listener
        for worker in range(self._size):
            if worker in self._overlapping:
                listener.on_worker_overlaps(worker, overlaps=True)
            listener.on_worker_ready(worker)

    async def add(self, spec: WorkerSpec) -> int:  # noqa: ARG002  (nothing runs)
        """See `WorkerPool.add`."""
        if self.error is not None:
            raise self.error
        self._numbers += 1
        self.models.add(self._numbers)
        return self._numbers

    async def remove(self, model: int) -> None:
        """See `WorkerPool.remove`."""
        if self.error is not None:
            raise self.error
        self.models.remove(model)

    async def reside(self, model: int, subnets: Sequence[int]) -> tuple[int, ...]:
        """See `ResidentPool.reside`."""
        found = tuple(subnet for subnet in subnets if subnet not in self.unmappable)
        self.resident[model] = found
        self.resided.append(found)
        return found

    def launch(self, worker: int, batch: Batch) -> None:
        """See `WorkerPool.launch`; unlike a real pool it keeps the batch, for tests to look at."""
        assert worker not in self.running or worker in self._overlapping, f"worker {worker} is busy"
        assert worker not in self.behind, f"worker {worker} has two batches"
        if self._clock is None or self._service_ns is None:
            self.launched.append((worker, batch))
        if worker in self.running:
            self.behind[worker] = batch
        else:
            self._run(worker, batch)

    def overlap(self, worker: int, *, overlaps: bool) -> None:
        """Have a worker take a second batch while it runs one, or do so no more; may be told before the start."""
        if overlaps:
            self._overlapping.add(worker)
        else:
            self._overlapping.discard(worker)
        if self._listener is not None:
            self._listener.on_worker_overlaps(worker, overlaps=overlaps)

    def _run(self, worker: int, batch: Batch) -> None:
        self.running[worker] = batch
        if self._clock is None or self._service_ns is None:
            return
        self._clock.call_at(self._clock.now_ns() + self._service_ns(batch), partial(self._end, worker, batch))

    async def stop(self) -> None:
        """See `WorkerPool.stop`."""
        self.stopped = True
        for worker in list(self.running):
            self.lose(worker, "the pool stops")

    def finish(self, worker: int, infer_ns: int = 1_000_000, device_ns: int = 0, waited_ns: int = 0) -> None:
        """End a worker's batch, or the first of them, with an answer."""
        outputs = [bytearray(output) for output in self._respond(self._through(worker))]
        result = BatchResult([memoryview(output) for output in outputs], infer_ns, 0, device_ns, waited_ns)
        self._told().on_batch_done(worker, result)
        for output in outputs:
            output[:] = b"\xa5" * len(output)  # as a pool that uses its buffers again: a view kept shows garbage

    def fail(self, worker: int, message: str = "failed by the test") -> None:
        """End a worker's batch, or the first of them, with an error; the worker lives."""
        self._through(worker)
        self._told().on_batch_failed(worker, message)

    def overdue(self, worker: int) -> None:
        """Tell that a worker's batch should have ended; it may still be finished, failed or lost."""
        self._told().on_batch_overdue(worker)

    def lose(self, worker: int, reason: str = "lost by the test") -> None:
        """Lose a worker, and its batches, if any."""
        self.running.pop(worker, None)
        self.behind.pop(worker, None)
        self._overlapping.discard(worker)
        self._told().on_worker_lost(worker, reason)

    def revive(self, worker: int) -> None:
        """Bring a lost worker back."""
        self._told().on_worker_ready(worker)

    def _through(self, worker: int) -> Batch:
        ended = self.running.pop(worker)
        if worker in self.behind:
            self._run(worker, self.behind.pop(worker))
        return ended

    def _end(self, worker: int, batch: Batch) -> None:
        if self.running.get(worker) is batch:
            self.finish(worker)

    def _told(self) -> PoolListener:
        assert self._listener is not None, "the pool has not been started"
        return self._listener
