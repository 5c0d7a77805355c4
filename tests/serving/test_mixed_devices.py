"""Workers of two devices behind a router, and the same in the simulator. What is decided is tested in scheduling/."""

import numpy as np
import pytest

from superserve.clock import NS_PER_MS, ManualClock
from superserve.scheduling import create_scheduler
from superserve.serving.fake_pool import FakePool
from superserve.serving.pool import Batch
from superserve.serving.shared_pool import SharedPool
from superserve.simulator.recording import Recording
from superserve.simulator.simulator import Simulation
from superserve.traces.trace import Trace
from support.profiles import make_profile
from support.serving import Recorder, make_model, make_router

FAST = make_profile([[2.0, 6.0], [8.0, 24.0]], (1, 4))
SLOW = make_profile([[6.0, 18.0], [24.0, 72.0]], (1, 4))
NAMES = ("fast", "slow")
REQUESTS = 40


class PlannedPool(FakePool):
    """Four workers, of one device and the other in turns, whose batches take what is planned for them, or longer."""

    def __init__(self, clock: ManualClock, devices: tuple[str, ...] = NAMES, longer: int = 1) -> None:
        super().__init__(4, clock=clock, service_ns=lambda batch: longer * batch.planned_ns, devices=devices)
        self.clock = clock
        self._longer = longer
        self.seen: list[tuple[int, int, int, int, int]] = []
        """Of each batch: instant, worker, subnet, rows, time."""

    def launch(self, worker: int, batch: Batch) -> None:
        """See `WorkerPool.launch`."""
        self.seen.append((self.clock.now_ns(), worker, batch.subnet, batch.rows, batch.planned_ns))
        super().launch(worker, batch)

    def _end(self, worker: int, batch: Batch) -> None:
        self.finish(worker, self._longer * batch.planned_ns)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("policy", ["drainfit", "slackfit", "fixed:largest"])
async def test_router_and_simulator_decide_alike(seed: int, policy: str) -> None:
    """Forty requests at once, with deadlines of their own."""
    slo_ns = np.random.default_rng(seed).integers(5 * NS_PER_MS, 200 * NS_PER_MS, REQUESTS)
    clock = ManualClock(start_ns=0)
    pool = PlannedPool(clock)
    router = make_router(SharedPool(pool, clock, devices=NAMES), clock, profile=(FAST, SLOW), policy=policy)
    await router.start()
    for deadline_ns in slo_ns.tolist():
        router.submit(0, deadline_ns, 1, 0.0, 0, [bytes(4), bytes(4)], Recorder())
    clock.advance(300 * NS_PER_MS)
    assert router.unfinished == 0

    scheduler, recording = create_scheduler(policy, (FAST, SLOW), overheads_ns=(0, 0)), Recording()
    devices = {0: 0, 1: 2, 2: 1, 3: 3}
    """The simulator numbers its workers device by device."""
    Simulation(
        Trace("at once", np.zeros(REQUESTS, np.int64), slo_ns),
        scheduler,
        workers=(2, 2),
        slo_ns=0,
        latency_ns=lambda launch: launch.planned_ns,
        overhead_ns=0,
        recording=recording,
    ).run()
    simulated = [
        (one.launched_ns, devices[one.worker], one.subnet, one.rows, one.end_ns - one.launched_ns)
        for one in recording.batches
    ]
    assert {worker % 2 for _, worker, *_ in pool.seen} == {0, 1}, "both devices are used"
    assert sorted(pool.seen) == sorted(simulated)


async def test_a_worker_of_an_unknown_device_is_planned_with_the_first_profile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log says which, and what to do."""
    clock = ManualClock()
    pool = PlannedPool(clock, devices=("fast", "another"))
    router = make_router(SharedPool(pool, clock, devices=NAMES), clock, profile=(FAST, SLOW))
    await router.start()
    assert router.scheduler.workers_by_device == [4, 0]
    assert [record.getMessage()[:27] for record in caplog.records] == [
        f"worker {worker} runs on 'another'," for worker in (1, 3)
    ]
    assert "superserve profile" in caplog.text


async def test_an_explanation_tells_the_device_and_its_times() -> None:
    """The sentences of one that is late, too: its batch took five times as long as the device should take."""
    clock = ManualClock()
    pool = PlannedPool(clock, longer=5)
    router = make_router(SharedPool(pool, clock, devices=NAMES), clock, profile=(FAST, SLOW), policy="fixed:largest")
    model = make_model(router, devices=NAMES)
    await router.start()
    now_ns = clock.now_ns()
    for number, slo_ms in enumerate((100, 10)):
        router.submit(now_ns, now_ns + slo_ms * NS_PER_MS, 1, 0.0, 0, [bytes(4), bytes(4)], Recorder(), b"%d" % number)
    clock.advance(200 * NS_PER_MS)
    told = [model.explain(b"%d" % number) for number in range(2)]
    attempts = [one.attempts[0] for one in told if one is not None]
    assert [(one.device, one.planned_ms, one.candidates[0].batch_ms) for one in attempts] == [
        ("slow", 24.0, 6.0),
        ("fast", 8.0, 2.0),
    ]
    assert told[0] is not None
    assert any("(on slow)" in sentence for sentence in told[0].why)
