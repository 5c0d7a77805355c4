"""What a worker on Ray costs over one of this machine, and how it compares with Ray Serve; all in one run.

Run: ``make bench-ray`` (five minutes; wants the machine to itself). By hand, in an environment with the extra ``ray``
and with ``benchmarks`` in PYTHONPATH: ``python benchmarks/ray_pool.py [--quick] [--json FILE]``.

Two parts. Batches: what each pool adds to a no-op batch, on an idle machine, router and workers on both cores. Servers:
requests per second of the local pool, the Ray pool (both behind SuperServe's front end) and Ray Serve with its own
batching, every server with all of its processes on the first core and the generator on the last one (as in
``make bench-peers``, whose servers and generator these are).
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np
import psutil

from peers.catalog import OURS, OURS_RAY, PEERS
from peers.jobs import JOBS, NOOP, OUTPUT_NAME, OUTPUT_VALUES
from peers.measure import FULL, QUICK, Plan, paused, saturations
from superserve.clock import NS_PER_MS, NS_PER_US, Clock, MonotonicClock
from superserve.frontend.server import MakePool, pool_of
from superserve.model_folder import TensorSpec, write_json
from superserve.profiler.probe import Probe
from superserve.serving.config import WorkerSettings
from superserve.serving.cores import available_cores, pinned
from superserve.serving.ipc import WorkerSpec
from superserve.serving.pool import Batch, WorkerPool

LOCAL: Final = "local"
RAY: Final = "ray"
ROWS: Final = (1, 16, 64)
#: 3, 48 and 192 KB: the last is more than Ray sends along with a call.
SPEC: Final = WorkerSpec(
    engine="peers.servers.noop_engine:create_engine",
    options={},
    inputs=(TensorSpec(NOOP.input_name, "UINT8", (-1, *NOOP.row_shape)),),
    outputs=(TensorSpec(OUTPUT_NAME, "FP32", (-1, OUTPUT_VALUES)),),
    max_rows=ROWS[-1],
    warm_batches=ROWS,
)
#: Samples of one pool before the other has its turn, and how often that happens.
_TURN: Final = 20
#: Of all processors together.
_CALM_PERCENT: Final = 15.0
_MOST_WAITS: Final = 30
_STORE_BYTES: Final = 100 << 20


class Added(msgspec.Struct):
    """Round trip less the time in the worker of a batch of so many rows, microseconds, by pool."""

    rows: int
    p50_us: dict[str, float]
    p95_us: dict[str, float]


class Rates(msgspec.Struct):
    """Requests per second of a job, by server, one for each round; and per second of CPU time.

    The latter counts all processes that a server needs, those of Ray too: about what a core to itself would do, on a
    machine that has others to run.
    """

    job: str
    rates: dict[str, list[float]]
    per_cpu_s: dict[str, list[float]]


class Report(msgspec.Struct):
    """All figures."""

    added: list[Added]
    servers: list[Rates]


async def measure_batches(make_local: MakePool, make_ray: MakePool, turns: int) -> list[Added]:
    """Both pools, in turns."""
    clock = MonotonicClock(asyncio.get_running_loop())
    pools: dict[str, WorkerPool] = {LOCAL: make_local([SPEC], clock), RAY: make_ray([SPEC], clock)}
    probes = {name: await _started(pool, clock) for name, pool in pools.items()}
    await _calm()
    found = []
    for rows in ROWS:
        batch = Batch(0, rows, [[bytes(NOOP.row())] * 1] * rows)
        times: dict[str, list[float]] = {name: [] for name in probes}
        for turn in range(turns + 1):
            for name, probe in probes.items():
                trips = [await probe.run(batch) for _ in range(_TURN)]
                if turn:
                    times[name] += [(trip.round_trip_ns - trip.infer_ns) / NS_PER_US for trip in trips]
        quantiles = [
            {name: float(np.quantile(values, level)) for name, values in times.items()} for level in (0.5, 0.95)
        ]
        found.append(Added(rows, *quantiles))
        print(
            f"a batch of {rows}: " + ", ".join(f"{name} {us:.0f} us" for name, us in quantiles[0].items()), flush=True
        )
    for pool in pools.values():
        await pool.stop()
    return found


async def _calm() -> None:
    """Until what Ray has started is through with starting."""
    for _ in range(_MOST_WAITS):
        psutil.cpu_percent()
        await asyncio.sleep(1)
        if psutil.cpu_percent() < _CALM_PERCENT:
            return
    print("this machine does not come to rest: the figures are of a busy one")


async def _started(pool: WorkerPool, clock: Clock) -> Probe:
    probe = Probe(pool, clock)
    await probe.start()
    return probe


def batches(plan: Plan) -> list[Added]:
    """The first part."""
    with (
        pool_of(WorkerSettings(count=1)) as local,
        pool_of(WorkerSettings(pool="ray", count=1)) as ray,
        pinned(available_cores()[0]),
    ):
        return asyncio.run(measure_batches(local, ray, 2 if plan.quick else 10))


@contextmanager
def one_cluster() -> Iterator[psutil.Process]:
    """A cluster for both that need one, on the first core when it has started; they find it through ``RAY_ADDRESS``.

    What is given are the parents of its processes: this one.
    """
    from ray.cluster_utils import Cluster  # noqa: PLC0415  (only for this part)

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 4, "object_store_memory": _STORE_BYTES, "include_dashboard": False},
    )
    for process in psutil.Process().children(recursive=True):
        for thread in process.threads():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread.id, {available_cores()[0]})
    os.environ["RAY_ADDRESS"] = str(cluster.address)
    try:
        yield psutil.Process()
    finally:
        del os.environ["RAY_ADDRESS"]
        cluster.shutdown()


def servers(plan: Plan) -> list[Rates]:
    """The second part."""
    measured = (OURS, OURS_RAY, PEERS["ray"])
    found = []
    with tempfile.TemporaryDirectory(prefix="ray-pool-") as folder:
        for job in (JOBS[name] for name in plan.jobs):
            # Ray Serve's controller outlives whoever started it: the next one would find it, with its port.
            with one_cluster() as parent, paused(measured, job, Path(folder)) as running:
                rates = saturations(running, plan, print, lambda _: _cpu_s(parent))
            by_name = dict(zip([peer.name for peer in measured], rates, strict=True))
            found.append(
                Rates(
                    job.title,
                    {name: one.rates for name, one in by_name.items()},
                    {name: one.per_cpu_s for name, one in by_name.items()},
                )
            )
    return found


def _cpu_s(parent: psutil.Process) -> float:
    """CPU time of all that this benchmark has started and that still runs: only one server has anything to do."""
    total = 0.0
    for process in parent.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def print_report(report: Report) -> None:
    """As tables in Markdown."""
    print("\n| batch | local, p50 (p95) | Ray, p50 (p95) | added p50 |\n|---|--:|--:|--:|")
    for one in report.added:
        cells = [f"{one.p50_us[name]:.0f} ({one.p95_us[name]:.0f}) µs" for name in (LOCAL, RAY)]
        added_ms = (one.p50_us[RAY] - one.p50_us[LOCAL]) * NS_PER_US / NS_PER_MS
        print(f"| {one.rows} rows | {' | '.join(cells)} | {added_ms:.2f} ms |")
    ours, on_ray, serve = OURS.name, OURS_RAY.name, PEERS["ray"].name
    print("\n| | local pool | Ray pool | Ray Serve | of local | of Ray Serve |\n|---|--:|--:|--:|--:|--:|")
    for job in report.servers:
        for what, figures in (("requests/s", job.rates), ("per second of CPU", job.per_cpu_s)):
            cells = [_spread(figures[name]) for name in (ours, on_ray, serve)]
            rays = median(figures[on_ray])
            ratios = f"{rays / median(figures[ours]):.2f} | {rays / median(figures[serve]):.0f}"
            print(f"| {job.job}, {what} | {' | '.join(cells)} | {ratios} |")


def _spread(rates: Sequence[float]) -> str:
    return f"{median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--part", choices=("batches", "servers"), help="only this one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="of the servers; default: both")
    args = parser.parse_args()
    plan = replace(QUICK if args.quick else FULL, jobs=tuple(args.jobs))
    report = Report(
        batches(plan) if args.part != "servers" else [],
        servers(plan) if args.part != "batches" else [],
    )
    print_report(report)
    if args.json is not None:
        write_json(args.json, report)


if __name__ == "__main__":
    main()
