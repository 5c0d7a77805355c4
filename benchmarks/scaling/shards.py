"""One scheduler for all workers, or several with a part of the workers and of the requests each: simulated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from scaling.hosted import simulate_hosted
from scaling.loads import LIMITS, OVERHEAD_MS, PROFILE, SLO_MS, Common, Load, loads
from superserve.metrics import RunLog, summarise
from superserve.profile import Profile
from superserve.simulator import simulate
from superserve.traces.trace import Trace

POLICY: Final = "drainfit"
#: Of 1,024 workers the last ones have eight each, as the paper's machine has.
SHARDS: Final = (1, 2, 4, 8, 16, 32, 128)
MODELS: Final = (2, 8, 32)
SECONDS: Final = 0.15


class Sharding(StrEnum):
    """Who decides for whom."""

    HASH = "hash"
    """One model; a request belongs to the shard that its id is hashed to."""
    MODEL = "model"
    """As many models as shards, each with bursts of its own, and with a scheduler and workers to itself."""
    HOSTED = "hosted"
    """The same models, all of them on all workers, as one server hosts them."""


class Key(NamedTuple):
    """What tells runs apart."""

    load: str
    sharding: Sharding
    shards: int
    workers: int
    seconds: float
    seed: int

    @classmethod
    def of(cls, outcomes: "Outcomes") -> "Key":
        """The run that they came of."""
        return cls(*(getattr(outcomes, name) for name in cls._fields))


@dataclass(frozen=True)
class Job:
    """One run: what `run_jobs` takes."""

    load: Load
    sharding: Sharding
    shards: int
    seed: int
    workers: int
    seconds: float = SECONDS

    @property
    def key(self) -> Key:
        """What tells it from others."""
        return Key(self.load.name, self.sharding, self.shards, self.workers, self.seconds, self.seed)


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run; accuracies in per cent, of answers in time and of all that was offered."""

    load: str
    sharding: Sharding
    shards: int
    workers: int
    seconds: float
    seed: int
    offered: int
    slo_attainment: float
    mean_serving_accuracy: float
    goodput_weighted_accuracy: float


def jobs(data: Path | None) -> list[Job]:
    """Every load by hash, and synthetic bursts by model, too."""
    known = loads(data)
    bursts = [load for load in known if isinstance(load, Common) and load.span_s is None]
    by_hash = [(load, Sharding.HASH, shards) for load in known for shards in SHARDS]
    by_model = [
        (load, sharding, models)
        for load in bursts
        for models in MODELS
        for sharding in (Sharding.MODEL, Sharding.HOSTED)
    ]
    return [Job(*what, seed, what[0].workers) for what in (*by_hash, *by_model) for seed in range(what[0].seeds)]


def work(job: Job) -> Outcomes:
    """Simulate it."""
    traces = list(hashed(job)) if job.sharding is Sharding.HASH else of_models(job)
    logs = _hosted(traces, job) if job.sharding is Sharding.HOSTED else [_alone(trace, job) for trace in traces]
    row = summarise(joined(logs), policy=POLICY, trace=job.load.name, seed=job.seed, workers=job.workers, slo_ms=SLO_MS)
    return Outcomes(
        **job.key._asdict(),
        offered=row.offered,
        slo_attainment=row.slo_attainment,
        mean_serving_accuracy=row.mean_serving_accuracy or 0.0,
        goodput_weighted_accuracy=row.goodput_weighted_accuracy,
    )


def hashed(job: Job) -> Iterator[Trace]:
    """The load by a hash of its requests, which is as good as a draw; the same load whatever the number of shards."""
    trace = job.load.trace(job.workers, job.seconds, job.seed)
    shard = np.random.default_rng((job.seed, 2)).integers(job.shards, size=len(trace))
    for number in range(job.shards):
        origin = np.flatnonzero(shard == number)
        yield trace.replaced(trace.arrival_ns[origin], origin)


def of_models(job: Job) -> list[Trace]:
    """A load for each model, with bursts of its own."""
    workers = job.workers // job.shards
    return [job.load.trace(workers, job.seconds, 1_000 * job.seed + model) for model in range(job.shards)]


def joined(logs: Sequence[RunLog]) -> RunLog:
    """The entries of all of them, one log after the other."""
    columns = {field.name: [getattr(log, field.name) for log in logs] for field in fields(RunLog)}
    return RunLog(**{name: np.concatenate(parts) for name, parts in columns.items()})


def _alone(trace: Trace, job: Job) -> RunLog:
    return simulate(
        trace,
        Profile.load(PROFILE),
        policy=POLICY,
        workers=job.workers // job.shards,
        slo_ms=SLO_MS,
        overhead_ms=OVERHEAD_MS,
        limits=LIMITS,
    )


def _hosted(traces: Sequence[Trace], job: Job) -> list[RunLog]:
    return simulate_hosted(
        traces,
        Profile.load(PROFILE),
        policy=POLICY,
        workers=job.workers,
        slo_ms=SLO_MS,
        overhead_ms=OVERHEAD_MS,
        limits=LIMITS,
    )
