"""The command that tells what degraded answers cost: ledger."""

from typing import TYPE_CHECKING, Annotated

import typer

from superserve.cli.asking import ask
from superserve.cli.base import CaFile, JsonFile, app, out

if TYPE_CHECKING:
    from superserve.serving.ledger import LedgerReport


@app.command()
def ledger(
    url: Annotated[str, typer.Option(help="The server, started with --ledger.")] = "http://127.0.0.1:8000",
    ca_file: CaFile = "",
    json_file: JsonFile = None,
) -> None:
    """How often smaller subnets have answered the same as the largest one would have.

    A bearer token is taken from the environment, SUPERSERVE_TOKEN: command lines are for everybody to see.
    """
    from superserve.serving.ledger import LedgerReport
    from superserve.tables import write_rows

    told = ask(url, "/v2/ledger", list[LedgerReport], ca_file=ca_file)
    for report in told:
        _print(report)
    write_rows(json_file, models=told)


def _print(report: "LedgerReport") -> None:
    from superserve.tables import print_table

    name = f"{report.model} (emulated)" if report.emulated else report.model
    rows = [
        [
            row.subnet,
            row.accuracy,
            row.answered,
            row.compared,
            row.agreement,
            None if row.ci95 is None else f"{row.ci95[0]:.2f} to {row.ci95[1]:.2f}",
        ]
        for row in report.rows
    ]
    columns = ("subnet", "accuracy", "answered", "compared", "agree %", "95 % interval")
    print_table(out, f"{name}: answers held against those of {report.reference}", columns, rows)
    out.print(
        f"they agree if {report.compares}; {report.share:.2%} of the degraded requests are sampled, "
        f"{report.waiting} samples wait, {report.dropped} were given up",
        highlight=False,
        soft_wrap=True,
    )
