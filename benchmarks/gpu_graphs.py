"""CUDA graphs beside eager torch on a GPU: each subnet at each batch size, switching, images/s, and memory.

Wall time in the process that runs the batch, copies to and from the GPU included, interleaved; the GPU's own time is by
its events. Needs a GPU; what it runs is tried without one in tests/benchmarks/test_gpu_graphs.py.

Run: ``python benchmarks/gpu_graphs.py [--model digits] [--rounds 200] [--json FILE] [--page docs/gpu.md]``, or ``make
bench-gpu``. The exit status is 1 if a target is missed.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from superserve.clock import NS_PER_MS, NS_PER_S, NS_PER_US, monotonic_ns
from superserve.engine import IN_FLIGHT, Engine
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import EagerEngine, prepare_cuda
from superserve.supernet.graphs import GraphEngine
from superserve.supernet.graphs.cuda import CudaDevice
from superserve.supernet.hub import load_supernet

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
FASTER: Final = 2.0
ACTUATION_US: Final = 100.0

Rows = Sequence[np.ndarray[Any, Any]]


def time_us(work: Callable[[], object]) -> float:
    """What a call takes."""
    began_ns = monotonic_ns()
    work()
    return (monotonic_ns() - began_ns) / NS_PER_US


def cells(graphs: GraphEngine, eager: Engine, batches: Sequence[Rows], rounds: int) -> list[dict[str, Any]]:
    """A row for each subnet and batch: medians of both engines in turns, and of the GPU's own time."""
    rows = []
    for subnet, name in enumerate(graphs.subnet_ids):
        for batch in batches:
            times: dict[str, list[float]] = {"eager_us": [], "graphs_us": [], "device_us": []}
            for number in range(rounds + 3):
                eager_us = time_us(lambda: eager.run(subnet, batch))  # noqa: B023  (called at once)
                graphs_us = time_us(lambda: graphs.run(subnet, batch))  # noqa: B023
                if number >= 3:
                    for key, value in zip(times, (eager_us, graphs_us, graphs.device_ns / NS_PER_US), strict=True):
                        times[key].append(value)
            medians = {key: round(statistics.median(values), 1) for key, values in times.items()}
            rows.append({"subnet": name, "batch": len(batch[0]), **medians})
    return rows


def actuation_us(engine: Engine, batch: Rows, rounds: int) -> float:
    """What the smallest subnet takes longer right after the largest one than after itself, as a median."""
    largest = len(engine.subnet_ids) - 1
    again, switched = [], []
    for _ in range(rounds):
        engine.run(0, batch)
        again.append(time_us(lambda: engine.run(0, batch)))
        engine.run(largest, batch)
        switched.append(time_us(lambda: engine.run(0, batch)))
    return round(statistics.median(switched) - statistics.median(again), 1)


def rates(engine: GraphEngine, batches: Sequence[Rows], seconds: float) -> list[dict[str, Any]]:
    """A row for each subnet and batch: rows a second, one batch after the other, and with two in flight."""

    def alone(subnet: int, batch: Rows) -> None:
        engine.run(subnet, batch)

    def overlapped(subnet: int, batch: Rows) -> None:
        engine.submit(subnet, batch)
        engine.collect()  # of the one before: one stays in flight

    rows = []
    for subnet, name in enumerate(engine.subnet_ids):
        for batch in batches:
            row: dict[str, Any] = {"subnet": name, "batch": len(batch[0])}
            row["alone"] = _rate(alone, subnet, batch, seconds)
            for _ in range(IN_FLIGHT - 1):
                engine.submit(subnet, batch)
            row["overlapped"] = _rate(overlapped, subnet, batch, seconds)
            for _ in range(IN_FLIGHT - 1):
                engine.collect()
            rows.append(row)
    return rows


def _rate(run: Callable[[int, Rows], None], subnet: int, batch: Rows, seconds: float) -> float:
    began_ns = monotonic_ns()
    count = 0
    while (taken_ns := monotonic_ns() - began_ns) < seconds * NS_PER_S or not count:
        run(subnet, batch)
        count += 1
    return round(count * len(batch[0]) * NS_PER_S / taken_ns, 1)


def capture_all(engine: GraphEngine, batches: Sequence[Rows]) -> dict[str, Any]:
    """Give every cell a graph; how many there are, and how long one took."""
    for subnet in range(len(engine.subnet_ids)):
        for batch in batches:
            engine.run(subnet, batch)
    times = []
    more = True
    while more:
        began_ns = monotonic_ns()
        more = engine.spare(None)
        if more:
            times.append((monotonic_ns() - began_ns) / NS_PER_MS)
    held = len(engine.holdings.held)
    return {
        "graphs": held,
        "eager": len(engine.holdings.refused),
        "capture_ms": round(statistics.median(times), 1),
        "pool_bytes": engine.holdings.pool_bytes,
    }


