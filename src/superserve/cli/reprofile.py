"""The command that has a running server measure a profile again: reprofile."""

from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote

import typer

from superserve.cli.asking import ask
from superserve.cli.base import CaFile, JsonFile, app, out, progress_bar

if TYPE_CHECKING:
    from superserve.serving.live_profile import ReprofileReport

#: Between two questions for how far it is.
_EVERY_S: Final = 0.25


@app.command()
def reprofile(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name under which the server has the model.")],
    url: Annotated[str, typer.Option(help="The server, started with --reprofile.")] = "http://127.0.0.1:8000",
    ca_file: CaFile = "",
    json_file: JsonFile = None,
) -> None:
    """Have a running server measure a profile again in idle time, and see how it has changed.

    It goes on when this command is ended. A bearer token (an administrator's, where the server asks for one) is taken
    from the environment, SUPERSERVE_TOKEN.
    """
    import time

    from superserve.errors import SuperServeError
    from superserve.model_folder import write_json
    from superserve.serving.live_profile import ReprofileReport

    path = f"/v2/models/{quote(model, safe='')}/profile"
    told = ask(url, path, ReprofileReport, ca_file=ca_file)
    if told.state != "measuring":  # somebody else may have asked for it
        told = ask(url, path, ReprofileReport, method="POST", ca_file=ca_file)
    with progress_bar("idle time") as advance:
        while told.state == "measuring":
            advance(told.samples, max(1, told.samples_wanted))
            time.sleep(_EVERY_S)
            told = ask(url, path, ReprofileReport, ca_file=ca_file)
    if told.state == "failed":
        raise SuperServeError(f"the profile of {model!r} could not be measured: {told.problem}")
    _print(told)
    if json_file is not None:
        write_json(json_file, told)


def _print(told: "ReprofileReport") -> None:
    from superserve.tables import print_table

    columns = ("subnet", "batch", "profiled ms", "now ms", "ratio", "samples")
    rows = [
        [cell.subnet, cell.batch, cell.profiled_us / 1000, cell.measured_us / 1000, cell.ratio, cell.samples]
        for cell in told.cells
    ]
    print_table(out, f"{told.model}: medians on a machine at rest", columns, rows)
    if told.cells_left_out:
        out.print(
            f"{told.cells_left_out} cells take longer than idle work may: scaled with the nearest", highlight=False
        )
    kept = f"kept in {told.kept}: what starts from now on plans with it" if told.kept else "not kept: emulated"
    out.print(kept, highlight=False, soft_wrap=True)
