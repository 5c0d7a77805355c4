"""A model's profile, measured again on a server that is up, while nobody asks it for anything.

`scheduling/drift.py` follows how much slower the machine has become, by one factor for all subnets and batch sizes.
Another release of torch, or a neighbour on the memory bus, changes the *shape* of a profile: that takes measuring.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from superserve.errors import ConflictError, SuperServeError, UnavailableError, WorkerError
from superserve.profile import LatencyTable, Profile
from superserve.serving.idle_work import SLO_SHARE, IdleBatch, IdleLimit
from superserve.serving.pool import BatchResult
from superserve.serving.remeasured import Cell, Tails, profiled_us, ratios, remeasured

_logger = logging.getLogger(__name__)

#: Of each cell. Only medians are wanted, on a machine at rest: see ``quiet_most`` in ``profiler/plan.py``.
SAMPLES: Final = 9

_GONE: Final = "the model went while it was measured"

State = Literal["never measured", "measuring", "measured", "failed"]


class CellDrift(Struct, frozen=True, kw_only=True):
    """What one cell takes by now, held against its profile."""

    subnet: str
    batch: int
    profiled_us: float
    """Median on a machine at rest, when it was profiled; of a doubtful profile the one that is planned with."""
    measured_us: float
    """The same now."""
    ratio: float
    samples: int


class ReprofileReport(Struct, frozen=True, kw_only=True):
    """How far a measurement is, or what came of it."""

    model: str
    state: State
    samples: int = 0
    """Taken so far."""
    samples_wanted: int = 0
    cells: list[CellDrift] = []
    """Those that have been measured, in rising order of accuracy and batch size."""
    cells_left_out: int = 0
    """Those that take longer than idle work may: they get the ratio of the measured one that is nearest in time."""
    kept: str | None = None
    """The file that a server that starts from now on plans with."""
    problem: str = ""
    """Why it failed."""


class LiveProfile:
    """Measures the cells of a profile again, one batch at a time; see `superserve.serving.idle_work.IdleSource`.

    Cells are visited in random order, round by round, as `superserve profile` does it. A worker that has been idle is
    slow at first, so that a batch is run twice and the second time counts. A profile is measured beside a busy router,
    and idle time is quiet; so what is compared is the profile's medians on a machine at rest, and all of a cell's
    latencies are then multiplied by their ratio, those with shorter texts among them: the longest ones are measured.
    Of a doubtful profile (`Profile.doubts`) the tails are measured anew as well; see `remeasured`.

    The table that the running server plans with is left alone: promises that were made, plans and explanations refer to
    it, and drift keeps its level true. What was measured is kept for the next start.

    Args:
        name: of the model.
        profile: what the server plans with.
        examples: makes rows to measure with, each as the bytes of its tensors; called in another thread.
        keep: keeps a profile of the model; called in another thread. None: it is not to be kept.
        rng: draws the order.
        tails: quantiles from samples.
    """

    def __init__(
        self,
        name: str,
        profile: Profile,
        *,
        examples: Callable[[], Sequence[Sequence[bytes]]],
        keep: Callable[[Profile], Path] | None,
        rng: np.random.Generator,
        tails: Tails,
    ) -> None:
        self._name = name
        self._profile = profile
        self._table = LatencyTable(profile)
        self._examples = examples
        self._keep = keep
        self._rng = rng
        self._tails = tails
        self._cells = [Cell(subnet, rows) for subnet in range(len(self._table)) for rows in profile.batches]
        self._samples: dict[Cell, list[int]] = {}
        self._visits: deque[Cell] = deque()
        self._rows: Sequence[Sequence[bytes]] = ()
        self._now: Cell = self._cells[0]
        self._warm = False
        self._wanted = 0
        self._state: State = "never measured"
        self._kept: str | None = None
        self._problem = ""
        self._closed = False
        self._sampled: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, wake: Callable[[], object]) -> None:
        """Measure from now on; ``wake`` is called when there is something to run.

        Raises:
            ConflictError: if it is being measured already.
        """
        if self._state == "measuring":
            raise ConflictError(f"the profile of {self._name!r} is being measured already: wait for that")
        self._state, self._kept, self._problem = "measuring", None, ""
        self._samples = {}
        self._wanted = SAMPLES * len(self._cells)
        self._task = asyncio.get_running_loop().create_task(self._measure(wake))

    @property
    def doubts(self) -> list[str]:
        """Why what the server plans with is doubtful; none if it is not."""
        return self._profile.doubts

    def close(self) -> None:
        """See `IdleSource.close`."""
        self._closed = True
        self._fail(UnavailableError(_GONE))

    def report(self) -> ReprofileReport:
        """How far it is."""
        found = ratios(self._profile, self._samples)
        subnets = self._profile.subnets
        return ReprofileReport(
            model=self._name,
            state=self._state,
            samples=sum(map(len, self._samples.values())),
            samples_wanted=self._wanted,
            cells=[
                CellDrift(
                    subnet=subnets[cell.subnet].id,
                    batch=cell.rows,
                    profiled_us=profiled_us(self._profile, cell),
                    measured_us=round(profiled_us(self._profile, cell) * found[cell], 1),
                    ratio=round(found[cell], 4),
                    samples=len(self._samples[cell]),
                )
                for cell in self._cells
                if cell in found
            ],
            cells_left_out=len(self._cells) - len(found) if self._state == "measured" else 0,
            kept=self._kept,
            problem=self._problem,
        )

    @property
    def pending(self) -> bool:
        """See `IdleSource.pending`."""
        return bool(self._visits)

    def next_batch(self, limit: IdleLimit) -> IdleBatch | None:
        """See `IdleSource.next_batch`."""
        for _ in range(len(self._visits)):
            cell = self._visits.popleft()
            planned_ns = self._table.latency_ns[cell.subnet][cell.rows]
            if planned_ns <= limit.now_ns:
                self._now, self._warm = cell, False
                return IdleBatch(
                    cell.subnet, cell.rows, [self._rows[row % len(self._rows)] for row in range(cell.rows)]
                )
            if planned_ns <= limit.ever_ns:
                self._visits.append(cell)
            else:
                self._wanted -= 1
        self._end_if_sampled()
        return None

    def on_done(self, result: BatchResult) -> bool:
        """See `IdleSource.on_done`."""
        if not self._warm:
            self._warm = True
            return True
        self._samples.setdefault(self._now, []).append(result.infer_ns)
        self._end_if_sampled()
        return False

    def on_dropped(self, *, failed: bool) -> None:
        """See `IdleSource.on_dropped`."""
        if failed:
            subnet = self._profile.subnets[self._now.subnet].id
            self._fail(
                WorkerError(f"a worker failed on a batch of {self._now.rows} rows on {subnet}, or was lost with it")
            )
        elif self._sampled is not None:
            self._visits.append(self._now)

    async def _measure(self, wake: Callable[[], object]) -> None:
        try:
            self._rows = await asyncio.to_thread(self._examples)
            if self._closed:
                raise UnavailableError(_GONE)
            order = [self._cells[index] for _ in range(SAMPLES) for index in self._rng.permutation(len(self._cells))]
            self._visits = deque(order)
            self._sampled = asyncio.get_running_loop().create_future()
            wake()
            await self._sampled
            measured = self._measured()
            for doubt in measured.doubts:
                _logger.warning("the profile of %s was measured again on a busy machine: %s", self._name, doubt)
            if self._keep is not None:
                self._kept = str(await asyncio.to_thread(self._keep, measured))
            self._state = "measured"
            self._log()
        except (SuperServeError, OSError) as error:
            self._state, self._problem = "failed", str(error)
            _logger.warning("the profile of %s could not be measured again: %s", self._name, error)
        finally:
            self._sampled, self._rows = None, ()

    def _end_if_sampled(self) -> None:
        if not self._visits and self._sampled is not None and not self._sampled.done():
            self._sampled.set_result(None)

    def _fail(self, error: SuperServeError) -> None:
        self._visits.clear()
        if self._sampled is not None and not self._sampled.done():
            self._sampled.set_exception(error)

    def _measured(self) -> Profile:
        """The profile as it is now.

        Raises:
            UnavailableError: if every cell takes longer than idle work may.
        """
        if not self._samples:
            raise UnavailableError(
                f"every batch takes longer than idle work may, which is {SLO_SHARE:.0%} of the shortest SLO"
            )
        return remeasured(self._profile, self._samples, self._tails)

    def _log(self) -> None:
        cells = self.report().cells
        low, high = (choose(cells, key=lambda cell: cell.ratio) for choose in (min, max))
        _logger.info(
            "the profile of %s was measured again: %d of %d cells, which take %.2f (%s, batch %d) to %.2f "
            "(%s, batch %d) times what was profiled; %s",
            self._name,
            len(cells),
            len(self._cells),
            low.ratio,
            low.subnet,
            low.batch,
            high.ratio,
            high.subnet,
            high.batch,
            f"kept in {self._kept} for the next start" if self._kept else "it is not kept",
        )
