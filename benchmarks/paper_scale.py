"""The paper's machine, live: eight emulated workers behind the real server, the paper's loads sent over HTTP.

The Azure load of E1 and the four corners of the bursty grid E4 (`superserve.experiments.reproduction`) are replayed to
a server with the default policy, and simulated with the dispatch overhead of a rehearsal just before. What was
measured is kept per load; a later run goes on with those that are missing.

Run: ``python benchmarks/paper_scale.py --data DIR [--only LOAD...] [--factor F] [--docs DIR]``, or
``make bench-paper-scale``. Wants the machine to itself for five minutes.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from superserve.client.result import Progress
from superserve.engine import EngineChoice
from superserve.experiments.demo import OVERHEAD_EFFORT, until_signalled, with_overhead_of
from superserve.experiments.live import LiveSetup, run_live
from superserve.experiments.observed import with_observed
from superserve.experiments.reproduction.azure import RATE, SECONDS
from superserve.experiments.reproduction.grids import BASE, BURSTY_SECONDS, CV2S, VARIANTS
from superserve.experiments.reproduction.loads import Azure, Bursty
from superserve.experiments.scenario import TraceSource
from superserve.metrics import ResultRow, RunLog, summarise
from superserve.model_folder import ModelFolder, write_json
from superserve.plots import NamedRun, dynamics_figure, figure_bytes
from superserve.profile import Profile
from superserve.profiler import measure_async
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.emulated import ENGINE_NAME as EMULATED
from superserve.simulator import simulate
from superserve.traces.trace import Trace

MODEL: Final = "digits"
PROFILE: Final = "r-profile"
WORKERS: Final = 8
SLO_MS: Final = 36.0
LEAST_ATTAINED: Final = 0.999
AZURE: Final = "azure"
LOADS: Final = (AZURE, *(f"bursty-{variant:g}-{cv2:g}" for variant in VARIANTS[::2] for cv2 in CV2S[::2]))
FIGURE: Final = "paper-scale.png"
#: Steady and varying requests/s and CV² of the load by which the dispatch overhead is measured.
_REHEARSAL: Final = (BASE, VARIANTS[1], CV2S[1])
_REHEARSAL_SEED: Final = 1_000

_HEAD: Final = """# Live at the paper's scale

Two shared cores of an AMD EPYC. `superserve serve` with {workers} emulated workers (R-PROFILE: real processes that take
the profiled time and answer zeros), an SLO of {slo:g} ms and the default policy; the loads of experiments E1 and E4,
sent over HTTP by `superserve replay`'s generator. Simulated: the same arrivals, with the dispatch overhead of a
rehearsal before them under another load. Router, generator and all workers share the two cores. Gain: mean serving
accuracy over {smallest:g} %, what the smallest subnet alone would answer with.

    python benchmarks/paper_scale.py --data DIR        # make bench-paper-scale DATA=DIR
"""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A load, live and simulated. Shares are of one core; a run that is void says nothing of the server."""

    load: str
    factor: float
    overhead_planned_us: float
    overhead_mean_us: float
    live: ResultRow
    simulated: ResultRow
    p99_lateness_ms: float
    router_core_share: float
    generator_cpu_share: float
    void: tuple[str, ...]


def main() -> int:
    """Measure what is missing, write the page; the exit status is 1 if a load was not attained or a run is void."""
    options = _options()
    runs: Path = options.runs
    runs.mkdir(parents=True, exist_ok=True)
    missing = [load for load in options.only if options.again or (_read(runs, load, options.factor) is None)]
    if missing:
        asyncio.run(until_signalled(_measure(missing, options.data, options.factor, runs)))
    found = [one for load in LOADS if (one := _read(runs, load, options.factor)) is not None]
    print("\n".join(table(found)))
    if options.docs is not None:
        write_page(found, runs, options.docs)
    return 0 if all(attained(one) for one in found) else 1


def attained(one: Measured) -> bool:
    """Whether a load was served as it should be, in a run that counts."""
    return not one.void and one.live.slo_attainment >= LEAST_ATTAINED


