"""What one scheduler costs per request, by its number of workers: measured, alone on a core."""

import statistics
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from scaling.loads import LIMITS, OVERHEAD_MS, PROFILE, RATE, SLO_MS, STEADY
from scaling.tape import Event, TapedScheduler, play
from superserve.clock import NS_PER_MS
from superserve.profile import LatencyTable, Profile
from superserve.request import Outcome
from superserve.scheduling import Finish, Launch, Scheduler, create_policy
from superserve.simulator.conditions import Conditions
from superserve.simulator.simulator import Simulation
from superserve.traces.arrivals import base_plus_gamma

POLICIES: Final = ("drainfit", "slackfit")
WORKERS: Final = (8, 64, 256, 1024)


class Situation(NamedTuple):
    """What a scheduler is timed in: requests/s per worker, and what the batches of one worker take over the others'."""

    rate: float
    slowdown: float = 1.0


#: R-PROFILE's fastest subnet does 1,916 requests/s in full batches, dispatch included, its most accurate one 505.
SITUATIONS: Final = {
    "under load": Situation(RATE),
    "under load, one worker slow": Situation(RATE, 1.3),
    "in overload": Situation(2.5 * RATE),
}
CV2: Final = 4.0
#: Spread of what batches take (standard deviation of the logarithm), such that one in a hundred takes longer than
#: planned: that is what a planned p99 says, and what keeps the estimates of drift at work.
SPREAD: Final = 0.05
_BEYOND: Final = 2.326
#: At least so many requests, and so many seconds: a few deadlines.
LEAST_REQUESTS: Final = 60_000
LEAST_S: Final = 0.15
_DRAWS: Final = 1 << 16

Kind = TypeVar("Kind", bound=Scheduler)


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """CPU per request offered, in microseconds: median, least and most of the rounds."""

    policy: str
    situation: str
    workers: int
    requests: int
    rounds: int
    median_us: float
    least_us: float
    most_us: float
    core_share: float
    """Of a core, what the process had of it: less than 1 says that others used the machine, and its caches."""
    batches: int
    mean_batch: float
    slo_attainment: float

    @property
    def requests_per_s(self) -> float:
        """What a core that does nothing else would keep up with."""
        return 1e6 / self.median_us

    @property
    def decisions_per_s(self) -> float:
        """Batches that it would choose in that time."""
        return self.batches / self.requests * self.requests_per_s


def measure(policy: str, situation: str, workers: int, *, rounds: int, scale: float = 1.0) -> Cost:
    """One case; ``scale`` makes it shorter."""
    tape = taped(policy, workers, SITUATIONS[situation], scale=scale)
    requests = sum(event.method == "on_arrival" for event in tape)
    times_us, wall_us = [], []
    for _ in range(rounds):
        actions, cpu_ns, wall_ns = play(tape, fresh(Scheduler, policy))
        times_us.append(cpu_ns / requests / 1_000)
        wall_us.append(wall_ns / requests / 1_000)
    flat = [action for each in actions for action in each]
    rows = [action.rows for action in flat if isinstance(action, Launch)]
    served = sum(isinstance(action, Finish) and action.outcome is Outcome.SERVED for action in flat)
    return Cost(
        policy=policy,
        situation=situation,
        workers=workers,
        requests=requests,
        rounds=rounds,
        median_us=statistics.median(times_us),
        least_us=min(times_us),
        most_us=max(times_us),
        core_share=sum(times_us) / sum(wall_us),
        batches=len(rows),
        mean_batch=statistics.fmean(rows),
        slo_attainment=served / requests,
    )


def taped(policy: str, workers: int, situation: Situation, *, scale: float = 1.0) -> Sequence[Event]:
    """The events of a simulated run; seed 0."""
    scheduler = fresh(TapedScheduler, policy)
    total = situation.rate * workers
    seconds = scale * max(LEAST_S, LEAST_REQUESTS / total)
    trace = base_plus_gamma(STEADY * total, (1 - STEADY) * total, CV2, seconds, np.random.default_rng(0))
    Simulation(
        trace,
        scheduler,
        workers=workers,
        slo_ns=round(SLO_MS * NS_PER_MS),
        latency_ns=_varying(scheduler.policy.table),
        overhead_ns=round(OVERHEAD_MS * NS_PER_MS),
        conditions=Conditions(slowdown=(situation.slowdown, *[1.0] * (workers - 1))),
    ).run()
    return scheduler.tape


def fresh(kind: Callable[..., Kind], policy: str) -> Kind:
    """A scheduler that nothing has happened to."""
    table = LatencyTable(Profile.load(PROFILE))
    return kind(create_policy(policy, table), overhead_ns=round(OVERHEAD_MS * NS_PER_MS), limits=LIMITS)


def _varying(table: LatencyTable) -> Callable[[Launch], int]:
    """What batches take: nearly always less than planned."""
    rng = np.random.default_rng(1)
    ratios: list[float] = np.exp(SPREAD * (rng.standard_normal(_DRAWS) - _BEYOND)).tolist()
    drawn = 0

    def latency_ns(launch: Launch) -> int:
        nonlocal drawn
        drawn += 1
        return round(table.latency_ns[launch.subnet][launch.rows] * ratios[drawn % _DRAWS])

    return latency_ns
