"""Real worker processes: right answers, deaths, and nothing left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from superserve.clock import NS_PER_MS, NS_PER_S, MonotonicClock
from superserve.errors import WorkerError
from superserve.model_folder import ModelConfig, TensorSpec
from superserve.serving.cores import available_cores, plan_cores
from superserve.serving.emulated import emulated_workers
from superserve.serving.ipc import WorkerSpec
from superserve.serving.local_pool import LocalPool
from superserve.serving.pool import Batch, BatchResult, Buffer
from superserve.serving.supervisor import PoolLimits
from superserve.serving.watchdog import AnswerLimits

pytestmark = pytest.mark.integration

INPUTS = (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("k", "UINT8", (-1,)))
OUTPUTS = (TensorSpec("y", "FP32", (-1, 4)),)
CONFIG = ModelConfig(
    format=1,
    name="m",
    family="none",
    architecture={},
    task="none",
    dataset="none",
    labels=(),
    inputs=INPUTS,
    outputs=OUTPUTS,
    preprocessing={},
)

# What the test workers run: y = (subnet + 1) * x + k, with misbehaviour on demand through k.
ENGINE = """
    import ctypes, os, socket, stat, sys, time
    import msgspec
    import numpy as np

    FAIL, WRONG_SHAPE, DIE, HANG, SLOW, HOLD, NOISE, NONSENSE = 201, 202, 203, 204, 205, 206, 207, 208

    def say(data):  # to the router, behind the worker's back
        for name in os.listdir("/proc/self/fd"):
            try:
                if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    socket.socket(fileno=os.dup(int(name))).send(data)
            except OSError:
                pass

    class Engine:
        name, dtype, subnet_ids = "toy", "float32", ("a", "b")

        def actuate(self, subnet):
            pass

        def run(self, subnet, inputs):
            x, k = inputs
            if k[0] == FAIL:
                raise RuntimeError("this batch is cursed")
            if k[0] == WRONG_SHAPE:
                return [x[:, :1]]
            if k[0] == DIE:
                sys.stderr.write("famous last words\\n")
                os._exit(7)
            if k[0] == HOLD:
                ctypes.PyDLL(None).sleep(60)  # with the interpreter's lock
            if k[0] == NOISE:
                say(bytes(range(256)))
            if k[0] == NONSENSE:
                say(msgspec.msgpack.encode(("done", 4711, 1, 1)))
            if k[0] in (HANG, SLOW):
                time.sleep(60 if k[0] == HANG else 0.3)
            return [(subnet + 1) * x + k[:, None]]

    def create(setup):
        if "message" in setup.spec.options:
            raise ValueError(setup.spec.options["message"])
        return Engine()

    def out_of_memory(setup):
        os.kill(os.getpid(), 9)  # as the kernel does
"""
FAIL, WRONG_SHAPE, DIE, HANG, SLOW, HOLD, NOISE, NONSENSE = 201, 202, 203, 204, 205, 206, 207, 208

#: A model loads in the time that cores have left over, which is little on a busy machine.
LOAD_S = 240.0


class Recorder:
    """A listener that queues what it hears: (event, worker, what it said); keeps the last answer."""

    outputs: list[bytes]
    infer_ns: int
    actuate_ns: int

    def __init__(self) -> None:
        self.events: asyncio.Queue[tuple[str, int, str]] = asyncio.Queue()

    def on_worker_ready(self, worker: int) -> None:
        self.events.put_nowait(("ready", worker, ""))

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        raise AssertionError(f"worker {worker} overlaps batches: {overlaps}")

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        self.outputs = [bytes(output) for output in result.outputs]
        self.infer_ns, self.actuate_ns = result.infer_ns, result.actuate_ns
        self.events.put_nowait(("done", worker, ""))

    def on_batch_failed(self, worker: int, message: str) -> None:
        self.events.put_nowait(("failed", worker, message))

    def on_batch_overdue(self, worker: int) -> None:
        raise AssertionError(f"worker {worker}: no local pool tells of any")

    def on_worker_lost(self, worker: int, reason: str) -> None:
        self.events.put_nowait(("lost", worker, reason))

    def rows(self) -> npt.NDArray[np.float32]:
        """The last answer."""
        return np.frombuffer(self.outputs[0], "<f4").reshape(-1, 4)

    async def next(self) -> tuple[str, int, str]:
        async with asyncio.timeout(5):
            return await self.events.get()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerSpec:
    (tmp_path / "toy_engine.py").write_text(textwrap.dedent(ENGINE))
    monkeypatch.syspath_prepend(str(tmp_path))  # workers get the import path of their router
    return WorkerSpec(
        engine="toy_engine:create", options={}, inputs=INPUTS, outputs=OUTPUTS, max_rows=8, warm_batches=(1, 8)
    )


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Every test here leaves as many descriptors, and no more children, than it found."""
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208  (names are wanted)
    children = set(psutil.Process().children(recursive=True))  # other tests may have left a resource tracker
    yield
    assert set(psutil.Process().children(recursive=True)) <= children
    assert len(set(os.listdir("/proc/self/fd"))) <= len(before)  # noqa: PTH208


