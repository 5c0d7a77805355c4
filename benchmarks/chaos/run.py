"""One scenario: a server, its load, its faults, and what came of them."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from chaos.counters import Counters, read_counters
from chaos.faults import Fault, Injector
from chaos.promises import Promise, promises
from chaos.scenarios import MODEL, Scenario
from chaos.server_log import events
from superserve.client.result import Progress
from superserve.clock import MonotonicClock
from superserve.engine import EngineChoice
from superserve.experiments.live import LiveSetup, replay_to
from superserve.experiments.load import full_batch_rate
from superserve.experiments.server_process import RunningServer, running_server
from superserve.frontend.deployment import choose_profile
from superserve.metrics import ResultRow, RunLog, summarise
from superserve.model_folder import ModelFolder
from superserve.profile import Profile
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.choice import choose_engine
from superserve.serving.cores import available_cores, plan_cores
from superserve.serving.devices import emulated_profile, workers_for
from superserve.serving.local_pool import LocalPool
from superserve.serving.pool import Batch, BatchResult
from superserve.traces.arrivals import poisson

#: The largest cells that fit into an SLO that a request meets although it loses its worker: the one that is lost, the
#: one that the next worker is through with first, and as much again for running what was lost one by one.
_LARGEST_CELLS: Final = 4.0
_MEASURE_S: Final = 4.0
#: After the load, for the last worker to come back.
_SETTLE_S: Final = 10.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a run showed. ``void`` says why it shows nothing, if so."""

    scenario: str
    title: str
    seconds: float
    rate: float
    slo_ms: float
    row: ResultRow
    counters: Counters
    faults: list[Fault]
    promises: list[Promise]
    p99_lateness_ms: float
    void: str | None

    @property
    def kept(self) -> bool:
        """Whether every promise was, in a run that counts."""
        return self.void is None and all(promise.kept is not False for promise in self.promises)


class Load(NamedTuple):
    """What is sent: requests per second, and the time they have."""

    rate: float
    slo_ms: float
    profile: Profile


async def run(scenario: Scenario, seed: int, scratch: Path) -> tuple[Result, RunLog]:
    """Run a scenario.

    Raises:
        ChildFailedError: if the server or the generator fails.
    """
    folder = ModelFolder.resolve(MODEL)
    choice = choose_engine(folder, scenario.device)
    load = await _load(scenario, folder, choice)
    trace = poisson(load.rate, scenario.seconds, np.random.default_rng(seed))
    trace.save(scratch / "trace.npz")
    setup = LiveSetup(
        model=MODEL,
        choice=choice,
        workers=scenario.workers,
        trace_name=trace.name,
        trace_file=scratch / "trace.npz",
        slo_ms=load.slo_ms,
        seed=seed,
        profile_file=None,
        subnet_ids=tuple(subnet.id for subnet in load.profile.subnets),
        scratch=scratch,
    )
    log_file = scratch / "server.log"
    async with running_server(
        MODEL, policy=DEFAULT_POLICY, workers=scenario.workers, choice=choice, profile=None, log=log_file
    ) as server:
        injector = Injector(server.pid, server.url, MODEL, scenario.kinds, seed)
        said = _Say(scenario, injector)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(injector.run(scenario.seconds, scenario.every_s, said.begun))
            replaying = tasks.create_task(replay_to(setup, server, "chaos", said))
        result, _ = replaying.result()
        counters = await _settled(server, scenario.workers)
    row = summarise(
        result.log,
        policy=DEFAULT_POLICY,
        trace=trace.name,
        seed=seed,
        workers=scenario.workers,
        slo_ms=load.slo_ms,
        emulated=result.emulated,
    )
    said_of_workers = events(log_file.read_text(errors="replace").splitlines())
    found = promises(scenario, row, result.log, counters, faults=injector.done, log=said_of_workers)
    outcome = Result(
        scenario=scenario.name,
        title=scenario.title,
        seconds=scenario.seconds,
        rate=load.rate,
        slo_ms=load.slo_ms,
        row=row,
        counters=counters,
        faults=injector.done,
        promises=found,
        p99_lateness_ms=result.p99_lateness_ms,
        void=result.void_reason,
    )
    return outcome, result.log


