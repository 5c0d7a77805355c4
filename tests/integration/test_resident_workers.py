"""Real workers have subnets resident as they are told: between batches, and those that come later from the start."""

import asyncio
import os
import signal
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from superserve.clock import MonotonicClock
from superserve.model_folder import TensorSpec
from superserve.serving.cores import available_cores
from superserve.serving.ipc import WorkerSpec
from superserve.serving.local_pool import LocalPool
from superserve.serving.pool import Batch, BatchResult

pytestmark = pytest.mark.integration

#: Answers with a bit for each resident subnet; subnet 3 cannot be mapped, and 2 takes a while to run.
ENGINE = """
    import time
    import numpy as np

    class Engine:
        name, dtype, subnet_ids = "mapping", "float32", ("a", "b", "c", "d")
        resident = ()

        def actuate(self, subnet):
            pass

        def run(self, subnet, inputs):
            if subnet == 2:
                time.sleep(0.2)
            return [np.full((len(inputs[0]), 1), sum(1 << each for each in self.resident), "<i8")]

        def reside(self, subnets):
            self.resident = tuple(each for each in subnets if each != 3)
            return self.resident

    def create(setup):
        return Engine()
"""


class Listener:
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()

    def on_worker_ready(self, worker: int) -> None:
        self.events.put_nowait(f"ready {worker}")

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        raise AssertionError(f"worker {worker} overlaps batches: {overlaps}")

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        self.events.put_nowait(f"done {worker}: {result.outputs[0].cast('q')[0]:b}")

    def on_batch_failed(self, worker: int, message: str) -> None:
        self.events.put_nowait(f"failed {worker}: {message}")

    def on_batch_overdue(self, worker: int) -> None:
        raise AssertionError(f"worker {worker}: no local pool tells of any")

    def on_worker_lost(self, worker: int, reason: str) -> None:  # noqa: ARG002  (the process has a number)
        self.events.put_nowait(f"lost {worker}")

    async def next(self) -> str:
        async with asyncio.timeout(10):
            return await self.events.get()


@asynccontextmanager
async def running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[LocalPool, Listener]]:
    (folder / "mapping_engine.py").write_text(textwrap.dedent(ENGINE))
    monkeypatch.syspath_prepend(str(folder))
    spec = WorkerSpec(
        engine="mapping_engine:create",
        options={},
        inputs=(TensorSpec("x", "UINT8", (-1,)),),
        outputs=(TensorSpec("y", "INT64", (-1, 1)),),
        max_rows=4,
        warm_batches=(),
        inheritable=True,
        resident=(1,),
    )
    pool = LocalPool([spec], (available_cores()[-1],) * 2, MonotonicClock(asyncio.get_running_loop()))
    listener = Listener()
    await pool.start(listener)
    assert {await listener.next() for _ in range(2)} == {"ready 0", "ready 1"}
    try:
        yield pool, listener
    finally:
        await pool.stop()


async def run(pool: LocalPool, listener: Listener, worker: int, subnet: int = 0) -> str:
    pool.launch(worker, Batch(subnet, 1, [[b"x"]]))
    return await listener.next()


async def test_what_is_resident_changes_between_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch) as (pool, listener):
        assert [await run(pool, listener, worker) for worker in (0, 1)] == ["done 0: 10", "done 1: 10"]
        pool.launch(0, Batch(2, 1, [[b"x"]]))
        change = asyncio.ensure_future(pool.reside(0, (0, 2)))
        await asyncio.sleep(0)  # it has begun
        assert await run(pool, listener, 1) == "done 1: 101"  # the idle one has done it
        assert not change.done()
        assert await listener.next() == "done 0: 10"  # what ran began before
        assert await change == (0, 2)
        assert await run(pool, listener, 0) == "done 0: 101"
        assert await pool.reside(0, (1, 3)) == (1,)


async def test_a_worker_that_comes_later_has_it_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that dies meanwhile keeps nobody waiting: what comes in its place is told when it starts."""
    async with running(tmp_path, monkeypatch) as (pool, listener):
        pool.launch(0, Batch(2, 1, [[b"x"]]))
        change = asyncio.ensure_future(pool.reside(0, (0, 2)))
        await asyncio.sleep(0)  # it has begun
        assert pool.pids[0] is not None
        os.kill(pool.pids[0], signal.SIGKILL)
        assert await listener.next() == "lost 0"
        assert await change == (0, 2)
        assert await listener.next() == "ready 0"
        assert await run(pool, listener, 0) == "done 0: 101"
