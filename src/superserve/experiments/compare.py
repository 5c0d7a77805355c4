"""Policies x traces x seeds in the simulator, over all cores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from superserve.errors import ConfigError
from superserve.experiments.parallel import run_jobs
from superserve.experiments.scenario import Job, Scenario, TraceFile, TraceSource, bounded_row
from superserve.intervals import Estimate, estimate, paired
from superserve.metrics import ResultRow
from superserve.plots import Panel, Point, panels_figure
from superserve.profile import LatencyTable, Profile
from superserve.scheduling import TimeoutAction, create_policy
from superserve.simulator.conditions import ORDINARY, Conditions

OnProgress = Callable[[int, int, str], None]

#: Columns of the table of a comparison, beside trace and policy.
COLUMNS: Final = ("trace", "policy", "in time", "accuracy", "goodput", "against the first", "to bound", "batch")


@dataclass(frozen=True)
class Line:
    """What a policy made of a trace, over all seeds.

    ``accuracy`` is None if nothing was served in time under some seed. ``difference``: of goodput-weighted accuracy
    from the comparison's first policy on the same seeds, None for that policy itself. ``distance_to_bound``: of
    goodput-weighted accuracy, in points.
    """

    trace: str
    policy: str
    attainment: Estimate
    accuracy: Estimate | None
    goodput: Estimate
    difference: Estimate | None
    distance_to_bound: Estimate | None
    mean_batch: Estimate | None


@dataclass(frozen=True)
class Comparison:
    """All rows: traces in the order given, policies in the order given, seeds rising."""

    rows: tuple[ResultRow, ...]

    def lines(self) -> list[Line]:
        """One line per trace and policy: means over seeds with 95 % intervals."""
        cells: dict[tuple[str, str], list[ResultRow]] = {}
        for row in self.rows:
            cells.setdefault((row.trace, row.policy), []).append(row)
        first = {trace: rows for (trace, _), rows in reversed(cells.items())}
        return [_line(rows, first[trace]) for (trace, _), rows in cells.items()]


def compare(
    traces: Sequence[TraceSource | Path],
    policies: Sequence[str],
    profile: Profile,
    *,
    workers: int,
    slo_ms: float,
    seeds: int = 3,
    overhead_ms: float | None = None,
    timeout_action: TimeoutAction = "reject",
    conditions: Conditions = ORDINARY,
    on_progress: OnProgress | None = None,
    processes: int | None = None,
) -> Comparison:
    """Simulate every policy on every trace under every seed.

    Args:
        traces: canonical trace files, or sources that make a trace from a seed. With a file a seed draws latencies
            alone, so that intervals over seeds say nothing of other arrivals.
        policies: names for `create_policy`; differences are from the first.
        profile: what policies plan with and latencies are drawn from.
        workers: number of workers.
        slo_ms: deadline of requests to which a trace gives none, in milliseconds from arrival.
        seeds: how many; 0, 1, ...
        overhead_ms: dispatch overhead per batch; if None, the profile's.
        timeout_action: what becomes of requests that cannot be met, under every policy.
        conditions: slow workers, losses and returns, switching costs.
        on_progress: called with (runs done, runs in all, what was done last).
        processes: how many at a time; default: one per core.

    Raises:
        ConfigError: for no trace, policy or seed, a policy that is unknown, or one given twice.
    """
    _check(traces, policies, profile, seeds)
    scenarios = [
        Scenario(
            TraceFile(one) if isinstance(one, Path) else one,
            profile,
            workers,
            slo_ms,
            overhead_ms,
            conditions=conditions,
        )
        for one in traces
    ]

    def job(scenario: Scenario, policy: str, seed: int) -> Job:
        return Job(scenario, policy, seed, timeout_action)

    jobs = [job(one, policy, seed) for one in scenarios for seed in range(seeds) for policy in policies]
    done: dict[Job, ResultRow] = {}
    for finished, row in run_jobs(bounded_row, jobs, processes=processes):
        done[finished] = row
        if on_progress is not None:
            on_progress(len(done), len(jobs), f"{row.trace}, {row.policy}, seed {row.seed}")
    ordered = [job(one, policy, seed) for one in scenarios for policy in policies for seed in range(seeds)]
    return Comparison(tuple(done[job] for job in ordered))


def comparison_figure(comparison: Comparison, *, columns: int = 3, title: str = "") -> Figure:
    """Attainment against accuracy, means over seeds: a panel per trace."""
    points: dict[str, list[Point]] = {}
    for line in comparison.lines():
        accuracy = None if line.accuracy is None else line.accuracy.mean
        fixed = line.policy.startswith("fixed:")
        points.setdefault(line.trace, []).append(Point(line.policy, line.attainment.mean, accuracy, fixed))
    panels = [Panel(trace, marks) for trace, marks in points.items()]
    return panels_figure(panels, columns=min(columns, len(panels)), title=title)


def cells(line: Line) -> list[str]:
    """A line as cells of a table, in the order of `COLUMNS`."""
    return [
        line.trace,
        line.policy,
        line.attainment.text(4),
        *("-" if one is None else one.text(2) for one in (line.accuracy, line.goodput, line.difference)),
        *("-" if one is None else one.text(2) for one in (line.distance_to_bound, line.mean_batch)),
    ]


def _check(traces: Sequence[object], policies: Sequence[str], profile: Profile, seeds: int) -> None:
    for name, values in (("traces", traces), ("policies", policies)):
        if not values:
            raise ConfigError(f"{name}: at least one is needed")
        if len(set(values)) < len(values):
            raise ConfigError(f"{name}: each may be given once")
    if seeds < 1:
        raise ConfigError(f"seeds = {seeds}: at least one is needed")
    table = LatencyTable(profile)
    for policy in policies:
        create_policy(policy, table)


def _line(rows: Sequence[ResultRow], first: Sequence[ResultRow]) -> Line:
    goodput = [row.goodput_weighted_accuracy for row in rows]
    return Line(
        trace=rows[0].trace,
        policy=rows[0].policy,
        attainment=estimate([row.slo_attainment for row in rows]),
        accuracy=_optional([row.mean_serving_accuracy for row in rows]),
        goodput=estimate(goodput),
        difference=None if rows is first else paired(goodput, [row.goodput_weighted_accuracy for row in first]),
        distance_to_bound=_optional([row.distance_to_bound for row in rows]),
        mean_batch=_optional([row.mean_batch for row in rows]),
    )


def _optional(values: Sequence[float | None]) -> Estimate | None:
    known = [value for value in values if value is not None]
    return estimate(known) if len(known) == len(values) else None