@asynccontextmanager
async def running(
    spec: WorkerSpec, workers: int = 1, limits: PoolLimits | None = None
) -> AsyncIterator[tuple[LocalPool, Recorder]]:
    cores = plan_cores(available_cores(), workers).workers
    pool = LocalPool([spec], cores, MonotonicClock(asyncio.get_running_loop()), limits)
    recorder = Recorder()
    await pool.start(recorder)
    assert {await recorder.next() for _ in range(workers)} == {("ready", number, "") for number in range(workers)}
    try:
        yield pool, recorder
    finally:
        await pool.stop()


def batch_of(x: npt.NDArray[Any], k: list[int], subnet: int = 0) -> Batch:
    rows = [[row.astype("<f4").tobytes(), bytes([number])] for row, number in zip(x, k, strict=True)]
    return Batch(subnet, len(rows), rows)


def one(k: int) -> Batch:
    return batch_of(np.zeros((1, 4)), [k])


async def test_answers_are_the_engines(toy: WorkerSpec) -> None:
    rng = np.random.default_rng(0)
    async with running(toy) as (pool, recorder):
        assert (pool.engines[0].engine, pool.engines[0].subnet_ids, pool.engines[0].torch) == (
            "toy",
            ("a", "b"),
            "none",
        )
        for rows in (1, 8, 3, 8, 1):
            subnet = rows % 2
            x, k = rng.random((rows, 4), np.float32), rng.integers(0, 200, rows).tolist()
            pool.launch(0, batch_of(x, k, subnet))
            assert await recorder.next() == ("done", 0, "")
            np.testing.assert_array_equal(recorder.rows(), (subnet + 1) * x + np.array(k, np.float32)[:, None])
            assert 0 < recorder.actuate_ns < recorder.infer_ns < NS_PER_S


async def test_requests_of_several_rows_lie_one_after_the_other(toy: WorkerSpec) -> None:
    x = np.arange(20, dtype="<f4").reshape(5, 4)
    async with running(toy) as (pool, recorder):
        requests: list[list[Buffer]] = [[memoryview(x[:2].tobytes()), b"\1\2"], [bytearray(x[2:].tobytes()), b"\3\4\5"]]
        pool.launch(0, Batch(0, 5, requests))
        assert (await recorder.next())[0] == "done"
        np.testing.assert_array_equal(recorder.rows(), x + np.arange(1, 6)[:, None])


@pytest.mark.parametrize(("k", "message"), [(FAIL, "RuntimeError: this batch is cursed"), (WRONG_SHAPE, "output 'y'")])
async def test_a_batch_that_raises_leaves_the_worker_alive(toy: WorkerSpec, k: int, message: str) -> None:
    async with running(toy) as (pool, recorder):
        pid = pool.pids[0]
        pool.launch(0, one(k))
        event, worker, detail = await recorder.next()
        assert (event, worker) == ("failed", 0)
        assert message in str(detail)
        pool.launch(0, one(5))
        assert (await recorder.next())[0] == "done"
        assert pool.pids[0] == pid


