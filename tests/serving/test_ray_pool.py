"""The pool of actors over a cluster without Ray: what becomes of workers, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import numpy as np
import pytest

from superserve.clock import NS_PER_MS, NS_PER_S, ManualClock
from superserve.errors import ConfigError, WorkerError
from superserve.serving.devices import device_name
from superserve.serving.ipc import Done, WorkerSpec
from superserve.serving.pool import Batch, BatchResult
from superserve.serving.ray_kinds import Room, kinds_of
from superserve.serving.ray_messages import pack
from superserve.serving.ray_pool import RayPool
from support.fake_cluster import TOY, FakeActor, FakeCluster, Inline

#: Workers that say which device they are for.
ON_A_DEVICE = msgspec.structs.replace(TOY, options={"device": "cpu"})


class Listener:
    """Keeps what it hears, and the rows of the last answer."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.rows: list[float] = []

    def on_worker_ready(self, worker: int) -> None:
        self.heard.append(f"ready {worker}")

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        raise AssertionError(f"worker {worker} overlaps batches: {overlaps}")

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        self.heard.append(f"done {worker}")
        self.rows = np.frombuffer(result.outputs[0], "<f4").tolist()

    def on_batch_failed(self, worker: int, message: str) -> None:
        self.heard.append(f"failed {worker}: {message}")

    def on_batch_overdue(self, worker: int) -> None:
        self.heard.append(f"overdue {worker}")

    def on_worker_lost(self, worker: int, reason: str) -> None:
        self.heard.append(f"lost {worker}: {reason}")

    def take(self) -> list[str]:
        """What it has heard since it was last asked."""
        heard, self.heard = self.heard, []
        return heard


class Bench:
    """A pool, the cluster that it runs on, and time."""

    def __init__(self, cluster: FakeCluster, count: int | None, spec: WorkerSpec = TOY) -> None:
        self.cluster = cluster
        self.clock = ManualClock()
        self.listener = Listener()
        self.pool = RayPool([spec], cluster, self.clock, count, blocking=Inline())
        self.starting = asyncio.ensure_future(self.pool.start(self.listener))

    @property
    def actors(self) -> list[FakeActor]:
        return self.cluster.actors

    @property
    def killed(self) -> list[int]:
        return [actor.number for actor in self.actors if actor.killed]

    async def settle(self) -> None:
        """Let everything that is due in the loop happen."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def pass_ms(self, delta_ms: float) -> None:
        self.clock.advance(round(delta_ms * NS_PER_MS))
        await self.settle()

    async def place(self, actor: int, node: str) -> None:
        """An actor finds room, loads and is ready."""
        self.actors[actor].place(node)
        await self.settle()
        assert self.actors[actor].answer() == "load"
        await self.settle()

    async def answer(self, actor: int) -> None:
        assert self.actors[actor].answer() == "run"
        await self.settle()

    def launch(self, worker: int, k: int = 1, due_ms: float = 0.0) -> None:
        inputs = [[np.full(4, row, "<f4").tobytes(), bytes([k])] for row in (1, 2)]
        self.pool.launch(worker, Batch(1, 2, inputs, 0, round(due_ms * NS_PER_MS), round(due_ms * NS_PER_MS)))


@asynccontextmanager
async def bench_of(
    count: int | None, cluster: FakeCluster | None = None, spec: WorkerSpec = TOY
) -> AsyncIterator[Bench]:
    """A pool that is starting; stopped at the end, when nothing may be left of it."""
    bench = Bench(cluster or FakeCluster(), count, spec)
    await bench.settle()
    yield bench
    if not bench.starting.done():
        bench.starting.cancel()
        await asyncio.gather(bench.starting, return_exceptions=True)
    await bench.pool.stop()
    assert all(actor.killed for actor in bench.actors)


async def test_serves_as_soon_as_one_worker_is_ready() -> None:
    """The others join when there is room for them; every row is its own."""
    async with bench_of(2) as bench:
        assert not bench.starting.done()
        await bench.place(1, "a")
        await bench.starting
        assert (bench.pool.size, bench.pool.engines[0].subnet_ids) == (2, ("a", "b"))
        bench.launch(1, k=3)
        await bench.answer(1)
        await bench.place(0, "b")
        assert bench.listener.take() == ["ready 1", "done 1", "ready 0"]
        assert bench.listener.rows == [5.0] * 4 + [7.0] * 4


async def test_a_batch_that_raises_is_told_and_the_worker_lives() -> None:
    """With what the engine said."""
    async with bench_of(1) as bench:
        await bench.place(0, "a")
        bench.launch(0, k=201)
        await bench.answer(0)
        bench.launch(0)
        await bench.answer(0)
        assert bench.listener.take() == ["ready 0", "failed 0: RuntimeError: this batch is cursed", "done 0"]


async def test_an_overdue_batch_is_told_and_may_still_be_answered() -> None:
    """Predicted were 10 ms, and 100 is the least margin; Ray knows of nothing."""
    async with bench_of(1) as bench:
        await bench.place(0, "a")
        bench.launch(0, due_ms=10)
        await bench.pass_ms(109)
        assert bench.listener.take() == ["ready 0"]
        await bench.pass_ms(1)
        assert bench.listener.take() == ["overdue 0"]
        await bench.answer(0)
        assert bench.listener.take() == ["done 0"]


async def test_a_worker_that_never_answers_is_given_up_and_replaced() -> None:
    """As a partition looks from here: after two seconds nobody waits for it, or for Ray, any more."""
    async with bench_of(1) as bench:
        await bench.place(0, "a")
        bench.launch(0, due_ms=10)
        for _ in range(25):
            await bench.pass_ms(100)
        heard = [event for event in bench.listener.take() if not event.startswith("overdue")]
        assert heard == ["ready 0", "lost 0: node a (host): process 0: did not answer within 2 s"]
        assert bench.actors[0].killed
        await bench.place(1, "b")
        assert bench.listener.take() == ["ready 0"]


async def test_a_worker_that_dies_is_replaced() -> None:
    """Whether it runs a batch or not; the next one waits a little before it comes."""
    async with bench_of(1) as bench:
        await bench.place(0, "a")
        bench.actors[0].die("the node is gone")
        await bench.settle()
        assert bench.listener.take() == ["ready 0", "lost 0: node a (host): process 0: the node is gone"]
        assert len(bench.actors) == 1
        await bench.pass_ms(100)
        await bench.place(1, "b")
        bench.launch(0)
        bench.actors[1].die("this one, too")
        await bench.settle()
        assert bench.listener.take() == ["ready 0", "lost 0: node b (host): process 1: this one, too"]


@pytest.mark.parametrize("data", [b"", b"\xff" * 9, pack(Done(7, 1, 1)), pack(Done(1, 1, 1), [bytes(31)])])
async def test_a_worker_that_answers_garbage_is_lost(data: bytes) -> None:
    """No message, another batch's answer, or too few bytes."""
    async with bench_of(1) as bench:
        await bench.place(0, "a")
        bench.launch(0)
        bench.actors[0].say(data)
        await bench.settle()
        ready, lost = bench.listener.take()
        assert (ready, lost.split("; ")[0][:48]) == ("ready 0", "lost 0: node a (host): process 0: sent garbage: ")


