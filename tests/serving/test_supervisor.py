"""What a supervisor has a worker run that overlaps batches, and what it tells of it."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
import pytest

from superserve.clock import NS_PER_S, ManualClock
from superserve.serving.incarnation import IncarnationOwner
from superserve.serving.ipc import Done, Ready, WorkerSpec
from superserve.serving.pool import Batch, BatchResult
from superserve.serving.supervisor import PoolLimits, WorkerSupervisor

SPEC = WorkerSpec(engine="none:Nothing", options={}, inputs=(), outputs=(), max_rows=1, warm_batches=())


class Process:
    """An incarnation that does what the test says."""

    pid, place = 1, "nowhere"

    def __init__(self, owner: IncarnationOwner, *, overlaps: bool) -> None:
        self.engines: Mapping[int, Ready] = {}
        self.batches: list[Batch] = []
        self.resident: tuple[int, ...] = ()
        self.stopping = False
        self._owner = owner
        self._overlaps = overlaps

    def start(self, loop: asyncio.AbstractEventLoop, limit_ns: int) -> None:
        pass

    def launch(self, batch: Batch) -> None:
        self.batches.append(batch)

    def reside(self, model: int, subnets: Sequence[int]) -> None:
        assert model == 0
        self.resident = tuple(subnets)

    def outputs(self) -> Sequence[memoryview]:
        return []

    def ask_to_stop(self, limit_ns: int, cause: str) -> None:
        assert limit_ns == PoolLimits().stop_ns, cause
        self.stopping = True

    def kill(self, cause: str) -> None:
        raise AssertionError(cause)

    def get_ready(self) -> None:
        self.engines = {0: Ready("none", "none", "none", (), 0, 0, overlaps=self._overlaps)}
        self._owner.on_ready(self)

    def answer(self) -> None:
        self.batches.pop(0)
        self._owner.on_answer(self, Done(0, 1, 0))

    def die(self) -> None:
        self._owner.on_exit(self, "told to")


class Told:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_worker_ready(self, worker: int) -> None:
        self.events.append(f"{worker} is ready")

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        self.events.append(f"{worker} has {1 + overlaps} batches at most")

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        self.events.append(f"{worker} took {result.infer_ns} ns")

    def on_batch_failed(self, worker: int, message: str) -> None:
        raise AssertionError(worker, message)

    def on_batch_overdue(self, worker: int) -> None:
        raise AssertionError(worker)

    def on_worker_lost(self, worker: int, reason: str) -> None:
        self.events.append(f"{worker} is lost: {reason}")

    def heard(self) -> list[str]:
        """Since it was last asked."""
        events, self.events = self.events, []
        return events


class Bench:
    """A supervisor whose processes, one after the other, have so many batches at most."""

    def __init__(self, *most: int) -> None:
        self.clock, self.told = ManualClock(), Told()
        self.preparing = False
        self.processes: list[Process] = []
        self._most = most
        self.worker = WorkerSupervisor(
            0, {0: SPEC}, clock=self.clock, limits=PoolLimits(), spawn=self._spawn, listener=self.told
        )
        self.worker.start(asyncio.get_running_loop())
        self.processes[0].get_ready()

    def _spawn(
        self, worker: int, models: Mapping[int, WorkerSpec], owner: IncarnationOwner, *, background: bool
    ) -> Process:
        assert (worker, set(models), background) == (0, {0}, self.preparing)
        self.processes.append(Process(owner, overlaps=self._most[len(self.processes)] == 2))
        return self.processes[-1]

    def launch(self) -> None:
        self.worker.launch(Batch(0, 1, []))


async def test_a_worker_is_said_to_overlap_before_it_is_ready() -> None:
    """What is launched as soon as it is ready may have a batch behind it."""
    assert Bench(2).told.heard() == ["0 has 2 batches at most", "0 is ready"]
    assert Bench(1).told.heard() == ["0 is ready"]


async def test_one_that_does_not_overlap_has_one_batch() -> None:
    bench = Bench(1)
    bench.launch()
    with pytest.raises(AssertionError, match="busy"):
        bench.launch()


async def test_another_process_takes_over_when_both_batches_are_answered() -> None:
    """Until then no batch comes behind another, or it never would."""
    bench = Bench(2, 1)
    bench.told.heard()
    bench.launch()
    bench.launch()
    old = bench.processes[0]
    bench.preparing = True
    bench.worker.prepare({0: SPEC})
    bench.processes[1].get_ready()
    swapped = bench.worker.commit({0: SPEC})
    assert bench.told.heard() == ["0 has 1 batches at most"]
    old.answer()
    assert bench.told.heard() == ["0 took 1 ns"]
    assert not swapped.done()
    with pytest.raises(AssertionError, match="busy"):
        bench.launch()
    old.answer()
    assert (bench.told.heard(), swapped.done(), old.stopping) == (["0 took 1 ns"], True, True)
    bench.launch()
    assert len(bench.processes[1].batches) == 1


async def test_the_next_process_says_for_itself_whether_it_overlaps() -> None:
    """A lost one is forgotten with all its batches."""
    bench = Bench(2, 2)
    bench.launch()
    bench.launch()
    bench.processes[0].die()
    bench.clock.advance(NS_PER_S)
    bench.processes[1].get_ready()
    ready = ["0 has 2 batches at most", "0 is ready"]
    assert bench.told.heard() == [*ready, "0 is lost: told to", *ready]
    bench.launch()
    bench.launch()
    with pytest.raises(AssertionError, match="busy"):
        bench.launch()


@pytest.mark.parametrize("answers", [True, False])
async def test_a_worker_is_not_killed_for_what_nobody_waits_for(answers: bool) -> None:
    """Whoever wanted something resident has given up: the worker says so in time, or stops."""
    bench = Bench(1)
    residing = bench.worker.reside({0: msgspec.structs.replace(SPEC, resident=(1,))}, 0)
    process = bench.processes[0]
    assert process.resident == (1,)
    residing.cancel()
    if answers:
        bench.worker.on_resident(process, (1,))
    else:
        bench.worker.stop(at_once=False)
    bench.clock.advance(PoolLimits().reside_ns)


async def test_a_worker_that_starts_may_take_its_time_before_it_maps_anything() -> None:
    """It would only have to begin anew."""
    bench = Bench(1, 1)
    bench.processes[0].die()
    bench.clock.advance(NS_PER_S)
    residing = bench.worker.reside({0: msgspec.structs.replace(SPEC, resident=(1,))}, 0)
    process = bench.processes[1]
    bench.clock.advance(PoolLimits().start_ns - 1)
    process.get_ready()
    bench.worker.on_resident(process, (1,))
    assert residing.result() == (1,)
