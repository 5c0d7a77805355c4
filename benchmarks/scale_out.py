"""Until new workers are there: a load that grows fourfold, on an elastic model and on its largest subnet alone.

Both scale in the same way, and get the same workers at the same instant, as long after the load has grown as machines
take to start. What differs is the time in between: the elastic model has given up accuracy instead of requests. It is
simulated, on the server's own scheduler with the paper's profile.

Run: ``python benchmarks/scale_out.py [--json FILE] [--figure FILE]``, or ``make scale-out`` (half a minute).
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from superserve.clock import NS_PER_S
from superserve.metrics import RunLog
from superserve.plots import NamedRun, dynamics_figure, figure_bytes
from superserve.profile import LatencyTable, Profile
from superserve.request import Outcome
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.simulator.conditions import Conditions, WorkerEvent
from superserve.simulator.simulator import simulate
from superserve.traces.arrivals import poisson
from superserve.traces.trace import Trace

POLICIES: Final = (DEFAULT_POLICY, "fixed:largest")
SLO_MS: Final = 100.0
WORKERS: Final = 2
#: Of what the workers can do with the largest subnet alone.
CALM: Final = 0.5
GROWN: Final = 4.0
#: Of that, what new workers are to leave.
TARGET: Final = 0.7

CALM_S: Final = 10.0
GROWN_S: Final = 50.0
#: From the growth of the load on: to notice it, and for machines and models to be there.
START_S: Final = 30.0


class Part(NamedTuple):
    """What came of the requests of a span of time; accuracy in per cent, of answers in time."""

    policy: str
    span: str
    offered: int
    slo_attainment: float
    accuracy: float


def most_per_s(table: LatencyTable) -> float:
    """Requests of one row that a worker can do with the largest subnet in a second."""
    return max(rows / table.latency_ns[-1][rows] for rows in table.batches) * NS_PER_S


def scaled() -> int:
    """How many workers the grown load takes."""
    return math.ceil(WORKERS * CALM * GROWN / TARGET)


def load(table: LatencyTable) -> Trace:
    """Calm, and then four times as much."""
    rng = np.random.default_rng(0)
    calm = CALM * WORKERS * most_per_s(table)
    parts = poisson(calm, CALM_S, rng).arrival_ns, poisson(GROWN * calm, GROWN_S, rng).arrival_ns
    return Trace("scale-out", np.concatenate((parts[0], parts[1] + round(CALM_S * NS_PER_S))))


def runs() -> list[NamedRun]:
    """One of each policy."""
    profile = Profile.load("r-profile")
    table = LatencyTable(profile)
    trace = load(table)
    at_ns = round((CALM_S + START_S) * NS_PER_S)
    added = [WorkerEvent(at_ns, worker, alive=True) for worker in range(WORKERS, scaled())]
    conditions = Conditions(worker_events=added)
    return [
        NamedRun(
            policy,
            simulate(
                trace, profile, policy=policy, workers=WORKERS, slo_ms=SLO_MS, overhead_ms=1.0, conditions=conditions
            ),
            number,
        )
        for number, policy in enumerate(POLICIES)
    ]


def parts(policy: str, log: RunLog) -> list[Part]:
    """Before the load grows, until the workers are there, and from a second later on."""
    at_s = log.arrival_ns / NS_PER_S
    there_s = CALM_S + START_S
    spans = {
        "before": at_s < CALM_S,
        "until they are there": (at_s >= CALM_S) & (at_s < there_s),
        "from a second later on": at_s >= there_s + 1,
    }
    served = log.is_outcome(Outcome.SERVED)
    return [
        Part(policy, span, int(when.sum()), float(served[when].mean()), float(log.accuracy[when & served].mean()))
        for span, when in spans.items()
    ]


def table_of(found: Sequence[Part]) -> str:
    """For the documentation."""
    lines = ["| policy | when | offered | attainment | accuracy % |", "|---|---|---|---|---|"]
    lines += [
        f"| `{part.policy}` | {part.span} | {part.offered:,} | {part.slo_attainment:.4f} | {part.accuracy:.2f} |"
        for part in found
    ]
    return "\n".join(lines)


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, default=None, help="where the figures go")
    parser.add_argument("--figure", type=Path, default=None, help="where the course over time goes (PNG)")
    options = parser.parse_args()
    done = runs()
    found = [part for run in done for part in parts(run.name, run.log)]
    workers = scaled()
    print(f"{WORKERS} workers, {workers} from {START_S:g} s after the load has grown fourfold on; SLO {SLO_MS:g} ms\n")
    print(table_of(found))
    if options.json is not None:
        rows = [part._asdict() for part in found]
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode({"rows": rows})) + b"\n")
    if options.figure is not None:
        title = f"A fourfold load, {WORKERS} workers, and {workers} after {START_S:g} s (simulated)"
        options.figure.write_bytes(figure_bytes(dynamics_figure(done, title=title), "png"))


if __name__ == "__main__":
    main()
