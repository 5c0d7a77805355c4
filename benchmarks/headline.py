"""The project's headline, live on this machine: real traces, real models, accuracy against labels.

Each bundled model is served by one worker under each recorded trace, scaled to what the machine carries: by the default
policy, and by fixed subnets in the same server, the smallest one and the one that is nearest to the default policy in
accuracy. The latter runs under both overload rules, since a fixed model may shed what it cannot serve in time or serve
it late. Everything is simulated, too, with the dispatch overhead of a rehearsal before. What was measured is kept per
model and trace; a later run goes on with what is missing.

Run: ``python benchmarks/headline.py --data DIR [--only MODEL...] [--seconds S] [--docs DIR]``, or
``make bench-headline DATA=DIR``. Wants the machine to itself, for about two minutes per model and trace.
"""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from headline_loads import TRACES, mean_rate, nearest_subnet, parser_of, slo_ms
from peers import traces as peer_traces
from superserve.client.result import Progress
from superserve.engine import EngineChoice
from superserve.experiments.demo import until_signalled
from superserve.experiments.live import LiveRun, LiveSetup, run_live
from superserve.experiments.load import LOAD_FACTOR, SLO_FACTOR
from superserve.experiments.observed import with_observed
from superserve.experiments.reproduction.loads import Steady
from superserve.experiments.scenario import TraceSource
from superserve.metrics import ResultRow, summarise
from superserve.model_folder import TEST_FILE, ModelFolder, write_json
from superserve.plots import Panel, Point, figure_bytes, panels_figure
from superserve.processor import cpu_name
from superserve.profile import Profile
from superserve.profiler import measure_async
from superserve.scheduling import TimeoutAction
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.choice import choose_engine
from superserve.simulator import simulate
from superserve.traces.trace import Trace
from superserve.training.recipes import examples_of, has_examples

FIGURE: Final = "headline.png"
#: Attainments no further apart are equal.
EQUAL: Final = 0.005
_REHEARSAL_SECONDS: Final = 10.0
_REHEARSAL_CV2: Final = 8.0
_REHEARSAL_SEED: Final = 1_000

_HEAD: Final = """# Live, on real traces

{processor}, two shared cores, one worker. Each model that comes with SuperServe under recorded traces squeezed to
{seconds:g} s ({traces}), at {load:g} of what its middle subnet carries at full batches and with an SLO of {slo:g} times
its slowest cell. All rows of a model and trace have the same server, profile and arrivals, sent open-loop over HTTP;
inputs are labelled test examples, drawn at random. *Late*: what cannot be in time is served late instead of given up
(`--timeout-action delay`). *Simulated*: the same arrivals, with the profile and the dispatch overhead of a rehearsal
under another load.

    python benchmarks/headline.py --data DIR        # make bench-headline DATA=DIR
"""


_BESIDE: Final = """## Beside other servers with fixed subnets

The same traces for {seconds:g} s each, under the conditions of [peers.md](peers.md): all processes of a server on one
core, a compiled generator on the other, eager torch everywhere. The peers batch, and answer everything, late where they
must; which subnets they serve is chosen in their favour: the smallest, and the one that is nearest to SuperServe's
accuracy in that very run. Accuracy is that of the subnets that answered, on the validation split.

    PYTHONPATH=benchmarks python -m peers.traces --data DIR        # part of make bench-headline DATA=DIR
"""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A contender under a load, live and simulated. ``late``: whether it serves late; ``void``: why it says nothing."""

    policy: str
    late: bool
    live: ResultRow
    simulated: ResultRow
    p99_lateness_ms: float
    void: tuple[str, ...]

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.policy}, late" if self.late else self.policy


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A model under a trace.

    ``contenders``: the default policy, the smallest subnet, the one nearest to that policy in accuracy, that one late.
    """

    model: str
    trace: str
    seconds: float
    rate: float
    slo_ms: float
    contenders: tuple[Measured, ...]

    @property
    def gain(self) -> tuple[float, float]:
        """Points of mean serving accuracy over the smallest subnet; live and simulated."""
        ours, smallest = self.contenders[0], self.contenders[1]
        return (
            (ours.live.mean_serving_accuracy or 0.0) - (smallest.live.mean_serving_accuracy or 0.0),
            (ours.simulated.mean_serving_accuracy or 0.0) - (smallest.simulated.mean_serving_accuracy or 0.0),
        )

    def ratio(self, *, late: bool) -> tuple[float, float]:
        """Attainment over that of the fixed subnet nearest in accuracy; live and simulated."""
        ours, fixed = self.contenders[0], self.contenders[3 if late else 2]
        return (
            ours.live.slo_attainment / max(fixed.live.slo_attainment, 1e-9),
            ours.simulated.slo_attainment / max(fixed.simulated.slo_attainment, 1e-9),
        )