class _Say:
    """Tells how a run goes, and that it has begun."""

    def __init__(self, scenario: Scenario, injector: Injector) -> None:
        self.begun = asyncio.Event()
        self._scenario = scenario
        self._injector = injector
        self._said_s = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.elapsed_s > 0:
            self.begun.set()
        if progress.elapsed_s - self._said_s >= 10:
            self._said_s = progress.elapsed_s
            print(
                f"  {progress.elapsed_s:4.0f} of {progress.duration_s:.0f} s: {progress.offered} sent, "
                f"{progress.served} in time, {len(self._injector.done)} faults",
                flush=True,
            )


async def _load(scenario: Scenario, folder: ModelFolder, choice: EngineChoice) -> Load:
    profile = await asyncio.to_thread(choose_profile, folder, choice)
    middle = len(profile.subnets) // 2
    if emulated_profile(scenario.device) is None:
        rate = await _measured_rate(folder, choice, scenario.workers, middle)
    else:
        rate = scenario.workers * full_batch_rate(profile, middle)
    return Load(scenario.load * rate, scenario.slo_ms or slo_ms_of(profile, scenario.workers), profile)


def slo_ms_of(profile: Profile, workers: int) -> float:
    """Enough for a request to lose its worker once; workers that share a core take turns."""
    cores = plan_cores(available_cores(), workers).workers
    return _LARGEST_CELLS * profile.largest_cell_ms("p50") * max(cores.count(core) for core in cores)


async def _settled(server: RunningServer, workers: int) -> Counters:
    """What it has counted when all workers are there and nothing waits, or after a while."""
    until_s = time.monotonic() + _SETTLE_S
    while True:
        counters = await read_counters(server.metrics)
        if (counters.workers, counters.waiting) == (workers, 0) or time.monotonic() > until_s:
            return counters
        await asyncio.sleep(0.1)


async def _measured_rate(folder: ModelFolder, choice: EngineChoice, workers: int, subnet: int) -> float:
    """Rows per second that the workers do together, all of them busy with full batches of a subnet."""
    spec = workers_for(folder, choice)
    row = [b"".join(bytes(tensor.longest(1)) for _ in range(spec.max_rows)) for tensor in spec.inputs]
    batch = Batch(subnet, spec.max_rows, [row])
    pool = LocalPool([spec], plan_cores(available_cores(), workers).workers, MonotonicClock(asyncio.get_running_loop()))
    busy = _Busy(lambda worker: pool.launch(worker, batch))
    await pool.start(busy)
    try:
        await asyncio.sleep(_MEASURE_S)
    finally:
        await pool.stop()
    return busy.done * spec.max_rows / _MEASURE_S


class _Busy:
    """Gives every worker the same batch again and again."""

    def __init__(self, launch: Callable[[int], None]) -> None:
        self.done = 0
        self._launch = launch
        self._until_s = 0.0

    def on_worker_ready(self, worker: int) -> None:
        """See `PoolListener`."""
        self._until_s = time.monotonic() + _MEASURE_S
        self._launch(worker)

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        """See `PoolListener.on_worker_overlaps`; it launches one at a time."""

    def on_batch_done(self, worker: int, result: BatchResult) -> None:  # noqa: ARG002
        """See `PoolListener`."""
        if time.monotonic() < self._until_s:
            self.done += 1
            self._launch(worker)

    def on_batch_failed(self, worker: int, message: str) -> None:
        """See `PoolListener`."""
        raise AssertionError(f"worker {worker}: {message}")

    def on_batch_overdue(self, worker: int) -> None:
        """See `PoolListener`; no local pool tells of any."""

    def on_worker_lost(self, worker: int, reason: str) -> None:
        """See `PoolListener`."""
