"""What degraded answers cost: some of them are compared with what the largest subnet answers, in idle time.

A policy trades accuracy for time by numbers that were measured on test data. Whether they hold for the requests that
come is known to nobody who has no labels. What can be known is how often the subnet that served a request says the same
as the largest one: where that is always, nothing was lost.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import numpy as np
from msgspec import Struct

from superserve.errors import ConfigError
from superserve.intervals import wilson95
from superserve.model_folder import ModelConfig
from superserve.profile import LatencyTable
from superserve.scheduling.actions import Finish, Launch
from superserve.serving.comparison import comparison
from superserve.serving.idle_work import SLO_SHARE, IdleBatch, IdleLimit
from superserve.serving.pool import BatchResult

_logger = logging.getLogger(__name__)

#: What the objects around the bytes of a sample take.
_SAMPLE_OVERHEAD_BYTES: Final = 400


class LedgerRow(Struct, frozen=True, kw_only=True):
    """How the answers of one subnet compare with those of the largest."""

    subnet: str
    accuracy: float
    """As profiled, in per cent."""
    answered: int
    """Requests that it has answered."""
    compared: int
    """Those of them that were run again."""
    agreed: int
    agreement: float | None
    """In per cent; None before the first comparison."""
    ci95: list[float] | None
    """95 % Wilson interval of it: its ends, in per cent."""


class LedgerReport(Struct, frozen=True, kw_only=True):
    """What the ledger of a model knows so far."""

    model: str
    reference: str
    """The largest subnet."""
    compares: str
    """What makes two answers agree."""
    share: float
    """Of the degraded requests that is sampled, 0..1."""
    waiting: int
    """Samples that wait for idle time."""
    dropped: int
    """Samples given up: there was no room for them, no time that they fit into, or their worker failed."""
    emulated: bool
    """Whether workers answer zeros, so that agreement means nothing."""
    rows: list[LedgerRow]
    """In rising order of accuracy, without the reference."""


class _Sample(NamedTuple):
    """One row of a request: its inputs, and what was answered as the first output."""

    subnet: int
    inputs: Sequence[bytes]
    served: bytes


class Ledger:
    """Samples the degraded requests of a model, and runs them again; see `superserve.serving.idle_work.IdleSource`.

    Each answered request of a smaller subnet than the largest is sampled with the same probability, and of a request of
    several rows one, drawn at random, stands for it: rows of one request are not independent, as the interval has them.
    Samples wait for idle time in a bounded number of bytes. While it is full, a new one takes a random place with the
    probability that leaves all since the ledger was last empty with the same chance (algorithm R: Vitter, ACM TOMS 11,
    1985). A sample is forgotten once it has been run again, whatever came of it; it is in memory only.

    Args:
        config: the model.
        table: its subnets.
        share: of degraded requests to sample, above 0 and at most 1.
        max_bytes: that samples may take.
        rng: draws them.
        emulated: whether workers only pretend.

    Raises:
        ConfigError: if not even one sample fits.
    """

    def __init__(
        self,
        config: ModelConfig,
        table: LatencyTable,
        *,
        share: float,
        max_bytes: int,
        rng: np.random.Generator,
        emulated: bool = False,
    ) -> None:
        self.answered = [0] * len(table)
        """Requests by front index of the subnet that answered; the largest one's are not counted."""
        self.compared = [0] * len(table)
        """Those of them that were run again."""
        self.agreed = [0] * len(table)
        """Those for which both subnets said the same."""
        self.dropped = 0
        """See `LedgerReport.dropped`."""
        self._name = config.name
        self._table = table
        self._largest = len(table) - 1
        self._share = share
        self._rng = rng
        self._emulated = emulated
        self._input_bytes = [spec.row_bytes for spec in config.inputs]
        self._output_bytes = config.outputs[0].row_bytes
        self._comparison = comparison(config)
        sample_bytes = sum(self._input_bytes) + self._output_bytes + _SAMPLE_OVERHEAD_BYTES
        self._capacity = max_bytes // sample_bytes
        if not self._capacity:
            raise ConfigError(f"ledger.max_bytes = {max_bytes}: a sample of {config.name} takes {sample_bytes} bytes")
        self._waiting: list[_Sample] = []
        self._running: list[_Sample] = []
        self._in_stream = 0
        """Samples since there were none."""
        self._next = self._gap() - 1
        """So many degraded requests come before the next sample."""
        self._warned = False

    @property
    def waiting(self) -> int:
        """Samples that wait for idle time."""
        return len(self._waiting)

    def observe(self, answered: Sequence[Finish], result: BatchResult) -> bool:
        """Requests of a batch are answered, and its inputs and outputs are still there; whether any of it was kept."""
        launch = cast("Launch", answered[0].launch)
        if launch.subnet == self._largest:
            return False
        self.answered[launch.subnet] += len(answered)
        if self._next >= len(answered):
            self._next -= len(answered)
            return False
        while self._next < len(answered):
            self._keep(launch.subnet, answered[self._next], result)
            self._next += self._gap()
        self._next -= len(answered)
        return True

    @property
    def pending(self) -> bool:
        """See `IdleSource.pending`."""
        return bool(self._waiting)

    def next_batch(self, limit: IdleLimit) -> IdleBatch | None:
        """See `IdleSource.next_batch`."""
        rows = min(len(self._waiting), self._table.largest_batch(self._largest, limit.now_ns))
        if not rows:
            if not self._table.largest_batch(self._largest, limit.ever_ns):
                self._give_up()
            return None
        self._running, self._waiting = self._waiting[:rows], self._waiting[rows:]
        if not self._waiting:
            self._in_stream = 0
        return IdleBatch(self._largest, rows, [sample.inputs for sample in self._running])

    def on_done(self, result: BatchResult) -> bool:
        """See `IdleSource.on_done`."""
        size, output = self._output_bytes, result.outputs[0]
        for row, sample in enumerate(self._running):
            self.compared[sample.subnet] += 1
            self.agreed[sample.subnet] += self._comparison.agree(sample.served, output[row * size : (row + 1) * size])
        self._running = []
        return False

    def on_dropped(self, *, failed: bool) -> None:  # noqa: ARG002  (nothing is run twice)
        """See `IdleSource.on_dropped`. They are not run again: one of them may have been the reason."""
        self.dropped += len(self._running)
        self._running = []

    def close(self) -> None:
        """See `IdleSource.close`."""
        self._waiting = []

    def report(self) -> LedgerReport:
        """What is known so far."""
        return LedgerReport(
            model=self._name,
            reference=self._table.ids[self._largest],
            compares=self._comparison.words,
            share=self._share,
            waiting=len(self._waiting),
            dropped=self.dropped,
            emulated=self._emulated,
            rows=[self._row(subnet) for subnet in range(self._largest)],
        )

    def _row(self, subnet: int) -> LedgerRow:
        compared, agreed = self.compared[subnet], self.agreed[subnet]
        return LedgerRow(
            subnet=self._table.ids[subnet],
            accuracy=self._table.accuracies[subnet],
            answered=self.answered[subnet],
            compared=compared,
            agreed=agreed,
            agreement=100 * agreed / compared if compared else None,
            ci95=list(wilson95(agreed, compared)) if compared else None,
        )

    def _gap(self) -> int:
        return int(self._rng.geometric(self._share))

    def _keep(self, subnet: int, finish: Finish, result: BatchResult) -> None:
        pending = cast("Any", finish.request)
        self._in_stream += 1
        place = len(self._waiting)
        if place + len(self._running) >= self._capacity:
            self.dropped += 1
            place = int(self._rng.integers(self._in_stream))
            if place >= len(self._waiting):
                return
        row = int(self._rng.integers(pending.rows))
        inputs = [
            bytes(memoryview(data)[row * size : (row + 1) * size])
            for data, size in zip(pending.inputs, self._input_bytes, strict=True)
        ]
        first = (pending.offset + row) * self._output_bytes
        served = bytes(result.outputs[0][first : first + self._output_bytes])
        self._waiting[place : place + 1] = [_Sample(subnet, inputs, served)]

    def _give_up(self) -> None:
        """Not even one row will ever fit into idle time."""
        self.dropped += len(self._waiting)
        self._waiting, self._in_stream = [], 0
        if not self._warned:
            self._warned = True
            _logger.warning(
                "ledger of %s: a row takes subnet %s longer than idle work may, which is %.0f %% of the shortest SLO: "
                "nothing is compared. Give requests more time (--slo-ms), or leave out --ledger",
                self._name,
                self._table.ids[self._largest],
                100 * SLO_SHARE,
            )
