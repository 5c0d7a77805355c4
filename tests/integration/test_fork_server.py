"""Workers forked from a template: what they have in common with it, and what they do without it."""

import asyncio
import os
import signal
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from superserve.clock import MonotonicClock
from superserve.model_folder import TensorSpec
from superserve.serving.cores import available_cores
from superserve.serving.ipc import WorkerSpec
from superserve.serving.local_pool import LocalPool
from superserve.serving.pool import Batch, BatchResult
from support.processes import command_line

pytestmark = pytest.mark.integration

#: Answers with the number of the process that has loaded it.
ENGINE = """
    import os, threading, time
    import numpy as np

    class Engine:
        name, dtype, subnet_ids = "telling", "float32", ("only",)

        def __init__(self):
            self.loaded_by = os.getpid()
            self.warmed = 0

        def actuate(self, subnet):
            pass

        def run(self, subnet, inputs):
            self.warmed += 1
            return [np.full((len(inputs[0]), 2), (self.loaded_by, self.warmed), "<i8")]

    def create(setup):
        if setup.spec.options["threads"]:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        return Engine()
"""


class Listener:
    """Remembers what it hears; the numbers in the answers."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.answer: tuple[int, ...] = ()

    def on_worker_ready(self, worker: int) -> None:
        self.events.put_nowait(f"ready {worker}")

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        raise AssertionError(f"worker {worker} overlaps batches: {overlaps}")

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        self.answer = tuple(result.outputs[0].cast("q"))
        self.events.put_nowait(f"done {worker}")

    def on_batch_failed(self, worker: int, message: str) -> None:
        self.events.put_nowait(f"failed {worker}: {message}")

    def on_batch_overdue(self, worker: int) -> None:
        raise AssertionError(f"worker {worker}: no local pool tells of any")

    def on_worker_lost(self, worker: int, reason: str) -> None:
        self.events.put_nowait(f"lost {worker}: {reason}")

    async def next(self) -> str:
        async with asyncio.timeout(10):
            return await self.events.get()


@asynccontextmanager
async def running(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, inheritable: bool = True, threads: bool = False
) -> AsyncIterator[tuple[LocalPool, Listener]]:
    (folder / "telling_engine.py").write_text(textwrap.dedent(ENGINE))
    monkeypatch.syspath_prepend(str(folder))
    spec = WorkerSpec(
        engine="telling_engine:create",
        options={"threads": threads},
        inputs=(TensorSpec("x", "UINT8", (-1,)),),
        outputs=(TensorSpec("y", "INT64", (-1, 2)),),
        max_rows=4,
        warm_batches=(1, 2, 4),
        inheritable=inheritable,
    )
    pool = LocalPool([spec], (available_cores()[-1],) * 2, MonotonicClock(asyncio.get_running_loop()))
    listener = Listener()
    await pool.start(listener)
    assert {await listener.next() for _ in range(2)} == {"ready 0", "ready 1"}
    try:
        yield pool, listener
    finally:
        await pool.stop()
    assert not [child for child in psutil.Process().children() if child.is_running() and "superserve" in str(child)]


async def loaded_by(pool: LocalPool, listener: Listener, worker: int) -> tuple[int, ...]:
    """The process that loaded a worker's engine, and how many batches that has run with this one."""
    pool.launch(worker, Batch(0, 1, [[b"x"]]))
    assert await listener.next() == f"done {worker}"
    return listener.answer


def template() -> psutil.Process:
    (found,) = [child for child in psutil.Process().children() if "superserve.serving.template" in command_line(child)]
    return found


async def test_a_model_is_loaded_and_warmed_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the template; a worker runs the largest cell once more, before it is ready."""
    async with running(tmp_path, monkeypatch) as (pool, listener):
        for worker in (0, 1):
            assert await loaded_by(pool, listener, worker) == (template().pid, 3 + 1 + 1)


@pytest.mark.parametrize(("inheritable", "threads"), [(False, False), (True, True), (False, True)])
async def test_what_cannot_be_inherited_each_worker_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inheritable: bool, threads: bool
) -> None:
    """A template with a second thread forks nothing that goes on with what that thread may hold."""
    async with running(tmp_path, monkeypatch, inheritable=inheritable, threads=threads) as (pool, listener):
        for worker in (0, 1):
            assert await loaded_by(pool, listener, worker) == (pool.pids[worker], 3 + 1)


async def test_workers_are_the_routers_own_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known by their name in the process list, as the template is by its own."""
    async with running(tmp_path, monkeypatch) as (pool, _):
        for pid in pool.pids:
            assert pid is not None
            process = psutil.Process(pid)
            assert process.ppid() == os.getpid()
            assert "superserve.serving.worker" in process.cmdline()
            assert "superserve.serving.template" not in process.cmdline()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_without_the_template_workers_serve_and_the_next_one_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    async with running(tmp_path, monkeypatch) as (pool, listener):
        before = template()
        before.send_signal(number)
        assert await loaded_by(pool, listener, 0) == (before.pid, 5)
        assert pool.pids[0] is not None
        os.kill(pool.pids[0], signal.SIGKILL)
        assert (await listener.next()).startswith("lost 0")
        assert await listener.next() == "ready 0"
        assert await loaded_by(pool, listener, 0) == (template().pid, 5)
        assert template().pid != before.pid


async def test_a_template_that_does_not_answer_keeps_nobody_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch) as (pool, listener):
        template().send_signal(signal.SIGSTOP)
        assert pool.pids[0] is not None
        os.kill(pool.pids[0], signal.SIGKILL)
        assert (await listener.next()).startswith("lost 0")
        await asyncio.sleep(0.2)  # its successor has been asked for
        async with asyncio.timeout(10):
            await pool.stop()