@dataclass(frozen=True)
class Bench:
    """A model, ready to be served: its folder has labelled test examples in it.

    ``rate`` and ``slo_ms``: see `headline_loads`.
    """

    folder: ModelFolder
    choice: EngineChoice
    profile: Profile
    rehearsed: Profile
    scratch: Path
    rate: float
    slo_ms: float


def main() -> int:
    """Measure what is missing, write the page; the exit status is 1 if a run is void."""
    parser = parser_of(__doc__, seconds=20.0)
    parser.add_argument("--docs", type=Path, metavar="DIR", help="write the page there")
    options = parser.parse_args()
    runs: Path = options.runs
    runs.mkdir(parents=True, exist_ok=True)
    for model in options.only:
        missing = [trace for trace in TRACES if options.again or _read(runs, model, trace, options.seconds) is None]
        if missing:
            asyncio.run(until_signalled(_measure(model, missing, options.data, options.seconds, runs)))
    names = [(model, trace) for model in options.only for trace in TRACES]
    found = [cell for name in names if (cell := _read(runs, *name, options.seconds)) is not None]
    print("\n".join(summary(found)))
    if options.docs is not None:
        beside = [other for name in names if (other := peer_traces.read(runs, *name)) is not None]
        write_page(found, beside, options.docs)
    return 1 if any(one.void for cell in found for one in cell.contenders) else 0


async def _measure(model: str, traces: Sequence[str], data: Path, seconds: float, runs: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="superserve-headline-") as scratch:
        bench = await prepare(model, data, Path(scratch))
        for trace in traces:
            cell = await _cell(bench, trace, TRACES[trace](data, bench.rate, seconds), seconds)
            write_json(_path(runs, model, trace), cell)


async def prepare(model: str, data: Path, scratch: Path, engine: str = "auto", like: Bench | None = None) -> Bench:
    """A model with a profile, and one of what the server was seen to add to it; under the load of another, if given."""
    folder = _with_examples(ModelFolder.resolve(model), data, scratch)
    choice = choose_engine(folder, engine=engine)
    print(f"{model}: profiling, {choice.engine} {choice.dtype}", flush=True)
    profile = (await measure_async(folder, quick=True, choice=choice)).profile
    rate, slo = (mean_rate(profile), slo_ms(profile)) if like is None else (like.rate, like.slo_ms)
    bench = Bench(folder, choice, profile, profile, scratch, rate, slo)
    load = Steady(rate, _REHEARSAL_CV2, _REHEARSAL_SECONDS)
    run = await _run(bench, load.name, load.trace(_REHEARSAL_SEED), DEFAULT_POLICY, "reject")
    return replace(bench, rehearsed=with_observed(profile, run.overhead))


def _with_examples(folder: ModelFolder, data: Path, scratch: Path) -> ModelFolder:
    """A copy of the folder, since servers keep profiles in it; with the test examples that come with the data."""
    copy = scratch / folder.config.name
    shutil.copytree(folder.path, copy)
    if not folder.carries_test_data and has_examples(folder.config.name):
        inputs, labels = examples_of(folder.config.name, data)
        np.savez(copy / TEST_FILE, inputs=inputs, labels=labels)
    return ModelFolder(copy)


async def _cell(bench: Bench, name: str, source: TraceSource, seconds: float) -> Cell:
    trace = source.trace(0)
    ours = await contender(bench, name, trace)
    smallest = f"fixed:{bench.profile.subnets[0].id}"
    nearest = f"fixed:{nearest_subnet(bench.profile, ours.live.mean_serving_accuracy or 0.0)}"
    contenders = (
        ours,
        await contender(bench, name, trace, smallest, "reject"),
        await contender(bench, name, trace, nearest, "reject"),
        await contender(bench, name, trace, nearest, "delay"),
    )
    return Cell(
        model=bench.folder.config.name,
        trace=name,
        seconds=seconds,
        rate=bench.rate,
        slo_ms=bench.slo_ms,
        contenders=contenders,
    )


async def contender(
    bench: Bench, name: str, trace: Trace, policy: str = DEFAULT_POLICY, action: TimeoutAction = "reject"
) -> Measured:
    """A model under a trace, live and simulated."""
    run = await _run(bench, name, trace, policy, action)
    log = await asyncio.to_thread(
        simulate, trace, bench.rehearsed, policy=policy, workers=1, slo_ms=bench.slo_ms, timeout_action=action
    )
    simulated = summarise(log, policy=policy, trace=name, seed=0, workers=1, slo_ms=bench.slo_ms)
    print(
        f"{bench.folder.config.name}, {name}, {policy}, {action}: {run.row.slo_attainment:.4f} live, "
        f"{simulated.slo_attainment:.4f} simulated{'; VOID' if run.void_reasons else ''}",
        flush=True,
    )
    return Measured(
        policy=policy,
        late=action == "delay",
        live=run.row,
        simulated=simulated,
        p99_lateness_ms=run.p99_lateness_ms,
        void=run.void_reasons,
    )


