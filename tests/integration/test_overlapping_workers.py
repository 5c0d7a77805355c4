"""Real worker processes whose engine overlaps batches on a device that only takes time, below a real router."""

import asyncio
import os
import signal
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from superserve.clock import NS_PER_MS, NS_PER_S, MonotonicClock
from superserve.errors import SuperServeError
from superserve.model_folder import TensorSpec
from superserve.profile import LatencyTable
from superserve.scheduling import Scheduler, create_policy
from superserve.serving.cores import available_cores, plan_cores
from superserve.serving.inference import Answer
from superserve.serving.ipc import WorkerSpec
from superserve.serving.local_pool import LocalPool
from superserve.serving.pool import Batch
from superserve.serving.router import Router
from superserve.serving.shared_pool import SharedPool
from support.profiles import make_profile

pytestmark = pytest.mark.integration

BATCH_MS = 20
#: A batch takes `BATCH_MS`; y = 2 x, read and written as late as a device may.
ENGINE = """
    import time
    from collections import deque

    class Engine:
        name, dtype, subnet_ids, device_ns = "timed", "none", ("a",), 0

        def __init__(self):
            self.flight = deque()
            self.free = 0.0

        def actuate(self, subnet):
            pass

        def run(self, subnet, inputs):
            self.submit(subnet, inputs)
            return self.collect()

        def submit(self, subnet, inputs):
            assert len(self.flight) < 2, "three batches in flight"
            self.free = max(self.free, time.monotonic()) + 0.02
            self.flight.append((self.free, inputs))

        def done(self):
            return time.monotonic() >= self.flight[0][0]

        def collect(self):
            end, (x,) = self.flight.popleft()
            time.sleep(max(0.0, end - time.monotonic()))
            return [2 * x]

        def spare(self, limit_ns):
            assert not self.flight, "something else is done while batches are in flight"
            return False

        def pin(self, memory):
            pass

    def overlapping(setup):
        return Engine()

    class Plain:
        name, dtype, subnet_ids = "plain", "none", ("a",)

        def actuate(self, subnet):
            pass

        def run(self, subnet, inputs):
            return [2 * inputs[0]]

    def plain(setup):
        return Plain()
"""


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerSpec:
    (tmp_path / "timed_engine.py").write_text(textwrap.dedent(ENGINE))
    monkeypatch.syspath_prepend(str(tmp_path))  # workers get the import path of their router
    return WorkerSpec(
        engine="timed_engine:overlapping",
        options={},
        inputs=(TensorSpec("x", "FP32", (-1, 4)),),
        outputs=(TensorSpec("y", "FP32", (-1, 4)),),
        max_rows=2,
        warm_batches=(1,),
        in_flight=2,
    )


class Asked:
    """A request and what it was told."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.told: list[list[float] | SuperServeError] = []

    def answered(self, answer: Answer) -> None:
        self.told.append(np.frombuffer(bytes(answer.outputs[0]), "<f4").tolist())

    def refused(self, error: SuperServeError) -> None:
        self.told.append(error)


class Watched(SharedPool):
    """Counts batches that are launched behind others, and does something at the first of them."""

    behind = 0
    on_behind: Callable[[], None] | None = None

    def launch(self, worker: int, batch: Batch) -> None:
        """See `SharedPool.launch`."""
        super().launch(worker, batch)
        if worker not in self.workers.behind:
            return
        self.behind += 1
        if self.on_behind is not None:
            act, self.on_behind = self.on_behind, None
            act()


class Served:
    """A model, its router and one worker."""

    def __init__(self, spec: WorkerSpec) -> None:
        clock = MonotonicClock(asyncio.get_running_loop())
        self.pool = LocalPool([spec], plan_cores(available_cores(), 1).workers, clock)
        self.shared = Watched(self.pool, clock)
        table = LatencyTable(make_profile([[BATCH_MS, BATCH_MS]], (1, 2)))
        scheduler = Scheduler(create_policy("fixed:smallest", table), overhead_ns=NS_PER_MS, shared=self.shared.workers)
        self.router = Router(scheduler, self.shared, clock, output_row_bytes=[16])
        self.asked: list[Asked] = []

    def ask(self, count: int) -> None:
        for _ in range(count):
            asked = Asked(len(self.asked))
            self.asked.append(asked)
            now_ns = self.router.now_ns()
            inputs = [np.full((1, 4), asked.number, "<f4").tobytes()]
            self.router.submit(now_ns, now_ns + 20 * NS_PER_S, 1, 0.0, 0, inputs, asked)

    async def all_told(self) -> None:
        async with asyncio.timeout(15):
            while self.router.unfinished:  # noqa: ASYNC110  (nobody tells)
                await asyncio.sleep(0.005)

    def check(self) -> None:
        """Each was answered once, with its own rows."""
        assert [asked.told for asked in self.asked] == [[[2.0 * asked.number] * 4] for asked in self.asked]


@asynccontextmanager
async def serving(spec: WorkerSpec) -> AsyncIterator[Served]:
    served = Served(spec)
    await served.router.start()
    try:
        yield served
    finally:
        await served.router.stop()


async def test_batches_behind_others_are_answered_in_order(timed: WorkerSpec) -> None:
    """How many there are, and how long they wait, is for the machine to say: some of its timers come too late."""
    async with serving(timed) as served:
        served.ask(30)
        await served.all_told()
        served.check()
        assert served.shared.behind >= 1


async def test_a_worker_killed_with_two_batches_loses_neither(timed: WorkerSpec) -> None:
    async with serving(timed) as served:
        (pid,) = served.pool.pids
        assert pid is not None
        found: list[tuple[int, int]] = []

        def kill() -> None:
            found.append((served.router.scheduler.in_flight, served.router.scheduler.busy))
            os.kill(pid, signal.SIGKILL)

        served.shared.on_behind = kill
        served.ask(30)
        await served.all_told()
        assert found == [(2, 1)]
        served.check()
        assert served.pool.pids[0] not in {None, pid}


async def test_what_is_in_flight_is_answered_when_the_server_stops(timed: WorkerSpec) -> None:
    async with serving(timed) as served:
        behind = asyncio.Event()
        served.shared.on_behind = behind.set
        served.ask(30)
        async with asyncio.timeout(10):
            await behind.wait()
        await served.router.drain(10.0)
        served.check()


async def test_another_model_comes_between_batches_though_there_is_always_a_next_one(timed: WorkerSpec) -> None:
    """A process with it takes over; since its engine has one batch at a time, so have all from then on."""
    async with serving(timed) as served:
        adding = asyncio.ensure_future(
            served.pool.add(msgspec.structs.replace(timed, engine="timed_engine:plain", in_flight=1))
        )
        async with asyncio.timeout(60):
            while not adding.done():
                if served.router.queue_depth < 4:
                    served.ask(4)
                await asyncio.sleep(0.005)
        number = await adding
        assert not served.shared.workers.overlapping
        served.ask(4)
        await served.all_told()
        served.check()
        await served.pool.remove(number)
        assert served.shared.workers.overlapping == {0}
