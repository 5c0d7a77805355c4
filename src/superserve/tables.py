"""Tables for people and for programs: the same rows drawn in the terminal and written as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from superserve.metrics import ResultRow


def write_rows(path: Path | None, **values: Any) -> None:  # noqa: ANN401  (whatever JSON holds)
    """Write named values, mostly lists of rows, as one JSON object, if a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(values), indent=2) + b"\n")


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Draw a table; numbers stand to the right, missing values as a dash."""
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)


RESULT_COLUMNS = (
    "policy", "in time", "accuracy", "measured", "goodput", "p50 ms", "p99 ms", "batch",
)  # fmt: skip


def result_cells(row: ResultRow) -> list[Any]:
    """The cells of one result row, in the order of `RESULT_COLUMNS`.

    "in time" is the SLO attainment, "goodput" the goodput-weighted accuracy, "batch" the mean batch.
    """
    name = f"{row.policy} (emulated)" if row.emulated else row.policy
    return [
        name,
        f"{row.slo_attainment:.4f}",
        row.mean_serving_accuracy,
        row.measured_accuracy,
        row.goodput_weighted_accuracy,
        row.p50_ms,
        row.p99_ms,
        row.mean_batch,
    ]


def print_results(console: Console, title: str, rows: Sequence[ResultRow]) -> None:
    """Draw result rows."""
    print_table(console, title, RESULT_COLUMNS, [result_cells(row) for row in rows])


def _cell(value: Any) -> str:  # noqa: ANN401  (a table cell may be anything)
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
