"""The command that runs the paper's experiments again: reproduce."""

from pathlib import Path
from typing import Annotated

import typer

from superserve.cli.base import JsonFile, app, out, progress_bar


@app.command()
def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[E1 ... E11|live|all]", help="Which experiments; default: all.")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where reproduction.md goes.")] = Path("docs"),
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", envvar="SUPERSERVE_DATA", help="Folder of recorded traces (with traces/)."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    shorten: Annotated[float, typer.Option(min=0.001, max=1.0, help="Shorten every run to so much of it.")] = 1.0,
    runs: Annotated[
        Path, typer.Option(metavar="FILE", help="Where finished runs are kept; a killed command goes on there.")
    ] = Path("runs/reproduce.jsonl"),
    json_file: JsonFile = None,
) -> None:
    """Run the paper's experiments again and write a page with its claims beside our figures."""
    from superserve.experiments.reproduce import reproduce as run
    from superserve.tables import print_table, write_rows

    with progress_bar("reproduce") as advance:
        found = run(
            names or ["all"],
            out=folder,
            data=data,
            seeds=seeds,
            seconds_factor=shorten,
            runs=runs,
            on_progress=advance,
        )
    for finding in (one for one in found if one.checks):
        rows = [[check.threshold, check.found, "holds" if check.holds else "DOES NOT HOLD"] for check in finding.checks]
        print_table(out, f"{finding.name}: {finding.title}", ("threshold", "found", ""), rows)
    out.print(f"written: {folder / 'reproduction.md'}", highlight=False, soft_wrap=True)
    write_rows(json_file, findings=found)
