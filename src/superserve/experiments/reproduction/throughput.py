"""E7 and E9: throughput by workers and by subnet, memory and actuation (paper Fig. 11b and 5)."""

import asyncio
from typing import Final

from superserve.experiments.demo import until_signalled
from superserve.experiments.reproduction.finding import Claim, Finding, Table, Verdict
from superserve.experiments.reproduction.lab import Lab
from superserve.experiments.reproduction.loads import Steady
from superserve.experiments.reproduction.scaling_live import ATTAINED, LIVE_WORKERS, capacity, sustained_live
from superserve.plots import LIGHT, styled_axes
from superserve.processor import cpu_name
from superserve.supernet.footprint import Footprint, measure_footprint

WORKERS: Final = (1, 2, 4, 8, 16, 32)
SECONDS: Final = 4.0
#: Loads that are tried, over what the workers carry at full batches without a pause.
SHARES: Final = (0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 1.0)


def run_e7(lab: Lab) -> Finding:
    """E7, Fig. 11b: one model on more and more workers, live with emulated workers and simulated beyond."""
    sustained = {workers: _sustained(lab, workers, 0) for workers in WORKERS}
    live = asyncio.run(until_signalled(sustained_live(lab, LIVE_WORKERS)))
    per_worker = [rate / workers for workers, rate in sustained.items()]
    of_live = [rate / workers for workers, rate in live.items()]
    return Finding(
        name="E7",
        title="Scaling with workers (Fig. 11b)",
        setting=(
            f"The least accurate subnet of R-PROFILE on all workers, evenly spaced arrivals (CV² 0) for "
            f"{lab.seconds(SECONDS):g} s, SLO {lab.slo_ms:g} ms; the highest of {len(SHARES)} loads (from "
            f"{SHARES[0]:g} of what full batches without a pause carry) at which {ATTAINED:g} are served in time; seed "
            f"0. Simulated with {lab.overhead_ms:g} ms overhead; live: the server's router on one core, worker "
            f"processes that sleep the profiled latency, and the load generator on the other, {cpu_name()}."
        ),
        claims=(
            Claim(
                "throughput grows linearly with workers",
                f"simulated {min(per_worker):,.0f} to {max(per_worker):,.0f} requests/s per worker on 1 to "
                f"{WORKERS[-1]}; live {min(of_live):,.0f} to {max(of_live):,.0f} on 1 to {LIVE_WORKERS[-1]}",
                _linear(per_worker, of_live),
            ),
            Claim(
                "about 33,000 requests/s at attainment 0.999",
                f"simulated {sustained[WORKERS[-1]]:,.0f} on {WORKERS[-1]} workers; live {max(live.values()):,.0f} on "
                f"{max(live, key=lambda workers: live[workers])} emulated ones",
                Verdict.PARTLY if sustained[WORKERS[-1]] >= 33_000 else Verdict.NOT_REPRODUCED,
            ),
        ),
        table=Table(
            ("workers", "requests/s, simulated", "per worker", "requests/s, live", "per worker"),
            tuple(_scaling_cells(workers, sustained[workers], live.get(workers)) for workers in WORKERS),
        ),
        figures=(_scaling_figure(lab, sustained, live),),
        differences=(
            (
                "The simulator's router costs no time: what it says beyond the live points is a statement about the "
                "profile and the policy. One router process is one core; emulated workers, generator and router share "
                "two here, which bounds the live points."
            ),
            (
                "The paper's clients send batches of 8 images, and it does not say whether a query is a batch or an "
                "image; its ResNet-18 has no published latencies."
            ),
        ),
    )


