"""E7 and E9, as far as a simulation can say: throughput by workers and by subnet (paper Fig. 11b and 5c)."""

from typing import Final

from superserve.experiments.reproduction.finding import Claim, Finding, Table, Verdict
from superserve.experiments.reproduction.lab import Lab
from superserve.experiments.reproduction.loads import Steady
from superserve.plots import LIGHT, styled_axes
from superserve.profile import LatencyTable

WORKERS: Final = (1, 2, 4, 8, 16, 32)
SECONDS: Final = 4.0
#: Loads that are tried, over what the workers carry at full batches without a pause.
SHARES: Final = (0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 1.0)
ATTAINED: Final = 0.999


def run_e7(lab: Lab) -> Finding:
    """E7, Fig. 11b: one model on more and more workers."""
    sustained = [_sustained(lab, workers, 0) for workers in WORKERS]
    per_worker = [rate / workers for rate, workers in zip(sustained, WORKERS, strict=True)]
    figure, (ax,) = styled_axes((5.6, 3.6), 1, 1)
    ax.plot(WORKERS, sustained, "o-", color=LIGHT.series[0])
    ax.set_xlabel("workers", color=LIGHT.ink)
    ax.set_ylabel(f"requests/s at attainment {ATTAINED:g}", color=LIGHT.ink)
    return Finding(
        name="E7",
        title="Scaling with workers (Fig. 11b), simulated only",
        setting=(
            f"The least accurate subnet of R-PROFILE on all workers, evenly spaced arrivals (CV² 0) for "
            f"{lab.seconds(SECONDS):g} s, SLO {lab.slo_ms:g} ms, {lab.overhead_ms:g} ms overhead; the highest of "
            f"{len(SHARES)} loads at which {ATTAINED:g} are served in time; seed 0."
        ),
        claims=(
            Claim(
                "throughput grows linearly with workers",
                f"{min(per_worker):,.0f} to {max(per_worker):,.0f} requests/s per worker on 1 to {WORKERS[-1]} workers",
                Verdict.of(min(per_worker) >= 0.95 * max(per_worker)),
            ),
            Claim(
                "about 33,000 requests/s at attainment 0.999",
                f"{sustained[-1]:,.0f} on {WORKERS[-1]} workers, simulated: "
                "a statement about the profile, not about a router",
                Verdict.NOT_TESTED,
            ),
        ),
        table=Table(
            ("workers", "requests/s", "per worker"),
            tuple(
                (f"{workers}", f"{rate:,.0f}", f"{rate / workers:,.0f}")
                for workers, rate in zip(WORKERS, sustained, strict=True)
            ),
        ),
        figures=(lab.keep("E7", figure),),
        differences=(
            (
                "The simulator's router costs no time. What one router process carries is a live measurement with "
                "emulated workers, which this command does not make."
            ),
            (
                "The paper's clients send batches of 8 images, and it does not say whether a query is a batch or an "
                "image; its ResNet-18 has no published latencies."
            ),
        ),
    )


def run_e9(lab: Lab) -> Finding:
    """E9, Fig. 5: the mechanism. Only its throughput can be told from a profile."""
    sustained = [_sustained(lab, lab.workers, subnet) for subnet in range(len(lab.profile.subnets))]
    ratio = sustained[0] / sustained[-1]
    return Finding(
        name="E9",
        title="SubNetAct (Fig. 5)",
        setting=(
            f"R-PROFILE, {lab.workers} workers, evenly spaced arrivals, SLO {lab.slo_ms:g} ms, "
            f"{lab.overhead_ms:g} ms overhead, each subnet alone; seed 0."
        ),
        claims=(
            Claim("2.6 x less memory than the models that it replaces", "not a simulation", Verdict.NOT_TESTED),
            Claim("actuation in less than 1 ms", "not a simulation", Verdict.NOT_TESTED),
            Claim(
                "2,000 to 8,000 requests/s from the largest to the smallest subnet on 8 GPUs: a span of 4",
                f"{sustained[-1]:,.0f} to {sustained[0]:,.0f} requests/s: a span of {ratio:.2f}",
                Verdict.PARTLY if 3.5 <= ratio <= 4.5 else Verdict.NOT_REPRODUCED,
            ),
        ),
        table=Table(
            ("subnet", "requests/s"),
            tuple((one.id, f"{rate:,.0f}") for one, rate in zip(lab.profile.subnets, sustained, strict=True)),
        ),
        differences=(
            (
                "Memory and actuation time are measured on real supernets by the benchmarks of the mechanism "
                "(docs/performance.md), not here."
            ),
            "The authors' system carries about half of what R-PROFILE's latencies allow at both ends; the span agrees.",
        ),
    )


def _sustained(lab: Lab, workers: int, subnet: int) -> float:
    """The highest tried rate at which one subnet attains enough; 0 if none."""
    table = LatencyTable(lab.profile)
    row = table.latency_ns[subnet]
    capacity = workers * max(rows / (row[rows] + lab.overhead_ms * 1e6) for rows in table.batches) * 1e9
    best = 0.0
    for share in SHARES:
        source = Steady(share * capacity, 0.0, lab.seconds(SECONDS))
        served = lab.scenario_on(source, workers).row(f"fixed:{table.ids[subnet]}", 0)
        if served.slo_attainment >= ATTAINED:
            best = share * capacity
    return best