async def test_another_version_is_refused_and_the_rest_serves() -> None:
    """The node is left out, with a message that says what to install where."""
    async with bench_of(2) as bench:
        bench.actors[0].version = "0.0.1"
        bench.actors[0].place("old")
        await bench.settle()
        await bench.place(1, "a")
        await bench.starting
        assert bench.listener.take() == ["ready 1"]
        assert (bench.cluster.refused, bench.actors[0].killed) == ([("old", 0)], True)


async def test_when_none_can_start_the_reasons_are_told() -> None:
    """Half a minute after the first one: others might have been slower."""
    async with bench_of(2) as bench:
        bench.actors[0].version = "0.0.1"
        bench.actors[0].place("old")
        await bench.settle()
        await bench.pass_ms(29_000)
        assert not bench.starting.done()
        await bench.pass_ms(1_001)
        with pytest.raises(WorkerError, match=r"node old \(host\).*0\.0\.1.*; 1 workers have not found room"):
            await bench.starting


async def test_a_model_that_cannot_be_loaded_is_told() -> None:
    """In the engine's words."""
    cluster = FakeCluster()
    bench = Bench(cluster, None)
    bench.pool._models[0] = msgspec.structs.replace(TOY, options={"message": "no such kernel"})
    await bench.settle()
    for actor in list(cluster.actors):
        actor.place("a")
        await bench.settle()
        actor.answer()
        await bench.settle()
    with pytest.raises(WorkerError, match="no such kernel"):
        await bench.starting


async def test_where_no_worker_fits_it_is_said_at_once() -> None:
    """What a worker needs, what there is, and what would help."""
    cluster = FakeCluster(total=0)
    cluster.kinds = kinds_of("cuda")
    bench = Bench(cluster, None)
    told = r"a worker on cuda needs CPU: 1, GPU: 1; and all nodes together have CPU: 0.*--device"
    with pytest.raises(ConfigError, match=told):
        await bench.starting


async def test_as_many_workers_as_there_is_room_for() -> None:
    """Less one for the router; a node that joins brings more of them, and one that somebody else uses none."""
    async with bench_of(None, FakeCluster(total=4, free=3)) as bench:
        assert bench.pool.size == 3
        for actor in range(3):
            await bench.place(actor, "a")
        bench.cluster.sized = [Room(8, 0)]
        await bench.pass_ms(1_001)
        assert bench.pool.size == 3
        bench.cluster.sized = [Room(8, 2)]
        await bench.pass_ms(1_001)
        assert bench.pool.size == 5
        await bench.place(4, "b")
        assert bench.listener.take()[-1] == "ready 4"


