"""Of several idle workers of different devices, which one gets the next batch: rules beside each other, simulated.

Run: ``python benchmarks/pairing.py [--trace FILE] [--policies P...] [--seconds 2] [--seeds 3] [--json FILE]``.

Two devices: R-PROFILE, and one that takes four times as long. Loads are parts of what all workers together serve with
the fastest subnet; arrivals are the paper's bursty ones, or those of a trace scaled to that rate. ``no profile`` is
without one of the second device: its workers are found to be slow by the batches that they ran.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

import msgspec
import numpy as np
from rich.console import Console

from superserve.clock import NS_PER_MS
from superserve.metrics import RunLog, summarise
from superserve.profile import QUANTILES, LatencyTable, Profile
from superserve.scheduling import MixedScheduler, create_policies
from superserve.scheduling.mixed import Pairing
from superserve.simulator import Conditions, simulate
from superserve.simulator.simulator import Simulation
from superserve.tables import print_table, write_rows
from superserve.traces.arrivals import base_plus_gamma
from superserve.traces.readers.segments import load_trace
from superserve.traces.squeeze import scale
from superserve.traces.trace import Trace

SLOWER: Final = 4.0
OVERHEAD_MS: Final = 1.0
SLO_MS: Final = 36.0
FLEETS: Final = ((4, 4), (2, 6))
LOADS: Final = (0.2, 0.5, 0.8)
CV2: Final = 8.0

#: Of a pairing, given how long a row takes on its device: the largest gets its batch.
Rule = Callable[[Pairing, float], tuple[float, ...]]

RULES: Final[dict[str, Rule]] = {
    "longest idle": lambda _, __: (),
    "fastest": lambda _, row_ns: (-row_ns,),
    "slowest": lambda _, row_ns: (row_ns,),
    "most accurate, then fastest": lambda pairing, row_ns: (pairing.decision.subnet, -row_ns),
    "most accurate, then slowest": lambda pairing, row_ns: (pairing.decision.subnet, row_ns),
}


class Row(msgspec.Struct):
    """Means over seeds."""

    policy: str
    workers: str
    load: float
    rule: str
    attained: float
    accuracy: float
    goodput: float


class RuledScheduler(MixedScheduler):
    """Prefers by a rule, among workers that leave equally few requests behind."""

    rule: Rule

    def preference(self, pairing: Pairing) -> tuple[float, ...]:
        """See `MixedScheduler.preference`."""
        return (-pairing.decision.shed, *self.rule(pairing, self._plans[pairing.device].row_ns))


def slower(profile: Profile) -> Profile:
    """The second device."""
    subnets = []
    for subnet in profile.subnets:
        p50, p95, p99 = (tuple(SLOWER * value for value in subnet.quantile_us(name)) for name in QUANTILES)
        subnets.append(msgspec.structs.replace(subnet, p50_us=p50, p95_us=p95, p99_us=p99))
    return msgspec.structs.replace(profile, subnets=tuple(subnets))


def capacity(profile: Profile, workers: tuple[int, int]) -> float:
    """Requests per second with the fastest subnet's most efficient batches."""
    planned = LatencyTable(profile)
    rows_ns = [
        min((factor * planned.latency_ns[0][rows] + OVERHEAD_MS * NS_PER_MS) / rows for rows in planned.batches)
        for factor in (1.0, SLOWER)
    ]
    return sum(1e9 * count / row_ns for count, row_ns in zip(workers, rows_ns, strict=True))


def ruled(trace: Trace, profiles: tuple[Profile, Profile], workers: tuple[int, int], policy: str, rule: Rule) -> RunLog:
    """A run under a rule; batches take what is planned for them."""
    overhead_ns = round(OVERHEAD_MS * NS_PER_MS)
    scheduler = RuledScheduler([create_policies(policy, each) for each in profiles], overheads_ns=[overhead_ns] * 2)
    scheduler.rule = rule
    return Simulation(
        trace,
        scheduler,
        workers=workers,
        slo_ns=round(SLO_MS * NS_PER_MS),
        latency_ns=lambda launch: launch.planned_ns,
        overhead_ns=overhead_ns,
    ).run()


def without_profile(trace: Trace, profile: Profile, workers: tuple[int, int], policy: str) -> RunLog:
    """The same load where the slower workers have no profile of their own."""
    slowdown = (1.0,) * workers[0] + (SLOWER,) * workers[1]
    return simulate(
        trace,
        profile,
        policy=policy,
        workers=sum(workers),
        slo_ms=SLO_MS,
        overhead_ms=OVERHEAD_MS,
        conditions=Conditions(slowdown=slowdown),
    )


def arrivals(source: Trace | None, rate: float, seconds: float, seed: int) -> Trace:
    """The load of one run."""
    rng = np.random.default_rng(seed)
    if source is None:
        return base_plus_gamma(0.25 * rate, 0.75 * rate, CV2, seconds, rng)
    return scale(source, squeeze_s=seconds, rate=rate, rng=rng)


def rows(source: Trace | None, policies: Sequence[str], seconds: float, seeds: int) -> list[Row]:
    """All runs."""
    profile = Profile.load("r-profile")
    profiles = (profile, slower(profile))
    found = []
    for workers in FLEETS:
        for load in LOADS:
            traces = [arrivals(source, load * capacity(profile, workers), seconds, seed) for seed in range(seeds)]
            for policy in policies:
                logs = {
                    name: [ruled(one, profiles, workers, policy, rule) for one in traces]
                    for name, rule in RULES.items()
                }
                logs["no profile"] = [without_profile(one, profile, workers, policy) for one in traces]
                found += [row(each, policy, workers, load, name) for name, each in logs.items()]
    return found


def row(logs: list[RunLog], policy: str, workers: tuple[int, int], load: float, rule: str) -> Row:
    """The mean over seeds."""
    results = [
        summarise(log, policy=policy, trace="", seed=seed, workers=sum(workers), slo_ms=SLO_MS)
        for seed, log in enumerate(logs)
    ]
    return Row(
        policy,
        f"{workers[0]} + {workers[1]}",
        load,
        rule,
        fmean(each.slo_attainment for each in results),
        fmean(each.mean_serving_accuracy or 0.0 for each in results),
        fmean(each.goodput_weighted_accuracy for each in results),
    )


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, help="a canonical trace; default: the paper's bursty arrivals")
    parser.add_argument("--policies", nargs="+", default=["drainfit", "slackfit"])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    source = None if arguments.trace is None else load_trace(arguments.trace)
    found = rows(source, arguments.policies, arguments.seconds, arguments.seeds)
    cells = [
        [
            each.policy,
            each.workers,
            f"{each.load:g}",
            each.rule,
            f"{each.attained:.4f}",
            f"{each.accuracy:.2f}",
            f"{each.goodput:.2f}",
        ]
        for each in found
    ]
    columns = ("policy", "workers", "load", "rule", "attained", "accuracy", "goodput")
    print_table(Console(), f"{arguments.seeds} seeds of {arguments.seconds:g} s", columns, cells)
    write_rows(arguments.json, rows=found)


if __name__ == "__main__":
    main()
