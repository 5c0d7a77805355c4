"""Which lever of a supernet pays on a device: a step in depth, in one of its widths, or in the batch.

What a batch takes is divided among three causes, in the manner of the roofline model (Williams et al., CACM 2009) with
launching as a third roof. Everything in it is measured: the latencies, what the machine sustains, and what a subnet
asks of it.
"""

import bisect
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import numpy as np

Region = Literal["launch", "memory", "compute"]
"""What most of a batch's time goes to."""

BATCH: Final = "batch"
"""The lever that is no dimension of the space: twice the rows."""


class Stream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast one thread copies a buffer of some size: small ones stay in caches."""

    bytes: int
    """Read and written by one copy."""
    bytes_per_s: float


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one thread sustains at most."""

    macs_per_s: float
    """Multiply-accumulates of a matrix product, in the dtype served."""
    launch_us: float
    """An operator that does next to nothing."""
    streams: tuple[Stream, ...]
    """In rising order of size."""

    def bytes_per_s(self, size: float) -> float:
        """Of the smallest measured buffer that is not smaller than ``size`` bytes; of the largest, beyond it."""
        index = bisect.bisect_left([stream.bytes for stream in self.streams], size)
        return self.streams[min(index, len(self.streams) - 1)].bytes_per_s


class Work(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a subnet asks of a machine, as eager torch runs it."""

    operators: int
    """Launched per batch; views are none."""
    weight_bytes: int
    """Read per batch."""
    activation_bytes: int
    """Read and written per row."""
    macs: int
    """Per row."""


class CellCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the time of one (subnet, batch) goes: what it takes, and the least that each cause takes here."""

    subnet: str
    batch: int
    region: Region
    share: float
    """Of the time, that the region's cause takes, 0..1."""
    taken_us: float
    """As profiled: the median, on a machine at rest."""
    fixed_us: float
    """What of that does not depend on the number of rows, by a line through all batch sizes."""
    launch_us: float
    """At least, for launching the operators."""
    weights_us: float
    """At least, for reading the weights."""
    compute_us: float
    """At least, for the multiply-accumulates."""
    activations_us: float
    """At least, for reading and writing activations."""


class LeverStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of one lever from one (subnet, batch): towards less time per row."""

    subnet: str
    batch: int
    lever: str
    """``batch``: twice the rows; ``depth``: the next smaller depth of every stage; else a family of widths, with ``*``
    for numbers (``stage*.block*``), each at its next smaller ratio."""
    saved_us: float
    """Per row."""
    saved_share: float
    """The same over what a row takes."""
    error_us: float
    """Standard error of ``saved_us``."""
    lost: float | None = None
    """Points of accuracy; None where no examples are at hand."""
    lost_error: float | None = None
    """Its standard error."""

    @property
    def pays(self) -> bool:
        """Whether it saves anything beyond doubt (two standard errors)."""
        return self.saved_us > 2 * self.error_us

    @property
    def price(self) -> float | None:
        """Points lost per microsecond saved; None if they are not known."""
        return None if self.lost is None or not self.pays else self.lost / self.saved_us


class LeverReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which levers pay, of one model on one device."""

    machine: Machine
    work: dict[str, Work]
    """By subnet of the front."""
    cells: tuple[CellCosts, ...]
    """By subnet and batch size, in the profile's order."""
    steps: tuple[LeverStep, ...]
    """From the ends and the middle of the front, timed on the eager engine."""
    examples: int
    """Of the model's test data that points lost were measured on; 0 if it carries none."""

    def paying(self, subnet: str, batch: int) -> list[LeverStep]:
        """The steps that pay there, the cheapest first; those of unknown price by what they save, the most first."""
        steps = [step for step in self.steps if (step.subnet, step.batch) == (subnet, batch) and step.pays]
        return sorted(steps, key=lambda step: (step.price is None, step.price or 0.0, -step.saved_us))


def line(batches: Sequence[int], taken_us: Sequence[float]) -> tuple[float, float]:
    """Fixed cost and cost per row, neither negative: the line with the least squares of *relative* errors.

    One batch size says nothing about it: then nothing is fixed.
    """
    rows, taken = np.array(batches, np.float64), np.array(taken_us, np.float64)
    if len(rows) > 1:
        (fixed, per_row), *_ = np.linalg.lstsq(np.stack([1 / taken, rows / taken], axis=1), np.ones(len(rows)))
        if fixed >= 0 and per_row >= 0:
            return float(fixed), float(per_row)
        if per_row < 0:
            return float(np.sum(1 / taken) / np.sum(1 / taken**2)), 0.0
    return 0.0, float(np.sum(rows / taken) / np.sum((rows / taken) ** 2))


def costs(
    subnet: str, batches: Sequence[int], taken_us: Sequence[float], work: Work, machine: Machine
) -> list[CellCosts]:
    """The cells of one subnet.

    The fixed part of a cell's time is put down to launching or to reading weights, the part that grows with the rows to
    computing or to activations: in each case to the one whose least time is longer. The region is the cause with most.
    """
    fixed_us, _ = line(batches, taken_us)
    launch_us = work.operators * machine.launch_us
    weights_us = _copy_us(work.weight_bytes, work.weight_bytes, machine)
    found = []
    for rows, cell_us in zip(batches, taken_us, strict=True):
        moved = rows * work.activation_bytes
        activations_us = _copy_us(moved, moved / max(1, work.operators), machine)
        compute_us = 1e6 * rows * work.macs / machine.macs_per_s
        fixed = min(fixed_us, cell_us)
        parts: dict[Region, float] = {"launch": 0.0, "memory": 0.0, "compute": 0.0}
        parts["launch" if launch_us >= weights_us else "memory"] += fixed
        parts["compute" if compute_us >= activations_us else "memory"] += cell_us - fixed
        region = max(parts, key=lambda cause: parts[cause])
        found.append(
            CellCosts(
                subnet=subnet,
                batch=rows,
                region=region,
                share=round(parts[region] / cell_us, 4),
                taken_us=round(cell_us, 1),
                fixed_us=round(fixed, 1),
                launch_us=round(launch_us, 1),
                weights_us=round(weights_us, 1),
                compute_us=round(compute_us, 1),
                activations_us=round(activations_us, 1),
            )
        )
    return found


def _copy_us(moved: float, at_a_time: float, machine: Machine) -> float:
    """The least time for moving bytes, so many of them at a time."""
    return 1e6 * moved / machine.bytes_per_s(at_a_time)
