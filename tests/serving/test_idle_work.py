"""Idle work over a fake pool, in virtual time: when it runs, and what it may cost a request."""

from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import given

from superserve.clock import NS_PER_MS, ManualClock
from superserve.serving.fake_pool import FakePool
from superserve.serving.idle_work import LOOK_NS, SLO_SHARE, IdleBatch, IdleLimit
from superserve.serving.pool import Batch, BatchResult
from superserve.serving.shared_pool import SharedPool
from support.profiles import make_profile
from support.serving import MODEL, ask, make_router, rename

#: Batch 1 takes 1 or 4 ms, batch 4 takes 2 or 8 ms; an SLO of 50 ms leaves 10 ms to idle work.
SHORT = make_profile([[1.0, 2.0], [4.0, 8.0]], batches=(1, 4))
IDLE_FILL = 255


class Endless:
    """Always has the same batch to run, if there is time for it; marked by its content."""

    def __init__(self, subnet: int = 1, rows: int = 1, *, again: bool = False) -> None:
        self.pending = True
        self.limits: list[IdleLimit] = []
        self.begun = self.done = self.dropped = self.failed = 0
        self.closed = False
        self._batch = IdleBatch(subnet, rows, [(bytes([IDLE_FILL]) * 4 * rows, bytes(4 * rows))])
        self._again = again

    def next_batch(self, limit: IdleLimit) -> IdleBatch | None:
        self.limits.append(limit)
        if SHORT.subnets[self._batch.subnet].p99_us[0] * 1000 > limit.now_ns:
            return None
        self.begun += 1
        return self._batch

    def on_done(self, result: BatchResult) -> bool:
        assert bytes(result.outputs[0][:1]) == bytes([IDLE_FILL])
        self.done += 1
        return self._again and self.done % 2 == 1

    def on_dropped(self, *, failed: bool) -> None:
        self.dropped += 1
        self.failed += failed

    def close(self) -> None:
        self.closed = True


class Bench:
    """Models on shared workers, each with a source."""

    def __init__(
        self,
        *sources: Endless,
        workers: int = 1,
        slo_ms: Sequence[int] = (50, 50),
        pool: "WatchedPool | None" = None,
    ) -> None:
        self.clock = ManualClock(start_ns=1_000 * NS_PER_MS)
        self.pool = pool or WatchedPool(workers)
        self.shared = self.pool.shared = SharedPool(self.pool, self.clock)
        self.routers = [
            make_router(
                self.shared,
                self.clock,
                profile=SHORT,
                config=rename(MODEL, f"m{number}"),
                number=number,
                idle_sources=[source],
                policy="drainfit",
                slo_ns=slo_ms[number] * NS_PER_MS,
            )
            for number, source in enumerate(sources)
        ]

    async def started(self) -> "Bench":
        for router in self.routers:
            await router.start()
        self.shared.idle_work.wake()
        return self

    @property
    def idle_running(self) -> list[int]:
        """Workers that run idle work."""
        return [worker for worker, batch in self.pool.running.items() if is_idle(batch)]


def is_idle(batch: Batch) -> bool:
    return bytes(batch.inputs[0][0])[:1] == bytes([IDLE_FILL])


async def test_it_runs_when_it_has_been_quiet_and_ends_like_any_batch() -> None:
    """Not at once; then on the idle worker, with its plan for the watchdog, and again after a pause."""
    source = Endless()
    bench = await Bench(source).started()
    bench.clock.advance(LOOK_NS - 1)
    assert not bench.pool.launched
    bench.clock.advance(1)
    ((worker, batch),) = bench.pool.launched
    assert (worker, batch.subnet, batch.rows, batch.planned_ns) == (0, 1, 1, 4 * NS_PER_MS)
    bench.pool.finish(0)
    assert (source.done, bench.pool.running) == (1, {})
    bench.clock.advance(LOOK_NS)
    assert not bench.pool.running, "its own batch was no quiet time"
    bench.clock.advance(LOOK_NS)
    assert bench.idle_running == [0]


