"""Measure which lever of a model pays on this machine.

Imports torch: a process that only routes has no use for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superserve.errors import ConfigError
from superserve.levers import BATCH, CellCosts, LeverReport, LeverStep, Machine, Work, costs
from superserve.model_folder import ModelFolder
from superserve.neighbours import levers, step_down
from superserve.profile import Profile
from superserve.serving.cores import available_cores, pinned, plan_cores
from superserve.serving.devices import CPU
from superserve.subnet import SearchSpace, SubnetSpec
from superserve.supernet.engine import EagerEngine
from superserve.supernet.machine import measure_machine
from superserve.supernet.network import Supernet
from superserve.supernet.probes import LEAST_ROUNDS, Arrays, Examples, Probes, Report
from superserve.supernet.reduced import load_supernet_in
from superserve.supernet.work import count_work

#: Of wall time, for all probes; half of it to time them, half to try them on examples.
SECONDS: Final = 20.0

#: Rows that are timed, and that statistics come from, of slow models fewer: a few images have thousands of values per
#: channel, and what is compared is calibrated alike. Test data beyond them is for accuracy.
_ROWS: Final = (8, 64)


Samples = npt.NDArray[np.float64]


class _Step(NamedTuple):
    """From a subnet of the front to a neighbour."""

    base: str
    lever: str
    spec: SubnetSpec

    @property
    def name(self) -> str:
        """Of the neighbour."""
        return f"{self.base} less {self.lever}"


class _Plan(NamedTuple):
    """What is compared."""

    rows: int
    """To calibrate with."""
    bases: Mapping[str, SubnetSpec]
    steps: Sequence[_Step]
    sizes: Sequence[int]
    doubled: Sequence[int]
    """Those of ``sizes`` whose double is profiled as well."""

    @property
    def specs(self) -> dict[str, SubnetSpec]:
        """Every subnet that takes part."""
        return {**self.bases, **{step.name: step.spec for step in self.steps}}

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Every (subnet, rows) to time, once."""
        bases = [(base, rows) for base in self.bases for rows in (*self.sizes, *(2 * size for size in self.doubled))]
        return list(dict.fromkeys([*bases, *((step.name, size) for step in self.steps for size in self.sizes)]))


def measure_levers(
    folder: ModelFolder,
    profile: Profile,
    *,
    seconds: float = SECONDS,
    seed: int = 0,
    report: Report = lambda _done, _total, _what: None,
) -> LeverReport:
    """Say where the time of each cell of a profile goes, and what a step of each lever saves and loses.

    Steps are taken from the ends and the middle of the front, at one row and, where the time allows it, at half of the
    largest batch. They are timed on the eager engine in this process, on a worker's core and one thread, whatever
    engine the profile is of. What they lose is measured on the folder's test data, if it carries any: the first part of
    it, without labels, to calibrate all subnets that are compared alike, the rest to compare them on.

    Args:
        folder: the model.
        profile: of this machine.
        seconds: of wall time, for timing and trying the probes; each is run a few times, whatever that takes.
        seed: of the order of samples.
        report: called with (done, total, what is done).

    Raises:
        ConfigError: if the profile is not of a CPU.
        ModelFolderError: if the folder cannot be loaded.
    """
    if profile.device.kind != CPU:
        raise ConfigError(f"levers are measured on the CPU only, and this is a profile of {profile.device.kind!r}")
    rng = np.random.default_rng(seed)
    with pinned(plan_cores(available_cores(), 1).workers[0]):
        supernet = load_supernet_in(folder, profile.device.dtype)
        machine = measure_machine(profile.device.dtype)
        plan = _plan(supernet, profile, seconds)
        rows, examples = _rows(folder, plan.rows, rng)
        probes = Probes(supernet.network, folder.config, plan.specs, rows, dtype=profile.device.dtype, report=report)
        work = _work(supernet, profile.device.dtype, probes.batch(1))
        times = probes.time_us(plan.runs, seconds=seconds / 2, rng=rng, report=report)
        hits = {} if examples is None else probes.hits(examples, seconds=seconds / 2, report=report)
    return LeverReport(
        machine=machine,
        work=work,
        cells=tuple(_cells(profile, work, machine)),
        steps=tuple(_compared(plan, times, hits)),
        examples=len(next(iter(hits.values()), ())),
    )


