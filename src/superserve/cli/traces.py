"""Commands on arrival traces: make, convert, show, simulate."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from superserve.cli.base import JsonFile, ManyValues, Seed, TraceFile, app, out, progress_bar
from superserve.errors import ConfigError

trace_app = typer.Typer(help="Make, convert and look at arrival traces.", no_args_is_help=True)
app.add_typer(trace_app, name="trace")


@trace_app.command("make")
def trace_make(
    kind: Annotated[str, typer.Argument(help="poisson, gamma or bursty (steady base plus gamma).")],
    path: Annotated[Path, typer.Option("--out", metavar="FILE", help="The .npz to write.")],
    rate: Annotated[float, typer.Option(min=0.0, help="Requests per second (of the gamma part).")],
    base_rate: Annotated[float, typer.Option(min=0.0, help="bursty: evenly spaced requests per second.")] = 0.0,
    cv2: Annotated[float, typer.Option(min=0.0, help="Squared coefficient of variation of the gaps.")] = 1.0,
    seconds: Annotated[float, typer.Option(help="Length.")] = 60.0,
    seed: Seed = 0,
) -> None:
    """Make a synthetic trace."""
    import numpy as np

    from superserve.traces import arrivals

    rng = np.random.default_rng(seed)
    makers: dict[str, Callable[[], Any]] = {
        "poisson": lambda: arrivals.poisson(rate, seconds, rng),
        "gamma": lambda: arrivals.gamma(rate, cv2, seconds, rng),
        "bursty": lambda: arrivals.base_plus_gamma(base_rate, rate, cv2, seconds, rng),
    }
    if kind not in makers:
        raise ConfigError(f"trace kind {kind!r} is unknown; known: {', '.join(makers)}")
    trace = makers[kind]()
    trace.save(path)
    out.print(f"{path}: {len(trace)} arrivals in {trace.duration_s:.1f} s", highlight=False, soft_wrap=True)


@trace_app.command("convert")
def trace_convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The file, or the folder that some formats take.")],
    source_format: Annotated[
        str,
        typer.Option("--format", help="azure-functions, azure-llm, counts, timestamps, mooncake or access-log."),
    ],
    path: Annotated[Path, typer.Option("--out", metavar="FILE", help="The .npz to write.")],
    squeeze: Annotated[float | None, typer.Option(metavar="SECONDS", help="Length; the shape is kept.")] = None,
    rate: Annotated[float | None, typer.Option(help="Mean requests per second.")] = None,
    bin_seconds: Annotated[float | None, typer.Option(help="Width of a count's bin, or of the stamps' grid.")] = None,
    column: Annotated[str | None, typer.Option(help="Which column to count, where there are several.")] = None,
    seed: Seed = 0,
) -> None:
    """Read somebody's trace, scale it with its shape preserved, and write the canonical file."""
    from superserve.traces.convert import convert

    trace = convert(
        source, source_format, squeeze_s=squeeze, rate=rate, seed=seed, bin_seconds=bin_seconds, column=column
    )
    trace.save(path)
    out.print(f"{path}: {len(trace)} arrivals in {trace.duration_s:.1f} s", highlight=False, soft_wrap=True)


@trace_app.command("show")
def trace_show(path: TraceFile, json_file: JsonFile = None) -> None:
    """Print a trace's statistics."""
    from superserve.tables import print_table, write_rows
    from superserve.traces.readers.segments import load_trace
    from superserve.traces.statistics import statistics

    trace = load_trace(path)
    rows = statistics(trace)
    columns = ("bin s", "mean rate", "peak rate", "peak / mean", "index of dispersion")
    cells = [[row.bin_s, row.mean_rate, row.peak_rate, row.peak_to_mean, row.dispersion] for row in rows]
    print_table(out, f"{trace.name}: {len(trace)} arrivals in {trace.duration_s:.1f} s", columns, cells)
    write_rows(json_file, rows=rows)


@app.command()
def simulate(
    trace: TraceFile,
    profile: Annotated[str, typer.Option(metavar="FILE|r-profile", help="Profile to plan with and draw from.")],
    slo_ms: Annotated[float, typer.Option(min=0.001, help="Deadline of each request, milliseconds from arrival.")],
    policy: Annotated[str, typer.Option(help="Scheduling policy.")] = "default",
    workers: Annotated[int, typer.Option(min=1, help="Identical workers.")] = 1,
    overhead_ms: Annotated[float | None, typer.Option(min=0.0, help="Per batch; default: the profile's.")] = None,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Play a trace through the server's own scheduler in virtual time."""
    from superserve.metrics import summarise
    from superserve.profile import Profile
    from superserve.simulator import simulate as run
    from superserve.tables import print_results, write_rows
    from superserve.traces.readers.segments import load_trace

    loaded = load_trace(trace)
    log = run(
        loaded,
        Profile.load(profile),
        policy=policy,
        workers=workers,
        slo_ms=slo_ms,
        overhead_ms=overhead_ms,
        seed=seed,
    )
    row = summarise(log, policy=policy, trace=loaded.name, seed=seed, workers=workers, slo_ms=slo_ms)
    print_results(out, f"{loaded.name}, simulated: {row.offered} requests, {workers} workers", [row])
    write_rows(json_file, rows=[row])


@app.command(cls=ManyValues)
def compare(
    traces: Annotated[
        list[Path], typer.Option("--traces", metavar="FILE", help="Canonical traces (.npz), one or more.")
    ],
    policies: Annotated[
        list[str], typer.Option("--policies", metavar="P", help="Policies, one or more; default is one.")
    ],
    profile: Annotated[str, typer.Option(metavar="FILE|r-profile", help="Profile to plan with and draw from.")],
    slo_ms: Annotated[float, typer.Option(min=0.001, help="Deadline of each request, milliseconds from arrival.")],
    workers: Annotated[int, typer.Option(min=1, help="Identical workers.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    overhead_ms: Annotated[float | None, typer.Option(min=0.0, help="Per batch; default: the profile's.")] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw attainment against accuracy (.png).")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Simulate policies on traces under several seeds, over all cores, with confidence intervals."""
    from superserve.experiments.compare import COLUMNS, cells, comparison_figure
    from superserve.experiments.compare import compare as run
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
            on_progress=advance,
        )
    print_table(out, f"{seeds} seeds, {workers} workers", COLUMNS, [cells(line) for line in comparison.lines()])
    if figure is not None:
        comparison_figure(comparison).savefig(figure)
    write_rows(json_file, rows=comparison.rows)
