"""Real workers that die, hang and cannot be started, beneath a real router: what clients are told, and what is lost."""

import asyncio
import errno
import os
import resource
import signal
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import msgspec
import psutil
import pytest

from superserve.clock import NS_PER_MS, Clock, MonotonicClock
from superserve.errors import SuperServeError, UnavailableError, WorkerError
from superserve.model_folder import TensorSpec
from superserve.request import Outcome
from superserve.serving.cores import available_cores
from superserve.serving.inference import Answer
from superserve.serving.ipc import WorkerSpec
from superserve.serving.local_pool import LocalPool
from superserve.serving.router import Router
from superserve.serving.shared_pool import SharedPool
from superserve.serving.supervisor import PoolLimits
from superserve.serving.watchdog import AnswerLimits
from support.processes import command_line
from support.profiles import make_profile
from support.serving import MODEL, make_router

pytestmark = pytest.mark.integration

#: Echoes; dies on 201, hangs on 202.
ENGINE = """
    import os, time

    class Engine:
        name, dtype, subnet_ids = "frail", "float32", ("only",)

        def actuate(self, subnet):
            pass

        def run(self, subnet, inputs):
            if 201 in inputs[0]:
                os._exit(1)
            if 202 in inputs[0]:
                time.sleep(60)
            return [inputs[0]]

    def create(setup):
        if os.path.exists(setup.spec.options["broken"]):
            with open(setup.spec.options["broken"], "a") as tried:
                tried.write("x")
            raise RuntimeError("the disk says no")
        return Engine()
"""
DIES, HANGS = 201, 202
PROFILE = make_profile([[1.0, 2.0]], batches=(1, 8))
LIMITS = PoolLimits(answer=AnswerLimits(least_ns=200 * NS_PER_MS))


class Client:
    """One request, and what came of it."""

    def __init__(self, served: "Served", value: int, slo_ms: float = 20_000.0) -> None:
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        now_ns = served.clock.now_ns()
        served.router.submit(
            arrival_ns=now_ns,
            deadline_ns=now_ns + round(slo_ms * NS_PER_MS),
            rows=1,
            min_accuracy=0.0,
            priority=0,
            inputs=[bytes([value])],
            responder=self,
        )

    def answered(self, answer: Answer) -> None:
        self._ended.set_result(bytes(answer.outputs[0])[0])

    def refused(self, error: SuperServeError) -> None:
        self._ended.set_exception(error)

    async def result(self) -> int:
        async with asyncio.timeout(20):
            return await self._ended


class Served(NamedTuple):
    """A router on real workers."""

    router: Router
    pool: LocalPool
    clock: Clock

    def kill(self, worker: int) -> None:
        pid = self.pool.pids[worker]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    async def until(self, workers: int) -> None:
        """So many workers are ready."""
        changed = asyncio.Event()
        self.router.watchers.add(changed.set)
        async with asyncio.timeout(20):
            while self.router.scheduler.workers != workers:
                changed.clear()
                await changed.wait()
        self.router.watchers.discard(changed.set)


def descriptors() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


@asynccontextmanager
async def serving(folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int = 1) -> AsyncIterator[Served]:
    (folder / "frail_engine.py").write_text(textwrap.dedent(ENGINE))
    monkeypatch.syspath_prepend(str(folder))
    tensor = TensorSpec("x", "UINT8", (-1,))
    spec = WorkerSpec(
        engine="frail_engine:create",
        options={"broken": str(folder / "broken")},
        inputs=(tensor,),
        outputs=(tensor,),
        max_rows=8,
        warm_batches=(1, 8),
    )
    clock = MonotonicClock(asyncio.get_running_loop())
    pool = LocalPool([spec], (available_cores()[-1],) * workers, clock, LIMITS)
    config = msgspec.structs.replace(MODEL, inputs=(tensor,), outputs=(tensor,))
    router = make_router(SharedPool(pool, clock), clock, profile=PROFILE, config=config)
    await router.start()
    try:
        yield Served(router, pool, clock)
    finally:
        await router.stop()


