"""A profile measured again in idle time, over a fake pool in virtual time."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from superserve.clock import NS_PER_MS, NS_PER_US, ManualClock
from superserve.conditions import Conditions
from superserve.errors import ConflictError
from superserve.profile import Profile
from superserve.profiler.estimate import cell_quantiles
from superserve.serving.fake_pool import FakePool
from superserve.serving.idle_work import LOOK_NS
from superserve.serving.live_profile import SAMPLES, LiveProfile
from superserve.serving.shared_pool import SharedPool
from support.profiles import make_profile, with_shorter
from support.serving import Recorder, make_router

#: Idle work may take 5 ms.
PROFILE = make_profile([[0.5, 1.0], [2.0, 8.0]], batches=(1, 4))
ROW = [bytes(4), bytes(4)]

#: What each (subnet, batch) takes over what was profiled, as the workers have it.
TRUE = {(0, 1): 1.0, (0, 4): 1.5, (1, 1): 3.0}


class Bench:
    """A router whose profile can be measured; what would be kept is in ``kept``."""

    def __init__(self, profile: Profile = PROFILE, slo_ms: int = 25) -> None:
        self.clock = ManualClock(start_ns=1_000 * NS_PER_MS)
        self.pool = FakePool()
        self.shared = SharedPool(self.pool, self.clock)
        self.kept: list[Profile] = []
        self.live = LiveProfile(
            "tiny", profile, examples=lambda: [ROW], keep=self._keep, rng=np.random.default_rng(0), tails=cell_quantiles
        )
        self.router = make_router(
            self.shared, self.clock, profile=profile, idle_sources=[self.live], slo_ns=slo_ms * NS_PER_MS
        )
        self._cold = True

    def _keep(self, profile: Profile) -> Path:
        self.kept.append(profile)
        return Path("kept.json")

    async def begun(self) -> "Bench":
        await self.router.start()
        self.live.begin(self.router.wake_idle_work)
        await asyncio.to_thread(lambda: None)  # rows are made in another thread
        await self.until(lambda: self.live.pending)
        return self

    async def until(self, reached: object) -> None:
        for _ in range(10_000):
            if reached():  # type: ignore[operator]
                return
            await asyncio.sleep(0)
        raise AssertionError("never reached")

    def finish(self) -> None:
        """End a batch: one on a worker that comes from idling takes longer."""
        (batch,) = self.pool.running.values()
        taken_us = PROFILE.subnets[batch.subnet].p50_us[(1, 4).index(batch.rows)] * TRUE[batch.subnet, batch.rows]
        taken_us *= 7.0 if self._cold else 1.0
        self._cold = not self._cold
        self.pool.finish(0, infer_ns=round(taken_us * NS_PER_US))

    async def rest(self) -> None:
        """Nothing else comes until it has ended."""
        while self.live.report().state == "measuring":
            self.clock.advance(LOOK_NS)
            while self.pool.running:
                self.finish()
            await asyncio.sleep(0)


async def test_each_cell_is_held_against_its_profile() -> None:
    """By the median of warm runs; a cell that is too long for idle time gets the ratio of the nearest one."""
    bench = await Bench().begun()
    with pytest.raises(ConflictError, match="already"):
        bench.live.begin(bench.router.wake_idle_work)
    await bench.rest()
    report = bench.live.report()
    assert (report.state, report.kept, report.cells_left_out) == ("measured", "kept.json", 1)
    assert (report.samples, report.samples_wanted) == (3 * SAMPLES, 3 * SAMPLES)
    found = {(cell.subnet, cell.batch): cell.ratio for cell in report.cells}
    assert found == {("s0", 1): 1.0, ("s0", 4): 1.5, ("s1", 1): 3.0}
    (kept,) = bench.kept
    assert [subnet.p99_us for subnet in kept.subnets] == [(500.0, 1500.0), (6000.0, 24_000.0)]
    assert kept.subnets[1].quiet_p50_us == (6000.0, 24_000.0)
    assert bench.router.table.latency_ns[1][1] == 2 * NS_PER_MS, "the table in use is left alone"


async def test_a_doubtful_profile_gets_tails_from_idle_time() -> None:
    """And is not doubtful any more; a machine that is busy again is told of."""
    bench = await Bench(replace(PROFILE, conditions=Conditions(worker_waited=0.3))).begun()
    await bench.rest()
    (kept,) = bench.kept
    assert (bench.live.doubts != [], kept.doubts) == (True, [])
    assert kept.conditions == Conditions(spread=0.0)
    assert [subnet.p99_us for subnet in kept.subnets] == [(500.0, 1500.0), (6000.0, 24_000.0)]


async def test_shorter_texts_are_scaled_as_the_longest() -> None:
    """Which are measured; else a machine that has become faster or slower would be so for the longest alone."""
    bench = await Bench(with_shorter(PROFILE, (8, 0.3, 0.5))).begun()
    await bench.rest()
    (kept,) = bench.kept
    (bucket,) = kept.shorter
    assert [subnet.p99_us for subnet in bucket.subnets] == [(250.0, 750.0), (3000.0, 12_000.0)]
    assert [subnet.p99_us for subnet in kept.subnets] == [(500.0, 1500.0), (6000.0, 24_000.0)]


async def test_requests_come_first() -> None:
    """The second run of a batch gives way, and that cell is measured later."""
    bench = await Bench().begun()
    bench.clock.advance(LOOK_NS)
    recorder = Recorder()
    now_ns = bench.clock.now_ns()
    bench.router.submit(
        arrival_ns=now_ns,
        deadline_ns=now_ns + 50 * NS_PER_MS,
        rows=1,
        min_accuracy=0.0,
        priority=0,
        inputs=ROW,
        responder=recorder,
    )
    bench.finish()
    bench.pool.finish(0)
    bench._cold = True
    assert len(recorder.answers) == 1
    assert bench.live.report().samples == 0
    await bench.rest()
    assert bench.live.report().samples == 3 * SAMPLES


async def test_a_lost_worker_ends_it_and_it_can_begin_again() -> None:
    """It might have been the batch that it died of: nobody insists."""
    bench = await Bench().begun()
    bench.clock.advance(LOOK_NS)
    bench.pool.lose(0)
    bench.pool.revive(0)
    await bench.until(lambda: bench.live.report().state == "failed")
    assert "or was lost" in bench.live.report().problem
    assert not bench.kept
    bench.live.begin(bench.router.wake_idle_work)
    await bench.until(lambda: bench.live.pending)
    await bench.rest()
    assert bench.live.report().state == "measured"


async def test_a_model_whose_every_batch_is_too_long_cannot_be_measured() -> None:
    bench = await Bench(slo_ms=2).begun()
    await bench.rest()
    report = bench.live.report()
    assert (report.state, report.cells, bench.kept) == ("failed", [], [])
    assert "20% of the shortest SLO" in report.problem


async def test_a_model_that_goes_ends_it() -> None:
    bench = await Bench().begun()
    await bench.router.stop()
    await bench.until(lambda: bench.live.report().state == "failed")
    assert bench.shared.idle_work._timer is None
