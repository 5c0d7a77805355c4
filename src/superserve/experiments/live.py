"""Live runs: one policy on a fresh server, a trace replayed through it."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from superserve.client.replay_process import Job
from superserve.client.result import Progress, ReplayResult
from superserve.clock import NS_PER_S, monotonic_ns
from superserve.engine import EngineChoice
from superserve.experiments.children import ChildProcess
from superserve.experiments.observed import ObservedOverhead, observed_overhead
from superserve.experiments.server_process import RunningServer, running_server
from superserve.metrics import ResultRow, RunLog, summarise
from superserve.scheduling import TimeoutAction
from superserve.serving.cores import available_cores, pinned, plan_cores
from superserve.serving.devices import emulated_profile

#: Above this share of its core the router and the generator delay each other, and a run says little of the policy.
MAX_CORE_SHARE: Final = 0.60


@dataclass(frozen=True, kw_only=True)
class LiveSetup:
    """What all runs of an experiment share. ``trace_file`` holds the arrivals, ``scratch`` takes files of no use later.

    ``profile_file`` is what the servers plan with (None: they know), ``subnet_ids`` name its subnets.
    """

    model: str
    choice: EngineChoice
    workers: int
    trace_name: str
    trace_file: Path
    slo_ms: float
    seed: int
    profile_file: Path | None
    subnet_ids: tuple[str, ...]
    scratch: Path
    timeout_action: TimeoutAction = "reject"


@dataclass(frozen=True)
class LiveRun:
    """One policy's run.

    ``router_core_share``: of the router's core, what the router used and, if it ran there, the generator.
    ``generator_cpu_share``: CPU time of the generator as a share of one core. ``overhead``: of dispatch, as the
    server observed it; None if it answered nothing.
    """

    row: ResultRow
    log: RunLog
    p99_lateness_ms: float
    router_core_share: float
    generator_cpu_share: float
    void_reasons: tuple[str, ...]
    overhead: ObservedOverhead | None


def pick_generator_core(device: str) -> int:
    """The core of the load generator.

    That of the router, since a worker that computes needs its own to itself. Emulated workers do not compute: they can
    spare more than the router can.
    """
    cores = available_cores()
    return cores[-1] if emulated_profile(device) else plan_cores(cores).router


def void_reasons(result: ReplayResult, router_core_share: float) -> tuple[str, ...]:
    """Why a run says nothing of its policy; empty if it does.

    Args:
        result: of the replay.
        router_core_share: how busy the router's core was with the router, and with the generator if that is there too.
    """
    reasons = [result.void_reason] if result.void_reason else []
    if router_core_share > MAX_CORE_SHARE:
        reasons.append(
            f"{router_core_share:.0%} of the router's core were in use, more than {MAX_CORE_SHARE:.0%}: "
            "requests waited for the router"
        )
    return tuple(reasons)


async def run_live(setup: LiveSetup, policy: str, on_progress: Callable[[Progress], None]) -> LiveRun:
    """Start a server with a policy, replay the trace through it, stop it.

    Raises:
        ChildFailedError: if the server or the generator fails.
    """
    name = f"{policy.replace(':', '-').replace('/', '-')}-{setup.timeout_action}"
    async with running_server(
        setup.model,
        policy=policy,
        workers=setup.workers,
        choice=setup.choice,
        profile=setup.profile_file,
        timeout_action=setup.timeout_action,
        log=setup.scratch / f"server-{name}.log",
    ) as server:
        result, router_share = await replay_to(setup, server, name, on_progress)
        overhead = await observed_overhead(server.metrics)
    if pick_generator_core(setup.choice.device) == plan_cores(available_cores()).router:
        router_share += result.cpu_share
    row = summarise(
        result.log,
        policy=policy,
        trace=setup.trace_name,
        seed=setup.seed,
        workers=setup.workers,
        slo_ms=setup.slo_ms,
        emulated=result.emulated,
    )
    return LiveRun(
        row=row,
        log=result.log,
        p99_lateness_ms=result.p99_lateness_ms,
        router_core_share=router_share,
        generator_cpu_share=result.cpu_share,
        void_reasons=void_reasons(result, router_share),
        overhead=overhead,
    )


async def replay_to(
    setup: LiveSetup, server: RunningServer, name: str, on_progress: Callable[[Progress], None]
) -> tuple[ReplayResult, float]:
    """Replay the trace to a running server; what came of it, and the share of a core that the router used.

    Raises:
        ChildFailedError: if the generator fails.
    """
    generator_core = pick_generator_core(setup.choice.device)
    result_file = setup.scratch / f"result-{name}.npz"
    job = Job(
        trace=str(setup.trace_file),
        url=server.url,
        model=setup.model,
        slo_ms=setup.slo_ms,
        seed=setup.seed,
        result=str(result_file),
        subnet_ids=setup.subnet_ids,
        cores=(generator_core,),
    )
    child = ChildProcess(
        "superserve.client.replay_process",
        [msgspec.json.encode(job).decode()],
        log=setup.scratch / f"replay-{name}.log",
        read_output=True,
    )
    # This process draws the progress, where that disturbs no worker either.
    with pinned(generator_core):
        async with child:
            share = await _watch(child.lines(), server, on_progress)
            await child.check()
    return ReplayResult.load(result_file), share


async def _watch(lines: AsyncIterator[bytes], server: RunningServer, on_progress: Callable[[Progress], None]) -> float:
    """Pass progress on; the share of a core that the router used between the first line of it and the last."""
    marks: list[tuple[int, float]] = []
    async for line in lines:
        on_progress(msgspec.json.decode(line, type=Progress))
        marks = [*marks[:1], (monotonic_ns(), server.cpu_s())]
    if len(marks) < 2:
        return 0.0
    (begin_ns, begin_s), (end_ns, end_s) = marks
    return (end_s - begin_s) * NS_PER_S / (end_ns - begin_ns)
