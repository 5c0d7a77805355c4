"""When a worker that takes two batches gets the second one: rules beside each other, simulated.

Run: ``python benchmarks/two_in_flight.py [--data DIR] [--policies P...] [--faster X...] [--seeds 3] [--json FILE]``.

One worker with R-PROFILE (a GPU's, in the order of its figures), or with one that is faster by a factor and has
deadlines that are shorter by it. Loads are parts of what it serves with its middle subnet, one batch at a time;
arrivals are the bursty ones of the paper, and, with a data folder, two of Azure. Timers are as late as live: at
the next whole millisecond.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, product
from pathlib import Path
from statistics import fmean
from typing import Final, NamedTuple

import msgspec
import numpy as np
from rich.console import Console

from superserve.clock import NS_PER_MS
from superserve.experiments.reproduction.loads import Azure, AzureLlm
from superserve.latency import LatencySampler
from superserve.metrics import RunLog, summarise
from superserve.profile import QUANTILES, LatencyTable, Profile
from superserve.scheduling import Scheduler, create_policies
from superserve.simulator.simulator import Simulation
from superserve.tables import print_table, write_rows
from superserve.traces.arrivals import base_plus_gamma
from superserve.traces.trace import Trace

SLO_MS: Final = 36.0
#: What a batch costs beside its time in the worker, in milliseconds (`benchmarks/worker_gap.py`).
OVERHEADS_MS: Final = (0.2, 0.45)
#: How many times as fast as R-PROFILE the device is.
FASTER: Final = (1.0, 4.0, 8.0)
LOADS: Final = (0.7, 1.0, 1.4, 2.0)
CV2: Final = 8.0

#: How long before the typical end of a batch the next one may be launched, given the typical overhead; None: not before
#: its end.
Lead = Callable[[int], int] | None
Traces = dict[str, list[Trace]]

RULES: Final[dict[str, Lead]] = {
    "one at a time": None,
    "overhead before": lambda overhead_ns: overhead_ns,
    "overhead and a timer before": lambda overhead_ns: overhead_ns + NS_PER_MS,
    "as soon as the first runs": lambda _: 1 << 60,
}


class Setting(NamedTuple):
    """What is simulated under every rule."""

    policy: str
    faster: float
    overhead_ms: float
    load: float

    @property
    def profile(self) -> Profile:
        """Of the device."""
        return scaled(Profile.load("r-profile"), self.faster)

    @property
    def slo_ms(self) -> float:
        """Of all requests."""
        return SLO_MS / self.faster


class Row(msgspec.Struct):
    """Means over seeds."""

    policy: str
    faster: float
    overhead_ms: float
    load: float
    arrivals: str
    rule: str
    attained: float
    accuracy: float


class RuledScheduler(Scheduler):
    """Launches the second batch by a rule, and has timers of whole milliseconds."""

    lead: Lead

    def lead_ns(self, device: int) -> int:
        """See `Scheduler.lead_ns`."""
        assert self.lead is not None
        return self.lead(self._typical_overhead_ns(device))

    def next_timer(self) -> int | None:
        """See `Scheduler.next_timer`."""
        due_ns = super().next_timer()
        return None if due_ns is None else -(-due_ns // NS_PER_MS) * NS_PER_MS


def scaled(profile: Profile, faster: float) -> Profile:
    """The same on a faster device."""
    subnets = []
    for subnet in profile.subnets:
        p50, p95, p99 = (tuple(value / faster for value in subnet.quantile_us(name)) for name in QUANTILES)
        subnets.append(msgspec.structs.replace(subnet, p50_us=p50, p95_us=p95, p99_us=p99))
    return msgspec.structs.replace(profile, subnets=tuple(subnets))


def capacity(profile: Profile, overhead_ms: float) -> float:
    """Requests per second that the middle subnet serves in full batches, one at a time."""
    table = LatencyTable(profile)
    batch_ns = table.latency_ns[len(table) // 2][table.max_rows] + overhead_ms * NS_PER_MS
    return table.max_rows / batch_ns * 1e9


def run(trace: Trace, setting: Setting, rule: str, seed: int) -> RunLog:
    """One simulated run."""
    (policy,) = create_policies(setting.policy, setting.profile)
    overhead_ns = round(setting.overhead_ms * NS_PER_MS)
    scheduler = RuledScheduler(policy, overhead_ns=overhead_ns)
    scheduler.lead = RULES[rule]
    sampler = LatencySampler(setting.profile, np.random.default_rng(seed))
    return Simulation(
        trace,
        scheduler,
        workers=1,
        slo_ns=round(setting.slo_ms * NS_PER_MS),
        latency_ns=lambda launch: sampler.sample_ns(launch.subnet, launch.rows),
        overhead_ns=overhead_ns,
        overlapping=[RULES[rule] is not None],
    ).run()


def traces(data: Path | None, rate: float, requests: int, seeds: int) -> Traces:
    """Arrivals at a mean rate, by kind and seed; a fifth of the bursty ones come steadily."""
    seconds = requests / rate
    found: Traces = {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        bursty = base_plus_gamma(rate / 5, 4 * rate / 5, CV2, seconds, rng)
        found.setdefault(f"bursty, CV² {CV2:g}", []).append(bursty)
        if data is not None:
            found.setdefault("Azure", []).append(Azure(data, rate, seconds).trace(seed))
            found.setdefault("Azure LLM", []).append(AzureLlm(data, rate, seconds).trace(seed))
    return found


def compare(setting: Setting, given: Traces) -> list[Row]:
    """The rules beside each other, for each kind of arrivals."""
    rows = []
    for (arrivals, seeded), rule in product(given.items(), RULES):
        results = [
            summarise(
                run(trace, setting, rule, seed),
                policy=setting.policy,
                trace=arrivals,
                seed=seed,
                workers=1,
                slo_ms=setting.slo_ms,
            )
            for seed, trace in enumerate(seeded)
        ]
        attained = fmean(each.slo_attainment for each in results)
        accuracy = fmean(each.mean_serving_accuracy or 0.0 for each in results)
        where = setting.policy, setting.faster, setting.overhead_ms, setting.load
        rows.append(Row(*where, arrivals, rule, attained, accuracy))
    return rows


def main() -> None:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="has the recorded traces")
    parser.add_argument("--policies", nargs="+", default=["drainfit"], metavar="P")
    parser.add_argument("--faster", nargs="+", type=float, default=FASTER, metavar="X")
    parser.add_argument("--requests", type=int, default=15_000, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found: list[Row] = []
    for setting in (Setting(*each) for each in product(options.policies, options.faster, OVERHEADS_MS, LOADS)):
        rate = setting.load * capacity(setting.profile, setting.overhead_ms)
        found += compare(setting, traces(options.data, rate, options.requests, options.seeds))
    columns = ("policy", "times as fast", "overhead, ms", "load", "arrivals", *RULES)
    print_table(Console(), "in time, accuracy", columns, list(cells(found)))
    write_rows(options.json, rows=found)


def cells(found: Sequence[Row]) -> Iterator[Sequence[str]]:
    """A line for what differs in nothing but the rule."""
    for _, alike in groupby(found, key=lambda row: (row.policy, row.faster, row.overhead_ms, row.load, row.arrivals)):
        rows = list(alike)
        row = rows[0]
        setting = (row.policy, f"{row.faster:g}", f"{row.overhead_ms:g}", f"{row.load:g}", row.arrivals)
        yield *setting, *(f"{each.attained:.4f}, {each.accuracy:.2f}" for each in rows)


if __name__ == "__main__":
    main()
