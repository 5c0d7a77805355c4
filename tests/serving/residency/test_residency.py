"""Packed subnets come and go while a model is served: the plan follows what every worker has mapped, never before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from superserve.clock import NS_PER_MS, NS_PER_S, ManualClock
from superserve.request import Outcome
from superserve.serving.fake_pool import FakePool
from superserve.serving.residency.fast_times import FastTimes
from superserve.serving.residency.report import ResidencyReport
from superserve.serving.residency.residency import LOOK_NS
from superserve.serving.residency.resident_set import FIRST_BACKOFF_NS, INTERVAL_NS
from support.packing import PROFILE, ROW, WEIGHTS, Packs, packed_router, record
from support.profiles import make_profile
from support.serving import Recorder


class Bench:
    """A model over a fake pool in virtual time."""

    def __init__(
        self, budget: int | None, kept: tuple[int, ...], policy: str, workers: int = 1, nbytes_each: int = 0
    ) -> None:
        self.clock = ManualClock()
        self.pool, self.packs = FakePool(workers), Packs()
        self.router, self.residency = packed_router(
            self.pool, self.clock, self.packs, budget=budget, kept=kept, policy=policy, nbytes_each=nbytes_each
        )

    async def time(self, seconds: float) -> None:
        """Time passes, look by look."""
        await settle()
        for _ in range(round(seconds * NS_PER_S / LOOK_NS)):
            self.clock.advance(LOOK_NS)
            await settle()

    def serve(self, slo_ms: float = 100.0, count: int = 1) -> None:
        """Requests come one after the other, and are answered."""
        for _ in range(count):
            recorder = self.submit(slo_ms)
            self.pool.finish(0)
            assert recorder.answers

    def submit(self, slo_ms: float) -> Recorder:
        now_ns, recorder = self.clock.now_ns(), Recorder()
        self.router.submit(now_ns, now_ns + round(slo_ms * NS_PER_MS), 1, 0.0, 0, ROW, recorder)
        return recorder

    @property
    def planned(self) -> dict[int, int]:
        """What a row takes at the subnets that are used, in milliseconds."""
        policy = self.router.policy
        return {subnet: policy.table.latency_ns[subnet][1] // NS_PER_MS for subnet in policy.subnets}

    @property
    def report(self) -> ResidencyReport:
        report = self.residency.report(self.router)
        assert report is not None
        assert report.nbytes <= report.budget
        return report

    @property
    def resident(self) -> str:
        return " ".join(self.report.subnets)

    @property
    def states(self) -> list[str]:
        return [one.state for one in self.report.front]


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(
    budget: int | None = None, kept: tuple[int, ...] = (), policy: str = "maxacc"
) -> AsyncIterator[Bench]:
    bench = Bench(budget, kept, policy)
    await bench.router.start()
    try:
        yield bench
    finally:
        await bench.router.stop()
    assert bench.residency.report(bench.router) is None


async def test_what_is_packed_already_is_resident_and_planned_with_from_the_start() -> None:
    async with running(kept=(0, 2)) as bench:
        assert bench.pool.resided == [(0, 2), (0, 2)]  # before the workers start, and seen when they have
        assert bench.resident == "s0 s2"
        assert bench.planned == {0: 2, 2: 4}  # the middle one, not packed, takes longer than the largest
        await bench.time(60)
        assert bench.packs.asked == []  # nobody has asked for anything


async def test_what_is_used_is_packed_in_the_background_and_then_mapped() -> None:
    async with running() as bench:
        assert bench.planned == {0: 4, 1: 6, 2: 9}
        bench.serve()
        await bench.time(0.5)
        assert bench.packs.asked == [0]  # the smallest first
        bench.serve(count=3)  # while it is being packed
        assert bench.pool.resided == [()]
        bench.packs.done()
        await bench.time(0.5)
        assert bench.resident == "s0"
        assert bench.planned == {0: 2, 1: 6, 2: 9}
        await bench.time(1.5)
        assert bench.packs.asked == [0, 2]  # after a rest
        bench.packs.done()
        await bench.time(0.5)
        assert bench.resident == "s0 s2"
        assert bench.planned == {0: 2, 2: 4}
        bench.serve()
        report = bench.report
        assert (report.packed, report.answered, report.nbytes, report.budget) == (2, 1, 40, 40)


async def test_what_cannot_be_packed_is_tried_again_later_and_served_as_before() -> None:
    async with running() as bench:
        bench.serve()
        await bench.time(0.5)
        bench.packs.failed()
        await bench.time(0.5)
        bench.serve(count=2)
        assert bench.packs.asked == [0, 2]  # another one meanwhile
        bench.packs.failed()
        await bench.time(FIRST_BACKOFF_NS / NS_PER_S - 1)
        assert bench.packs.asked == [0, 2]
        assert bench.planned == {0: 4, 1: 6, 2: 9}
        await bench.time(1)
        assert bench.packs.asked == [0, 2, 0]
        assert bench.report.failures == 2


async def test_what_is_no_faster_packed_is_left_as_it_was() -> None:
    async with running() as bench:
        bench.serve()
        await bench.time(0.5)
        bench.packs.done(ratio=1.1)
        await bench.time(60)
        assert bench.packs.asked == [0, 2]
        assert bench.resident == ""
        assert bench.planned == {0: 4, 1: 6, 2: 9}


async def test_it_is_told_what_each_subnet_is_about_and_why_one_is_refused() -> None:
    async with running(kept=(1,)) as bench:
        assert bench.states == ["not packed", "resident", "not packed"]
        assert (bench.report.weights, bench.report.share) == (WEIGHTS, None)
        bench.serve()
        await bench.time(0.5)
        assert bench.states == ["packing", "resident", "not packed"]
        bench.packs.failed()
        await bench.time(0.5)
        assert bench.report.refused == {"s0": "cannot be packed: no space left"}
        assert bench.states == ["refused", "resident", "packing"]
        bench.packs.done(ratio=1.0)
        await bench.time(0.5)
        assert bench.states == ["refused", "resident", "refused"]
        assert bench.report.refused["s2"] == "is no faster packed than on engine eager"
        await bench.time(FIRST_BACKOFF_NS / NS_PER_S)
        assert bench.states[0] == "packing"  # again
        bench.packs.done()
        await bench.time(0.5)
        assert bench.states[0] == "resident"
        assert set(bench.report.refused) == {"s2"}


async def test_what_gave_way_is_told_as_packed_with_what_it_has_answered() -> None:
    async with running(budget=40, kept=(0, 1, 2)) as bench:
        bench.serve(count=3)
        await bench.time(INTERVAL_NS / NS_PER_S)
        bench.router.telemetry.rows[1].observe(4, times=100)
        await bench.time(0.5)
        assert bench.states == ["resident", "resident", "packed"]
        bench.serve()  # by the largest: 9 ms are enough, as they were
        assert [one.answered for one in bench.report.front] == [0, 0, 3]
        assert [one.nbytes for one in bench.report.front] == [10, 20, 30]
        assert (bench.report.answered, bench.report.requests, bench.report.share) == (3, 4, 0.75)
        assert str(bench.report) == (
            "packed subnets answered 75.0% of 4 requests; s0, s1 resident, 0.0 MB of 0.0 MB beside the weights' 0.0 MB"
        )


async def test_what_is_used_more_takes_the_place_of_what_is_not() -> None:
    async with running(budget=40, kept=(0, 1, 2)) as bench:
        assert bench.resident == "s0 s2"
        await bench.time(INTERVAL_NS / NS_PER_S)
        # The middle one is not run while it is slower than the largest: its use is what a floor asks for.
        bench.router.telemetry.rows[1].observe(4, times=100)
        await bench.time(0.5)
        assert bench.resident == "s0 s1"
        assert bench.planned == {0: 2, 1: 3, 2: 9}
        assert bench.pool.resided[-2:] == [(0,), (0, 1)]  # first the one goes, then the other comes


async def test_nothing_goes_that_somebody_who_waits_was_promised() -> None:
    async with running(budget=40, kept=(0, 1, 2)) as bench:
        await bench.time(INTERVAL_NS / NS_PER_S)
        now_ns = bench.clock.now_ns()
        first, waiting = bench.submit(100.0), Recorder()
        bench.router.submit(now_ns, now_ns + 20 * NS_PER_MS, 1, 72.0, 0, ROW, waiting)  # the largest serves it, packed
        bench.router.telemetry.rows[1].observe(4, times=1000)
        bench.residency.look()
        await settle()
        assert bench.planned == {0: 2, 2: 4}
        bench.pool.finish(0)
        bench.pool.finish(0)
        assert first.answers
        assert waiting.answers
        await bench.time(0.5)
        assert bench.planned == {0: 2, 1: 3, 2: 9}


async def test_what_workers_cannot_map_is_not_planned_with() -> None:
    bench = Bench(None, (0, 2), "maxacc")
    bench.pool.unmappable = {2}
    await bench.router.start()
    assert bench.resident == "s0"
    assert bench.planned == {0: 2, 1: 6, 2: 9}
    await bench.router.stop()


@pytest.mark.parametrize(
    ("workers", "budget", "resident", "nbytes"), [(1, 50, "s0 s2", 50), (3, 50, "s0", 25), (3, 70, "s0 s2", 70)]
)
async def test_what_each_worker_holds_for_itself_counts_for_each(
    workers: int, budget: int, resident: str, nbytes: int
) -> None:
    """Static runtimes share nothing: five bytes in each worker beside those that all of them map."""
    bench = Bench(budget, (0, 2), "maxacc", workers, nbytes_each=5)
    await bench.router.start()
    assert bench.resident == resident
    report = bench.residency.report(bench.router)
    assert report is not None
    assert report.nbytes == nbytes
    await bench.router.stop()


async def test_when_the_server_stops_so_does_what_packs() -> None:
    async with running() as bench:
        bench.serve()
        await bench.time(0.5)
        assert bench.packs.asked == [0]
    assert bench.packs.cancelled == 1
    assert bench.router.outcomes[Outcome.SERVED] == 1


@pytest.mark.parametrize("measured", [False, True])
def test_times_are_as_profiled_or_as_timed_when_packed(measured: bool) -> None:
    own = make_profile([[1.0, 2.0], [3.0, 6.0], [4.0, 8.0]], batches=(1, 4))
    times = FastTimes(PROFILE, own if measured else None)
    assert times.fast == (own if measured else PROFILE)
    times.built(1, record(1))
    assert times.fast.subnets[1].p99_us == (3000.0, 6000.0)
    assert times.fast.subnets[2].p99_us == ((4000.0, 8000.0) if measured else (9000.0, 18000.0))


def test_a_packed_subnet_never_counts_as_slower_than_the_engine_behind() -> None:
    times = FastTimes(PROFILE)
    times.built(0, msgspec.structs.replace(record(0), batches=(1, 2), ratios=(1.3, 0.25)))
    assert times.fast.subnets[0].p50_us == (4000.0, 2000.0)  # a batch that was not timed counts as the next smaller one
