"""Several routers over one fake pool, in virtual time."""

import asyncio
from collections.abc import Callable

import pytest

from superserve.clock import NS_PER_MS, ManualClock
from superserve.errors import QueueFullError, WorkerError
from superserve.request import Outcome
from superserve.serving.fake_pool import FakePool
from superserve.serving.shared_pool import SharedPool
from support.serving import MODEL, ask, make_router, rename


class Bench:
    """Two models on one worker."""

    def __init__(
        self,
        workers: int = 1,
        soon: Callable[[Callable[[], None]], object] = lambda call: call(),
        max_queued: int = 100,
    ) -> None:
        self.clock = ManualClock(start_ns=1_000 * NS_PER_MS)
        self.pool = FakePool(workers)
        self.shared = SharedPool(self.pool, self.clock, soon)
        self.routers = [
            make_router(self.shared, self.clock, config=rename(MODEL, name), number=number, max_queued=max_queued)
            for number, name in enumerate(("first", "second"))
        ]

    async def started(self) -> "Bench":
        for router in self.routers:
            await router.start()
        return self


async def test_the_most_urgent_model_has_the_worker_next() -> None:
    """Whichever model the worker has run before; everybody is answered by its own router."""
    bench = await Bench().started()
    first, second = bench.routers
    asked = [ask(first), ask(first, 40.0), ask(second, 30.0)]
    for _ in range(3):
        bench.pool.finish(0)
    assert [batch.model for _, batch in bench.pool.launched] == [0, 1, 0]
    assert [len(recorder.answers) for recorder in asked] == [1, 1, 1]
    assert (first.outcomes[Outcome.SERVED], second.outcomes[Outcome.SERVED]) == (2, 1)
    counts = [router.statistics.told("m", "1").execution_count for router in bench.routers]
    assert counts == [2, 1]


async def test_what_comes_together_runs_together() -> None:
    """No worker starts before all of it has been read; and then the most urgent model has the first one."""
    later: list[Callable[[], None]] = []
    bench = await Bench(soon=later.append).started()
    first, second = bench.routers
    asked = [ask(first), ask(first, 40.0), ask(second, 30.0), ask(second, 35.0)]
    assert (bench.pool.launched, len(later)) == ([], 1)
    later.pop()()
    assert [(batch.model, batch.rows) for _, batch in bench.pool.launched] == [(1, 2)]
    bench.pool.finish(0)
    bench.pool.finish(0)
    assert [len(recorder.answers) for recorder in asked] == [1] * 4
    ask(first)
    assert len(later) == 1, "what comes next is read with what comes with it"


async def test_an_idle_worker_has_no_full_queue_before_it() -> None:
    """Requests that only wait for others to be read keep none from being admitted."""
    later: list[Callable[[], None]] = []
    bench = await Bench(soon=later.append, max_queued=2).started()
    first, _ = bench.routers
    asked = [ask(first) for _ in range(4)]
    assert [batch.rows for _, batch in bench.pool.launched] == [2]
    (refused,) = [recorder for recorder in [*asked, ask(first)] if recorder.errors]
    assert isinstance(refused.errors[0], QueueFullError)


async def test_a_lost_batch_goes_back_to_its_own_model() -> None:
    """And is run again when there is a worker."""
    bench = await Bench().started()
    first, second = bench.routers
    recorder = ask(second)
    bench.pool.lose(0)
    assert not first.ready
    assert (first.queue_depth, second.queue_depth) == (0, 1)
    bench.pool.revive(0)
    bench.pool.finish(0)
    assert len(recorder.answers) == 1
    assert [batch.model for _, batch in bench.pool.launched] == [1, 1]


async def test_a_failed_batch_is_its_own_models() -> None:
    """The worker lives, and goes to the other one."""
    bench = await Bench().started()
    first, second = bench.routers
    failing, waiting = ask(first), ask(second)
    bench.pool.fail(0)
    bench.pool.finish(0)
    assert isinstance(failing.errors[0], WorkerError)
    assert len(waiting.answers) == 1


async def test_a_model_leaves_when_its_last_batch_has_ended() -> None:
    """The others go on; the pool stops with the last of them, and starts again with the next."""
    bench = await Bench().started()
    first, second = bench.routers
    running = ask(first)
    stopping = asyncio.ensure_future(first.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    assert len(running.errors) == 1, "nobody waits for a model that stops"
    bench.pool.finish(0)
    await stopping
    await first.stop()
    stopped = [bench.pool.stopped]
    waiting = ask(second)
    bench.pool.finish(0)
    assert len(waiting.answers) == 1
    await second.stop()
    assert [*stopped, bench.pool.stopped] == [False, True]
    third = make_router(bench.shared, bench.clock, number=2)
    await third.start()
    assert third.ready


async def test_a_stopped_pool_lets_every_model_go() -> None:
    """However long their batches would take."""
    bench = await Bench(workers=2).started()
    for router in bench.routers:
        ask(router)
        await router.drain(0)
    await bench.shared.stop()
    for router in bench.routers:
        await router.stop()


async def test_a_pool_that_cannot_start_has_no_part_in_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router may try again."""
    bench = Bench()

    async def fail(_: object) -> None:
        raise WorkerError("no")

    with monkeypatch.context() as patch:
        patch.setattr(bench.pool, "start", fail)
        with pytest.raises(WorkerError):
            await bench.routers[0].start()
    readiness = [bench.routers[0].ready]
    await bench.routers[0].start()
    assert [*readiness, bench.routers[0].ready] == [False, True]


async def test_the_first_answer_is_given_and_each_gets_its_own_rows() -> None:
    """An overdue batch of two: one has been run again at another place in another batch, and yet gets its own row."""
    clock, pool = ManualClock(start_ns=1_000 * NS_PER_MS), FakePool(2)
    router = make_router(pool, clock)
    await router.start()

    busy = [ask(router, mark=mark) for mark in (1, 2)]
    asked = [ask(router, 60.0, mark) for mark in (3, 4)]
    pool.finish(0)
    assert pool.running[0].rows == 2
    pool.overdue(0)
    pool.overdue(0)
    sooner = ask(router, 55.0, mark=5)
    pool.finish(1)
    assert pool.running[1].rows == 3, "with a more urgent one before them"
    pool.finish(0)
    assert [recorder.outputs[0][0][:1] for recorder in asked] == [b"\x03", b"\x04"]
    pool.finish(1)
    everybody = [*busy, *asked, sooner]
    assert [recorder.ended for recorder in everybody] == [1] * 5
    assert sooner.outputs[0][0][:1] == b"\x05"
    assert router.outcomes[Outcome.SERVED] == 5
    await router.stop()


async def test_a_model_leaves_when_its_overdue_batch_is_over() -> None:
    """Its worker may still answer: until then the model has to be known."""
    bench = await Bench(workers=2).started()
    first, _ = bench.routers
    asked = ask(first)
    bench.pool.overdue(0)
    bench.pool.finish(1)
    assert len(asked.answers) == 1
    leaving = asyncio.ensure_future(first.stop())
    await asyncio.sleep(0)
    assert not leaving.done()
    bench.pool.lose(0)
    await leaving
