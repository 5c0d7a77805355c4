"""Runs one batch at a time on a worker pool and times it from the router's side."""

import asyncio
from typing import NamedTuple

from superserve.clock import Clock
from superserve.errors import WorkerError
from superserve.serving.pool import Batch, BatchResult, WorkerPool


class Sample(NamedTuple):
    """Times of one batch, in nanoseconds: seen by the event loop, inside the worker, and by its device's own clock.

    The last is 0 where the engine knows of none.
    """

    round_trip_ns: int
    infer_ns: int
    device_ns: int = 0


class Probe:
    """The listener of a pool whose first worker is timed.

    Args:
        pool: started by `start`, stopped by whoever made it.
        clock: what times round trips.
    """

    def __init__(self, pool: WorkerPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._launched_ns = 0
        self._answer: asyncio.Future[Sample] | None = None

    async def start(self) -> None:
        """Start the pool.

        Raises:
            WorkerError: if a worker fails to start.
        """
        await self._pool.start(self)

    async def run(self, batch: Batch) -> Sample:
        """Run a batch on the first worker.

        Raises:
            WorkerError: if the worker fails on it or dies.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._launched_ns = self._clock.now_ns()
        self._pool.launch(0, batch)
        return await self._answer

    def on_worker_ready(self, worker: int) -> None:
        """See `PoolListener.on_worker_ready`."""

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        """See `PoolListener.on_worker_overlaps`; it launches one at a time."""

    def on_batch_done(self, worker: int, result: BatchResult) -> None:  # noqa: ARG002  (only one is used)
        """See `PoolListener.on_batch_done`."""
        if self._answer is not None and not self._answer.done():
            round_trip_ns = self._clock.now_ns() - self._launched_ns
            self._answer.set_result(Sample(round_trip_ns, result.infer_ns, result.device_ns))

    def on_batch_failed(self, worker: int, message: str) -> None:
        """See `PoolListener.on_batch_failed`."""
        self._fail(f"worker {worker} failed on a batch: {message}")

    def on_batch_overdue(self, worker: int) -> None:
        """See `PoolListener.on_batch_overdue`."""

    def on_worker_lost(self, worker: int, reason: str) -> None:
        """See `PoolListener.on_worker_lost`."""
        self._fail(f"worker {worker} was lost: {reason}")

    def _fail(self, message: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(WorkerError(message))
