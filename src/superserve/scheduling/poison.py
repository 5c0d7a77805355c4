"""Inputs on which workers die.

A worker that dies takes its batch with it, and nobody knows whether one of the requests was the reason. So each of them
is run in a batch of its own after that. One that loses its worker again is poison: it is given up after its second
victim, and its former batch-mates are answered.

Alone takes longer than together. Where there is no time for that, since it was the worker that was to blame most
likely, requests are run together again: in time, or not at all, whoever was to blame.
"""

from collections.abc import Sequence
from itertools import accumulate

from superserve.request import Request


def is_poison(batch: Sequence[Request]) -> bool:
    """Whether the requests of a batch whose worker is lost, of which there may be one only, are to be given up.

    To be told before the loss is counted.
    """
    return len(batch) == 1 and batch[0].losses > 0


def separate(requests: Sequence[Request], now_ns: int, *, expire: bool) -> None:
    """Have each of the requests that a lost worker leaves behind run alone, if one worker has the time for all of them.

    Args:
        requests: in deadline order, as a batch is.
        now_ns: time.
        expire: whether they are given up when their deadlines pass; else there is time for anything.
    """
    # What its latest start leaves until its deadline is how long a request takes alone, at the fastest subnet.
    own_ns = [request.deadline_ns - request.latest_start_ns for request in requests]
    ends_ns = accumulate(own_ns, initial=now_ns)
    next(ends_ns)
    alone = not expire or all(end_ns <= request.deadline_ns for request, end_ns in zip(requests, ends_ns, strict=True))
    for request in requests:
        request.alone = alone
