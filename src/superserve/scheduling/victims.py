"""Whom to give up when not everything that waits can be served in time."""

import heapq
from collections.abc import Iterable
from itertools import islice
from math import ceil
from typing import Final

from superserve.request import Request

#: So many of the most urgent requests are planned at most: what waits behind them is for later decisions.
_PLANNED: Final = 512


def level(request: Request) -> int:
    """The priority that counts: 1 is the most urgent, larger numbers are given up first; 0 (not given) is like 1."""
    return request.priority or 1


def victims(waiting: Iterable[Request], first_ns: float, batch_ns: float, rows_at_once: float) -> list[Request]:
    """The less urgent requests that have to go for the others to be in time.

    Moore and Hodgson's rule for the fewest late jobs (Management Science 15, 1968) with priorities in the place of
    durations: requests are planned in deadline order, in full batches at the fastest subnet, and whenever one would be
    late, the planned one of the largest level is dropped from the plan, of equal levels the one that is due last. What
    is dropped at the most urgent level of the queue is no victim: that there is too much of it is the policy's affair.

    Args:
        waiting: the queue in deadline order.
        first_ns: when the work that runs already will be done, as if all workers were one.
        batch_ns: time of a full batch at the fastest subnet.
        rows_at_once: rows of a full batch on every worker.

    Returns:
        Victims, in the order in which they were dropped; none if all requests are of one level.
    """
    looked_at = list(islice(waiting, _PLANNED))
    urgent = min(map(level, looked_at), default=0)
    found: list[Request] = []
    planned: list[tuple[int, int, int, Request]] = []
    rows = 0
    for request in looked_at:
        heapq.heappush(planned, (-level(request), -request.deadline_ns, -request.id, request))
        rows += request.rows
        if first_ns + ceil(rows / rows_at_once) * batch_ns > request.deadline_ns:
            dropped = heapq.heappop(planned)[-1]
            rows -= dropped.rows
            if level(dropped) > urgent:
                found.append(dropped)
    return found
