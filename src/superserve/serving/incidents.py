"""Log lines about requests to which something happened, so that a log can be searched for their ids.

In overload there are thousands a second: only so many are written, and the next one says how many were not. All of them
are counted, and `superserve why` explains the latest.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from superserve.clock import NS_PER_S
from superserve.request import Outcome
from superserve.serving.decisions import Ending

_logger = logging.getLogger(__name__)

#: Lines a second, on average and at once.
_RATE: Final = 10
_NS_PER_LINE: Final = NS_PER_S // _RATE
#: Ids in one line.
_MOST_IDS: Final = 10

#: A server that refuses does what it should; one that fails does not.
_LEVELS: Final[Mapping[Outcome, int]] = {
    Outcome.REJECTED: logging.INFO,
    Outcome.EXPIRED: logging.INFO,
    Outcome.FAILED: logging.WARNING,
}


class Incidents:
    """Writes about the requests of one model.

    The rate is bounded by the generic cell rate algorithm (ITU-T I.371): one instant says how much has been used up.
    """

    def __init__(self) -> None:
        self._used_until_ns = 0
        self._left_out = 0

    def ended(self, ending: Ending) -> None:
        """A request ended without an answer; nobody is told of clients that gave up."""
        level = _LEVELS.get(ending.outcome)
        if level is None or not _logger.isEnabledFor(level):
            return
        at_ns = ending.at_ns
        used_until_ns = max(self._used_until_ns, at_ns)
        if used_until_ns > at_ns + NS_PER_S - _NS_PER_LINE:
            self._left_out += 1
            return
        self._used_until_ns = used_until_ns + _NS_PER_LINE
        request_id = ending.request.request_id.decode("latin-1")
        left_out, self._left_out = self._left_out, 0
        _logger.log(
            level,
            "request %s: %s (%s)%s",
            request_id,
            ending.outcome,
            ending.reason,
            f"; {left_out} others not written" if left_out else "",
            extra={"request_id": request_id, "outcome": ending.outcome, "reason": ending.reason},
        )


def log_waiting_again(worker: int, request_ids: Sequence[bytes]) -> None:
    """The requests of a lost worker's batch that wait for another one: one line for all of them."""
    if request_ids:
        named = [request_id.decode("latin-1") for request_id in request_ids[:_MOST_IDS]]
        _logger.warning(
            "worker %d: %d requests of its batch wait again: %s%s",
            worker,
            len(request_ids),
            ", ".join(named),
            ", ..." if len(request_ids) > _MOST_IDS else "",
            extra={"worker": worker, "request_ids": named},
        )


def log_overdue(worker: int, after_ms: float, requests: int) -> None:
    """A batch is given to another worker, for its own has not answered."""
    _logger.warning(
        "worker %d: no answer after %.0f ms: the %d requests of its batch go to another worker as well",
        worker,
        after_ms,
        requests,
        extra={"worker": worker},
    )