async def _run(bench: Bench, name: str, trace: Trace, policy: str, action: TimeoutAction) -> LiveRun:
    trace_file, profile_file = bench.scratch / "trace.npz", bench.scratch / "profile.json"
    trace.save(trace_file)
    write_json(profile_file, bench.profile)
    setup = LiveSetup(
        model=str(bench.folder.path),
        choice=bench.choice,
        workers=1,
        trace_name=name,
        trace_file=trace_file,
        slo_ms=bench.slo_ms,
        seed=0,
        profile_file=profile_file,
        subnet_ids=tuple(subnet.id for subnet in bench.profile.subnets),
        scratch=bench.scratch,
        timeout_action=action,
    )
    return await run_live(setup, policy, _say)


def summary(found: Sequence[Cell]) -> Iterator[str]:
    """The two comparisons, a line of Markdown per model and trace."""
    yield (
        "| model | trace | gain over the smallest subnet, points, live | simulated | at equal attainment "
        "| attainment over the fixed subnet of equal accuracy, if that sheds, live | simulated "
        "| if it serves late, live | simulated |"
    )
    yield "|---|---|--:|--:|---|--:|--:|--:|--:|"
    for cell in found:
        ours, smallest = cell.contenders[0].live, cell.contenders[1].live
        equal = "yes" if ours.slo_attainment >= smallest.slo_attainment - EQUAL else "**no**"
        sheds, late = cell.ratio(late=False), cell.ratio(late=True)
        yield (
            f"| {cell.model} | {cell.trace} | {cell.gain[0]:+.2f} | {cell.gain[1]:+.2f} "
            f"| {equal}: {ours.slo_attainment:.4f}, {smallest.slo_attainment:.4f} "
            f"| {sheds[0]:.2f}x | {sheds[1]:.2f}x | {late[0]:.2f}x | {late[1]:.2f}x |"
        )


def table(found: Sequence[Cell]) -> Iterator[str]:
    """Every run, a line of Markdown each."""
    yield (
        "| model | trace | policy | in time, live | simulated | accuracy, live | simulated | measured against labels "
        "| p99 ms | valid |"
    )
    yield "|---|---|---|--:|--:|--:|--:|--:|--:|---|"
    for cell in found:
        for one in cell.contenders:
            live, simulated = one.live, one.simulated
            yield (
                f"| {cell.model} | {cell.trace} | {one.name} | {live.slo_attainment:.4f} "
                f"| {simulated.slo_attainment:.4f} | {_percent(live.mean_serving_accuracy)} "
                f"| {_percent(simulated.mean_serving_accuracy)} | {_percent(live.measured_accuracy)} "
                f"| {_percent(live.p99_ms)} | {'void: ' + '; '.join(one.void) if one.void else 'yes'} |"
            )


def write_page(found: Sequence[Cell], beside: Sequence[peer_traces.PeerCell], docs: Path) -> None:
    """``results.md``, ``results.json`` and the figure."""
    (docs / "images").mkdir(parents=True, exist_ok=True)
    (docs / "images" / FIGURE).write_bytes(_figure(found))
    head = _HEAD.format(
        processor=cpu_name(), seconds=found[0].seconds, traces=", ".join(TRACES), load=LOAD_FACTOR, slo=SLO_FACTOR
    )
    loads = dict.fromkeys(f"{cell.model}: {cell.rate:.0f} requests/s, SLO {cell.slo_ms:.1f} ms" for cell in found)
    parts = [head, *summary(found), "", f"![Attainment and accuracy per model and trace](images/{FIGURE})", ""]
    parts += ["## Every run", "", f"{'; '.join(loads)}.", "", *table(found)]
    if beside:
        parts += ["", _BESIDE.format(seconds=beside[0].seconds), *peer_traces.table(beside)]
    (docs / "results.md").write_text("\n".join(parts) + "\n")
    written = msgspec.json.encode({"rows": found, "peers": beside})
    (docs / "results.json").write_bytes(msgspec.json.format(written) + b"\n")


def _figure(found: Sequence[Cell]) -> bytes:
    panels = [
        Panel(
            f"{cell.model}, {cell.trace}",
            [
                Point(one.name, one.live.slo_attainment, one.live.mean_serving_accuracy, one.policy.startswith("fixed"))
                for one in cell.contenders
            ],
        )
        for cell in found
    ]
    return figure_bytes(panels_figure(panels, columns=len(TRACES), title="Live on real traces, one worker"), "png")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _say(progress: Progress) -> None:
    if sys.stdout.isatty():
        print(f"\r  {progress.elapsed_s:6.1f} of {progress.duration_s:.0f} s", end="", flush=True)


def _path(runs: Path, model: str, trace: str) -> Path:
    return runs / f"{model}-{trace}.json"


def _read(runs: Path, model: str, trace: str, seconds: float) -> Cell | None:
    path = _path(runs, model, trace)
    if not path.exists():
        return None
    cell = msgspec.json.decode(path.read_bytes(), type=Cell)
    return cell if cell.seconds == seconds else None


if __name__ == "__main__":
    sys.exit(main())
