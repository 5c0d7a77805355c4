"""Workers that take a batch while they run one: the router beside the simulator."""

from functools import partial

import numpy as np
import pytest

from superserve.clock import NS_PER_MS, NS_PER_S, ManualClock
from superserve.scheduling import create_scheduler
from superserve.serving.fake_pool import FakePool
from superserve.serving.pool import Batch
from superserve.simulator.recording import Recording
from superserve.simulator.simulator import Simulation
from superserve.traces.trace import Trace
from support.profiles import make_profile
from support.serving import Recorder, make_router

PROFILE = make_profile([[2.0, 6.0], [8.0, 24.0]], (1, 4))
REQUESTS = 60


class PlannedPool(FakePool):
    """Its workers overlap batches, which take what they are planned to take, one after the other."""

    def __init__(self, clock: ManualClock, workers: int) -> None:
        super().__init__(workers)
        self.seen: list[tuple[int, int, int, int, int, int]] = []
        """Launch, worker, subnet, rows, begin and end of each."""
        self._clock_ns = clock
        self._launched_ns: dict[int, int] = {}
        for worker in range(workers):
            self.overlap(worker, overlaps=True)

    def launch(self, worker: int, batch: Batch) -> None:
        """See `FakePool.launch`."""
        self._launched_ns[id(batch)] = self._clock_ns.now_ns()
        super().launch(worker, batch)

    def _run(self, worker: int, batch: Batch) -> None:
        super()._run(worker, batch)
        begin_ns, launched_ns = self._clock_ns.now_ns(), self._launched_ns[id(batch)]
        end_ns = begin_ns + batch.planned_ns
        self.seen.append((launched_ns, worker, batch.subnet, batch.rows, begin_ns, end_ns))
        waited_ns = begin_ns - launched_ns
        self._clock_ns.call_at(end_ns, partial(self.finish, worker, batch.planned_ns, waited_ns=waited_ns))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("policy", "workers"), [("drainfit", 1), ("drainfit", 2), ("slackfit", 1), ("maxacc", 2)])
async def test_router_and_simulator_decide_alike(seed: int, policy: str, workers: int) -> None:
    """Requests come while workers are idle, when it is too early for their next batch, and when it is not."""
    rng = np.random.default_rng(seed)
    arrival_ns = np.sort(rng.integers(0, 120 * NS_PER_MS, REQUESTS))
    slo_ns = rng.integers(5 * NS_PER_MS, 120 * NS_PER_MS, REQUESTS)
    clock = ManualClock(start_ns=0)
    pool = PlannedPool(clock, workers)
    router = make_router(pool, clock, profile=PROFILE, policy=policy)
    await router.start()
    for at_ns, span_ns in zip(arrival_ns.tolist(), slo_ns.tolist(), strict=True):
        clock.advance_to(at_ns)
        router.submit(at_ns, at_ns + span_ns, 1, 0.0, 0, [bytes(4), bytes(4)], Recorder())
    clock.advance(NS_PER_S)
    assert router.unfinished == 0

    recording = Recording()
    Simulation(
        Trace("drawn", arrival_ns, slo_ns),
        create_scheduler(policy, [PROFILE], overheads_ns=[0]),
        workers=workers,
        slo_ns=0,
        latency_ns=lambda launch: launch.planned_ns,
        overhead_ns=0,
        overlapping=[True],
        recording=recording,
    ).run()
    simulated = [
        (one.launched_ns, one.worker, one.subnet, one.rows, one.launched_ns + one.behind_ns, one.end_ns)
        for one in recording.batches
    ]
    assert any(begin_ns > launched_ns for launched_ns, *_, begin_ns, _ in simulated)
    assert sorted(pool.seen) == sorted(simulated)
