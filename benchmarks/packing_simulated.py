"""What a budget of memory gives, simulated: the load of ``packing.py``, and recorded traces, by budget.

The bundled CIFAR-10 model on one worker: its eager profile and what packing its subnets came to on this machine, which
``--work`` holds from ``python benchmarks/packing.py --work DIR --part prepare``. Nothing is served.

Run: ``python benchmarks/packing_simulated.py --work DIR --data DATA [--seconds S]``.
"""

import argparse
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from headline_loads import TRACES, mean_rate, slo_ms
from packing import AHEAD, BUDGETS, MODEL, SLO_MS, budget_of, load
from superserve.clock import NS_PER_S
from superserve.errors import ProfileError
from superserve.experiments.virtual_residency import VirtualResidency
from superserve.memory_sizes import bytes_of, told
from superserve.metrics import ResultRow, summarise
from superserve.model_folder import ModelFolder
from superserve.profile import Profile
from superserve.profiler import find_profile
from superserve.scheduling import Scheduler
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.choice import choose_engine
from superserve.serving.residency.report import ResidencyReport, budget_told
from superserve.simulator import simulate
from superserve.supernet.packed_store import PackRecord, find_packs
from superserve.traces.trace import Trace

_SEED: Final = 0


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/packing"), help="that of packing.py")
    parser.add_argument("--data", type=Path, required=True, help="folder of recorded traces (with traces/)")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each recorded trace")
    args = parser.parse_args()
    os.environ["SUPERSERVE_CACHE"] = str((args.work / "cache").resolve())
    folder = ModelFolder.resolve(MODEL)
    choice = choose_engine(folder, engine="packed")
    profile = find_profile(folder, choice.behind)
    records = {number: kept.record for number, kept in find_packs(folder, choice.dtype, choice.fallback).items()}
    if profile is None or len(records) < len(folder.front.subnets):
        raise ProfileError(f"{args.work}: run `python benchmarks/packing.py --work {args.work} --part prepare` first")
    print("\n".join(moving(folder, profile, records)))
    print("\n".join(recorded(args.data, args.seconds, profile, records)))


def moving(folder: ModelFolder, profile: Profile, records: Mapping[int, PackRecord]) -> Iterator[str]:
    """The load of ``packing.py``: every five seconds another subnet is asked for; half of them were packed before."""
    _, at_s, floors = load(folder)
    arrival_ns = np.round(at_s * NS_PER_S).astype(np.int64)
    trace = Trace("moving", arrival_ns, min_accuracy=np.array(floors))
    yield "| budget | beside the weights | packed at the end | answered packed | p50 ms | p99 ms | late | evictions |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in BUDGETS:
        row, report = run(trace, profile, records, name, policy="infaas", slo=SLO_MS, ahead=AHEAD)
        yield (
            f"| {name} | {budget_told(report.budget)} | {told(report.nbytes)} | {report.share:.2f} | "
            f"{row.p50_ms:.1f} | {row.p99_ms:.1f} | {row.offered - row.served} | {report.evictions} |"
        )


def recorded(data: Path, seconds: float, profile: Profile, records: Mapping[int, PackRecord]) -> Iterator[str]:
    """Recorded traces, at the load and with the deadline of ``headline_loads.py``; all had been packed before."""
    rate, deadline_ms = mean_rate(profile), slo_ms(profile)
    yield f"{rate:.0f} requests/s, {deadline_ms:.1f} ms"
    yield "| trace | budget | beside the weights | in time | accuracy, % | answered packed |"
    yield "|---|---|--:|--:|--:|--:|"
    for name, source_of in TRACES.items():
        trace = source_of(data, rate, seconds).trace(_SEED)
        for budget in BUDGETS:
            row, report = run(trace, profile, records, budget, policy=DEFAULT_POLICY, slo=deadline_ms, ahead=records)
            yield (
                f"| {name} | {budget} | {told(report.nbytes)} | {row.slo_attainment:.4f} | "
                f"{row.mean_serving_accuracy:.2f} | {report.share:.2f} |"
            )


def run(
    trace: Trace,
    profile: Profile,
    records: Mapping[int, PackRecord],
    budget: str,
    *,
    policy: str,
    slo: float,
    ahead: Collection[int],
) -> tuple[ResultRow, ResidencyReport]:
    """One simulated run, with memory for so many subnets."""
    made: list[VirtualResidency] = []
    size = bytes_of(budget_of(budget, {number: record.nbytes_on(1) for number, record in records.items()}))

    def engine(scheduler: Scheduler, behind: Profile) -> VirtualResidency:
        made.append(
            VirtualResidency(
                scheduler,
                behind,
                records,
                refused={},
                kept=ahead,
                policy=policy,
                timeout_action="reject",
                budget=size,
            )
        )
        return made[0]

    log = simulate(trace, profile, policy=policy, workers=1, slo_ms=slo, faster=engine)
    return summarise(log, policy=policy, trace=trace.name, seed=_SEED, workers=1, slo_ms=slo), made[0].report


if __name__ == "__main__":
    main()
