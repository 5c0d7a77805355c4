"""Commands on arrival traces: make, convert, show."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superserve.cli.base import JsonFile, ManyValues, Seed, TraceFile, app, out
from superserve.errors import ConfigError

if TYPE_CHECKING:
    from superserve.traces.trace import Trace

trace_app = typer.Typer(help="Make, convert and look at arrival traces.", no_args_is_help=True)
app.add_typer(trace_app, name="trace")


@trace_app.command("make", cls=ManyValues)
def trace_make(
    kind: Annotated[
        str, typer.Argument(help="poisson, gamma, bursty (steady base plus gamma), ramp, or spikes (periodic).")
    ],
    path: Annotated[Path, typer.Option("--out", metavar="FILE", help="The .npz to write.")],
    rate: Annotated[float, typer.Option(min=0.0, help="Requests/s: of the gamma part, after the ramp, in spikes.")],
    base_rate: Annotated[
        float, typer.Option(min=0.0, help="Requests/s: bursty: evenly spaced ones; ramp: before it; spikes: between.")
    ] = 0.0,
    cv2: Annotated[float, typer.Option(min=0.0, help="Squared coefficient of variation of the gaps.")] = 1.0,
    seconds: Annotated[float, typer.Option(help="Length.")] = 60.0,
    acceleration: Annotated[float, typer.Option(help="ramp: requests/s per second.")] = 250.0,
    start: Annotated[float, typer.Option(metavar="SECONDS", help="ramp: when it begins.")] = 0.0,
    period: Annotated[float, typer.Option(metavar="SECONDS", help="spikes: from one to the next.")] = 10.0,
    spike: Annotated[float, typer.Option(metavar="SECONDS", help="spikes: length of one.")] = 1.0,
    slo_ms: Annotated[
        list[str] | None,
        typer.Option(metavar="MS[:WEIGHT]", help="Classes of deadlines, drawn per request: 20:0.3 100:0.7."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Make a synthetic trace."""
    import numpy as np

    from superserve.traces import arrivals

    rng = np.random.default_rng(seed)
    makers: dict[str, Callable[[], Trace]] = {
        "poisson": lambda: arrivals.poisson(rate, seconds, rng),
        "gamma": lambda: arrivals.gamma(rate, cv2, seconds, rng),
        "bursty": lambda: arrivals.base_plus_gamma(base_rate, rate, cv2, seconds, rng),
        "ramp": lambda: arrivals.ramp(base_rate, rate, acceleration, cv2, seconds, rng, start),
        "spikes": lambda: arrivals.spikes(base_rate, rate, period, spike, cv2, seconds, rng),
    }
    if kind not in makers:
        raise ConfigError(f"trace kind {kind!r} is unknown; known: {', '.join(makers)}")
    trace = makers[kind]()
    _write(trace if slo_ms is None else trace.mixed(_classes(slo_ms), rng), path)


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
    _write(trace, path)


@trace_app.command("show")
def trace_show(
    path: TraceFile,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the whole and its busiest moment (.png).")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Print a trace's statistics: how many arrive, how unevenly, at which scale of time."""
    from superserve.tables import print_table, write_rows
    from superserve.traces.readers.segments import load_trace
    from superserve.traces.statistics import class_words, gap_cv2, statistics

    trace = load_trace(path)
    rows = statistics(trace)
    columns = ("bin s", "mean rate", "peak rate", "peak / mean", "index of dispersion")
    cells = [[row.bin_s, row.mean_rate, row.peak_rate, row.peak_to_mean, row.dispersion] for row in rows]
    print_table(out, f"{trace.name}: {len(trace)} arrivals in {trace.duration_s:.1f} s", columns, cells)
    for line in (f"CV² of the gaps: {gap_cv2(trace):.2f}", *class_words(trace)):
        out.print(line, highlight=False)
    if figure is not None:
        from superserve.plots import figure_bytes
        from superserve.traces.plot import trace_figure

        figure.write_bytes(figure_bytes(trace_figure(trace), "png"))
    write_rows(json_file, rows=rows, gap_cv2=gap_cv2(trace))


def _write(trace: "Trace", path: Path) -> None:
    trace.save(path)
    out.print(f"{path}: {len(trace)} arrivals in {trace.duration_s:.1f} s", highlight=False, soft_wrap=True)


def _classes(texts: list[str]) -> dict[float, float]:
    """Milliseconds to weights, from ``20:0.3`` or ``20``."""
    classes = {}
    for text in texts:
        slo, _, weight = text.partition(":")
        try:
            classes[float(slo)] = float(weight or 1.0)
        except ValueError:
            raise ConfigError(f"--slo-ms {text}: write milliseconds, or milliseconds:weight") from None
    return classes
