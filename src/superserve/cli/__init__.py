"""The command line: each command a thin call of the library.

Exit codes: 0 done, 1 failed, 2 usage. Commands import what they run when they run, so that ``--help`` is quick.
"""

import platform  # noqa: I001  (the order of the command modules is that of --help)
import sys
from typing import Annotated

import typer

from superserve import __version__
from superserve.cli import (
    serving,
    why,
    ledger,
    reprofile,
    models,
    model_list,
    profiling,
    traces,
    simulation,
    reproducing,
)
from superserve.cli.base import app, err, out
from superserve.errors import ConfigError, SuperServeError, UsageError

__all__ = [
    "app",
    "ledger",
    "main",
    "model_list",
    "models",
    "profiling",
    "reproducing",
    "reprofile",
    "serving",
    "simulation",
    "traces",
    "why",
]  # fmt: skip


def main() -> None:
    """Run the command line; the console script."""
    try:
        _require_platform()
        app()
    except UsageError as error:
        err.print(f"[bold red]error:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except SuperServeError as error:
        err.print(f"[bold red]failed:[/] {_plain(error)}", highlight=False, soft_wrap=True)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """Options of the program itself."""
    if version:
        out.print(__version__)
        raise typer.Exit


def _require_platform() -> None:
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in {"x86_64", "aarch64"}:
        raise ConfigError(
            f"SuperServe runs on Linux on x86-64 or arm64 (it shares memory between processes by memfd); "
            f"this is {system} on {machine}. A Linux container or virtual machine on this computer will do."
        )


def _plain(error: Exception) -> str:
    return str(error).replace("[", r"\[")