def _plan(supernet: Supernet, profile: Profile, seconds: float) -> _Plan:
    """What there is time for, if every row took what one alone takes on the largest subnet: nothing takes longer."""
    records = supernet.front.subnets
    chosen = [records[index] for index in sorted({0, len(records) // 2, len(records) - 1})]
    bases = {record.id: record.spec for record in chosen}
    steps = _steps(supernet.network.space, bases)
    affordable = seconds / (profile.subnets[-1].p50_us[0] / 1e6 * (len(bases) + len(steps)))
    half, largest = max(1, profile.batches[-1] // 2), profile.batches[-1]
    sizes = sorted({1, half}) if affordable >= LEAST_ROUNDS * (1 + half) else [1]
    return _Plan(
        rows=int(np.clip(affordable, *_ROWS)),
        bases=bases,
        steps=steps,
        sizes=sizes,
        doubled=[size for size in sizes if 2 * size <= largest],
    )


def _steps(space: SearchSpace, bases: Mapping[str, SubnetSpec]) -> list[_Step]:
    """A neighbour per base and lever, where there is a smaller one."""
    steps = [
        _Step(base, lever, step_down(space, spec, lever)) for base, spec in bases.items() for lever in levers(space)
    ]
    return [step for step in steps if step.spec != bases[step.base]]


def _rows(folder: ModelFolder, count: int, rng: np.random.Generator) -> tuple[Arrays, Examples | None]:
    """Rows to calibrate and time with, and examples to compare on: other ones, if there are any."""
    if not folder.carries_test_data or len(folder.config.inputs) > 1:
        return folder.example_inputs(count, rng), None
    inputs, labels = folder.test_data()
    packed, first = folder.config.inputs[0].packed(inputs), min(count, len(labels) // 2)
    return [packed[:first]], Examples([packed[first:]], labels[first:])


def _work(supernet: Supernet, dtype: str, row: Arrays) -> dict[str, Work]:
    """What each subnet of the front asks of the machine."""
    engine, weights = EagerEngine(supernet, dtype), list(supernet.network.parameters())
    return {name: count_work(engine, index, row, weights) for index, name in enumerate(engine.subnet_ids)}


def _cells(profile: Profile, work: Mapping[str, Work], machine: Machine) -> Iterator[CellCosts]:
    for subnet in profile.subnets:
        taken_us = subnet.quiet_p50_us or subnet.p50_us
        yield from costs(subnet.id, profile.batches, taken_us, work[subnet.id], machine)


def _compared(
    plan: _Plan, times: Mapping[tuple[str, int], Samples], hits: Mapping[str, Samples]
) -> Iterator[LeverStep]:
    """Every step from every base at every size, ``times`` in microseconds per batch."""
    for base in plan.bases:
        for size in plan.sizes:
            row_us = times[base, size] / size
            if size in plan.doubled:
                yield _step((base, size, BATCH), row_us, times[base, 2 * size] / (2 * size), np.zeros(1))
            for step in plan.steps:
                if step.base == base:
                    lost = hits[base] - hits[step.name] if hits else None
                    yield _step((base, size, step.lever), row_us, times[step.name, size] / size, lost)


def _step(where: tuple[str, int, str], row_us: Samples, less_us: Samples, lost: Samples | None) -> LeverStep:
    """A step from pairs: times of a row before and after it, of each round; and what it gets wrong, of each example."""
    subnet, batch, lever = where
    saved = row_us - less_us
    middle = float(np.median(saved))
    return LeverStep(
        subnet=subnet,
        batch=batch,
        lever=lever,
        saved_us=round(middle, 2),
        saved_share=round(middle / float(np.median(row_us)), 4),
        error_us=round(_median_error(saved), 2),
        lost=None if lost is None else round(100 * float(lost.mean()), 2),
        lost_error=None if lost is None else round(100 * float(lost.std()) / sqrt(len(lost)), 2),
    )


def _median_error(samples: Samples) -> float:
    """The standard error of a median, from the median deviation, as of normal samples: outliers have no part in it."""
    deviation = 1.4826 * float(np.median(np.abs(samples - np.median(samples))))
    return 1.2533 * deviation / sqrt(len(samples))
