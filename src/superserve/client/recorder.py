"""What becomes of each request of a replay, column by column."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from superserve.client.http import Response
from superserve.client.wire import (
    JSON_LENGTH_HEADER,
    OUTCOME_HEADER,
    ReplyHeader,
    argmax_of_first,
    decode_reply_header,
    parse_length,
)
from superserve.metrics import NO_SUBNET, OUTCOME_CODES, UNLABELLED, RunLog
from superserve.request import Outcome

_OUTCOME_OF_HEADER: Final = {outcome.value.encode(): outcome for outcome in Outcome}
#: For servers that do not say more than the protocol asks of them.
_OUTCOME_OF_STATUS: Final = {429: Outcome.REJECTED, 504: Outcome.EXPIRED}
_OUTCOME_KEY: Final = OUTCOME_HEADER.encode()
_LENGTH_KEY: Final = JSON_LENGTH_HEADER.encode()
_SERVED, _LATE, _FAILED = (OUTCOME_CODES[outcome] for outcome in (Outcome.SERVED, Outcome.LATE, Outcome.FAILED))


class Recorder:
    """Turns responses into a `RunLog`. Every request has failed until it is recorded otherwise.

    Columns are plain lists: writing single elements of numpy arrays costs several times as much.

    Args:
        arrivals_ns: scheduled instants, from the start of the run.
        slos_ns: deadlines from those, or None: then the server alone says what was late.
        labels: the right answers, `UNLABELLED` where not known.

    Attributes:
        finished: requests of which the end is known.
        served: those answered within their deadline; ``accuracy_sum`` adds up their profiled accuracies.
        emulated: whether any answer came from an emulated worker.
    """

    def __init__(self, arrivals_ns: list[int], slos_ns: list[int] | None, labels: list[int]) -> None:
        n = len(arrivals_ns)
        self._arrivals, self._slos, self._labels = arrivals_ns, slos_ns, labels
        self._end: list[int | None] = [None] * n
        self._outcome, self._subnet, self._rows = [_FAILED] * n, [NO_SUBNET] * n, [0] * n
        self._accuracy, self._correct = [math.nan] * n, [UNLABELLED] * n
        self._index_of_subnet: dict[str, int] = {}
        self.emulated = False
        self.finished = self.served = 0
        self.accuracy_sum = 0.0

    @property
    def complete(self) -> bool:
        """Whether every request has ended."""
        return self.finished == len(self._arrivals)

    def failed(self, index: int, end_ns: int) -> None:
        """No answer came, and none will."""
        self._end[index] = end_ns
        self.finished += 1

    def answered(self, index: int, end_ns: int, response: Response) -> None:
        """A response came; a malformed one counts as failed."""
        self._end[index] = end_ns
        self.finished += 1
        if response.status != 200:
            said = _OUTCOME_OF_HEADER.get(response.headers.get(_OUTCOME_KEY, b""))
            outcome = said or _OUTCOME_OF_STATUS.get(response.status, Outcome.FAILED)
            self._outcome[index] = OUTCOME_CODES[outcome]
            return
        try:
            json_length = parse_length(response.headers.get(_LENGTH_KEY))
            header = decode_reply_header(response.body, json_length)
            answer = argmax_of_first(response.body, json_length, header.outputs)
        except ValueError:
            return
        self._inferred(index, end_ns, header, answer)

    def result(self, end_ns: int) -> RunLog:
        """The columns as arrays; requests that have not ended by ``end_ns`` have failed then.

        ``subnet`` counts subnets in the order in which they first answered: see `in_front_order`.
        """
        return RunLog(
            arrival_ns=np.array(self._arrivals, np.int64),
            end_ns=np.array([end_ns if end is None else end for end in self._end], np.int64),
            outcome=np.array(self._outcome, np.uint8),
            subnet=np.array(self._subnet, np.int16),
            accuracy=np.array(self._accuracy, np.float64),
            batch_rows=np.array(self._rows, np.int32),
            correct=np.array(self._correct, np.int8),
        )

    def front(self, known: Sequence[str] = ()) -> tuple[str, ...]:
        """The subnets from least to most accurate: ``known`` if it has all that answered, else those that did."""
        if known and set(self._index_of_subnet) <= set(known):
            return tuple(known)
        accuracy_of = {self._subnet[i]: self._accuracy[i] for i in range(len(self._subnet))}
        return tuple(sorted(self._index_of_subnet, key=lambda name: (accuracy_of[self._index_of_subnet[name]], name)))

    def in_front_order(self, subnet: npt.NDArray[np.int16], front: Sequence[str]) -> npt.NDArray[np.int16]:
        """Renumber a ``subnet`` column so that it indexes ``front``."""
        # The last entry of the table is for NO_SUBNET, which as an index is -1.
        table = np.array([*(front.index(name) for name in self._index_of_subnet), NO_SUBNET], np.int16)
        return table[subnet]

    def _inferred(self, index: int, end_ns: int, header: ReplyHeader, answer: int | None) -> None:
        said = header.parameters
        in_time = self._slos is None or end_ns <= self._arrivals[index] + self._slos[index]
        self._accuracy[index], self._rows[index] = said.accuracy, said.batch_size
        self._subnet[index] = self._index_of_subnet.setdefault(said.subnet, len(self._index_of_subnet))
        self.emulated |= said.emulated
        if answer is not None and self._labels[index] != UNLABELLED and not said.emulated:
            self._correct[index] = int(answer == self._labels[index])
        if in_time and said.slo_met:
            self._outcome[index] = _SERVED
            self.served += 1
            self.accuracy_sum += 0.0 if math.isnan(said.accuracy) else said.accuracy
        else:
            self._outcome[index] = _LATE
