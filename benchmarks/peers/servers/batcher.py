"""Micro-batching as one writes it by hand into an asyncio server."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from peers.jobs import Job
from peers.model import Model


class MicroBatcher:
    """Runs whatever waits, up to a full batch, in one thread; the next batch gathers meanwhile.

    Args:
        job: gives the shape of a row.
        model: runs batches.
        rows: of the largest batch; 1 runs each request in the event loop.
    """

    def __init__(self, job: Job, model: Model, rows: int) -> None:
        self._shape = job.row_shape
        self._model = model
        self._rows = rows
        self._waiting: asyncio.Queue[tuple[bytes, asyncio.Future[bytes]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)
        self._task: asyncio.Task[None] | None = None

    async def run(self, row: bytes) -> bytes:
        """The answer for one row."""
        if self._rows == 1:
            return self._run([row])[0]
        if self._task is None:
            self._task = asyncio.create_task(self._serve())
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((row, future))
        return await future

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._rows and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            answers = await loop.run_in_executor(self._thread, self._run, [row for row, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def _run(self, rows: list[bytes]) -> list[bytes]:
        batch = np.frombuffer(bytearray(b"".join(rows)), np.uint8).reshape(len(rows), *self._shape)
        return [answer.tobytes() for answer in self._model(batch)]
