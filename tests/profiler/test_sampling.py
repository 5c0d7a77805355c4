"""The sampler over a fake pool in virtual time: the order of samples, budgets, traffic on and off."""

import asyncio

import numpy as np
import pytest

from superserve.clock import NS_PER_MS, NS_PER_S, ManualClock
from superserve.errors import WorkerError
from superserve.profiler.plan import Effort
from superserve.profiler.probe import Probe
from superserve.profiler.sampling import CellSamples, Progress, Sampler
from superserve.serving.fake_pool import FakePool
from superserve.serving.pool import Batch

OVERHEAD_NS = 50_000
#: Batch 1 and 4 of two subnets.
CELLS = [Batch(subnet, rows, [[b"x"]] * rows) for subnet in (0, 1) for rows in (1, 4)]
COSTS_MS = [1, 2, 4, 20]
EFFORT = Effort(seconds=2.0, least=5, most=40, rounds=4, quiet_share=0.25, quiet_most=8)


class Switch:
    """Traffic that counts its switches; while it flows, everything takes half as long again."""

    def __init__(self) -> None:
        self.flowing = False
        self.switches = 0

    async def start(self) -> None:
        """Nothing to do."""

    async def resume(self) -> None:
        assert not self.flowing
        self.flowing = True
        self.switches += 1

    def pause(self) -> None:
        assert self.flowing
        self.flowing = False

    def stop(self) -> None:
        """Nothing to do."""


class TimedPool(FakePool):
    """Answers each batch in the loop's next turn, having moved the clock by what the cell takes."""

    def __init__(self, clock: ManualClock, traffic: Switch) -> None:
        super().__init__()
        self.device_share = 0
        self._time = clock
        self._traffic = traffic

    def launch(self, worker: int, batch: Batch) -> None:
        super().launch(worker, batch)
        asyncio.get_running_loop().call_soon(self._answer, worker, batch)

    def _answer(self, worker: int, batch: Batch) -> None:
        infer_ns = COSTS_MS[CELLS.index(batch)] * NS_PER_MS
        infer_ns += infer_ns // 2 if self._traffic.flowing else 0
        self._time.advance(infer_ns + OVERHEAD_NS)
        self.finish(worker, infer_ns, infer_ns * self.device_share // 100)


class Bench:
    """A sampler and all that it works with."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.traffic = Switch()
        self.pool = TimedPool(self.clock, self.traffic)
        self.progress: list[Progress] = []

    async def run(self, effort: Effort = EFFORT, seed: int = 0) -> CellSamples:
        probe = Probe(self.pool, self.clock)
        await probe.start()
        rng = np.random.default_rng(seed)
        sampler = Sampler(probe, self.traffic, clock=self.clock, cells=CELLS, rng=rng, report=self.progress.append)
        return await sampler.run(effort)


async def test_loaded_and_quiet_samples_are_kept_apart() -> None:
    bench = Bench()
    samples = await bench.run()
    for cell, cost_ms in enumerate(COSTS_MS):
        assert set(samples.loaded[cell]) == {cost_ms * NS_PER_MS * 3 // 2}
        assert set(samples.quiet[cell]) == {cost_ms * NS_PER_MS}
    assert set(samples.overhead) == {OVERHEAD_NS}
    assert len(samples.overhead) == sum(map(len, samples.loaded))
    assert not bench.traffic.flowing
    assert bench.traffic.switches == 1 + EFFORT.rounds


async def test_what_a_device_says_of_its_own_time_is_kept_of_all_samples() -> None:
    bench = Bench()
    assert not any((await bench.run()).device)
    bench = Bench()
    bench.pool.device_share = 50
    samples = await bench.run()
    for device, loaded, quiet in zip(samples.device, samples.loaded, samples.quiet, strict=True):
        assert sorted(device) == sorted(taken // 2 for taken in (*loaded, *quiet))


async def test_loaded_samples_are_told_by_round() -> None:
    """All but the first of each cell, by which its cost is learned."""
    samples = await Bench().run()
    assert len(samples.rounds) == EFFORT.rounds
    for cell, loaded in enumerate(samples.loaded):
        assert [sample for each in samples.rounds for sample in each[cell]] == loaded[1:]


async def test_the_time_is_used_and_not_exceeded() -> None:
    bench = Bench()
    samples = await bench.run()
    assert 0.85 * EFFORT.seconds * NS_PER_S < bench.clock.now_ns() < 1.05 * EFFORT.seconds * NS_PER_S
    counts = [len(cell) for cell in samples.loaded]
    assert counts[0] == EFFORT.most
    assert counts == sorted(counts, reverse=True)
    assert all(3 <= len(cell) <= EFFORT.quiet_most for cell in samples.quiet)


async def test_every_cell_gets_its_least_whatever_that_takes() -> None:
    samples = await Bench().run(Effort(seconds=0.001, least=7, most=40, rounds=3))
    assert [len(cell) for cell in samples.loaded] == [7] * 4
    assert [len(cell) for cell in samples.quiet] == [3] * 4


async def test_cells_are_visited_in_a_seeded_random_order() -> None:
    orders = []
    for seed in (0, 0, 1):
        bench = Bench()
        await bench.run(seed=seed)
        orders.append([CELLS.index(batch) for _, batch in bench.pool.launched])
    assert orders[0] == orders[1] != orders[2]
    first_half = orders[0][: len(orders[0]) // 2]
    assert set(first_half) == {0, 1, 2, 3}


async def test_progress_counts_every_sample() -> None:
    bench = Bench()
    await bench.run()
    assert [step.done for step in bench.progress] == list(range(1, len(bench.pool.launched) + 1))
    assert [step.stage for step in bench.progress[:5]] == ["scan"] * 4 + ["measure"]
    assert all(step.done <= step.total for step in bench.progress)
    assert bench.progress[-1].done == bench.progress[-1].total


class FailingPool(FakePool):
    """Fails or loses whatever is launched."""

    def __init__(self, *, lose: bool) -> None:
        super().__init__()
        self._lose = lose

    def launch(self, worker: int, batch: Batch) -> None:
        super().launch(worker, batch)
        asyncio.get_running_loop().call_soon(self.lose if self._lose else self.fail, worker)


@pytest.mark.parametrize(("lose", "message"), [(True, "worker 0 was lost"), (False, "worker 0 failed on a batch")])
async def test_a_worker_that_fails_ends_the_measurement(*, lose: bool, message: str) -> None:
    clock, traffic = ManualClock(), Switch()
    probe = Probe(FailingPool(lose=lose), clock)
    await probe.start()
    rng = np.random.default_rng(0)
    sampler = Sampler(probe, traffic, clock=clock, cells=CELLS, rng=rng, report=lambda _: None)
    with pytest.raises(WorkerError, match=message):
        await sampler.run(EFFORT)
    assert not traffic.flowing