async def test_a_killed_worker_is_lost_with_its_batch_and_comes_back_alone(toy: WorkerSpec) -> None:
    async with running(toy, workers=2) as (pool, recorder):
        first, second = pool.pids
        assert first is not None
        pool.launch(0, one(HANG))
        os.kill(first, signal.SIGKILL)
        event, worker, reason = await recorder.next()
        assert (event, worker) == ("lost", 0)
        assert "killed by SIGKILL" in str(reason)
        assert await recorder.next() == ("ready", 0, "")
        assert pool.pids[0] not in {first, None}
        assert pool.pids[1] == second
        pool.launch(0, one(1))
        assert (await recorder.next())[:2] == ("done", 0)


async def test_last_words_and_status_of_a_worker_that_exits_are_told(toy: WorkerSpec) -> None:
    async with running(toy) as (pool, recorder):
        pool.launch(0, one(DIE))
        event, _, reason = await recorder.next()
        assert event == "lost"
        assert "exited with status 7" in str(reason)
        assert "famous last words" in str(reason)


@pytest.mark.parametrize("k", [HANG, HOLD])
async def test_a_worker_that_does_not_answer_is_killed(toy: WorkerSpec, k: int) -> None:
    """Whether or not it holds the interpreter's lock meanwhile: nobody asks it anything."""
    async with running(toy, limits=PoolLimits(answer=AnswerLimits(unplanned_ns=200 * NS_PER_MS))) as (pool, recorder):
        pool.launch(0, one(k))
        event, _, reason = await recorder.next()
        assert event == "lost"
        assert "did not answer within 0.2 s" in str(reason)
        assert await recorder.next() == ("ready", 0, "")


async def test_a_worker_that_is_stopped_is_killed(toy: WorkerSpec) -> None:
    """As by SIGSTOP, or a machine that swaps."""
    async with running(toy, limits=PoolLimits(answer=AnswerLimits(unplanned_ns=200 * NS_PER_MS))) as (pool, recorder):
        assert pool.pids[0] is not None
        os.kill(pool.pids[0], signal.SIGSTOP)
        pool.launch(0, one(5))
        assert (await recorder.next())[:2] == ("lost", 0)
        assert await recorder.next() == ("ready", 0, "")


@pytest.mark.parametrize(("k", "words"), [(NOISE, "sent garbage"), (NONSENSE, "sent what makes no sense")])
async def test_a_worker_that_answers_garbage_is_lost_at_once(toy: WorkerSpec, k: int, words: str) -> None:
    """Nothing of its batch can be trusted; the next process answers."""
    async with running(toy) as (pool, recorder):
        pool.launch(0, one(k))
        event, _, reason = await recorder.next()
        assert event == "lost"
        assert words in reason
        assert await recorder.next() == ("ready", 0, "")
        pool.launch(0, one(5))
        assert (await recorder.next())[0] == "done"


async def test_stop_lets_a_batch_finish(toy: WorkerSpec) -> None:
    async with running(toy) as (pool, recorder):
        pool.launch(0, one(SLOW))
        await pool.stop()
        await pool.stop()
        assert (await recorder.next())[0] == "done"
        assert recorder.events.empty()


async def test_stop_kills_what_does_not_finish_and_says_so(toy: WorkerSpec) -> None:
    async with running(toy, limits=PoolLimits(stop_ns=100 * NS_PER_MS)) as (pool, recorder):
        pool.launch(0, one(HANG))
        await pool.stop()
        assert (await recorder.next())[0] == "lost"


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("toy_engine:create", r"worker \d cannot start: ValueError: no such weights"),
        ("no_such_module:create", "No module named 'no_such_module'"),
    ],
)
async def test_a_worker_that_cannot_start_fails_the_pool(toy: WorkerSpec, engine: str, message: str) -> None:
    spec = msgspec.structs.replace(toy, engine=engine, options={"message": "no such weights"})
    pool = LocalPool([spec], (available_cores()[-1],) * 2, MonotonicClock(asyncio.get_running_loop()))
    with pytest.raises(WorkerError, match=message):
        await pool.start(Recorder())
    await pool.stop()


