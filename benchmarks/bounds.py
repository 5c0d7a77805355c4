"""How tight the bound on accuracy is: against what may be cut up, a schedule that knows all arrivals, and policies.

Writes a table of the cells of the policy grid. Run: ``python benchmarks/bounds.py --data DIR [--cells NUMBER...]
[--requests N] [--schedules] [--json FILE]``. ``--schedules`` looks for good schedules, in cells with one SLO: about ten
seconds per thousand requests.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Final, TypeVar

import msgspec
import numpy as np

from superserve.bounds.batched import batched_bound
from superserve.bounds.clairvoyant import clairvoyant_schedule
from superserve.bounds.costs import BatchCosts, Capacity
from superserve.bounds.distance import preemptive_bound
from superserve.clock import NS_PER_MS
from superserve.experiments.grid_cells import Cell, grid

CELLS: Final = 216
POLICIES: Final = ("drainfit", "slackfit", "maxbatch")


T = TypeVar("T")


class Row(msgspec.Struct, kw_only=True):
    """One cell under seed 0; accuracies over all requests offered, in per cent, and seconds of processor time."""

    number: int
    cell: str
    workers: int
    shape: str
    mixed: bool
    requests: int
    cut_up: float
    """Bound that lets batches be cut up at will: the fluid one, or the priced one where deadlines mix."""
    cut_up_s: float
    bound: float
    bound_s: float
    schedule: float | None
    """Reached by a schedule that knows all arrivals."""
    policies: dict[str, float]

    @property
    def best(self) -> float:
        """Of the policies."""
        return max(self.policies.values())


def main() -> None:
    """Print the table and the means."""
    options = _options()
    cells = grid(CELLS, recordings=True)
    rows = []
    for number in options.cells or range(CELLS):
        rows.append(measured(number, cells[number], options.data, options.requests, schedules=options.schedules))
        if options.json:
            options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
    columns = ("cell", "cut up", "bound", "schedule", "best policy", "s before", "s")
    _print(columns, [_cells(row) for row in rows])
    _print(("cells", "number", "best policy to cut up", "to bound"), _means(rows))


def measured(number: int, cell: Cell, data: Path, requests: int | None, *, schedules: bool) -> Row:
    """Bounds, schedule and policies of a cell."""
    scenario = cell.scenario(data, requests)
    trace = scenario.source.trace(0)
    slo_ns = trace.slo_ns if cell.mixed_slos else np.full_like(trace.arrival_ns, round(cell.slo_ms * NS_PER_MS))
    assert slo_ns is not None
    due_ns = trace.arrival_ns + slo_ns
    costs = BatchCosts.of(cell.profile, round(cell.overhead_ms * NS_PER_MS))
    capacity = Capacity.constant(cell.workers)
    (cut_up, prices), cut_up_s = _timed(lambda: preemptive_bound(trace.arrival_ns, due_ns, costs, capacity))
    bound, bound_s = _timed(lambda: scenario.bound(0))
    schedule = None
    if schedules and not cell.mixed_slos:
        _, better = batched_bound(trace.arrival_ns, due_ns, costs, capacity, prices, in_order=True)
        schedule = clairvoyant_schedule(trace.arrival_ns, due_ns, costs, cell.workers, better) / len(trace)
    return Row(
        number=number,
        cell=cell.name,
        workers=cell.workers,
        shape=cell.shape,
        mixed=cell.mixed_slos,
        requests=len(trace),
        cut_up=cut_up / len(trace),
        cut_up_s=cut_up_s,
        bound=bound,
        bound_s=bound_s,
        schedule=schedule,
        policies={name: scenario.row(name, 0).goodput_weighted_accuracy for name in POLICIES},
    )


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    begun = time.process_time()
    found = run()
    return found, time.process_time() - begun


def _print(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    for line in (columns, ("---",) * len(columns), *rows):
        print(f"| {' | '.join(line)} |")
    print()


def _cells(row: Row) -> tuple[str, ...]:
    best = max(row.policies, key=lambda name: row.policies[name])
    return (
        row.cell,
        f"{row.cut_up:.2f}",
        f"{row.bound:.2f}",
        "-" if row.schedule is None else f"{row.schedule:.2f}",
        f"{row.best:.2f} ({best})",
        f"{row.cut_up_s:.2f}",
        f"{row.bound_s:.2f}",
    )


def _means(rows: list[Row]) -> list[tuple[str, ...]]:
    """Mean distance of the best policy to both bounds, by what matters."""
    groups: dict[str, list[Row]] = {"all": rows}
    for row in rows:
        for name in (f"{row.workers} workers", row.shape, "mixed deadlines" if row.mixed else "one SLO"):
            groups.setdefault(name, []).append(row)
    return [
        (
            name,
            f"{len(group)}",
            f"{fmean(row.cut_up - row.best for row in group):.2f}",
            f"{fmean(row.bound - row.best for row in group):.2f}",
        )
        for name, group in groups.items()
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with traces/")
    parser.add_argument("--cells", type=int, nargs="*", help="numbers of cells in the grid; default: all")
    parser.add_argument("--requests", type=int, default=None, help="length of a run; default: the grid's")
    parser.add_argument("--schedules", action="store_true", help="look for schedules that know all arrivals")
    parser.add_argument("--json", type=Path, help="where the rows go as they are found")
    return parser.parse_args()


if __name__ == "__main__":
    main()
