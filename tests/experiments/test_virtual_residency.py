"""Packed subnets in virtual time: as a router has them, and as nothing where there is no memory."""

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from superserve.clock import NS_PER_MS, NS_PER_S, ManualClock
from superserve.experiments.virtual_residency import VirtualResidency
from superserve.metrics import RunLog
from superserve.profile import LatencyTable, Profile
from superserve.scheduling import Scheduler, create_policies
from superserve.serving.fake_pool import FakePool
from superserve.serving.pool import Batch
from superserve.serving.residency.pack_task import PackTask
from superserve.serving.residency.report import ResidencyReport
from superserve.simulator import Recording, simulate
from superserve.simulator.simulator import Simulation
from superserve.supernet.packed_store import PackRecord
from superserve.traces.trace import Trace
from support.packing import PROFILE, ROW, Packs, packed_router, record
from support.serving import Recorder

Run = list[tuple[int, int, int]]
"""Of each batch: when it was launched, its subnet, its rows."""

TABLE = LatencyTable(PROFILE)
SECONDS = 60
PACKING_S = 1.25
#: Halves of it are apart from looks: what is packed has been by the next one.
STEP_NS = NS_PER_S // 4
RECORDS = {subnet: msgspec.structs.replace(record(subnet), seconds=PACKING_S) for subnet in range(3)}


def load(seed: int) -> Trace:
    """Four times a second three requests, nearly at once; every ten seconds others of the subnets are good enough."""
    rng = np.random.default_rng(seed)
    groups_ns = np.repeat(rng.integers(1, (SECONDS - 1) * NS_PER_S, 4 * SECONDS), 3)
    arrival_ns = np.sort(groups_ns + rng.integers(0, 3 * NS_PER_MS, len(groups_ns)))
    floors = rng.permutation(SECONDS // 10) % 3 + 70.0
    return Trace(
        "changing",
        arrival_ns,
        slo_ns=rng.integers(8, 60, len(arrival_ns)) * NS_PER_MS,
        min_accuracy=floors[arrival_ns // (10 * NS_PER_S)].astype(np.float64),
    )


class TimedPool(FakePool):
    """A worker whose batches take what they do by what it has mapped."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(1)
        self._now = clock
        self.batches: Run = []

    def launch(self, worker: int, batch: Batch) -> None:
        super().launch(worker, batch)
        fast = batch.subnet in self.resident.get(0, ())
        taken_ns = round(TABLE.typical_ns[batch.subnet][batch.rows] * (0.5 if fast else 1.0))
        self.batches.append((self._now.now_ns(), batch.subnet, batch.rows))
        self._now.call_at(self._now.now_ns() + taken_ns, lambda: self.finish(worker, infer_ns=taken_ns))


class TimedPacks(Packs):
    """Packing takes its time, of the clock."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    async def pack(self, task: PackTask) -> PackRecord:
        due_ns = self._clock.now_ns() + round(PACKING_S * NS_PER_S)
        self._clock.call_at(due_ns, self.done)
        return await super().pack(task)


async def live(trace: Trace, policy: str, budget: int | None, kept: Sequence[int]) -> tuple[Run, ResidencyReport]:
    """What a router does, on a worker that takes what batches take by what it has mapped."""
    clock = ManualClock()
    pool = TimedPool(clock)
    router, residency = packed_router(pool, clock, TimedPacks(clock), budget=budget, kept=kept, policy=policy)
    await router.start()
    assert trace.slo_ns is not None
    assert trace.min_accuracy is not None
    arrivals = zip(trace.arrival_ns.tolist(), trace.slo_ns.tolist(), trace.min_accuracy.tolist(), strict=True)
    for arrival_ns, slo_ns, floor in arrivals:
        await passed(clock, arrival_ns)
        router.submit(arrival_ns, arrival_ns + slo_ns, 1, floor, 0, ROW, Recorder())
    await passed(clock, SECONDS * NS_PER_S)
    report = residency.report(router)
    assert report is not None
    await router.stop()
    return pool.batches, report


async def passed(clock: ManualClock, until_ns: int) -> None:
    """Time passes, and whoever waits for an instant at which packing may end, or somebody looks, has done so."""
    while clock.now_ns() < until_ns:
        step_ns = clock.now_ns() // STEP_NS * STEP_NS + STEP_NS
        clock.advance_to(min(step_ns, until_ns))
        if step_ns <= until_ns:
            for _ in range(8):
                await asyncio.sleep(0)


def simulated(trace: Trace, policy: str, budget: int | None, kept: Sequence[int]) -> tuple[Run, ResidencyReport]:
    (first,) = create_policies(policy, PROFILE)
    scheduler, recording = Scheduler(first, overhead_ns=0), Recording()
    residency = engine(scheduler, PROFILE, policy=policy, budget=budget, kept=kept)
    Simulation(
        trace,
        scheduler,
        workers=1,
        slo_ns=0,
        latency_ns=lambda launch: TABLE.typical_ns[launch.subnet][launch.rows],
        overhead_ns=lambda _: 0,
        recording=recording,
        faster=residency,
    ).run()
    return [(one.launched_ns, one.subnet, one.rows) for one in recording.batches], residency.report


def engine(
    scheduler: Scheduler, behind: Profile, *, policy: str, budget: int | None, kept: Sequence[int], packs: bool = True
) -> VirtualResidency:
    return VirtualResidency(
        scheduler,
        behind,
        RECORDS,
        refused={},
        kept=kept,
        policy=policy,
        timeout_action="reject",
        budget=budget,
        weights=50,
        packs=packs,
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("policy", ["maxacc", "drainfit", "infaas"])
@pytest.mark.parametrize(("budget", "kept"), [(40, ()), (40, (0, 1, 2)), (None, (1,)), (60, ())])
async def test_router_and_simulator_decide_alike(
    seed: int, policy: str, budget: int | None, kept: tuple[int, ...]
) -> None:
    """Every batch, and what was packed, mapped, evicted and answered in the course of a minute."""
    trace = load(seed)
    batches, report = await live(trace, policy, budget, kept)
    found, told = simulated(trace, policy, budget, kept)
    assert found == batches
    assert told == report
    assert told.nbytes <= told.budget


def run(budget: int | None, kept: Sequence[int] = (), *, packs: bool = True) -> RunLog:
    """Drawn latencies, as ``superserve simulate`` has them."""
    return simulate(
        load(0),
        PROFILE,
        policy="drainfit",
        workers=1,
        slo_ms=50.0,
        faster=lambda scheduler, behind: engine(
            scheduler, behind, policy="drainfit", budget=budget, kept=kept, packs=packs
        ),
    )


def test_without_memory_nothing_is_different() -> None:
    """Byte for byte."""
    plain = simulate(load(0), PROFILE, policy="drainfit", workers=1, slo_ms=50.0)
    assert columns(run(1)) == columns(plain)
    assert columns(run(60, (0, 1, 2))) != columns(plain)


def test_with_memory_for_all_it_is_a_run_on_the_faster_engine() -> None:
    """Of a profile in which everything takes half as long."""
    halved = [
        msgspec.structs.replace(
            one, **{name: tuple(cell / 2 for cell in getattr(one, name)) for name in ("p50_us", "p95_us", "p99_us")}
        )
        for one in PROFILE.subnets
    ]
    fast = msgspec.structs.replace(PROFILE, subnets=tuple(halved))
    expected = simulate(load(0), fast, policy="drainfit", workers=1, slo_ms=50.0)
    assert columns(run(60, (0, 1, 2), packs=False)) == columns(expected)


def columns(log: RunLog) -> list[bytes]:
    return [column.tobytes() for column in vars(log).values()]
