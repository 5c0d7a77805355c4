"""Commands in virtual time: simulate, compare."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from superserve.cli.base import JsonFile, ManyValues, Seed, TraceFile, app, out, progress_bar
from superserve.errors import ConfigError

if TYPE_CHECKING:
    from superserve.metrics import RunLog
    from superserve.scheduling import TimeoutAction
    from superserve.simulator import Conditions, WorkerEvent
    from superserve.traces.recording import Recorded

#: Requests in the table of those that change most.
_SHOWN: Final = 10

ProfileName = Annotated[str, typer.Option(metavar="FILE|r-profile", help="Profile to plan with and draw from.")]
RequiredSlo = Annotated[
    float, typer.Option(min=0.001, help="Deadline of requests to which the trace gives none, ms from arrival.")
]
Workers = Annotated[int, typer.Option(min=1, help="Workers; identical unless told otherwise.")]
OverheadMs = Annotated[float | None, typer.Option(min=0.0, help="Per batch; default: the profile's.")]
Overload = Annotated[
    str, typer.Option("--timeout-action", help="What becomes of hopeless requests: reject, or delay (served late).")
]
Slowdown = Annotated[
    list[float] | None, typer.Option(metavar="FACTOR", help="Of each worker: what its latencies are multiplied by.")
]
ActuationMs = Annotated[float, typer.Option(min=0.0, help="What a change of the subnet costs a worker.")]
Losses = Annotated[
    list[str] | None, typer.Option("--lose", metavar="WORKER@SECONDS", help="A worker is lost, with its batch.")
]
Joins = Annotated[
    list[str] | None, typer.Option("--join", metavar="WORKER@SECONDS", help="A worker comes back, or a new one comes.")
]
PatienceMs = Annotated[
    float | None, typer.Option(min=0.001, help="Clients cancel after so long on average (exponentially distributed).")
]


@app.command(cls=ManyValues)
def simulate(
    trace: TraceFile,
    profile: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|r-profile", help="Profile to plan with and draw from; one for each device."),
    ] = None,
    slo_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Deadline of requests that state none, ms from arrival.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Scheduling policy.")] = None,
    workers: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Workers, identical unless told otherwise; so many for each profile."),
    ] = None,
    overhead_ms: OverheadMs = None,
    timeout_action: Annotated[
        str | None, typer.Option(help="What becomes of hopeless requests: reject, or delay (served late).")
    ] = None,
    slowdown: Slowdown = None,
    actuation_ms: ActuationMs = 0.0,
    lose: Losses = None,
    join: Joins = None,
    patience_ms: PatienceMs = None,
    max_queued: Annotated[
        int | None, typer.Option(min=1, help="Requests that may wait; default: the server's.")
    ] = None,
    packs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The packed engine: what `superserve pack MODEL --json FILE` wrote."),
    ] = None,
    engine_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What packed subnets may take, e.g. 200MB, or all; default: the server's."),
    ] = None,
    unpacked: Annotated[bool, typer.Option("--unpacked", help="None is packed at first: those in use are.")] = False,
    resident: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Packed subnets that stay resident, instead of a budget.")
    ] = None,
    bound: Annotated[bool, typer.Option(help="Work out the distance to what no policy can pass.")] = True,
    seed: Seed = 0,
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the run over time (.png).")] = None,
    series: Annotated[Path | None, typer.Option(metavar="FILE", help="The run over time, 80 bins (.csv).")] = None,
    outcomes: Annotated[Path | None, typer.Option(metavar="FILE", help="What came of each request (.npz).")] = None,
    decisions: Annotated[Path | None, typer.Option(metavar="FILE", help="Every batch and why (.jsonl).")] = None,
    chrome_trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Every batch, for chrome://tracing or Perfetto (.json).")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Play a trace through the server's own scheduler in virtual time.

    A folder that `serve --record` has written knows its profile, SLO, policy and workers: what is not said otherwise is
    as it was, and the result stands beside the recorded one. Workers of several devices: `--profile A B --workers 4 2`.
    """
    import numpy as np

    from superserve.bounds.distance import MOST_REQUESTS, with_bound
    from superserve.experiments.packed_run import PackedRun, PackedWishes
    from superserve.experiments.run_files import RunFiles
    from superserve.experiments.setting import Setting, Wishes
    from superserve.experiments.what_if import recorded_row, with_patience
    from superserve.metrics import by_class, summarise
    from superserve.simulator import impatient
    from superserve.simulator import simulate as run
    from superserve.tables import print_results, write_rows

    conditions = _conditions(slowdown, actuation_ms, lose, join)
    overload = None if timeout_action is None else _overload(timeout_action)
    setting = Setting.of(trace, Wishes(profile or (), slo_ms, policy, workers or (), overload, max_queued))
    loaded, recorded = setting.trace, setting.recorded
    packed = PackedRun.of(setting, PackedWishes(packs, engine_memory, resident or (), unpacked))
    if patience_ms is not None:
        conditions = impatient(conditions, patience_ms, len(loaded), np.random.default_rng([seed, 1]))
    if recorded is not None:
        conditions = with_patience(conditions, recorded)
    files = RunFiles(figure, series, outcomes, decisions, chrome_trace)
    with progress_bar("simulate") as advance:
        log = run(
            loaded,
            setting.profiles,
            policy=setting.policy,
            workers=setting.workers,
            slo_ms=setting.slo_ms,
            overhead_ms=overhead_ms,
            timeout_action=setting.timeout_action,
            seed=seed,
            limits=setting.limits,
            conditions=conditions,
            recording=files.recording,
            on_progress=advance,
            times=setting.times,
            faster=None if packed is None else packed.engine,
        )
    counted = " + ".join(map(str, setting.workers))
    row = summarise(
        log, policy=setting.policy, trace=loaded.name, seed=seed, workers=sum(setting.workers), slo_ms=setting.slo_ms
    )
    if bound and len(loaded) > MOST_REQUESTS:
        out.print(f"no bound for more than {MOST_REQUESTS:,} requests: it would take too much memory", highlight=False)
    elif bound and len(setting.profiles) > 1:
        out.print("no bound is known where workers are of several devices", highlight=False)
    elif bound and setting.times is None and packed is None:  # it is priced at the medians of one profile
        row = with_bound(row, loaded, setting.profiles[0], overhead_ms=overhead_ms, conditions=conditions)
    classes = by_class(log, loaded.request_class, row)
    was = [] if recorded is None else [recorded_row(recorded)]
    title = f"{loaded.name}, simulated: {row.offered} requests, {counted} workers"
    print_results(out, title, [*was, row, *classes])
    missed = {name: getattr(row, name) for name in ("late", "expired", "rejected", "cancelled", "failed")}
    if any(missed.values()):
        out.print(", ".join(f"{count} {name}" for name, count in missed.items() if count), highlight=False)
    if row.distance_to_bound is not None:
        out.print(f"{row.distance_to_bound:.2f} points of goodput below what no policy can pass", highlight=False)
    if packed is not None:
        out.print(str(packed.report), highlight=False, soft_wrap=True)
    files.write(log, setting.profiles[0], f"{loaded.name}: {setting.policy} on {counted} workers")
    compared = {} if recorded is None else _beside(recorded, log)
    told = {} if packed is None else {"packed": packed.report}
    write_rows(json_file, rows=[row], classes=classes, recorded=was, **compared, **told)


