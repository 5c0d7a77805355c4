"""Ten times too much, for half a minute: what the server promises to keep then, and whether it does.

Four emulated workers that carry 300 requests/s at the fastest subnet get a calm load, ten times what they can do, and
the calm load again, over HTTP. Prints each promise with what was measured, and writes them as JSON with a figure.

Run: ``python benchmarks/overload.py [--seconds N] [--json FILE] [--figure FILE]``, or ``make bench-overload``. It
wants the machine to itself for a minute.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import psutil
from prometheus_client.samples import Sample

from chaos.promises import Promise
from superserve.clock import NS_PER_S
from superserve.engine import EngineChoice
from superserve.experiments.live import LiveSetup, replay_to
from superserve.experiments.observed import metrics_of
from superserve.experiments.server_process import running_server
from superserve.metrics import RunLog
from superserve.model_folder import write_json
from superserve.plots import NamedRun, dynamics_figure, figure_bytes
from superserve.profile import Profile
from superserve.request import Outcome
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.emulated import ENGINE_NAME as EMULATED
from superserve.traces.arrivals import gamma
from superserve.traces.trace import Trace

WORKERS: Final = 4
#: R-PROFILE up to batches of four, so much slower: 300 requests/s are all that four workers can do.
SLOWER: Final = 20.0
LARGEST_BATCH: Final = 4
SLO_MS: Final = 250.0
CALM: Final = 120.0
OVERLOAD: Final = 3000.0
CALM_S: Final = 6.0
#: From the end of the overload on, normal service has to be back after this.
RECOVERY_S: Final = 1.0

LEAST_ATTAINED: Final = 0.99
MOST_REFUSAL_S: Final = 0.005
MOST_LATENESS: Final = 0.10
MOST_GROWTH_MB: Final = 64.0
#: Per cent that the accuracy afterwards may lie below that before.
MOST_LOST_ACCURACY: Final = 0.5

_LOOK_S: Final = 0.25


class Seen(NamedTuple):
    """A run, as the client, the operating system and the server's own metrics tell it."""

    log: RunLog
    overload_s: tuple[float, float]
    """From when to when."""
    p99_lateness_ms: float
    rows_run: float
    answered: float
    refusals: float
    refused_in_time: float
    """Refusals within `MOST_REFUSAL_S` of being certain."""
    resident_mb: list[float]


def promises(seen: Seen) -> list[Promise]:
    """All of them, with what was seen."""
    log = seen.log
    served, rejected = log.is_outcome(Outcome.SERVED), log.is_outcome(Outcome.REJECTED)
    at_s = log.arrival_ns / NS_PER_S
    begin_s, end_s = seen.overload_s
    during, before = (at_s >= begin_s) & (at_s < end_s), at_s < begin_s
    after = at_s >= end_s + RECOVERY_S
    span_s, count = end_s - begin_s, int((~rejected).sum())
    admitted, recovered = _mean(served[~rejected]), _mean(served[after])
    accuracy_before, accuracy_after = _mean(log.accuracy[before & served]), _mean(log.accuracy[after & served])
    prompt = seen.refused_in_time / seen.refusals if seen.refusals else 1.0
    first_mb, most_mb = seen.resident_mb[0], max(seen.resident_mb)
    lateness = seen.p99_lateness_ms / SLO_MS
    return [
        Promise(
            "ten times too much was offered",
            f"{during.sum() / span_s:,.0f} requests/s, {served[during].sum() / span_s:,.0f} served",
            bool(during.sum() / span_s > 0.95 * OVERLOAD),
        ),
        Promise(
            "the generator was on time",
            f"send lateness p99 {seen.p99_lateness_ms:.2f} ms, {lateness:.1%} of the SLO",
            lateness < MOST_LATENESS,
        ),
        Promise(
            "nothing was run that had expired",
            f"{seen.rows_run:,.0f} rows run, {seen.answered:,.0f} requests of one row answered",
            seen.rows_run == seen.answered,
        ),
        Promise(
            "refusals were told within 5 ms (p99)",
            f"{prompt:.2%} of {seen.refusals:,.0f} within {MOST_REFUSAL_S * 1000:g} ms of being certain",
            prompt >= 0.99,
        ),
        Promise(
            "the admitted were served", f"{admitted:.4f} of {count:,} admitted in time", admitted >= LEAST_ATTAINED
        ),
        Promise(
            "memory was bounded",
            f"router {first_mb:.0f} MB before, at most {most_mb:.0f} MB",
            most_mb - first_mb <= MOST_GROWTH_MB,
        ),
        Promise(
            "service was normal a second later",
            f"{recovered:.4f} in time at {accuracy_after:.2f} % (before: {accuracy_before:.2f} %)",
            recovered >= LEAST_ATTAINED and accuracy_after >= accuracy_before - MOST_LOST_ACCURACY,
        ),
    ]


