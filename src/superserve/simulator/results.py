"""A run log that is filled in fast."""

from typing import Final

import numpy as np
import numpy.typing as npt

from superserve.metrics import OUTCOME_CODES, RunLog
from superserve.request import Outcome
from superserve.scheduling import Finish

#: Outcomes are kept in lists and written to the columns in blocks: an array element costs several times a list's.
_BLOCK: Final = 1 << 16
_SERVED: Final = OUTCOME_CODES[Outcome.SERVED]


class LogWriter:
    """Fills a `RunLog` from the scheduler's `Finish` actions.

    Args:
        arrival_ns: of the trace.
        accuracies: of the profile's subnets.
    """

    def __init__(self, arrival_ns: npt.NDArray[np.int64], accuracies: tuple[float, ...]) -> None:
        self._log = RunLog.empty(arrival_ns)
        self._accuracies = np.array(accuracies)
        self._ids: list[int] = []
        self._ends: list[int] = []
        self._outcomes: list[int] = []
        # Subnet and rows of the batch that answered, one number each.
        self._subnets: list[int] = []
        self._rows: list[int] = []

    def add(self, now_ns: int, finish: Finish) -> None:
        """A request ended."""
        outcome, launch = finish.outcome, finish.launch
        self._ids.append(finish.request.id)
        self._ends.append(now_ns)
        # Enum members hash slowly; nearly all of them are this one.
        self._outcomes.append(_SERVED if outcome is Outcome.SERVED else OUTCOME_CODES[outcome])
        if launch is None:
            self._subnets.append(-1)
            self._rows.append(0)
        else:
            self._subnets.append(launch.subnet)
            self._rows.append(launch.rows)
        if len(self._ids) == _BLOCK:
            self._flush()

    def finished(self) -> RunLog:
        """The log with everything that was added."""
        self._flush()
        return self._log

    def _flush(self) -> None:
        log, ids = self._log, np.array(self._ids, np.int64)
        subnets = np.array(self._subnets, np.int64)
        log.end_ns[ids] = self._ends
        log.outcome[ids] = self._outcomes
        log.subnet[ids] = subnets
        log.accuracy[ids] = np.where(subnets < 0, np.nan, self._accuracies[subnets])
        log.batch_rows[ids] = self._rows
        for column in (self._ids, self._ends, self._outcomes, self._subnets, self._rows):
            column.clear()
