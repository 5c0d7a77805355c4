"""DrainFit against SlackFit, MaxBatch, MaxAcc and fixed subnets on a grid of situations.

Writes docs/policy-grid.{md,json,png}. Uses every core; a killed run goes on where it was, and runs of older code are
made again. Run: ``make bench-policies``, or
``python benchmarks/policies.py [--data DIR] [--cells N] [--seeds K] [--runs FILE] [--docs DIR] [--keep-others]``.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from superserve.experiments.grid_cells import grid
from superserve.experiments.grid_report import grid_figure, grid_page
from superserve.experiments.grid_runs import run_grid
from superserve.experiments.policy_grid import GridVerdict, judge
from superserve.plots import figure_bytes

CELLS = 216
#: Of progress, where the output is no terminal.
LINES = 20


def main() -> int:
    """Run the grid, write page, figure and JSON; the exit status is 1 if a claim does not hold."""
    options = _options()
    cells = grid(CELLS, recordings=options.data is not None)[: options.cells]
    with _progress() as advance:
        runs = run_grid(
            cells,
            options.runs,
            data=options.data,
            most_seeds=options.seeds,
            keep_others=options.keep_others,
            on_progress=advance,
        )
    verdict = judge(runs)
    _write(options.docs, verdict)
    print(
        f"{len(verdict.cells)} cells: {verdict.lost} lost, worst advantage {verdict.worst_advantage:+.2f}, mean "
        f"distance to the bound {verdict.mean_distance:.2f} (SlackFit {verdict.slackfit_mean_distance:.2f})"
    )
    return 0 if verdict.passes else 1


@contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar with the time left; a line per twentieth where the output is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<70.70}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("policy grid", total=None)

        def advance(done: int, total: int, label: str) -> None:
            progress.update(task, completed=done, total=total, description=label)
            if not console.is_terminal and done * LINES // total > (done - 1) * LINES // total:
                console.print(f"{done} of {total}: {label}", highlight=False)

        yield advance


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    data = os.environ.get("SUPERSERVE_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None, help="folder with traces/")
    parser.add_argument("--cells", type=int, default=CELLS, help="only so many of the cells")
    parser.add_argument("--seeds", type=int, default=None, help="at most so many seeds per cell")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/policy-grid.jsonl"), help="where finished runs are kept"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where page, figure and JSON go")
    parser.add_argument(
        "--keep-others", action="store_true", help="run ours alone: take the others as they are, whatever code ran them"
    )
    return parser.parse_args()


def _write(folder: Path, verdict: GridVerdict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    json = msgspec.json.format(msgspec.json.encode(verdict), indent=1)
    (folder / "policy-grid.json").write_bytes(json + b"\n")
    (folder / "policy-grid.png").write_bytes(figure_bytes(grid_figure(verdict), "png"))
    (folder / "policy-grid.md").write_text(grid_page(verdict, "policy-grid.png"))


if __name__ == "__main__":
    sys.exit(main())