def _mean(values: npt.NDArray[np.generic]) -> float:
    return float(values.mean()) if len(values) else 0.0


def slow_profile() -> Profile:
    """What the workers take."""
    profile = Profile.load("r-profile")
    sizes = [size for size in profile.batches if size <= LARGEST_BATCH]

    def slower(row: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(SLOWER * value for value in row[: len(sizes)])

    subnets = tuple(
        msgspec.structs.replace(
            each, p50_us=slower(each.p50_us), p95_us=slower(each.p95_us), p99_us=slower(each.p99_us), quiet_p50_us=()
        )
        for each in profile.subnets
    )
    return msgspec.structs.replace(profile, batches=tuple(sizes), subnets=subnets)


def arrivals(overload_s: float) -> Trace:
    """Calm, far too much, calm again."""
    rng = np.random.default_rng(0)
    parts, start_s = [], 0.0
    for rate, seconds in ((CALM, CALM_S), (OVERLOAD, overload_s), (CALM, CALM_S)):
        parts.append(gamma(rate, 1.0, seconds, rng).arrival_ns + round(start_s * NS_PER_S))
        start_s += seconds
    return Trace(f"overload-{OVERLOAD:g}", np.concatenate(parts))


async def measure(overload_s: float) -> Seen:
    """Run it."""
    with tempfile.TemporaryDirectory(prefix="superserve-overload-") as folder:
        scratch = Path(folder)
        trace, profile = arrivals(overload_s), slow_profile()
        trace.save(scratch / "trace.npz")
        write_json(scratch / "profile.json", profile)
        setup = LiveSetup(
            model="digits",
            choice=EngineChoice(f"emulated:{scratch / 'profile.json'}", EMULATED, "none"),
            workers=WORKERS,
            trace_name=trace.name,
            trace_file=scratch / "trace.npz",
            slo_ms=SLO_MS,
            seed=0,
            profile_file=None,
            subnet_ids=tuple(subnet.id for subnet in profile.subnets),
            scratch=scratch,
        )
        async with running_server(
            setup.model,
            policy=DEFAULT_POLICY,
            workers=WORKERS,
            choice=setup.choice,
            profile=None,
            log=scratch / "server.log",
        ) as server:
            resident: list[float] = []
            watching = asyncio.create_task(_watch_memory(server.pid, resident))
            result, _ = await replay_to(setup, server, "overload", lambda _: None)
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            told = await metrics_of(server.metrics)
    return Seen(
        log=result.log,
        overload_s=(CALM_S, CALM_S + overload_s),
        p99_lateness_ms=result.p99_lateness_ms,
        rows_run=_sum(told, "superserve_batch_size_sum"),
        answered=_sum(told, "superserve_requests_total", "outcome", "served", "late"),
        refusals=_sum(told, "superserve_refusal_duration_seconds_count"),
        refused_in_time=_sum(told, "superserve_refusal_duration_seconds_bucket", "le", str(MOST_REFUSAL_S)),
        resident_mb=resident,
    )


async def _watch_memory(pid: int, resident_mb: list[float]) -> None:
    process = psutil.Process(pid)
    while True:
        resident_mb.append(process.memory_info().rss / 1e6)
        await asyncio.sleep(_LOOK_S)


def _sum(told: Sequence[Sample], name: str, label: str = "", *values: str) -> float:
    """Of the samples of a name, or of those whose label has one of the values."""
    return sum(each.value for each in told if each.name == name and (not values or each.labels[label] in values))


def main() -> int:
    """Measure, print, write; the exit status is 1 if a promise was broken."""
    options = _options()
    seen = asyncio.run(measure(options.seconds))
    found = promises(seen)
    for promise in found:
        print(f"{'kept  ' if promise.kept else 'BROKEN'}  {promise.words}: {promise.seen}")
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode({"promises": found})) + b"\n")
    if options.figure is not None:
        figure = dynamics_figure([NamedRun(DEFAULT_POLICY, seen.log, 0)], title="Ten times too much, for half a minute")
        options.figure.write_bytes(figure_bytes(figure, "png"))
    return 0 if all(promise.kept for promise in found) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the overload")
    parser.add_argument("--json", type=Path, default=None, help="where the promises go")
    parser.add_argument("--figure", type=Path, default=None, help="where attainment and accuracy over time go (PNG)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