async def test_cancelling_the_start_leaves_nothing(toy: WorkerSpec) -> None:
    pool = LocalPool([toy], (available_cores()[-1],) * 2, MonotonicClock(asyncio.get_running_loop()))
    starting = asyncio.create_task(pool.start(Recorder()))
    await asyncio.sleep(0.05)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_workers_are_pinned_and_recognisable(toy: WorkerSpec) -> None:
    cores = available_cores()
    async with running(toy, workers=len(cores)) as (pool, _):
        for worker, pid in enumerate(pool.pids):
            assert pid is not None
            process = psutil.Process(pid)
            assert "superserve.serving.worker" in process.cmdline()
            assert process.cpu_affinity() == [plan_cores(cores, len(cores)).workers[worker]]


async def test_signals_meant_for_the_router_do_not_end_workers(toy: WorkerSpec) -> None:
    async with running(toy) as (pool, recorder):
        pool.launch(0, one(SLOW))
        assert pool.pids[0] is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pool.pids[0], number)
        assert (await recorder.next())[0] == "done"


async def test_emulated_workers_take_their_time_and_answer_zeros() -> None:
    async with running(emulated_workers(CONFIG, ["r-profile"], seed=0), workers=2) as (pool, recorder):
        assert pool.emulated
        for subnet, rows, expected_us in ((0, 1, 1410), (5, 4, 9850)):
            pool.launch(1, batch_of(np.ones((rows, 4)), [9] * rows, subnet))
            assert (await recorder.next())[0] == "done"
            assert recorder.outputs == [bytes(rows * 16)]
            assert recorder.infer_ns > 0.9 * expected_us * 1_000


async def test_a_model_is_added_beside_the_one_that_runs(toy: WorkerSpec) -> None:
    """Its process takes over between two batches, and runs both; so does one that is started after a death."""
    async with running(toy, workers=2) as (pool, recorder):
        before = pool.pids
        pool.launch(0, one(SLOW))
        adding = asyncio.ensure_future(pool.add(msgspec.structs.replace(toy, max_rows=3)))
        assert (await recorder.next())[:2] == ("done", 0)
        async with asyncio.timeout(LOAD_S):
            number = await adding
        assert number == 1
        assert set(pool.engines) == {0, 1}
        assert not set(pool.pids) & set(before)
        for model in (0, 1):
            await answered(pool, recorder, model)
        assert recorder.events.empty(), "nobody was told of the change"
        assert pool.pids[0] is not None
        os.kill(pool.pids[0], signal.SIGKILL)
        assert (await recorder.next())[:2] == ("lost", 0)
        assert await recorder.next() == ("ready", 0, "")
        for model in (0, 1):
            await answered(pool, recorder, model)
        async with asyncio.timeout(LOAD_S):
            await pool.remove(0)
        assert set(pool.engines) == {1}
        await answered(pool, recorder, 1)


async def test_a_running_batch_ends_in_its_own_process(toy: WorkerSpec) -> None:
    """A process that is ready waits for the batch; what comes next is for the new one."""
    async with running(toy) as (pool, recorder):
        adding = asyncio.ensure_future(pool.add(toy))
        while not adding.done():
            pid = pool.pids[0]
            pool.launch(0, one(SLOW))
            assert pool.pids[0] == pid
            assert (await recorder.next())[:2] == ("done", 0)
        await answered(pool, recorder, await adding)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("toy_engine:create", "ValueError: no such weights"),
        ("toy_engine:out_of_memory", "killed by SIGKILL"),
        ("no_such_module:create", "No module named 'no_such_module'"),
    ],
)
async def test_a_model_that_cannot_be_loaded_leaves_the_others_alone(
    toy: WorkerSpec, engine: str, message: str
) -> None:
    """Their processes are the same as before, and another model can be added afterwards."""
    async with running(toy, workers=2) as (pool, recorder):
        before = pool.pids
        broken = msgspec.structs.replace(toy, engine=engine, options={"message": "no such weights"})
        with pytest.raises(WorkerError, match=message):
            await pool.add(broken)
        assert pool.pids == before
        assert set(pool.engines) == {0}
        await answered(pool, recorder, 0)
        assert recorder.events.empty()
        number = await pool.add(toy)
        await answered(pool, recorder, number)


