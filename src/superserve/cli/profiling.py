"""The command that measures latencies: profile."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superserve.cli.base import Device, DtypeWish, EngineWish, JsonFile, ModelName, Seed, app, err, out, progress_bar

if TYPE_CHECKING:
    from superserve.levers import LeverReport
    from superserve.profile import Profile, SubnetProfile


@app.command()
def profile(
    model: ModelName,
    quick: Annotated[bool, typer.Option("--quick", help="About 10 s instead of about 75.")] = False,
    device: Device = "cpu",
    engine: EngineWish = "auto",
    dtype: DtypeWish = "auto",
    levers: Annotated[
        bool | None,
        typer.Option(
            "--levers/--no-levers",
            help="Say where the time goes, and whether depth, a width or the batch pays; half a minute more; CPU only. "
            "Default: unless --quick, or in int8.",
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the levers, as .png or .svg (with --levers).")
    ] = None,
    seed: Seed = 0,
    json_file: JsonFile = None,
) -> None:
    """Measure how long each subnet takes at each batch size on this machine, and keep it."""
    from msgspec.structs import replace

    from superserve.model_folder import ModelFolder, write_json
    from superserve.profiler import measure, save_profile
    from superserve.serving.choice import choose_engine
    from superserve.serving.devices import emulated_profile
    from superserve.serving.points_ahead import require_points
    from superserve.serving.residency.pack_ahead import packed_subnets

    levers = _wants_levers(levers, device, dtype, quick, figure)
    folder = ModelFolder.resolve(model)
    choice = choose_engine(folder, device, engine, dtype)
    with progress_bar("profile") as advance:
        require_points(folder, choice, advance)
        packed_subnets(folder, choice, advance)
        measured = measure(
            folder,
            quick=quick,
            choice=choice,
            seed=seed,
            report=lambda step: advance(step.done, step.total, step.stage),
        )
        found = measured.profile
        if levers:
            from superserve.profiler.levers import measure_levers

            found = replace(found, levers=measure_levers(folder, found, seed=seed, report=advance))
    _print_profile(found)
    for violation in measured.violations:
        err.print(f"repaired: {violation}", highlight=False)
    _print_doubts(found.doubts)
    if emulated_profile(device) is None:
        out.print(f"kept in {save_profile(folder, found)}", highlight=False, soft_wrap=True)
    if figure is not None:
        _draw(found, folder.config.name, figure)
    if json_file is not None:
        write_json(json_file, found)


def _wants_levers(asked: bool | None, device: str, dtype: str, quick: bool, figure: Path | None) -> bool:
    """Whether to measure levers.

    Raises:
        ConfigError: if they are asked for where they cannot be measured, or a figure of them that cannot be drawn.
    """
    from superserve.engine import INT8
    from superserve.errors import ConfigError
    from superserve.serving.devices import CPU

    if asked and device != CPU:
        raise ConfigError(f"--levers: measured on the CPU only, not on {device!r}: leave it out")
    if asked and dtype == INT8:  # the eager engine, on which they are timed, has none
        raise ConfigError("--levers: measured in floating point only, not in int8: leave it out")
    wanted = device == CPU and dtype != INT8 and (not quick or figure is not None) if asked is None else asked
    if figure is not None and not (wanted and figure.suffix in {".png", ".svg"}):
        raise ConfigError(f"--figure {figure}: a .png or .svg file, of a profile with --levers")
    return wanted


def _print_doubts(doubts: list[str]) -> None:
    for doubt in doubts:
        err.print(f"[bold red]doubtful:[/] {doubt}", highlight=False, soft_wrap=True)
    if doubts:
        err.print("what plans with this profile will be too cautious: measure again when the machine is idle")


def _print_profile(measured: "Profile") -> None:
    from superserve.tables import print_table

    columns = ("subnet", "accuracy %", *(f"batch {size}" for size in measured.batches))
    lengths = [f"texts of up to {bucket.length} pieces" for bucket in measured.shorter]
    names = [f", {name}" for name in (*lengths, "the longest texts")] if lengths else [""]
    for name, bucket in zip(names, measured.buckets, strict=True):
        rows = [
            [subnet.id, subnet.accuracy, *(f"{p50 / 1000:.2f} / {p95 / 1000:.2f}" for p50, p95 in _quantiles(subnet))]
            for subnet in bucket.subnets
        ]
        print_table(out, f"p50 / p95 in ms on {measured.device.name}, one thread{name}", columns, rows)
    out.print(f"engine {measured.device.engine}, {measured.device.dtype}", highlight=False)
    out.print(f"dispatch overhead (p95): {measured.dispatch_overhead_us / 1000:.2f} ms", highlight=False)
    if measured.levers is not None:
        _print_regions(measured.levers, measured.batches)
        _print_levers(measured.levers)


def _quantiles(subnet: "SubnetProfile") -> Iterator[tuple[float, float]]:
    return zip(subnet.p50_us, subnet.p95_us, strict=True)


def _print_regions(report: "LeverReport", batches: tuple[int, ...]) -> None:
    """Where the time of each cell goes, and the figures that say so."""
    from superserve.tables import print_table

    cells = {name: [cell for cell in report.cells if cell.subnet == name] for name in report.work}
    columns = ("subnet", *(f"batch {size}" for size in batches))
    rows = [[name, *(f"{cell.region} {cell.share:.0%}" for cell in found)] for name, found in cells.items()]
    print_table(out, "What most of the time goes to", columns, rows)
    least = [
        [
            name,
            found[0].fixed_us / 1000,
            work.operators,
            *(
                us / 1000
                for us in (found[0].launch_us, found[0].weights_us, found[0].compute_us, found[0].activations_us)
            ),
        ]
        for (name, found), work in zip(cells.items(), report.work.values(), strict=True)
    ]
    columns = ("subnet", "does not depend on rows", "operators", "to launch", "weights", "MACs", "activations")
    print_table(out, f"Why: ms at batch {batches[0]}, and the least that its causes take here", columns, least)
    machine = report.machine
    out.print(
        f"one thread here: {machine.macs_per_s / 1e9:.1f} GMAC/s, {machine.launch_us:.2f} us an operator, copies at "
        f"{min(one.bytes_per_s for one in machine.streams) / 1e9:.1f} to "
        f"{max(one.bytes_per_s for one in machine.streams) / 1e9:.1f} GB/s",
        highlight=False,
        soft_wrap=True,
    )


def _print_levers(report: "LeverReport") -> None:
    from superserve.tables import print_table

    rows = []
    for step in report.steps:
        paying = [one.lever for one in report.paying(step.subnet, step.batch)]
        lost = "-" if step.lost is None else f"{step.lost:.2f} ± {step.lost_error or 0:.2f}"
        rows.append(
            [
                step.subnet,
                step.batch,
                step.lever,
                f"{step.saved_us:.0f} ± {step.error_us:.0f}",
                f"{step.saved_share:.0%}",
                lost,
                None if step.price is None else 1000 * step.price,
                f"{paying.index(step.lever) + 1}." if step.lever in paying else "no",
            ]
        )
    columns = ("subnet", "batch", "a step of", "saves us per row", "of it", "loses points", "points per ms", "pays")
    print_table(out, "Which lever pays, the cheapest first (one step down; batch: twice the rows)", columns, rows)
    if not report.examples:
        out.print("the folder carries no test data: what a step loses is not known", highlight=False)
    else:
        out.print(f"points lost on {report.examples} test examples, eager engine", highlight=False)


def _draw(measured: "Profile", name: str, path: Path) -> None:
    from superserve.lever_figure import lever_figure
    from superserve.plots import figure_bytes

    assert measured.levers is not None
    drawn = lever_figure(measured.levers, title=f"{name} on {measured.device.name}, one thread")
    path.write_bytes(figure_bytes(drawn, "svg" if path.suffix == ".svg" else "png"))
