"""One situation that policies are compared in, and what a policy makes of it."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import msgspec

from superserve.bounds.distance import accuracy_bound
from superserve.metrics import ResultRow, RunLog, summarise
from superserve.profile import Profile
from superserve.scheduling import SchedulerLimits, TimeoutAction
from superserve.simulator import simulate
from superserve.simulator.conditions import ORDINARY, Conditions
from superserve.traces.readers.segments import load_trace
from superserve.traces.trace import Trace


class TraceSource(Protocol):
    """Where arrivals come from: hashable and picklable, the same trace for the same seed."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def trace(self, seed: int) -> Trace:
        """The arrivals of a seed."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class TraceFile:
    """A recorded trace, a file or a folder of segments: the same arrivals for every seed."""

    path: Path

    @property
    def name(self) -> str:
        """See `TraceSource.name`."""
        return self.path.stem

    def trace(self, seed: int) -> Trace:  # noqa: ARG002  (a recording has no chance in it)
        """See `TraceSource.trace`."""
        return load_trace(self.path)


@dataclass(frozen=True)
class Scenario:
    """Arrivals and what is there to serve them; the arguments of `simulate` but for policy and seed."""

    source: TraceSource
    profile: Profile = field(repr=False)
    workers: int
    slo_ms: float
    overhead_ms: float | None = None
    limits: SchedulerLimits | None = None
    conditions: Conditions = ORDINARY

    def simulate(self, policy: str, seed: int, timeout_action: TimeoutAction = "reject") -> RunLog:
        """Play the arrivals of a seed under a policy."""
        return simulate(
            _trace(self.source, seed),
            self.profile,
            policy=policy,
            workers=self.workers,
            slo_ms=self.slo_ms,
            overhead_ms=self.overhead_ms,
            timeout_action=timeout_action,
            seed=seed,
            limits=self.limits,
            conditions=self.conditions,
        )

    def row(self, policy: str, seed: int, timeout_action: TimeoutAction = "reject") -> ResultRow:
        """The result of a policy on the arrivals of a seed."""
        return summarise(
            self.simulate(policy, seed, timeout_action),
            policy=policy if timeout_action == "reject" else f"{policy} ({timeout_action})",
            trace=self.source.name,
            seed=seed,
            workers=self.workers,
            slo_ms=self.slo_ms,
        )

    def bound(self, seed: int) -> float:
        """Goodput-weighted accuracy that no policy can pass on the arrivals of a seed, in per cent."""
        return _bound(self, seed)


@dataclass(frozen=True)
class Job:
    """One run: what `run_jobs` takes."""

    scenario: Scenario
    policy: str
    seed: int
    timeout_action: TimeoutAction = "reject"


@dataclass(frozen=True)
class BoundJob:
    """What no policy can pass on the arrivals of a seed."""

    scenario: Scenario
    seed: int


def work(job: Job | BoundJob) -> ResultRow | float:
    """The row of a run, without a bound, or a bound."""
    if isinstance(job, BoundJob):
        return job.scenario.bound(job.seed)
    return job.scenario.row(job.policy, job.seed, job.timeout_action)


def bounded_row(job: Job) -> ResultRow:
    """The result of a run, with its distance to the bound."""
    row = job.scenario.row(job.policy, job.seed, job.timeout_action)
    distance = job.scenario.bound(job.seed) - row.goodput_weighted_accuracy
    return msgspec.structs.replace(row, distance_to_bound=distance)


# Every policy of a scenario is held against the same bound: it is worked out once per process.
@lru_cache(maxsize=8)
def _bound(scenario: Scenario, seed: int) -> float:
    return accuracy_bound(
        _trace(scenario.source, seed),
        scenario.profile,
        workers=scenario.workers,
        slo_ms=scenario.slo_ms,
        overhead_ms=scenario.overhead_ms,
        conditions=scenario.conditions,
    )


# Policies run on the same trace one after the other: it is made once per process.
@lru_cache(maxsize=2)
def _trace(source: TraceSource, seed: int) -> Trace:
    return source.trace(seed)
