"""What the local pool costs around a model: start-up, round trip; and what the workers' malloc settings are worth.

Run: ``python benchmarks/worker_pool.py [--model digits] [--samples 40] [--json FILE]``.
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from side_by_side import table, write
from superserve.clock import NS_PER_MS, NS_PER_US, MonotonicClock, monotonic_ns
from superserve.model_folder import ModelFolder
from superserve.profiler.probe import Probe
from superserve.serving import worker_environment
from superserve.serving.choice import choose_engine
from superserve.serving.cores import available_cores, pinned, plan_cores
from superserve.serving.devices import workers_for
from superserve.serving.local_pool import LocalPool
from superserve.serving.pool import Batch

#: Asked for before anything is pinned: whoever is pinned sees one core only.
CORES = plan_cores(available_cores(), 1)


async def start(folder: ModelFolder, device: str, malloc: dict[str, str]) -> tuple[LocalPool, Probe, int]:
    """A pool of one worker with these malloc settings, and the time it took to start."""
    before = dict(worker_environment.MALLOC_ENVIRONMENT)
    worker_environment.MALLOC_ENVIRONMENT.clear()
    worker_environment.MALLOC_ENVIRONMENT.update(malloc)
    clock = MonotonicClock(asyncio.get_running_loop())
    pool = LocalPool([workers_for(folder, choose_engine(folder, device))], CORES.workers, clock)
    probe = Probe(pool, clock)
    began_ns = monotonic_ns()
    await probe.start()
    worker_environment.MALLOC_ENVIRONMENT.update(before)
    return pool, probe, monotonic_ns() - began_ns


def start_split(name: str, pool: LocalPool, took_ns: int) -> dict[str, Any]:
    """Where the time of a start went."""
    load_ns, warm_ns = pool.engines[0].load_ns, pool.engines[0].warm_ns
    split = {
        "interpreter_ms": (took_ns - load_ns - warm_ns) / NS_PER_MS,
        "torch_and_model_ms": load_ns / NS_PER_MS,
        "warm_up_ms": warm_ns / NS_PER_MS,
    }
    print(f"start, {name}: " + ", ".join(f"{key} {value:.0f}" for key, value in split.items()))
    return {"title": f"start, {name}", "rows": split}


async def malloc_effect(folder: ModelFolder, samples: int) -> list[dict[str, Any]]:
    """Full batches of every subnet with glibc's own settings and with ours, in turns."""
    settings: dict[str, dict[str, str]] = {"glibc's": {}, "ours": dict(worker_environment.MALLOC_ENVIRONMENT)}
    started = {name: await start(folder, "cpu", malloc) for name, malloc in settings.items()}
    tables = [start_split(name, pool, took_ns) for name, (pool, _, took_ns) in started.items()]
    size = folder.config.max_batch_size
    for subnet in range(len(folder.front.subnets)):
        times: dict[str, list[float]] = {name: [] for name in settings}
        for _ in range(samples):
            for name, (_, probe, _) in started.items():
                times[name].append((await probe.run(batch(folder, subnet, size))).infer_ns / NS_PER_US)
        tables.append(table(f"subnet {subnet}, batch {size}", times))
    for pool, _, _ in started.values():
        await pool.stop()
    return tables


async def round_trip(folder: ModelFolder) -> list[dict[str, Any]]:
    """What the pool adds to a batch, on an emulated device: sockets, slots, and waking up; and how well that sleeps."""
    pool, probe, took_ns = await start(folder, "emulated:r-profile", {})
    tables = [start_split("emulated", pool, took_ns)]
    for rows in (1, 16):
        trips = [await probe.run(batch(folder, 0, rows)) for _ in range(400)]
        wanted_ns = {1: 1_410_000, 16: 7_350_000}[rows]
        times = {
            "round trip less inference": [(trip.round_trip_ns - trip.infer_ns) / NS_PER_US for trip in trips],
            "emulated inference less profile": [(trip.infer_ns - wanted_ns) / NS_PER_US for trip in trips],
        }
        tables.append(table(f"batch {rows}", times))
        for name, values in times.items():
            print(f"  {name}: p5 {np.quantile(values, 0.05):.1f}, p95 {np.quantile(values, 0.95):.1f} us")
    await pool.stop()
    return tables


def batch(folder: ModelFolder, subnet: int, rows: int) -> Batch:
    """Rows of zeros."""
    return Batch(subnet, rows, [[bytes(tensor.row_bytes) for tensor in folder.config.inputs]] * rows)


async def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits", help="bundled model or folder")
    parser.add_argument("--samples", type=int, default=40, help="batches per subnet and setting")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables as JSON")
    args = parser.parse_args()
    folder = ModelFolder.resolve(args.model)
    write(args.json, [*await malloc_effect(folder, args.samples), *await round_trip(folder)])


if __name__ == "__main__":
    with pinned(CORES.router):
        asyncio.run(main())
