"""The demo: a bursty load on this machine, served live by an elastic policy and by fixed subnets.

Profile the machine, derive SLO and load from the profile, replay one and the same trace through a fresh server under
each policy, let the simulator predict the same, and report.
"""

import asyncio
import platform
import signal
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from rich.console import Console

from superserve.clock import NS_PER_MS, NS_PER_US
from superserve.engine import EngineChoice
from superserve.errors import ConfigError
from superserve.experiments.live import LiveRun, LiveSetup, run_live
from superserve.experiments.load import Load, derive_load
from superserve.experiments.report import DemoReport, LoadRecord, Machine, RunRecord, write_report
from superserve.experiments.screen import Screen, print_report, replay_note
from superserve.experiments.verdict import check, summary
from superserve.metrics import ResultRow, summarise
from superserve.model_folder import ModelFolder, write_json
from superserve.plots import NamedRun
from superserve.processor import cpu_name
from superserve.profile import Profile
from superserve.profiler import Progress, measure_async
from superserve.profiler.plan import Effort
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.choice import choose_engine
from superserve.serving.cores import available_cores, plan_cores
from superserve.serving.devices import emulated_profile
from superserve.simulator import simulate
from superserve.traces.trace import Trace

ELASTIC_POLICY: Final = DEFAULT_POLICY
#: The load whose outcome the demo judges; a burstier one is shown without a pass mark, except on emulated devices.
JUDGED_CV2: Final = 2.0

#: Enough samples of an emulated device for the dispatch overhead alone.
OVERHEAD_EFFORT: Final = Effort(seconds=1.5, least=2, most=60, rounds=2)