async def test_the_router_takes_no_gpu() -> None:
    """Each of them gets a worker."""
    cluster = FakeCluster(total=2)
    cluster.kinds = kinds_of("cuda")
    async with bench_of(None, cluster) as bench:
        assert bench.pool.size == 2


async def test_workers_of_two_devices(caplog: pytest.LogCaptureFixture) -> None:
    """Each kind as many as it has room for; who is of which stays so when a worker is replaced, and when nodes join."""
    cluster = FakeCluster()
    cluster.kinds, cluster.sized = kinds_of("cuda,cpu"), [Room(1, 1), Room(3, 3)]
    async with bench_of(None, cluster, ON_A_DEVICE) as bench:
        assert cluster.created == [0, 1, 1]
        for actor in range(3):
            await bench.place(actor, "a")
        assert [bench.pool.device(worker) for worker in range(3)] == [device_name(on) for on in ("cuda", "cpu", "cpu")]
        cluster.sized = [Room(2, 1), Room(3, 0)]
        await bench.pass_ms(1_001)
        assert cluster.created == [0, 1, 1, 0]
        bench.actors[0].die("the node is gone")
        await bench.settle()
        await bench.pass_ms(100)
        assert cluster.created == [0, 1, 1, 0, 0]
    assert caplog.text.count("until a node joins") == 0


async def test_so_many_workers_of_two_devices_are_of_them_in_turns() -> None:
    """Whether there is room for all of them or not."""
    cluster = FakeCluster()
    cluster.kinds, cluster.sized = kinds_of("cuda,cpu"), [Room(1, 1), Room(3, 3)]
    async with bench_of(3, cluster):
        assert cluster.created == [0, 1, 0]


async def test_a_device_that_no_node_has_is_told_and_the_other_one_serves(caplog: pytest.LogCaptureFixture) -> None:
    """With what it needs; it gets its worker when such a node joins."""
    cluster = FakeCluster()
    cluster.kinds, cluster.sized = kinds_of("cuda,cpu"), [Room(0, 0), Room(2, 2)]
    async with bench_of(None, cluster) as bench:
        assert cluster.created == [1]
        assert "no worker on cuda, until a node joins that has what it needs: CPU: 1, GPU: 1" in caplog.text
        await bench.place(0, "a")
        cluster.sized = [Room(1, 1), Room(2, 0)]
        await bench.pass_ms(1_001)
        assert cluster.created == [1, 0]


async def test_a_device_that_does_not_work_on_a_node_is_refused_there_alone() -> None:
    """As where Ray counts a GPU that torch cannot use: workers on the processor of that node are none the worse."""
    cluster = FakeCluster()
    cluster.kinds, cluster.sized = kinds_of("cuda,cpu"), [Room(1, 1), Room(2, 2)]
    broken = msgspec.structs.replace(TOY, options={"device": "cpu", "broken": "cuda"})
    async with bench_of(None, cluster, broken) as bench:
        assert cluster.created == [0, 1]
        for actor in range(2):
            await bench.place(actor, "a")
        assert cluster.refused == [("a", 0)]
        assert bench.listener.take() == ["ready 1"]


async def test_a_worker_leaves_a_node_that_is_drained_between_two_batches() -> None:
    """It serves until it is ready elsewhere; nothing is lost."""
    async with bench_of(1) as bench:
        await bench.place(0, "a")
        bench.cluster.going = {"a"}
        bench.launch(0)
        await bench.pass_ms(1_001)
        assert len(bench.actors) == 2
        await bench.place(1, "b")
        assert bench.killed == []
        await bench.answer(0)
        assert bench.killed == [0]
        bench.launch(0)
        await bench.answer(1)
        assert bench.listener.take() == ["ready 0", "done 0", "done 0"]


async def test_a_cluster_that_cannot_be_asked_is_asked_again() -> None:
    """Its head may be restarting."""
    async with bench_of(None, FakeCluster(total=2)) as bench:
        await bench.place(0, "a")
        rooms, bench.cluster.rooms = bench.cluster.rooms, lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        await bench.pass_ms(1_001)
        bench.cluster.rooms = rooms  # type: ignore[method-assign]
        bench.cluster.sized = [Room(3, 1)]
        await bench.pass_ms(1_001)
        assert bench.pool.size == 2


async def test_a_batch_may_finish_when_the_pool_stops() -> None:
    """Within two seconds; then it is lost."""
    async with bench_of(2) as bench:
        for actor in range(2):
            await bench.place(actor, "a")
        bench.launch(0)
        bench.launch(1)
        stopping = asyncio.ensure_future(bench.pool.stop())
        await bench.settle()
        await bench.answer(0)
        assert not stopping.done()
        await bench.pass_ms(2 * NS_PER_S / NS_PER_MS)
        await stopping
        heard = bench.listener.take()
        assert heard[2:3] == ["done 0"]
        assert heard[3].startswith("lost 1: node a (host): process 1: did not finish its batch")
