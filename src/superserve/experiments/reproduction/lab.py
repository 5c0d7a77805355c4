"""What every experiment runs in: profile, data, seeds, cores, and where figures go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec
from matplotlib.figure import Figure

from superserve.errors import ConfigError
from superserve.experiments.kept import KeptResults
from superserve.experiments.reproduction.finding import Table
from superserve.experiments.scenario import BoundJob, Job, Scenario, TraceSource
from superserve.intervals import Estimate, estimate
from superserve.metrics import ResultRow
from superserve.plots import Panel, Point, figure_bytes
from superserve.profile import Profile
from superserve.scheduling import SchedulerLimits, TimeoutAction
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.simulator.conditions import ORDINARY, Conditions

SLACKFIT: Final = "slackfit"
#: The paper's policy, and ours beside it: what a server runs that is told nothing.
ELASTIC: Final = tuple(dict.fromkeys((SLACKFIT, DEFAULT_POLICY)))
#: Attainments no further apart are "about equal".
EQUAL_ATTAINMENT: Final = 0.001

#: Queues as long as a fixed model lets them get when it serves late: the paper speaks of no bound.
_UNBOUNDED: Final = SchedulerLimits(max_queued=100_000_000)


@dataclass(frozen=True)
class Contender:
    """A policy with its overload rule, and what tables call it."""

    name: str
    policy: str
    timeout_action: TimeoutAction = "reject"


@dataclass(frozen=True)
class Results:
    """Rows by (trace, contender), one per seed."""

    rows: dict[tuple[str, str], list[ResultRow]]

    def attainment(self, trace: str, name: str) -> Estimate:
        """SLO attainment, 0..1."""
        return estimate([row.slo_attainment for row in self.rows[trace, name]])

    def accuracy(self, trace: str, name: str) -> Estimate | None:
        """Mean serving accuracy in per cent; None if some run served nothing in time."""
        values = [row.mean_serving_accuracy for row in self.rows[trace, name]]
        known = [value for value in values if value is not None]
        return estimate(known) if len(known) == len(values) else None

    def goodput(self, trace: str, name: str) -> Estimate:
        """Goodput-weighted accuracy in per cent."""
        return estimate([row.goodput_weighted_accuracy for row in self.rows[trace, name]])

    def distance(self, trace: str, name: str) -> Estimate:
        """Of goodput-weighted accuracy from the bound, in points."""
        return estimate([row.distance_to_bound or 0.0 for row in self.rows[trace, name]])

    def panel(self, trace: str, names: Sequence[str], title: str) -> Panel:
        """Attainment and accuracy of contenders on a trace."""
        points = []
        for name in names:
            accuracy = self.accuracy(trace, name)
            mean = None if accuracy is None else accuracy.mean
            points.append(Point(name, self.attainment(trace, name).mean, mean, name.startswith("fixed ")))
        return Panel(title, points)

    def table(self, traces: Sequence[str], names: Sequence[str]) -> Table:
        """All figures."""
        columns = ("load", "policy", "attainment", "accuracy, %", "goodput-weighted, %", "to bound")
        return Table(columns, tuple(self._cells(trace, name) for trace in traces for name in names))

    def merged(self, other: "Results") -> "Results":
        """Both."""
        return Results({**self.rows, **other.rows})

    def _cells(self, trace: str, name: str) -> tuple[str, ...]:
        accuracy = self.accuracy(trace, name)
        return (
            trace,
            name,
            self.attainment(trace, name).text(5),
            "-" if accuracy is None else accuracy.text(2),
            self.goodput(trace, name).text(2),
            self.distance(trace, name).text(2),
        )


@dataclass(frozen=True)
class Lab:
    """Runs scenarios and keeps figures.

    ``seconds_factor`` shortens every trace, for tests. ``data`` is the folder of recorded traces, or None. ``runs``:
    where finished runs are kept, or None.
    """

    out: Path
    profile: Profile = field(repr=False)
    data: Path | None = None
    seeds: int = 3
    workers: int = 8
    slo_ms: float = 36.0
    overhead_ms: float = 1.0
    seconds_factor: float = 1.0
    processes: int | None = None
    runs: Path | None = None
    on_progress: Callable[[int, int, str], None] | None = None

    def seconds(self, length: float) -> float:
        """Length of a trace that the paper's (or our choice) would be ``length`` seconds."""
        return length * self.seconds_factor

    @property
    def seed_words(self) -> str:
        """How many seeds, for sentences."""
        return "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"

    def recordings(self) -> Path:
        """The data folder.

        Raises:
            ConfigError: if none was given.
        """
        if self.data is None:
            raise ConfigError("--data: this experiment needs the folder of recorded traces (or set SUPERSERVE_DATA)")
        return self.data

    def scenario(self, source: TraceSource, conditions: Conditions = ORDINARY) -> Scenario:
        """The paper's machine on a load."""
        return Scenario(source, self.profile, self.workers, self.slo_ms, self.overhead_ms, _UNBOUNDED, conditions)

    def scenario_on(self, source: TraceSource, workers: int) -> Scenario:
        """The same with another number of workers."""
        return replace(self.scenario(source), workers=workers)

    def run(self, scenarios: Sequence[Scenario], contenders: Sequence[Contender]) -> Results:
        """Every contender on every scenario under every seed, over all cores; distances to the bound, too."""
        runs: dict[Job, tuple[str, str]] = {}
        jobs: list[Job | BoundJob] = []
        for scenario in scenarios:
            for seed in range(self.seeds):
                of_seed = {
                    Job(scenario, one.policy, seed, one.timeout_action): (scenario.source.name, one.name)
                    for one in contenders
                }
                runs |= of_seed
                jobs += [BoundJob(scenario, seed), *of_seed]
        found = KeptResults(self.runs).run(jobs, processes=self.processes, on_done=self._report)
        rows: dict[tuple[str, str], list[ResultRow]] = {}
        for job, name in runs.items():
            row, bound = found[job], found[BoundJob(job.scenario, job.seed)]
            assert isinstance(row, ResultRow)
            assert isinstance(bound, float)
            distance = bound - row.goodput_weighted_accuracy
            rows.setdefault(name, []).append(msgspec.structs.replace(row, distance_to_bound=distance))
        return Results(rows)

    def _report(self, done: int, total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(done, total, "simulating")

    def keep(self, name: str, figure: Figure) -> str:
        """Write a figure; returns its file's name."""
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{name}.png").write_bytes(figure_bytes(figure, "png"))
        return f"{name}.png"


def fixed_models(profile: Profile, timeout_action: TimeoutAction = "reject") -> list[Contender]:
    """Clipper+: one fixed subnet each, under an overload rule."""
    suffix = "" if timeout_action == "reject" else ", late"
    return [
        Contender(f"fixed {subnet.accuracy:g}{suffix}", f"fixed:{subnet.id}", timeout_action)
        for subnet in profile.subnets
    ]


def elastic() -> list[Contender]:
    """SlackFit, and the policy of our own."""
    return [Contender(policy, policy) for policy in ELASTIC]
