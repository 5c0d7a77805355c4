"""Times cells in rounds, on the loaded and on the quiet machine in turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from superserve.clock import NS_PER_S, Clock
from superserve.profiler.plan import Counts, Effort, next_round, shuffled
from superserve.profiler.probe import Probe
from superserve.profiler.traffic import Traffic
from superserve.serving.pool import Batch

#: A median on the quiet machine takes at least this many samples.
_QUIET_LEAST: Final = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a measurement is: samples done of one stage, and how many are expected in all.

    The worker's start counts as one. What is expected is estimated anew in every round.
    """

    stage: Literal["start", "scan", "measure"]
    done: int
    total: int


Report = Callable[[Progress], None]


class CellSamples:
    """What was measured, in nanoseconds: per cell inside the worker, and outside it over all cells.

    Attributes:
        loaded: per cell, times in the worker while router-like traffic flowed.
        quiet: the same without.
        device: per cell, with and without traffic, what it took by the clock of a device beside the processor; empty
            where there is none.
        overhead: round trips less times in the worker, while traffic flowed.
        rounds: what each round has added to ``loaded``.
    """

    def __init__(self, cells: int) -> None:
        self.loaded: list[list[int]] = [[] for _ in range(cells)]
        self.quiet: list[list[int]] = [[] for _ in range(cells)]
        self.device: list[list[int]] = [[] for _ in range(cells)]
        self.overhead: list[int] = []
        self.rounds: list[list[list[int]]] = []


class Sampler:
    """Takes samples of every cell: one, to learn what it costs, then as many as the effort allows.

    Args:
        probe: started.
        traffic: started, not flowing.
        clock: what the effort's seconds are counted on.
        cells: one batch each.
        rng: draws the order of samples.
        report: told of progress.
    """

    def __init__(
        self,
        probe: Probe,
        traffic: Traffic,
        *,
        clock: Clock,
        cells: Sequence[Batch],
        rng: np.random.Generator,
        report: Report,
    ) -> None:
        self._probe = probe
        self._traffic = traffic
        self._clock = clock
        self._cells = cells
        self._rng = rng
        self._report = report
        self._samples = CellSamples(len(cells))
        self._done = 0
        self._expected = 0

    async def run(self, effort: Effort) -> CellSamples:
        """Take the samples.

        Raises:
            WorkerError: if the worker fails.
        """
        end_ns = self._clock.now_ns() + round(effort.seconds * NS_PER_S)
        everything = np.ones(len(self._cells), np.int64)
        self._expected = len(self._cells)
        await self._visit_loaded("scan", shuffled(everything, self._rng))
        for rounds_left in range(effort.rounds, 0, -1):
            budget_ns = end_ns - self._clock.now_ns()
            quiet, loaded = self._plan(effort, budget_ns, rounds_left)
            self._expected = self._done + (len(quiet) + len(loaded)) * rounds_left
            for cell in quiet:
                await self._visit("measure", cell, self._samples.quiet)
            before = _lengths(self._samples.loaded)
            await self._visit_loaded("measure", loaded)
            self._samples.rounds.append(
                [cell[count:] for cell, count in zip(self._samples.loaded, before.tolist(), strict=True)]
            )
        return self._samples

    def _plan(self, effort: Effort, budget_ns: float, rounds_left: int) -> tuple[list[int], list[int]]:
        """The visits of one round, on the quiet and on the loaded machine."""
        costs_ns = np.array([np.median(cell) for cell in self._samples.loaded])
        quiet_ns = effort.quiet_share * budget_ns
        plans = (
            (self._samples.quiet, quiet_ns, min(_QUIET_LEAST, effort.least), effort.quiet_most),
            (self._samples.loaded, budget_ns - quiet_ns, effort.least, effort.most),
        )
        quiet, loaded = (
            shuffled(
                next_round(
                    _lengths(taken), costs_ns, budget_ns=share_ns, rounds_left=rounds_left, least=least, most=most
                ),
                self._rng,
            )
            for taken, share_ns, least, most in plans
        )
        return quiet, loaded

    async def _visit_loaded(self, stage: Literal["scan", "measure"], order: Sequence[int]) -> None:
        await self._traffic.resume()
        try:
            for cell in order:
                await self._visit(stage, cell, self._samples.loaded)
        finally:
            self._traffic.pause()

    async def _visit(self, stage: Literal["scan", "measure"], cell: int, into: list[list[int]]) -> None:
        sample = await self._probe.run(self._cells[cell])
        into[cell].append(sample.infer_ns)
        if sample.device_ns:
            self._samples.device[cell].append(sample.device_ns)
        if into is self._samples.loaded:
            self._samples.overhead.append(sample.round_trip_ns - sample.infer_ns)
        self._done += 1
        self._report(Progress(stage, self._done, self._expected))


def _lengths(cells: Sequence[Sequence[int]]) -> Counts:
    return np.array([len(cell) for cell in cells], np.int64)
