"""Measure a profile: every cell, on a worker as it serves, while the router's core is as busy as in serving."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import uvloop

from superserve.clock import NS_PER_US, MonotonicClock
from superserve.conditions import Conditions, rounds_spread
from superserve.engine import EngineChoice
from superserve.model_folder import BYTES, ModelFolder, TensorSpec
from superserve.profile import Bucket, Device, Profile, SubnetProfile
from superserve.profiler.estimate import cell_quantiles
from superserve.profiler.plan import FULL, QUICK, Effort
from superserve.profiler.probe import Probe
from superserve.profiler.sampling import CellSamples, Progress, Report, Sampler
from superserve.profiler.store import THREADS
from superserve.profiler.surroundings import Surroundings
from superserve.profiler.texts import Texts, shorter_texts
from superserve.profiler.traffic import RouterTraffic
from superserve.serving.choice import choose_engine
from superserve.serving.cores import available_cores, pinned, plan_cores
from superserve.serving.devices import batch_grid, device_name, emulated_profile, workers_for
from superserve.serving.ipc import Ready
from superserve.serving.local_pool import LocalPool
from superserve.serving.points_ahead import require_points
from superserve.serving.pool import Batch
from superserve.serving.residency.pack_ahead import packed_subnets

#: Rows that batches are made of.
_EXAMPLES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A profile and how it came about."""

    profile: Profile
    """Without violations; `Profile.doubts` says whether the machine was quiet enough for it."""
    violations: Sequence[str]
    """Where the latencies as measured did not rise with batch size or accuracy, and were raised."""
    samples: Sequence[Sequence[int]]
    """Samples under load of each subnet at each batch size; of text models with the shortest texts first."""
    router_share: float
    """Share of the router's core that this process and its traffic took while traffic flowed, 0..1."""


def measure(
    folder: ModelFolder,
    *,
    quick: bool = False,
    choice: EngineChoice | None = None,
    seed: int = 0,
    report: Report | None = None,
    effort: Effort | None = None,
) -> Measurement:
    """Measure the profile of a model on this machine.

    Starts one worker exactly as `serve` does, on its own core, and router-like traffic on the router's core. Cells are
    visited in rounds, in random order; quiet rounds take turns with loaded ones. The cells of a text model are those of
    each length that it pads to: the time is the same, the samples of each cell are fewer.

    Args:
        folder: the model.
        quick: about 10 s for a small model, instead of about 75.
        choice: what the worker runs, by default what `choose_engine` says; an emulated device gives back the profile
            that it was made from.
        seed: of the order of samples, the input data and the traffic.
        report: told of progress, in the calling thread, before the first and after every sample.
        effort: overrides ``quick``.

    Raises:
        UsageError: for a device, folder or profile that cannot be used, or an engine that loses accuracy.
        WorkerError: if a process fails.
    """
    work = measure_async(folder, quick=quick, choice=choice, seed=seed, report=report, effort=effort)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def measure_async(
    folder: ModelFolder,
    *,
    quick: bool = False,
    choice: EngineChoice | None = None,
    seed: int = 0,
    report: Report | None = None,
    effort: Effort | None = None,
) -> Measurement:
    """`measure` inside a running event loop, whose thread it pins to the router's core meanwhile."""
    report = report or (lambda _: None)
    choice = choice or choose_engine(folder)
    await asyncio.to_thread(require_points, folder, choice)
    # A process that has inherited its engine pays page faults once more, in each cell's first run.
    resident = await asyncio.to_thread(packed_subnets, folder, choice)
    spec = msgspec.structs.replace(workers_for(folder, choice, seed), inheritable=False, resident=resident)
    batches, accuracies = _table_axes(folder, choice.device)
    plan = plan_cores(available_cores(), 1)
    clock = MonotonicClock(asyncio.get_running_loop())
    pool = LocalPool([spec], plan.workers, clock)
    probe, traffic = Probe(pool, clock), RouterTraffic(plan.router, seed)
    rng = np.random.default_rng(seed)
    shorter = [] if emulated_profile(choice.device) is not None else shorter_texts(folder, spec.inputs)
    report(Progress("start", 0, 1))
    with pinned(plan.router):
        try:
            await traffic.start()
            await probe.start()
            report(Progress("start", 1, 1))
            examples = [[texts.row] for texts in shorter] + [example_rows(folder, spec.inputs, rng)]
            cells = [
                Batch(subnet, size, [rows[row % len(rows)] for row in range(size)])
                for rows in examples
                for subnet in range(len(pool.engines[0].subnet_ids))
                for size in batches
            ]
            sampler = Sampler(probe, traffic, clock=clock, cells=cells, rng=rng, report=report)
            helpers = [] if traffic.pid is None else [traffic.pid]
            surroundings = Surroundings(clock, {plan.router, *plan.workers}, pool.pids[0], helpers)
            samples = await sampler.run(effort or (QUICK if quick else FULL))
            conditions = surroundings.conditions(rounds_spread(samples.rounds))
        finally:
            traffic.stop()
            await pool.stop()
    device = _device(pool.engines[0], choice.device)
    measured = build_profile(
        samples, device, folder.model_hash, batches, accuracies, shorter=shorter, conditions=conditions
    )
    counts = [len(cell) for cell in samples.loaded]
    width = len(batches)
    return Measurement(
        profile=measured.repaired(),
        violations=measured.violations(),
        samples=[counts[start : start + width] for start in range(0, len(counts), width)],
        router_share=traffic.measured_share,
    )