def run_e9(lab: Lab) -> Finding:
    """E9, Fig. 5: the mechanism: memory and actuation measured, throughput from the profile."""
    sustained = [_sustained(lab, lab.workers, subnet) for subnet in range(len(lab.profile.subnets))]
    ratio = sustained[0] / sustained[-1]
    footprint = measure_footprint()
    median_us, high_us = footprint.actuation_us
    one_copy = footprint.supernet_bytes + footprint.statistics_bytes
    return Finding(
        name="E9",
        title="SubNetAct (Fig. 5)",
        setting=(
            f"Memory and actuation: OFA-ResNet50 with random weights on {cpu_name()}, {len(footprint.models_bytes)} "
            f"subnets spread from the smallest to the largest. Throughput: R-PROFILE, {lab.workers} workers, evenly "
            f"spaced arrivals, SLO {lab.slo_ms:g} ms, {lab.overhead_ms:g} ms overhead, each subnet alone; seed 0."
        ),
        claims=(
            Claim(
                "2.6 x less memory than the six models that it replaces",
                f"{footprint.saving:.2f} x: six models take {sum(footprint.models_bytes) / 1e6:.0f} MB, the supernet "
                f"{one_copy / 1e6:.1f} MB, of which {footprint.statistics_bytes / 1e6:.1f} MB are their statistics",
                Verdict.of(footprint.saving >= 2.6),
            ),
            Claim(
                "actuation in less than 1 ms",
                f"{median_us:.1f} µs (p99 {high_us:.1f} µs) for a change between subnets that were bound ahead",
                Verdict.of(high_us < 1000),
            ),
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
        figures=(_mechanism_figure(lab, footprint, sustained),),
        differences=(
            (
                "Which six subnets the paper counts is not stated; the ratio depends on them: six of the largest would "
                "make it almost six."
            ),
            "The authors' system carries about half of what R-PROFILE's latencies allow at both ends; the span agrees.",
        ),
    )


def _linear(simulated: list[float], live: list[float]) -> Verdict:
    both = [min(rates) >= 0.9 * max(rates) for rates in (simulated, live)]
    return Verdict.REPRODUCED if all(both) else Verdict.PARTLY if any(both) else Verdict.NOT_REPRODUCED


def _scaling_cells(workers: int, simulated: float, live: float | None) -> tuple[str, ...]:
    measured = ("-", "-") if live is None else (f"{live:,.0f}", f"{live / workers:,.0f}")
    return (str(workers), f"{simulated:,.0f}", f"{simulated / workers:,.0f}", *measured)


def _scaling_figure(lab: Lab, simulated: dict[int, float], live: dict[int, float]) -> str:
    figure, (ax,) = styled_axes((6.0, 3.8), 1, 1)
    ax.plot(list(simulated), list(simulated.values()), "o-", color=LIGHT.series[0], label="simulated")
    ax.plot(list(live), list(live.values()), "s", color=LIGHT.series[1], markersize=9, label="live, emulated workers")
    ax.axhline(33_000, color=LIGHT.muted, linestyle="--", linewidth=1.0, label="the paper's highest")
    ax.set_xlim(0)
    ax.set_ylim(0)
    ax.set_xlabel("workers", color=LIGHT.ink)
    ax.set_ylabel(f"requests/s at attainment {ATTAINED:g}", color=LIGHT.ink)
    ax.legend(frameon=False, labelcolor=LIGHT.ink, fontsize=9)
    return lab.keep("E7", figure)


def _mechanism_figure(lab: Lab, footprint: Footprint, sustained: list[float]) -> str:
    figure, (memory, rates) = styled_axes((9.0, 3.6), 1, 2)
    bottom = 0.0
    for size in footprint.models_bytes:
        memory.bar(0, size / 1e6, bottom=bottom / 1e6, color=LIGHT.series[1], edgecolor=LIGHT.background, width=0.6)
        bottom += size
    memory.bar(1, (footprint.supernet_bytes + footprint.statistics_bytes) / 1e6, color=LIGHT.series[0], width=0.6)
    memory.set_xticks([0, 1], ["six models", "one supernet"], color=LIGHT.ink)
    memory.set_ylabel("memory, MB", color=LIGHT.ink)
    accuracies = [subnet.accuracy for subnet in lab.profile.subnets]
    rates.plot(accuracies, sustained, "o-", color=LIGHT.series[0])
    rates.set_ylim(0)
    rates.set_xlabel("accuracy of the subnet, %", color=LIGHT.ink)
    rates.set_ylabel(f"requests/s on {lab.workers} workers", color=LIGHT.ink)
    return lab.keep("E9", figure)


def _sustained(lab: Lab, workers: int, subnet: int) -> float:
    """The highest tried rate at which one subnet attains enough; 0 if none."""
    full_rate = capacity(lab, workers, subnet)
    best = 0.0
    for share in SHARES:
        source = Steady(share * full_rate, 0.0, lab.seconds(SECONDS))
        served = lab.scenario_on(source, workers).row(f"fixed:{lab.profile.subnets[subnet].id}", 0)
        if served.slo_attainment >= ATTAINED:
            best = share * full_rate
    return best