def targets(found: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """What was aimed at, what was reached, and whether that is enough."""
    ratios = {row["subnet"]: row["eager_us"] / row["graphs_us"] for row in found["cells"] if row["batch"] == 1}
    reached = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
    yield f"a graph at least {FASTER:g} times as fast as eager at batch 1", reached, min(ratios.values()) >= FASTER
    taken_us = found["actuation_us"]
    yield f"to actuate another subnet takes at most {ACTUATION_US:g} us", f"{taken_us:g} us", taken_us <= ACTUATION_US


def figures(found: dict[str, Any]) -> Iterator[str]:
    """The results as lines of Markdown: where, each target beside what was reached, memory, and every cell."""
    memory = found["memory"]
    yield (
        f"`{found['model']}` on {found['device']}, {found['device_bytes'] / 2**30:.0f} GiB, torch {found['torch']}; "
        f"medians of {found['rounds']} rounds in turns."
    )
    yield from ("", "| target | reached | met |", "|---|---|---|")
    for target, reached, met in targets(found):
        yield f"| {target} | {reached} | {'yes' if met else 'no'} |"
    yield ""
    yield (
        f"The weights take {memory['weight_bytes'] / 2**20:.1f} MiB, once. {memory['graphs']} graphs were captured, in "
        f"{memory['capture_ms']:g} ms each, {memory['eager']} cells stayed eager; the pool that they share has "
        f"{memory['pool_bytes'] / 2**20:.1f} MiB, and all of it together took {memory['taken_bytes'] / 2**20:.1f} MiB."
    )
    yield ""
    yield "| subnet | batch | eager, us | graph, us | of it on the GPU | eager / graph | rows/s | with two in flight |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for cell, rate in zip(found["cells"], found["rates"], strict=True):
        yield (
            f"| {cell['subnet']} | {cell['batch']} | {cell['eager_us']:.0f} | {cell['graphs_us']:.0f} | "
            f"{cell['device_us']:.0f} | {cell['eager_us'] / cell['graphs_us']:.2f} | {rate['alone']:,.0f} | "
            f"{rate['overlapped']:,.0f} |"
        )


def page(found: dict[str, Any]) -> str:
    """The results as a page."""
    return "\n".join(["# CUDA graphs on a GPU", "", "Written by `make bench-gpu`.", "", *figures(found), ""])


def batches_of(examples: Rows, sizes: Sequence[int] = BATCHES) -> list[Rows]:
    """A batch of each size, made of examples."""
    return [[np.resize(array, (rows, *array.shape[1:])) for array in examples] for rows in sizes]


def compare(graphs: GraphEngine, eager: Engine, batches: Sequence[Rows], rounds: int, seconds: float) -> dict[str, Any]:
    """What two engines of one model take, whatever their device; all cells have graphs."""
    return {
        "rounds": rounds,
        "cells": cells(graphs, eager, batches, rounds),
        "actuation_us": actuation_us(graphs, batches[0], rounds),
        "rates": rates(graphs, batches, seconds),
    }


def measure(folder: ModelFolder, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure a model on this machine's GPU, in a process in which nothing else is on it.

    Raises:
        ConfigError: without a GPU that torch can use.
    """
    prepare_cuda()
    batches = batches_of(folder.example_inputs(BATCHES[-1], np.random.default_rng(0)))
    supernet = load_supernet(folder).to("cuda")
    free_before, device_bytes = torch.cuda.mem_get_info()
    graphs = GraphEngine(supernet, CudaDevice(), batches=BATCHES)
    memory = capture_all(graphs, batches)
    memory["weight_bytes"] = sum(weight.nbytes for weight in supernet.network.parameters())
    memory["taken_bytes"] = free_before - torch.cuda.mem_get_info()[0]
    return {
        "model": folder.config.name,
        "device": torch.cuda.get_device_name(),
        "device_bytes": device_bytes,
        "torch": torch.__version__,
        "memory": memory,
        **compare(graphs, EagerEngine(load_supernet(folder), device="cuda"), batches, rounds, seconds),
    }


def main() -> int:
    """Measure on this machine's GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits", help="bundled model or folder")
    parser.add_argument("--rounds", type=int, default=200, help="samples of each cell")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each rate")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write them as Markdown")
    args = parser.parse_args()
    found = measure(ModelFolder.resolve(args.model), args.rounds, args.seconds)
    text = page(found)
    print(text)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    if args.page is not None:
        args.page.write_text(text)
    return 0 if all(met for _, _, met in targets(found)) else 1


if __name__ == "__main__":
    sys.exit(main())