@pytest.mark.parametrize(("workers", "culprit"), [(1, DIES), (2, HANGS)])
async def test_an_input_on_which_workers_die_is_found_and_its_batch_mates_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, culprit: int
) -> None:
    async with serving(tmp_path, monkeypatch, workers) as served:
        values = [1, 2, culprit, 3, 4, 5, 6, 7]
        clients = [Client(served, value) for value in (0, 0, *values)]  # the first two keep the workers busy
        found = await asyncio.gather(*(client.result() for client in clients), return_exceptions=True)
        poison = found.pop(4)
        assert isinstance(poison, WorkerError)
        assert "two workers were lost while they ran this input" in str(poison)
        assert found == [0, 0, 1, 2, 3, 4, 5, 6, 7]
        await served.until(workers)
        assert await Client(served, 9).result() == 9
        assert served.router.rescued[Outcome.FAILED] == 1


async def test_without_any_worker_requests_are_refused_and_then_served_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were there before wait for the next worker; readiness tells the truth at each stage."""
    async with serving(tmp_path, monkeypatch, workers=2) as served:
        stuck = [Client(served, HANGS) for _ in range(2)]
        waiting = Client(served, 3)
        for worker in (0, 1):
            served.kill(worker)
        await served.until(0)
        assert not served.router.ready
        with pytest.raises(UnavailableError, match="no live worker"):
            await Client(served, 1).result()
        await served.until(2)
        assert await waiting.result() == 3
        assert await Client(served, 1).result() == 1
        for client in stuck:
            with pytest.raises(WorkerError):
                await client.result()


async def test_a_worker_that_fails_to_start_is_tried_again_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the server is not ready until it does."""
    async with serving(tmp_path, monkeypatch) as served:
        broken = tmp_path / "broken"
        broken.touch()
        served.kill(0)
        await served.until(0)
        await asyncio.sleep(1.0)
        assert 1 <= broken.stat().st_size <= 4, "after 0.1, 0.3, 0.7 s and so on"
        assert not served.router.ready
        broken.unlink()
        await served.until(1)
        assert await Client(served, 1).result() == 1


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def no_shared_memory() -> Iterator[None]:
    """The kernel has no page left for it."""
    refused = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch("os.posix_fallocate", side_effect=refused):
        yield


@contextmanager
def no_processes() -> Iterator[None]:
    """Nor any process; asked of a template that is gone."""
    refused = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    for child in psutil.Process().children():
        if "superserve.serving.template" in command_line(child):
            child.kill()
    with mock.patch("subprocess.Popen", side_effect=refused):
        yield


@pytest.mark.parametrize("exhausted", [no_descriptors, no_shared_memory, no_processes])
async def test_a_worker_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exhausted: Callable[[], AbstractContextManager[None]]
) -> None:
    """Until the machine can, with nothing left behind by the attempts; the other one serves meanwhile."""
    async with serving(tmp_path, monkeypatch, workers=2) as served:
        before = descriptors()
        with exhausted():
            served.kill(0)
            await asyncio.sleep(0.5)  # a few attempts
            assert served.pool.pids[0] is None
            assert await Client(served, 1).result() == 1
        await served.until(2)
        assert descriptors() <= before + 1, "a template may be new"


async def test_the_date_may_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who serves looks at it: an hour forth and back changes nothing."""
    async with serving(tmp_path, monkeypatch) as served:
        for jump_s in (3600.0, -3600.0):
            now_s = time.time() + jump_s
            monkeypatch.setattr("time.time", lambda now_s=now_s: now_s)
            monkeypatch.setattr("time.time_ns", lambda now_s=now_s: int(now_s * 1e9))
            assert await Client(served, 5, slo_ms=1_000.0).result() == 5
        assert served.router.outcomes[Outcome.SERVED] == 2
