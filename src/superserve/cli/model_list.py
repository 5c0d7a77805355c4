"""The command that lists models: those of the package, or those of a running server."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from superserve.cli.asking import ask
from superserve.cli.base import CaFile, JsonFile, app, out

if TYPE_CHECKING:
    from superserve.frontend.dashboard.activity import Activity
    from superserve.model_folder import ModelFolder
    from superserve.serving.residency.report import ResidencyReport, SubnetReport


@app.command()
def models(
    url: Annotated[
        str | None, typer.Option(help="List what this server has, and has packed, e.g. http://127.0.0.1:8000.")
    ] = None,
    ca_file: CaFile = "",
    json_file: JsonFile = None,
) -> None:
    """List the models that come with the package, and what is packed of them here; or those of a running server.

    A bearer token is taken from the environment, SUPERSERVE_TOKEN: command lines are for everybody to see.
    """
    from superserve.frontend.dashboard.activity import Activity
    from superserve.tables import write_rows

    rows = _bundled() if url is None else _served(url, ask(url, "/v2/activity", Activity, ca_file=ca_file))
    write_rows(json_file, models=rows)


def _bundled() -> list[dict[str, Any]]:
    from superserve.memory_sizes import told
    from superserve.model_folder import ModelFolder, bundled_models
    from superserve.tables import print_table

    rows, cells = [], []
    for folder in (ModelFolder(path, bundled=True) for path in bundled_models().values()):
        subnets = [
            {"id": record.id, "accuracy": record.accuracy, "test_accuracy": record.test_accuracy}
            for record in folder.front.subnets
        ]
        weights, kept = _kept_here(folder)
        config = folder.config
        row = {"name": config.name, "task": config.task, "dataset": config.dataset, "subnets": subnets}
        rows.append({**row, "weights_bytes": weights, "packed": kept})
        packed = [one for one in kept if one.state == "packed"]
        held = f"{len(packed)} of {len(kept)}, {told(sum(one.nbytes or 0 for one in packed))}" if packed else "-"
        cells.append([config.name, config.task, config.dataset, len(subnets), _tested(folder), told(weights), held])
    columns = ("name", "task", "data", "subnets", "test accuracy %", "weights", "packed here")
    print_table(out, "Bundled models", columns, cells)
    return rows


def _kept_here(folder: "ModelFolder") -> tuple[int, "list[SubnetReport]"]:
    """Bytes of the one copy of the weights as a server would map them, and what is packed beside it on this machine."""
    from superserve.serving.choice import choose_engine
    from superserve.serving.residency.report import SubnetReport
    from superserve.supernet.packed_store import find_packs
    from superserve.supernet.weights_file import weights_nbytes

    choice = choose_engine(folder)
    kept = find_packs(folder, choice.dtype, choice.behind.engine)
    records = {subnet: pack.record for subnet, pack in kept.items()}
    front = []
    for number, subnet in enumerate(folder.front.subnets):
        record = records.get(number)
        front.append(SubnetReport.of(subnet.id, record, None if record is None else record.nbytes_on(1)))
    return weights_nbytes(folder, choice.dtype), front


def _tested(folder: "ModelFolder") -> str:
    tested = [record.test_accuracy for record in folder.front.subnets if record.test_accuracy is not None]
    return f"{min(tested):.1f} - {max(tested):.1f}" if tested else "-"


def _served(url: str, told: "Activity") -> list[dict[str, Any]]:
    from superserve.tables import print_table

    rows, cells = [], []
    for card in told.models or ():
        report = told.packed.get(card.name)
        row = {"name": card.name, "task": card.task, "dataset": card.dataset, "subnets": card.subnets}
        rows.append({**row, "weights_bytes": None if report is None else report.weights, "packed": report})
        accuracies = f"{card.subnets[0].accuracy:.1f} - {card.subnets[-1].accuracy:.1f}"
        cells.append([card.name, len(card.subnets), accuracies, *_packed_cells(report)])
    columns = ("name", "subnets", "accuracy %", "weights", "packed", "budget", "answered packed")
    print_table(out, f"Models of {url}", columns, cells)
    for name, report in told.packed.items():
        lines = [
            [one.id, one.state, None if one.nbytes is None else one.nbytes / 1e6, one.answered, one.reason]
            for one in report.front
        ]
        print_table(out, f"Packed subnets of {name}", ("subnet", "", "MB", "answered packed", "why not"), lines)
    return rows


def _packed_cells(report: "ResidencyReport | None") -> list[str]:
    from superserve.memory_sizes import told
    from superserve.serving.residency.report import budget_told

    if report is None:
        return ["-"] * 4
    share = "-" if report.share is None else f"{report.share:.1%}"
    return [told(report.weights), told(report.nbytes), budget_told(report.budget), share]
