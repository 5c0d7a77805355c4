"""Which models a pool wants its workers to hold, whatever becomes of the processes that are to hold them."""

import asyncio
from collections.abc import Mapping
from typing import cast

import pytest

from superserve.clock import ManualClock
from superserve.errors import WorkerError
from superserve.serving.ipc import Ready, WorkerSpec
from superserve.serving.local_pool import LocalPool
from superserve.serving.supervisor import WorkerSupervisor

SPEC = WorkerSpec(engine="none:Nothing", options={}, inputs=(), outputs=(), max_rows=1, warm_batches=())


class Worker:
    """Holds what it is told to, unless the process for that dies."""

    def __init__(self) -> None:
        self.holds: set[int] = set()
        self.dies = False

    def prepare(self, models: Mapping[int, WorkerSpec]) -> "asyncio.Future[Mapping[int, Ready]]":
        prepared = asyncio.get_running_loop().create_future()
        if self.dies:
            prepared.set_exception(WorkerError("killed"))
        else:
            prepared.set_result({model: Ready("none", "none", "none", (), 0, 0) for model in models})
        return prepared

    def commit(self, models: Mapping[int, WorkerSpec]) -> "asyncio.Future[None]":
        self.holds = set(models)
        swapped = asyncio.get_running_loop().create_future()
        swapped.set_result(None)
        return swapped

    def abandon(self) -> None:
        pass


async def test_a_model_that_could_not_go_goes_with_the_next_change() -> None:
    """Else each one would be held, and loaded by every new process, for good."""
    pool, worker = LocalPool([SPEC], [0], ManualClock()), Worker()
    pool._workers = [cast("WorkerSupervisor", worker)]
    first = await pool.add(SPEC)
    worker.dies = True
    with pytest.raises(WorkerError, match="killed"):
        await pool.remove(first)
    assert worker.holds == {0, first}
    worker.dies = False
    second = await pool.add(SPEC)
    assert worker.holds == {0, second}
    await pool.remove(second)
    assert worker.holds == {0}