@app.command(cls=ManyValues)
def compare(
    traces: Annotated[
        list[Path], typer.Option("--traces", metavar="FILE", help="Canonical traces or recorded folders, one or more.")
    ],
    policies: Annotated[
        list[str], typer.Option("--policies", metavar="P", help="Policies, one or more; default is one.")
    ],
    profile: ProfileName,
    slo_ms: RequiredSlo,
    workers: Workers = 1,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    overhead_ms: OverheadMs = None,
    timeout_action: Overload = "reject",
    slowdown: Slowdown = None,
    actuation_ms: ActuationMs = 0.0,
    lose: Losses = None,
    join: Joins = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw attainment against accuracy (.png).")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Simulate policies on traces under several seeds, over all cores, with confidence intervals."""
    from superserve.experiments.compare import COLUMNS, cells, comparison_figure
    from superserve.experiments.compare import compare as run
    from superserve.plots import figure_bytes
    from superserve.profile import Profile
    from superserve.tables import print_table, write_rows

    with progress_bar("compare") as advance:
        comparison = run(
            traces,
            policies,
            Profile.load(profile),
            workers=workers,
            slo_ms=slo_ms,
            seeds=seeds,
            overhead_ms=overhead_ms,
            timeout_action=_overload(timeout_action),
            conditions=_conditions(slowdown, actuation_ms, lose, join),
            on_progress=advance,
        )
    print_table(out, f"{seeds} seeds, {workers} workers", COLUMNS, [cells(line) for line in comparison.lines()])
    if figure is not None:
        title = f"{seeds} seeds, {workers} workers, deadline {slo_ms:g} ms"
        figure.write_bytes(figure_bytes(comparison_figure(comparison, title=title), "png"))
    write_rows(json_file, rows=comparison.rows)


def _beside(recorded: "Recorded", log: "RunLog") -> dict[str, object]:
    """Print how a simulated run differs from the recorded one; the same for JSON."""
    from superserve.experiments import what_if
    from superserve.tables import print_table

    diff = what_if.difference(recorded.log, log)
    changed = what_if.most_changed(recorded.log, log, recorded.settings.profile, _SHOWN)
    accuracy = "" if diff.accuracy_change is None else f", {diff.accuracy_change:+.2f} points of accuracy on average"
    out.print(
        f"of {diff.requests} requests {diff.now_in_time} more would be in time and {diff.now_missed} would be missed; "
        f"of {diff.in_time_in_both} in time in both {diff.more_accurate} would be answered by a better subnet and "
        f"{diff.less_accurate} by a lesser one{accuracy}",
        highlight=False,
        soft_wrap=True,
    )
    print_table(out, "the most changed", what_if.COLUMNS, what_if.cells(changed))
    return {"difference": diff, "changed": changed}


def _overload(name: str) -> "TimeoutAction":
    if name not in {"reject", "delay"}:
        raise ConfigError(f"--timeout-action {name}: must be reject or delay")
    return "reject" if name == "reject" else "delay"


def _conditions(
    slowdown: list[float] | None,
    actuation_ms: float,
    lose: list[str] | None,
    join: list[str] | None,
) -> "Conditions":
    from superserve.clock import NS_PER_MS
    from superserve.simulator import Conditions

    return Conditions(
        slowdown=tuple(slowdown or ()),
        worker_events=(*_events("--lose", lose), *_events("--join", join)),
        actuation_ns=round(actuation_ms * NS_PER_MS),
    )


def _events(option: str, texts: list[str] | None) -> "Iterator[WorkerEvent]":
    from superserve.clock import NS_PER_S
    from superserve.simulator import WorkerEvent

    for text in texts or ():
        worker, _, seconds = text.partition("@")
        try:
            yield WorkerEvent(round(float(seconds) * NS_PER_S), int(worker), alive=option == "--join")
        except ValueError:
            raise ConfigError(f"{option} {text}: write WORKER@SECONDS, such as 3@12.5") from None