async def test_a_worker_that_dies_while_a_model_loads_comes_back(toy: WorkerSpec) -> None:
    """Whichever of its processes is there first takes the batches; in the end it holds both models."""
    async with running(toy) as (pool, recorder):
        adding = asyncio.ensure_future(pool.add(toy))
        await asyncio.sleep(0.05)
        assert pool.pids[0] is not None
        os.kill(pool.pids[0], signal.SIGKILL)
        assert (await recorder.next())[:2] == ("lost", 0)
        assert await recorder.next() == ("ready", 0, "")
        async with asyncio.timeout(LOAD_S):
            number = await adding
        for model in (0, number):
            await answered(pool, recorder, model)


async def test_stopping_while_a_model_loads_leaves_nothing(toy: WorkerSpec) -> None:
    """The load fails; the fixture counts processes and descriptors."""
    async with running(toy) as (pool, _):
        adding = asyncio.ensure_future(pool.add(toy))
        await asyncio.sleep(0)  # it has been asked for
        await pool.stop()
        with pytest.raises(WorkerError, match="the pool stops"):
            await adding


async def test_models_can_be_added_before_the_start(toy: WorkerSpec) -> None:
    """A pool that does not run takes note of them."""
    pool = LocalPool([], (available_cores()[-1],), MonotonicClock(asyncio.get_running_loop()))
    assert [await pool.add(toy), await pool.add(toy)] == [0, 1]
    await pool.remove(0)
    recorder = Recorder()
    await pool.start(recorder)
    assert await recorder.next() == ("ready", 0, "")
    await answered(pool, recorder, 1)
    await pool.stop()


async def answered(pool: LocalPool, recorder: Recorder, model: int) -> None:
    """Worker 0 answers a batch of a model."""
    batch = batch_of(np.ones((1, 4)), [5])
    batch.model = model
    pool.launch(0, batch)
    assert (await recorder.next())[:2] == ("done", 0)
    np.testing.assert_array_equal(recorder.rows(), np.full((1, 4), 6.0))


def is_running(pid: int) -> bool:
    """Whether a process lives; one that has ended may wait for the machine's first process to take note."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


ORPHANS = """
    import asyncio, os, signal
    from superserve.clock import MonotonicClock
    from superserve.serving.local_pool import LocalPool
    from superserve.serving.pool import Batch
    from tests_support import SPEC

    class Deaf:
        def __getattr__(self, name):
            return lambda *args: None

    async def main():
        pool = LocalPool([SPEC], (0, 0), MonotonicClock(asyncio.get_running_loop()))
        await pool.start(Deaf())
        pool.launch(0, Batch(0, 1, [[bytes(16), bytes([204])]]))
        await asyncio.sleep(0.2)
        print(*pool.pids, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(main())
"""


def test_no_worker_outlives_a_router_that_is_killed(toy: WorkerSpec, tmp_path: Path) -> None:
    support = (
        "import msgspec\nfrom superserve.serving.ipc import WorkerSpec\n"
        f"SPEC = msgspec.json.decode({msgspec.json.encode(toy)!r}, type=WorkerSpec)\n"
    )
    (tmp_path / "tests_support.py").write_text(support)
    (tmp_path / "router.py").write_text(textwrap.dedent(ORPHANS).replace("(0, 0)", f"({available_cores()[-1]},) * 2"))
    router = subprocess.run(
        [sys.executable, str(tmp_path / "router.py")], capture_output=True, text=True, timeout=10, check=False
    )
    pids = [int(pid) for pid in router.stdout.split()]
    assert len(pids) == 2, router.stderr
    give_up = time.monotonic() + 2
    while any(is_running(pid) for pid in pids) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not any(is_running(pid) for pid in pids)
    for child in psutil.Process().children():  # a process that has had a pool adopts orphans: they are its to bury
        if child.status() == psutil.STATUS_ZOMBIE:
            os.waitpid(child.pid, 0)