async def test_its_time_is_a_small_part_of_the_slo_and_of_the_quiet() -> None:
    """Of the shortest SLO of all models, or of the time that requests come with; the longer it is quiet, the more."""
    source, other = Endless(), Endless()
    other.pending = False
    bench = await Bench(source, other, slo_ms=(1_000, 45)).started()
    bench.clock.advance(LOOK_NS)
    bench.pool.finish(0)
    source.begun = 0
    ever_ns = round(SLO_SHARE * 45 * NS_PER_MS)
    assert source.limits == [(min(ever_ns, LOOK_NS // 4), ever_ns)]
    asked = ask(bench.routers[0], timeout_ms=15)
    bench.pool.finish(0)
    assert len(asked.answers) == 1
    bench.clock.advance(2 * LOOK_NS)
    assert source.limits[-1].ever_ns == round(SLO_SHARE * 15 * NS_PER_MS)
    assert (source.begun, len(bench.pool.running)) == (0, 0), "a row takes 4 ms: too long for who has 15"


async def test_a_request_has_the_worker_next() -> None:
    """It waits for the one batch that runs, and a batch that would be run once more gives way."""
    source = Endless(again=True)
    bench = await Bench(source).started()
    bench.clock.advance(LOOK_NS)
    asked = ask(bench.routers[0])
    assert bench.idle_running == [0]
    bench.pool.finish(0)
    assert (bench.idle_running, len(bench.pool.running)) == ([], 1)
    assert (source.done, source.dropped, source.failed) == (1, 1, 0)
    bench.pool.finish(0)
    assert len(asked.answers) == 1


async def test_a_batch_is_run_again_at_once_if_its_source_wants_that() -> None:
    source = Endless(again=True)
    bench = await Bench(source).started()
    bench.clock.advance(LOOK_NS)
    bench.pool.finish(0)
    assert bench.idle_running == [0]
    bench.pool.finish(0)
    assert (bench.idle_running, source.done, source.dropped) == ([], 2, 0)


async def test_one_of_several_workers_stays_idle() -> None:
    """A request finds it; and while only one is idle, nothing begins."""
    bench = await Bench(Endless(), workers=2).started()
    bench.clock.advance(10 * LOOK_NS)
    assert len(bench.idle_running) == 1
    ask(bench.routers[0])
    assert len(bench.pool.running) == 2
    bench.pool.finish(*bench.idle_running)
    bench.clock.advance(10 * LOOK_NS)
    assert not bench.idle_running


async def test_what_plans_are_made_of_does_not_learn_from_it() -> None:
    """A cell that requests do not use may take as long as it likes."""
    bench = await Bench(Endless()).started()
    for _ in range(50):
        bench.clock.advance(2 * LOOK_NS)
        bench.pool.finish(0, infer_ns=40 * NS_PER_MS)
    assert bench.routers[0].scheduler.drift == 1.0
    assert bench.routers[0].unfinished == 0


async def test_a_lost_worker_and_a_failed_batch_are_told_of() -> None:
    """And the source is asked again."""
    source = Endless()
    bench = await Bench(source).started()
    bench.clock.advance(LOOK_NS)
    bench.pool.lose(0)
    assert source.dropped == 1
    bench.clock.advance(5 * LOOK_NS)
    assert not bench.pool.running
    bench.pool.revive(0)
    bench.clock.advance(2 * LOOK_NS)
    bench.pool.fail(0)
    assert (source.dropped, source.failed, source.begun) == (2, 2, 2)
    assert len(ask(bench.routers[0]).errors) == 0
    bench.pool.finish(0)


async def test_models_take_turns() -> None:
    first, second = Endless(), Endless()
    bench = await Bench(first, second).started()
    for _ in range(6):
        bench.clock.advance(2 * LOOK_NS)
        bench.pool.finish(0)
    assert (first.done, second.done) == (3, 3)


async def test_a_model_that_drains_has_nothing_run_and_leaves_when_its_batch_has_ended() -> None:
    """Its source is not asked any more; what runs ends first, since workers must hold the model until then."""
    going, staying = Endless(), Endless()
    staying.pending = False
    bench = await Bench(going, staying).started()
    bench.clock.advance(LOOK_NS)
    assert bench.routers[0].scheduler.busy == 1
    await bench.routers[0].drain(0)
    bench.pool.finish(0)
    bench.clock.advance(10 * LOOK_NS)
    assert not bench.pool.running
    await bench.routers[0].stop()
    assert going.closed
    assert bench.shared.idle_work.routers == [bench.routers[1]]


async def test_without_anything_to_do_there_is_no_timer() -> None:
    source = Endless()
    source.pending = False
    bench = await Bench(source).started()
    bench.clock.advance(2 * LOOK_NS)
    assert bench.shared.idle_work._timer is None
    await bench.routers[0].stop()


class WatchedPool(FakePool):
    """Looks at every batch of idle work that begins."""

    shared: SharedPool

    def launch(self, worker: int, batch: Batch) -> None:
        if is_idle(batch):
            workers = self.shared.workers
            assert not any(router.queue_depth for router in self.shared.idle_work.routers), "requests come first"
            assert not any(map(is_idle, self.running.values())), "one at a time"
            assert workers.idle or len(workers.live) == 1, "one of several workers stays idle"
            assert batch.planned_ns <= SLO_SHARE * 50 * NS_PER_MS
        super().launch(worker, batch)


@given(
    workers=st.integers(1, 3),
    steps=st.lists(
        st.tuples(st.sampled_from(["arrive", "end", "end", "wait", "wait", "lose", "revive"]), st.integers(0, 60)),
        max_size=60,
    ),
)
async def test_a_request_never_waits_behind_more_than_one_idle_batch(
    workers: int, steps: Sequence[tuple[str, int]]
) -> None:
    """One runs at a time and none begins while a request waits, whatever comes and goes."""
    pool = WatchedPool(workers)
    bench = await Bench(Endless(again=True), Endless(), workers=workers, pool=pool).started()
    there, gone = set(range(workers)), set[int]()
    for step, amount in steps:
        running = sorted(pool.running)
        if step == "arrive":
            ask(bench.routers[amount % 2], timeout_ms=amount if amount < 9 else 50)
        elif step == "wait":
            bench.clock.advance(amount * NS_PER_MS)
        elif step == "end" and running:
            pool.finish(running[amount % len(running)], infer_ns=amount * NS_PER_MS)
        elif step == "lose" and there:
            gone.add(worker := sorted(there)[amount % len(there)])
            there.remove(worker)
            pool.lose(worker)
        elif step == "revive" and gone:
            there.add(worker := gone.pop())
            pool.revive(worker)
    for router in bench.routers:
        await router.drain(0)
    await bench.shared.stop()
    for router in bench.routers:
        await router.stop()
    assert bench.shared.idle_work.worker is None