def build_profile(
    samples: CellSamples,
    device: Device,
    model_hash: str,
    batches: tuple[int, ...],
    accuracies: Mapping[str, float],
    *,
    shorter: Sequence[Texts] = (),
    conditions: Conditions | None = None,
) -> Profile:
    """The profile that samples amount to, as measured: with violations, if there are any.

    Args:
        samples: cells in the order of ``accuracies``, and within a subnet in that of ``batches``; first with texts of
            each of the ``shorter`` lengths.
        device: where they were taken.
        model_hash: of the model folder.
        batches: the batch sizes.
        accuracies: accuracy by subnet id, in front order.
        shorter: texts that were measured beside the longest.
        conditions: what else the machine did meanwhile.
    """
    quantiles_us = cell_quantiles([np.array(cell) / NS_PER_US for cell in samples.loaded]).round(1)
    quiet_us = [round(float(np.median(cell)) / NS_PER_US, 1) for cell in samples.quiet]
    timed = samples.device if all(samples.device) else []
    device_us = [round(float(np.median(cell)) / NS_PER_US, 1) for cell in timed]
    width = len(batches)

    def subnets(bucket: int) -> tuple[SubnetProfile, ...]:
        starts = range(bucket * len(accuracies) * width, (bucket + 1) * len(accuracies) * width, width)
        return tuple(
            SubnetProfile(
                id=name,
                accuracy=accuracy,
                p50_us=tuple(quantiles_us[start : start + width, 0].tolist()),
                p95_us=tuple(quantiles_us[start : start + width, 1].tolist()),
                p99_us=tuple(quantiles_us[start : start + width, 2].tolist()),
                quiet_p50_us=tuple(quiet_us[start : start + width]),
                device_p50_us=tuple(device_us[start : start + width]),
            )
            for start, (name, accuracy) in zip(starts, accuracies.items(), strict=True)
        )

    return Profile(
        device=device,
        model_hash=model_hash,
        batches=batches,
        dispatch_overhead_us=round(float(np.quantile(samples.overhead, 0.95)) / NS_PER_US, 1),
        dispatch_overhead_mean_us=round(float(np.mean(samples.overhead)) / NS_PER_US, 1),
        dispatch_overhead_p99_us=round(float(np.quantile(samples.overhead, 0.99)) / NS_PER_US, 1),
        subnets=subnets(len(shorter)),
        shorter=tuple(
            Bucket(length=texts.length, share=texts.share, subnets=subnets(bucket))
            for bucket, texts in enumerate(shorter)
        ),
        conditions=conditions,
    )


def example_rows(folder: ModelFolder, inputs: Sequence[TensorSpec], rng: np.random.Generator) -> list[list[bytes]]:
    """Rows to measure with, each as the bytes of its tensors: bundled test data if it fits, else random numbers.

    Texts take the longer the longer they are: these are the longest, and `shorter_texts` makes the others.
    """
    if any(tensor.datatype == BYTES for tensor in inputs):
        arrays = [tensor.longest(_EXAMPLES) for tensor in inputs]
    else:
        arrays = folder.example_inputs(_EXAMPLES, rng, inputs)
    return [[np.ascontiguousarray(array[row]).tobytes() for array in arrays] for row in range(len(arrays[0]))]


def _table_axes(folder: ModelFolder, device: str) -> tuple[tuple[int, ...], dict[str, float]]:
    """Batch sizes, and accuracy by subnet id."""
    source = emulated_profile(device)
    if source is None:
        accuracies = {record.id: record.accuracy for record in folder.front.subnets}
        return batch_grid(folder.config.max_batch_size), accuracies
    profile = Profile.load(source)
    return profile.batches, {subnet.id: subnet.accuracy for subnet in profile.subnets}


def _device(engine: Ready, device: str) -> Device:
    source = emulated_profile(device)
    return Device(
        name=device_name(device) if source is None else f"emulated from {source}",
        kind=device if source is None else "fixture",
        threads=THREADS,
        engine=engine.engine,
        dtype=engine.dtype,
        torch=engine.torch,
        overlaps=engine.overlaps,
    )
