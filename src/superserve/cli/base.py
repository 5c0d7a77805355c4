"""What all commands share: the program, its consoles, options and progress bars."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

app = typer.Typer(
    name="superserve",
    help="Serve a weight-shared supernet: for every batch the most accurate subnet that the deadlines allow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

out = Console()
err = Console(stderr=True)

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, or the name of a bundled model.")]
ModelNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL", help="Model folders and names of bundled models."),
]
TraceFile = Annotated[
    Path, typer.Argument(metavar="TRACE", help="A canonical trace (.npz), or a folder of recorded segments.")
]
CaFile = Annotated[str, typer.Option(help="Certificates (PEM) to trust instead of the system's.")]
SloMs = Annotated[float | None, typer.Option(min=0.001, help="Deadline of each request, milliseconds from arrival.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or emulated:PROFILE for workers that only pretend.")]
EngineWish = Annotated[
    str,
    typer.Option(
        "--engine",
        help="eager, compiled (`superserve compile`), packed (`superserve pack`), graphs (on cuda), or auto.",
    ),
]
DtypeWish = Annotated[str, typer.Option("--dtype", help="float32, bfloat16, int8 (packed; never by itself), or auto.")]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", envvar="SUPERSERVE_DATA", help="The folder of data sets, with cifar10/ in it."
    ),
]


class ManyValues(typer.core.TyperCommand):
    """A command whose list options take several values each: ``--traces a b`` as well as ``--traces a --traces b``."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """See `click.Command.parse_args`."""
        many = {name for parameter in self.params if parameter.multiple for name in parameter.opts}
        spread: list[str] = []
        option = ""
        for position, token in enumerate(args):
            if token.startswith("--"):
                option = token
            elif option in many and args[position - 1] != option:
                spread.append(option)
            spread.append(token)
        return super().parse_args(ctx, spread)


@contextmanager
def end_on_sigterm() -> Iterator[None]:
    """Have ``SIGTERM`` end the block as an error does, so that it cleans up, with the status that shells expect."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, driven by calls of (done, total, label)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(label, total=None, visible=False)

        def advance(done: float, total: float, description: str = label) -> None:
            progress.update(task, completed=done, total=total, description=description, visible=True)

        yield advance
