"""The command that explains: why."""

from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import msgspec
import typer

from superserve.cli.asking import ask
from superserve.cli.base import CaFile, JsonFile, app, out

if TYPE_CHECKING:
    from superserve.serving.explanation import Attempt, Explanation, Summary


@app.command()
def why(
    request_id: Annotated[
        str | None,
        typer.Argument(metavar="REQUEST_ID", help="The x-request-id of an answer; without one the latest are listed."),
    ] = None,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000",
    ca_file: CaFile = "",
    json_file: JsonFile = None,
) -> None:
    """Explain why a request was answered as it was, late, or not at all.

    A bearer token is taken from the environment, SUPERSERVE_TOKEN: command lines are for everybody to see.
    """
    from superserve.serving.explanation import Explanation, Summary
    from superserve.tables import write_rows

    if request_id is None:
        latest = ask(url, "/v2/decisions", list[Summary], ca_file=ca_file)
        _print_latest(latest)
        write_rows(json_file, requests=latest)
        return
    told = ask(url, f"/v2/decisions/{quote(request_id, safe='')}", Explanation, ca_file=ca_file)
    _print(told)
    write_rows(json_file, **msgspec.structs.asdict(told))


def _print(told: "Explanation") -> None:
    ended = "under way" if told.outcome is None else f"{told.outcome} ({told.reason})"
    out.print(f"[bold]{told.request_id}[/]  {told.model}: {ended}", highlight=False, soft_wrap=True)
    for sentence in told.why:
        out.print(f"  {sentence}", highlight=False, soft_wrap=True)
    for sentence in told.would_change:
        out.print(f"  [dim]what would have changed it:[/] {sentence}", highlight=False, soft_wrap=True)
    floor = f", accuracy floor {told.min_accuracy:g} %" if told.min_accuracy else ""
    priority = f", priority {told.priority}" if told.priority else ""
    out.print(
        f"  arrived {told.arrived}, rows {told.rows}, deadline {told.deadline_ms:g} ms{floor}{priority}; "
        f"read after {told.read_ms:.2f} ms",
        highlight=False,
        soft_wrap=True,
    )
    for number, attempt in enumerate(told.attempts, 1):
        _print_attempt(number, attempt)


def _print_attempt(number: int, attempt: "Attempt") -> None:
    from superserve.tables import print_table

    where = f"worker {attempt.worker}" if attempt.device is None else f"worker {attempt.worker} ({attempt.device})"
    title = (
        f"\nbatch {number}: launched after {attempt.launched_ms:.2f} ms on {where}, {attempt.fate}\n"
        f"requests in it: {attempt.batch_requests} (rows: {attempt.batch_rows}), this one at position "
        f"{attempt.position}; {attempt.waiting} stayed behind\n"
        f"{attempt.idle} of {attempt.workers} workers idle; slack of the most urgent {attempt.head_slack_ms:.2f} ms, "
        f"drift {attempt.drift:.2f}; bound by: {attempt.bound}"
    )
    columns = ("subnet", "accuracy", "head alone ms", "this batch ms", "")
    rows = [
        [candidate.subnet, candidate.accuracy, candidate.head_ms, candidate.batch_ms, candidate.verdict]
        for candidate in attempt.candidates
    ]
    print_table(out, title, columns, rows)


def _print_latest(latest: "list[Summary]") -> None:
    from superserve.tables import print_table

    columns = ("request", "model", "outcome", "reason", "deadline ms", "ended ms", "subnet", "bound", "batches")
    rows = [
        [
            told.request_id,
            told.model,
            told.outcome,
            told.reason,
            told.deadline_ms,
            told.ended_ms,
            told.subnet,
            told.bound,
            told.batches,
        ]
        for told in latest
    ]
    print_table(out, f"the latest {len(rows)} requests", columns, rows)