def table(found: Sequence[Measured]) -> Iterator[str]:
    """Lines of Markdown."""
    smallest = Profile.load(PROFILE).subnets[0].accuracy
    yield (
        "| load | attainment, live | simulated | accuracy, live | simulated | gain, live | simulated "
        f"| send lateness p99 | router's core | attained {LEAST_ATTAINED:g} |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    for one in found:
        live, simulated = one.live.mean_serving_accuracy or 0.0, one.simulated.mean_serving_accuracy or 0.0
        words = f"void: {'; '.join(one.void)}" if one.void else ("yes" if attained(one) else "**no**")
        yield (
            f"| {one.live.trace} | {one.live.slo_attainment:.5f} | {one.simulated.slo_attainment:.5f} "
            f"| {live:.2f} | {simulated:.2f} | {live - smallest:+.2f} | {simulated - smallest:+.2f} "
            f"| {one.p99_lateness_ms:.2f} ms | {one.router_core_share:.0%} | {words} |"
        )


def write_page(found: Sequence[Measured], runs: Path, docs: Path) -> None:
    """``paper-scale.md``, ``paper-scale.json`` and the figure."""
    smallest = Profile.load(PROFILE).subnets[0].accuracy
    parts = [_HEAD.format(workers=WORKERS, slo=SLO_MS, smallest=smallest), *table(found), ""]
    if found:
        means = ", ".join(f"{one.overhead_mean_us / 1000:.2f}" for one in found)
        parts.append(f"Measured dispatch overhead, mean per batch, in the order of the table: {means} ms.")
    if (runs / FIGURE).exists():
        (docs / "images").mkdir(parents=True, exist_ok=True)
        shutil.copy(runs / FIGURE, docs / "images" / FIGURE)
        parts.append(f"\n![The Azure load over time, live and simulated](images/{FIGURE})")
    (docs / "paper-scale.md").write_text("\n".join(parts) + "\n")
    (docs / "paper-scale.json").write_bytes(msgspec.json.format(msgspec.json.encode({"rows": found})) + b"\n")


def source_of(load: str, data: Path | None, factor: float) -> TraceSource:
    """The arrivals of a load; ``factor`` shortens them."""
    if load == AZURE:
        if data is None:
            raise SystemExit("--data: the Azure load needs the folder of recorded traces (or set SUPERSERVE_DATA)")
        return Azure(data, RATE, factor * SECONDS)
    _, variant, cv2 = load.split("-")
    return Bursty(BASE, float(variant), float(cv2), factor * BURSTY_SECONDS)


async def _measure(loads: Sequence[str], data: Path | None, factor: float, runs: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="superserve-paper-scale-") as scratch:
        choice = EngineChoice(f"emulated:{PROFILE}", EMULATED, "none")
        measured = await measure_async(ModelFolder.resolve(MODEL), choice=choice, effort=OVERHEAD_EFFORT)
        profile = await _rehearsed(with_overhead_of(Profile.load(PROFILE), measured.profile), factor, Path(scratch))
        print(
            f"dispatch overhead: p99 {profile.dispatch_overhead_us:.0f} us, mean {profile.typical_overhead_us:.0f} us"
        )
        for load in loads:
            source = source_of(load, data, factor)
            one = await _live_and_simulated(load, profile, Path(scratch), source=source, factor=factor, runs=runs)
            write_json(_path(runs, load), one)
            print(f"{one.live.trace}: {one.live.slo_attainment:.5f} live, {one.simulated.slo_attainment:.5f} simulated")


async def _rehearsed(profile: Profile, factor: float, scratch: Path) -> Profile:
    """The profile with the dispatch overhead of a run under a load that is none of those measured."""
    source = Bursty(*_REHEARSAL, factor * BURSTY_SECONDS)
    run = await run_live(_setup(source.name, source.trace(_REHEARSAL_SEED), profile, scratch), DEFAULT_POLICY, _say)
    return with_observed(profile, run.overhead)


async def _live_and_simulated(
    load: str, profile: Profile, scratch: Path, *, source: TraceSource, factor: float, runs: Path
) -> Measured:
    trace = source.trace(0)
    run = await run_live(_setup(source.name, trace, profile, scratch), DEFAULT_POLICY, _say)
    log = await asyncio.to_thread(simulate, trace, profile, policy=DEFAULT_POLICY, workers=WORKERS, slo_ms=SLO_MS)
    if load == AZURE:
        (runs / FIGURE).write_bytes(_figure(source.name, run.log, log))
    return Measured(
        load=load,
        factor=factor,
        overhead_planned_us=profile.dispatch_overhead_us,
        overhead_mean_us=profile.typical_overhead_us,
        live=run.row,
        simulated=summarise(
            log, policy=DEFAULT_POLICY, trace=source.name, seed=0, workers=WORKERS, slo_ms=SLO_MS, emulated=True
        ),
        p99_lateness_ms=run.p99_lateness_ms,
        router_core_share=run.router_core_share,
        generator_cpu_share=run.generator_cpu_share,
        void=run.void_reasons,
    )


def _setup(name: str, trace: Trace, profile: Profile, scratch: Path) -> LiveSetup:
    trace_file, profile_file = scratch / "trace.npz", scratch / "profile.json"
    trace.save(trace_file)
    write_json(profile_file, profile)
    return LiveSetup(
        model=MODEL,
        choice=EngineChoice(f"emulated:{profile_file}", EMULATED, "none"),
        workers=WORKERS,
        trace_name=name,
        trace_file=trace_file,
        slo_ms=SLO_MS,
        seed=0,
        profile_file=None,
        subnet_ids=tuple(subnet.id for subnet in profile.subnets),
        scratch=scratch,
    )


def _say(progress: Progress) -> None:
    if sys.stdout.isatty():
        print(f"\r  {progress.elapsed_s:6.1f} of {progress.duration_s:.0f} s", end="", flush=True)


def _figure(name: str, live: RunLog, simulated: RunLog) -> bytes:
    runs = [NamedRun("live", live, 0), NamedRun("simulated", simulated, 1)]
    return figure_bytes(dynamics_figure(runs, title=f"{name}, {WORKERS} emulated workers, SLO {SLO_MS:g} ms"), "png")


def _path(runs: Path, load: str) -> Path:
    return runs / f"{load}.json"


def _read(runs: Path, load: str, factor: float) -> Measured | None:
    """What was kept of a load, at this length."""
    path = _path(runs, load)
    one = msgspec.json.decode(path.read_bytes(), type=Measured) if path.exists() else None
    return one if one is not None and one.factor == factor else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    data = os.environ.get("SUPERSERVE_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="folder with traces/ in it")
    parser.add_argument("--only", nargs="+", choices=LOADS, default=list(LOADS), metavar="LOAD", help=", ".join(LOADS))
    parser.add_argument("--factor", type=float, default=1.0, help="length of the loads over the paper's")
    parser.add_argument("--again", action="store_true", help="measure anew what has been measured")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper-scale"), help="where results are kept per load")
    parser.add_argument("--docs", type=Path, default=None, help="where page, JSON and figure go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
