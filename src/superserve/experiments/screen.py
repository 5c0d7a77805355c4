"""What the demo shows in the terminal, while it runs and at its end."""

from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from superserve.client.result import Progress as ReplayProgress
from superserve.experiments.report import (
    TABLE_COLUMNS,
    DemoReport,
    core_words,
    load_words,
    table_cells,
    void_words,
)

_HEADINGS: Final = {
    "attainment": "attain-\nment",
    "simulated": "simu-\nlated",
    "difference": "differ-\nence",
    "accuracy %": "accu-\nracy %",
    "measured %": "meas-\nured %",
    "goodput-weighted %": "goodput\nwtd. %",
}


class Screen:
    """One line per stage, with a bar and what is known so far.

    It draws when told of progress and from the caller's thread: a drawing thread of its own would run on the workers'
    cores. Where the output is no terminal, each stage is one line when it ends.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            auto_refresh=False,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, name: str, note: str = "") -> TaskID:
        """A stage starts."""
        stage = self._bars.add_task(name, total=1.0, note=note)
        self._bars.refresh()
        return stage

    def update(self, stage: TaskID, share: float, note: str) -> None:
        """A stage is this far, 0..1; its clock runs on until `end`."""
        self._bars.update(stage, completed=min(share, 0.999), note=note)
        self._bars.refresh()

    def end(self, stage: TaskID, note: str) -> None:
        """A stage has ended."""
        self._bars.update(stage, completed=1.0, note=note)
        self._bars.stop_task(stage)
        self._bars.refresh()
        if not self._console.is_terminal:
            task = next(task for task in self._bars.tasks if task.id == stage)
            self._console.print(f"{task.description:<22} {note}")


def replay_note(progress: ReplayProgress) -> str:
    """How a run goes, in a few words."""
    if progress.elapsed_s <= 0 or progress.attainment is None:
        return "first answers ..."
    accuracy = "-" if progress.accuracy is None else f"{progress.accuracy:.2f} %"
    return (
        f"offered {progress.offered / progress.elapsed_s:5.0f}/s  in time "
        f"{progress.served / progress.elapsed_s:5.0f}/s  attainment {progress.attainment:.4f}  accuracy {accuracy}"
    )


def print_report(console: Console, report: DemoReport) -> None:
    """What came of the demo: the table, and what it says in words."""
    console.print(f"\n{load_words(report)}\n", highlight=False)
    # Headings of two lines and no frame: ten columns fit into 80 characters.
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for number, (heading, *_) in enumerate(TABLE_COLUMNS):
        table.add_column(
            _HEADINGS.get(heading, heading.replace(" ", "\n")), justify="right" if number else "left", no_wrap=True
        )
    for cells in table_cells(report):
        table.add_row(*cells)
    console.print(table)
    console.print(f"\n{core_words(report)}\n", highlight=False)
    for line in report.summary:
        console.print(line, highlight=False)
    console.print()
    for check in report.checks:
        mark = "[green]holds[/]:" if check.holds else "[red]does not hold[/]:"
        console.print(f"{mark} {check.claim} ({check.figures})", highlight=False)
    for words in void_words(report):
        console.print(f"[bold red]VOID[/] {words}", highlight=False)
    if report.void:
        console.print("A void run says nothing of its policy: run the demo again when the machine has less to do.")