#: How the time of a measurement divides among its stages, roughly.
_SHARE_OF: Final = {"start": 0.2, "scan": 0.1, "measure": 0.7}
_SHARE_BEFORE: Final = {"start": 0.0, "scan": 0.2, "measure": 0.3}

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What a demo may be told. ``workers``: default is one per core that the router leaves.

    Raises:
        ConfigError: for a number out of range.
    """

    model: str = "digits"
    seconds: float = 20.0
    seed: int = 0
    workers: int | None = None
    device: str = "cpu"
    engine: str = "auto"
    dtype: str = "auto"
    cv2: float = JUDGED_CV2
    out: Path = Path("demo-report")

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise ConfigError(f"seconds = {self.seconds}: must be a number above 0")
        if not 0 <= self.cv2 < float("inf"):
            raise ConfigError(f"cv2 = {self.cv2}: must be a number of at least 0")


def run_demo(options: DemoOptions, console: Console) -> DemoReport:
    """Run the demo, print what came of it and write the report's folder.

    Ctrl-C, ``SIGTERM`` and a closed terminal end it like its own end: no process, port or shared memory stays behind.

    Raises:
        UsageError: for options that cannot be used.
        SuperServeError: if a process of the demo fails.
        SystemExit: if a signal ended it, with the status that shells expect.
    """
    try:
        options.out.mkdir(parents=True, exist_ok=True)  # better refused now than after minutes of work
    except OSError as error:
        raise ConfigError(f"out = {options.out}: cannot write a report there: {error}") from None
    report, shown = asyncio.run(until_signalled(_demo(options, console)))
    page = write_report(options.out, report, shown)
    print_report(console, report)
    console.print(f"\nThe report, with figures: {page}", highlight=False, soft_wrap=True)
    return report


async def until_signalled(work: Coroutine[Any, Any, _T]) -> _T:
    """Run something that a signal to end cancels; the first signal counts, as the clean-up it starts is bounded.

    Raises:
        SystemExit: if a signal came, with status 128 + its number.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    received: list[int] = []

    def cancel_once(number: int) -> None:
        if not received:
            task.cancel()
        received.append(number)

    for number in _SIGNALS:
        loop.add_signal_handler(number, cancel_once, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        raise SystemExit(128 + received[0]) from None
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def fixed_policies(subnet_ids: Sequence[str]) -> list[str]:
    """The demo's fixed subnets, from the largest to the smallest."""
    chosen = (subnet_ids[-1], subnet_ids[len(subnet_ids) // 2], subnet_ids[0])
    return [f"fixed:{name}" for name in dict.fromkeys(chosen)]


async def _demo(options: DemoOptions, console: Console) -> tuple[DemoReport, list[NamedRun]]:
    folder = ModelFolder.resolve(options.model)
    folder.test_data()  # without it there is nothing to send: better said now than after the profile
    choice = choose_engine(folder, options.device, options.engine, options.dtype)
    workers = len(plan_cores(available_cores(), options.workers).workers)
    with tempfile.TemporaryDirectory(prefix="superserve-demo-") as scratch, Screen(console) as screen:
        profile = await _profile(options, folder, choice, screen)
        load = derive_load(profile, workers=workers, cv2=options.cv2)
        trace = load.trace(options.seconds, options.seed)
        setup = _setup(options, Path(scratch), choice, profile=profile, load=load, trace=trace, workers=workers)
        policies = (ELASTIC_POLICY, *fixed_policies(setup.subnet_ids))
        runs = [await _live(setup, policy, screen) for policy in policies]
        simulated = [await _simulated(run.row, trace, profile, screen) for run in runs]
    report = _report(
        options,
        model=folder.config.name,
        profile=profile,
        load=load,
        trace=trace,
        runs=runs,
        simulated=simulated,
    )
    middle = min(2, len(runs) - 1)
    shown = [NamedRun(runs[number].row.policy, runs[number].log, number) for number in dict.fromkeys((0, middle))]
    return report, shown


async def _profile(options: DemoOptions, folder: ModelFolder, choice: EngineChoice, screen: Screen) -> Profile:
    """The profile of the device that serves, as the servers and the simulator are to plan with it.

    An emulated device has the latencies that it emulates, but its batches are dispatched by this machine's router: that
    overhead is measured here. The simulator would otherwise charge every batch for the overhead of another machine.
    """
    stage = screen.begin("profile this machine")

    def report(progress: Progress) -> None:
        # Samples come by the hundred per second: a line is drawn for some of them only.
        if progress.done == progress.total or progress.done % 25 == 0:
            share = _SHARE_BEFORE[progress.stage] + _SHARE_OF[progress.stage] * progress.done / progress.total
            screen.update(stage, share, f"{progress.stage} {progress.done}/{progress.total}")

    source = emulated_profile(options.device)
    effort = None if source is None else OVERHEAD_EFFORT
    measurement = await measure_async(
        folder, quick=True, choice=choice, seed=options.seed, report=report, effort=effort
    )
    profile = measurement.profile
    if source is not None:
        profile = with_overhead_of(Profile.load(source), profile)
    overhead_ms = profile.dispatch_overhead_us * NS_PER_US / NS_PER_MS
    screen.end(stage, f"largest cell {profile.largest_cell_ms():.1f} ms, overhead {overhead_ms:.2f} ms (p95)")
    return profile


def with_overhead_of(emulated: Profile, measured: Profile) -> Profile:
    """The latencies of a device that is emulated here, with the dispatch overhead of this machine."""
    return msgspec.structs.replace(
        emulated,
        dispatch_overhead_us=measured.dispatch_overhead_us,
        dispatch_overhead_mean_us=measured.dispatch_overhead_mean_us,
        dispatch_overhead_p99_us=measured.dispatch_overhead_p99_us,
    )


def _setup(
    options: DemoOptions,
    scratch: Path,
    choice: EngineChoice,
    *,
    profile: Profile,
    load: Load,
    trace: Trace,
    workers: int,
) -> LiveSetup:
    trace_file, profile_file = scratch / "trace.npz", scratch / "profile.json"
    trace.save(trace_file)
    write_json(profile_file, profile)
    emulated = emulated_profile(options.device) is not None
    return LiveSetup(
        model=options.model,
        choice=choice._replace(device=f"emulated:{profile_file}") if emulated else choice,
        workers=workers,
        trace_name=trace.name,
        trace_file=trace_file,
        slo_ms=load.slo_ms,
        seed=options.seed,
        profile_file=None if emulated else profile_file,
        subnet_ids=tuple(subnet.id for subnet in profile.subnets),
        scratch=scratch,
    )


async def _live(setup: LiveSetup, policy: str, screen: Screen) -> LiveRun:
    stage = screen.begin(policy, "starting a server ...")
    run = await run_live(
        setup,
        policy,
        lambda progress: screen.update(
            stage, progress.elapsed_s / max(progress.duration_s, 1e-9), replay_note(progress)
        ),
    )
    row = run.row
    accuracy = "-" if row.mean_serving_accuracy is None else f"{row.mean_serving_accuracy:.2f} %"
    note = f"attainment {row.slo_attainment:.4f}  accuracy {accuracy}"
    screen.end(stage, note + ("  VOID" if run.void_reasons else ""))
    return run


async def _simulated(live: ResultRow, trace: Trace, profile: Profile, screen: Screen) -> ResultRow:
    """The simulator's prediction of a live run. In a thread, so that a signal is heard meanwhile."""
    stage = screen.begin(f"simulate {live.policy}")
    log = await asyncio.to_thread(
        simulate, trace, profile, policy=live.policy, workers=live.workers, slo_ms=live.slo_ms, seed=live.seed
    )
    row = summarise(log, policy=live.policy, trace=live.trace, seed=live.seed, workers=live.workers, slo_ms=live.slo_ms)
    screen.end(stage, f"attainment {row.slo_attainment:.4f}")
    return row


def _report(
    options: DemoOptions,
    *,
    model: str,
    profile: Profile,
    load: Load,
    trace: Trace,
    runs: Sequence[LiveRun],
    simulated: Sequence[ResultRow],
) -> DemoReport:
    live = tuple(run.row for run in runs)
    judged = options.cv2 <= JUDGED_CV2 or emulated_profile(options.device) is not None
    return DemoReport(
        machine=Machine(
            processor=cpu_name(),
            cores=len(available_cores()),
            device=options.device,
            python=platform.python_version(),
            torch=profile.device.torch,
        ),
        model=model,
        slo_ms=load.slo_ms,
        live=live,
        simulated=tuple(simulated),
        version=version("superserve"),
        workers=live[0].workers,
        load=LoadRecord(
            seconds=options.seconds,
            seed=options.seed,
            requests=len(trace),
            mean_rate=load.mean_rate,
            base_rate=load.base_rate,
            gamma_rate=load.gamma_rate,
            cv2=load.cv2,
        ),
        runs=tuple(_run_record(run, twin) for run, twin in zip(runs, simulated, strict=True)),
        summary=tuple(summary(live)),
        checks=check(live, simulated) if judged else (),
        profile=profile,
    )


def _run_record(run: LiveRun, simulated: ResultRow) -> RunRecord:
    return RunRecord(
        policy=run.row.policy,
        attainment_difference=run.row.slo_attainment - simulated.slo_attainment,
        p99_lateness_ms=run.p99_lateness_ms,
        router_core_share=run.router_core_share,
        generator_cpu_share=run.generator_cpu_share,
        void=run.void_reasons,
    )
